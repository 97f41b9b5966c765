"""Models that have a key in their weights, against the plain ones."""

import warnings
import zipfile

import keras
import keras_hub
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.encryption import (
    KeyFile,
    SecretKey,
    ViTBlockCipher,
    restore,
    rotate,
    transform_model,
)
from keras_dpvit.encryption.patch_moves import patch_moves
from keras_dpvit.errors import InputError

KEY, OTHER = SecretKey(bytes(range(32))), SecretKey(bytes(range(1, 33)))
PLAIN = {"first_attention": "self", "stage_depths": (2,)}


def ours(image_shape=(8, 12, 3), seed=0, **changes):
    """A classifier that can be transformed; its weights moved about, as training would."""
    head = {k: changes.pop(k) for k in ("final_norm", "head_hidden_dim") if k in changes}
    arguments = {"patch_size": 4, "hidden_dim": 8, "num_heads": 2, **PLAIN, **changes}
    model = kd.DPViTClassifier(kd.DPViTBackbone(image_shape, **arguments), 3, **head)
    return moved_about(model, seed)


def hub(
    image_shape=(8, 12, 3), pooling="token", use_class_token=True, dtype=None, num_layers=2, **task
):
    backbone = keras_hub.models.ViTBackbone(
        image_shape=image_shape,
        patch_size=4,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=12,
        use_class_token=use_class_token,
        dtype=dtype,
    )
    return moved_about(
        keras_hub.models.ViTImageClassifier(
            backbone=backbone, num_classes=3, pooling=pooling, **task
        )
    )


def moved_about(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * generator.standard_normal(weight.shape))
    return model


def images_for(model, number=16):
    shape = (number, *model.input_shape[1:])
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def logits(model, images):
    return model.predict(np.asarray(images, "float32"), verbose=0)


def assert_same(found, expected):
    """Up to 1e-5, on logits of any scale."""
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def cipher_of(model, key=KEY, **options):
    return ViTBlockCipher.from_key(key, model.input_shape[1:], 4, **options)


def transformed(model, key=KEY, **how):
    """Without the warning that random weights do not deserve."""
    return transform_model(model, key, public_base=False, **how)


VARIANTS = {
    "ours": ours,
    "two values a pixel scaled": lambda: ours(input_scaling="range"),
    "no scaling": lambda: ours(input_scaling="none", position_table="input"),
    "no places": lambda: ours(position_table="none", final_norm=True, head_hidden_dim=5),
    "hub": hub,
    "hub, mean": lambda: hub(pooling="gap"),
    "hub, mean without class token": lambda: hub(pooling="gap", use_class_token=False),
}
OPTIONS = {
    "paper": {},
    "values": {"channels": "independent"},
    "patch": {"unit": "patch"},
    "768": {"unit": "patch", "channels": "independent"},
}


CASES = [
    *((variant, "paper") for variant in VARIANTS),
    *((variant, form) for variant in ("ours", "hub") for form in OPTIONS if form != "paper"),
    ("no scaling", "768"),
]


@pytest.mark.parametrize(("variant", "options"), CASES)
def test_encrypted_equals_plain(variant, options):
    model = VARIANTS[variant]()
    cipher = cipher_of(model, **OPTIONS[options])
    weights = [np.array(weight) for weight in model.get_weights()]
    images = images_for(model)
    new = transformed(model, cipher)
    assert type(new) is type(model)
    assert new.encryption_kid == KEY.kid
    assert_same(logits(new, cipher.encrypt(images)), logits(model, images))
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert getattr(model, "encryption_kid", None) is None
    restored = restore(new, cipher)
    for before, after in zip(weights, restored.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert restored.encryption_kid is None


def test_block_permutation_matters_unless_there_are_no_places():
    model = ours()
    half = ViTBlockCipher.from_permutations(
        4, np.arange(6), cipher_of(model).pixel_permutation, image_shape=(8, 12, 3)
    )
    hidden = cipher_of(model).encrypt(images_for(model))
    good, bad = transformed(model), transformed(model, half)
    assert np.abs(logits(good, hidden) - logits(bad, hidden)).max() > 0.01


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    half=st.integers(1, 3),
    channels=st.integers(1, 3),
    options=st.sampled_from(sorted(OPTIONS)),
    secret=st.binary(min_size=32, max_size=32),
)
def test_moves_do_to_patches_what_the_cipher_does(rows, columns, half, channels, options, secret):
    side = 2 * half
    shape = (rows * side, columns * side, channels)
    cipher = ViTBlockCipher.from_key(SecretKey(secret), shape, side, **OPTIONS[options])
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def patches(x):
        cut = x.reshape(rows, side, columns, side, channels).transpose(0, 2, 1, 3, 4)
        return cut.reshape(rows * columns, -1)

    moves = patch_moves(cipher, shape, side)
    np.testing.assert_array_equal(
        patches(cipher.encrypt(image)), patches(image)[moves.order][:, moves.shuffle]
    )
    undone = moves.inverse()
    np.testing.assert_array_equal(moves.order[undone.order], np.arange(rows * columns))
    np.testing.assert_array_equal(moves.shuffle[undone.shuffle], np.arange(side * side * channels))


def test_patches_may_be_the_quadrants_of_blocks():
    model = ours((16, 16, 1))
    cipher = ViTBlockCipher.from_key(KEY, (16, 16, 1), 8)
    images = images_for(model)
    assert_same(logits(transformed(model, cipher), cipher.encrypt(images)), logits(model, images))


@pytest.mark.parametrize("make", [ours, hub])
def test_rotation_is_transformation_by_the_new_key(make):
    model = make()
    rotated = rotate(transformed(model), KEY, OTHER, public_base=False)
    direct = transformed(model, OTHER)
    for one, other in zip(rotated.get_weights(), direct.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert rotated.encryption_kid == OTHER.kid


def test_rotation_needs_the_right_old_key():
    model = transformed(ours())
    with pytest.raises(InputError, match=f"old_key is {OTHER.kid}, but the model is under"):
        rotate(model, OTHER, KEY)
    with pytest.raises(InputError, match=f"under key {KEY.kid} already"):
        transform_model(model, OTHER)


def train(model, images, labels, optimizer):
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    known = {"public_data": True} if isinstance(model, kd.DPViTClassifier) else {}
    model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0, **known)
    return model


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, 0.9, weight_decay=5e-4, global_clipnorm=1.0),
    "adamw": lambda: keras.optimizers.AdamW(1e-3, weight_decay=1e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_commutes_with_the_key(optimizer):
    make = OPTIMIZERS[optimizer]
    model = hub(dtype="float64", num_layers=1)
    images = images_for(model, 32)
    labels = np.random.default_rng(2).integers(0, 3, 32)
    start = [np.array(weight) for weight in model.get_weights()]
    keyed = transformed(model)
    train(keyed, cipher_of(model).encrypt(images) / 255.0, labels, make())
    train(model, images / 255.0, labels, make())
    moved = max(np.abs(a - b).max() for a, b in zip(start, model.get_weights(), strict=True))
    assert moved > 1e-3
    for after, expected in zip(keyed.get_weights(), transformed(model).get_weights(), strict=True):
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-10)


def test_training_ours_commutes_up_to_its_single_precision_softmax():
    model = ours(stage_depths=(1,))
    images = images_for(model, 32)
    labels = np.random.default_rng(2).integers(0, 3, 32)
    keyed = transformed(model)
    make = OPTIMIZERS["sgd"]
    train(keyed, cipher_of(model).encrypt(images).astype("float32"), labels, make())
    train(model, images.astype("float32"), labels, make())
    for after, expected in zip(keyed.get_weights(), transformed(model).get_weights(), strict=True):
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-4)


def test_fused_and_wrapped_models_are_transformed_inside():
    members = [ours(seed=seed) for seed in (1, 2)]
    fused = kd.FusedClassifier(members)
    images = images_for(fused)
    hidden = cipher_of(members[0]).encrypt(images)
    new = transformed(fused)
    for name, value in logits(fused, images).items():
        assert_same(logits(new, hidden)[name], value)
    wrapped = kd.make_private(hub())
    new = transformed(wrapped)
    assert type(new) is type(wrapped)
    assert new.network is not wrapped.network
    assert_same(logits(new, hidden), logits(wrapped, images))


def test_the_ledger_goes_with_the_model_and_the_key_does_not(tmp_path):
    model = ours((16, 16, 3), stage_depths=(1,))
    plan = kd.PrivacyPlan(
        num_examples=32, batch_size=8, epochs=1, delta=1e-4, noise_multiplier=1.0, seed=1
    )
    model.compile(
        kd.DPKerasAdamOptimizer(plan, learning_rate=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    images = images_for(model, 32).astype("float32")
    model.fit(images, np.arange(32) % 3, epochs=1, verbose=0)
    new = transformed(model)
    assert new.privacy_ledger.to_dict() == model.privacy_ledger.to_dict()
    assert new.privacy_statement() == model.privacy_statement()

    path = tmp_path / "keyed.keras"
    new.save(path)
    loaded = kd.load_model(path)
    assert loaded.encryption_kid == KEY.kid
    np.testing.assert_array_equal(logits(loaded, images), logits(new, images))
    cipher = cipher_of(model)
    secrets = [KEY.reveal(), KEY.reveal().hex().encode()]
    for permutation in (cipher.block_permutation, cipher.pixel_permutation):
        for one in (permutation, np.argsort(permutation)):
            secrets += [
                one.astype(f"{order}{kind}").tobytes()
                for order in "<>"
                for kind in ("u1", "u2", "u4", "u8", "f4", "f8")
            ]
            secrets.append(", ".join(map(str, one.tolist())).encode())
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not [secret for secret in secrets if secret in content], name


REFUSED = {
    "threshold attention": ({"first_attention": "threshold"}, 'first_attention must be "self"'),
    "pooling": ({"stage_depths": (1, 1)}, "stage_depths must name one stage"),
    "pooling first": ({"pool_first_stage": True}, "stage_depths must name one stage"),
    "stem": ({"conv_module": "stem"}, 'conv_module must be "none"'),
    "depthwise": ({"conv_module": "depthwise"}, 'conv_module must be "none"'),
    "branch": ({"conv_module": "parallel"}, 'conv_module must be "none"'),
    "scattering": (
        {"features": "scattering", "scattering_scales": 1, "patch_size": 2},
        'features must be "pixels"',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_depends_on_places_otherwise_is_refused(case):
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        transform_model(ours(**changes), KEY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["dpvit_tiny_8", "dpvit_small_28", "dpvit_scatter_28"])
def test_presets_can_be_transformed_with_two_options_alone(name):
    with pytest.raises(InputError, match="model cannot be transformed"):
        transform_model(kd.DPViTClassifier.from_preset(name, 3), KEY)


def test_small_32_with_two_options():
    model = kd.DPViTClassifier.from_preset("dpvit_small_32", 10, **PLAIN)
    images = images_for(model, 4)
    assert_same(
        logits(transform_model(model, KEY), cipher_of(model).encrypt(images)), logits(model, images)
    )


@pytest.mark.parametrize(
    ("make", "key", "message"),
    [
        (lambda: hub(use_class_token=False), KEY, "stand for places"),
        (lambda: ours((28, 28, 1), patch_size=7), KEY, "block_size must be even"),
        (ours, ViTBlockCipher.from_key(KEY, (8, 12, 3), 2), "blocks of the model's patch size 4"),
        (ours, ViTBlockCipher.from_key(KEY, (8, 8, 3), 4), r"images must have shape \(8, 8, 3\)"),
        (ours, KeyFile(KEY, "ele", {"block_size": 4}), "key must be for the scheme 'vit_block'"),
        (ours, "secret", "key must be a SecretKey or 32 bytes"),
        (lambda: keras.Sequential([keras.Input((4,))]), KEY, "got Sequential"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, key, message):
    with pytest.raises(InputError, match=message) as caught:
        transformed(make(), key)
    assert "\n" not in str(caught.value)


def preprocessor(**converter):
    return keras_hub.models.ViTImageClassifierPreprocessor(
        keras_hub.layers.ViTImageConverter(**converter)
    )


def test_a_preprocessor_must_treat_places_and_channels_alike():
    apart = {"scale": [0.1, 0.2, 0.3], "offset": [0.0, -1.0, 1.0]}
    model = hub(preprocessor=preprocessor(image_size=(8, 12), **apart))
    images = images_for(model)
    new = transformed(model)
    assert_same(logits(new, cipher_of(model).encrypt(images)), logits(model, images))
    with pytest.raises(InputError, match="preprocessor"):
        transformed(model, cipher_of(model, channels="independent"))


def test_public_weights_are_warned_of():
    with pytest.warns(UserWarning, match="public checkpoint give the key away") as caught:
        transform_model(hub(), KEY)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="public checkpoint"):
        transform_model(ours(), KEY, public_base=True)
    started = ours()
    started.start_from(kd.PrivacyLedger(), ("Initial weights from a file.",))
    with pytest.warns(UserWarning, match="public checkpoint"):
        transform_model(started, KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform_model(ours(), KEY)
        transform_model(hub(), KEY, public_base=False)
