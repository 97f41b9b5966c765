"""Networks of the encryption papers: sizes against counting by hand, parts against NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models import networks
from keras_dpvit.models.networks.blockwise import (
    BlockMixing,
    BlockwiseConv,
    PermutationPenalty,
)
from keras_dpvit.models.networks.pixel_shuffle import PixelShuffle


def trainable(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def test_resnet18_has_the_known_number_of_parameters():
    assert trainable(networks.resnet18(10)) == 11_173_962
    assert networks.resnet18(10, (16, 16, 3), width=2).output_shape == (None, 10)


def shake_by_hand(num_classes, depth, alpha, channels=3):
    """A convolution has no bias, a normalisation two vectors."""
    units = (depth - 2) // 2
    total = 9 * channels * 16 + 2 * 16
    width = 16
    for i in range(1, units + 1):
        wider = 16 + -(-alpha * i // units)
        total += 2 * width + 9 * width * wider + 2 * wider + 9 * wider * wider + 2 * wider
        width = wider
    return total + 2 * width + width * num_classes + num_classes


def test_shake_pyramid_net_has_the_published_number_of_parameters():
    model = networks.shake_pyramid_net(10)
    assert trainable(model) == shake_by_hand(10, 110, 270)
    assert round(trainable(model) / 1e6, 1) == 28.5
    survivals = [x.survival for x in model.layers if isinstance(x, networks.ShakeDrop)]
    np.testing.assert_allclose(survivals, [1 - 0.5 * i / 54 for i in range(1, 55)])
    widths = [x.channels for x in model.layers if isinstance(x, networks.ZeroChannels)]
    assert widths == [16 + 5 * i for i in range(1, 55)]


BEFORE = {  # parameters of the adaptation network for 32x32x3, block 4
    "none": 0,
    "le": 48 * 256 + 256 + 2 * 256,
    "tanaka": 2 * 3 + 48 * 48 + 48 + 2 * 48 + 48 * 48 + 48 + 2 * 48 + 48 * 512 + 512,
    "ele": 64 * (48 * 256 + 256 + 2 * 256) + 64 * 64,
}


@pytest.mark.parametrize("adaptation", BEFORE)
def test_adaptation_networks_have_the_parameters_of_their_description(adaptation):
    model = networks.shake_pyramid_net(10, depth=14, alpha=12, adaptation=adaptation)
    channels = {"none": 3, "tanaka": 32}.get(adaptation, 16)
    assert trainable(model) == BEFORE[adaptation] + shake_by_hand(10, 14, 12, channels)


def test_ele_network_has_the_published_number_of_parameters():
    assert round((BEFORE["ele"] + shake_by_hand(10, 110, 270, 16)) / 1e6, 1) == 29.3


@pytest.mark.slow
def test_vit_b16_has_the_known_number_of_parameters():
    assert networks.vit_b16(10, None).count_params() == 85_798_656 + 7690


SMALL = {
    "resnet18": lambda: networks.resnet18(3, (16, 16, 3), width=2),
    **{
        f"shake, {kind}": lambda kind=kind: networks.shake_pyramid_net(
            3, (16, 12, 3), depth=8, alpha=6, adaptation=kind, seed=1
        )
        for kind in BEFORE
    },
    "vit": lambda: networks.vit_b16(3, None, (16, 16, 3), 4, 1, 2, 8, 12),
}


@pytest.mark.parametrize("network", SMALL)
def test_networks_train_and_survive_a_file(network, tmp_path):
    model = SMALL[network]()
    images = np.random.default_rng(0).integers(0, 256, (6, *model.input_shape[1:]))
    images, labels = images.astype("float32"), np.arange(6) % 3
    before = [np.array(weight) for weight in model.trainable_variables]
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(images, labels, batch_size=3, epochs=2, verbose=0)
    moved = [
        variable.path
        for variable, old in zip(model.trainable_variables, before, strict=True)
        if np.abs(np.array(variable) - old).max() == 0
    ]
    # The softmax cancels a key's bias, and BN the bias of a convolution in front of it.
    assert [path for path in moved if not path.endswith("bias")] == []
    path = tmp_path / "network.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )


@pytest.mark.parametrize("network", [name for name in SMALL if name != "vit"])
def test_private_training_refuses_networks_that_mix_examples(network):
    with pytest.raises(InputError):
        kd.make_private(SMALL[network]())


def test_shake_drop_is_its_expectation_at_inference():
    layer = networks.ShakeDrop(0.7, seed=3)
    branch = np.full((200, 2), 2.0, "float32")
    draws = np.stack([np.array(layer(branch, training=True)) for _ in range(400)])
    # 1.4 = 0.7 * 2; coins vary by sqrt(.7 * .3 / 400) = .023.
    np.testing.assert_allclose(np.array(layer(branch)), 1.4, rtol=1e-6)
    assert abs(draws.mean() - 1.4) < 0.2
    kept = (draws == 2.0).all(axis=(1, 2))
    assert 0.6 < kept.mean() < 0.8
    dropped = draws[~kept][:, :, 0] / 2
    assert dropped.min() < -0.9
    assert dropped.max() > 0.9
    assert abs(dropped.mean()) < 0.03
    assert abs(dropped.std() - 2 / math.sqrt(12)) < 0.03


def test_shake_drop_goes_back_with_other_factors_than_forward():
    branch = tf.ones((500, 3))
    layer = networks.ShakeDrop(0.0, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(branch)
        out = layer(branch, training=True)
    factors = tape.gradient(out, branch).numpy()
    assert np.ptp(factors, axis=1).max() < 1e-6  # one factor an example
    assert factors.min() >= 0
    assert factors.max() <= 1
    assert abs(factors[:, 0].mean() - 0.5) < 0.06
    assert abs(np.corrcoef(factors[:, 0], out.numpy()[:, 0])[0, 1]) < 0.2
    always = networks.ShakeDrop(1.0)
    np.testing.assert_array_equal(always(branch, training=True), branch)


def test_pixel_shuffle_is_its_formula():
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 12)).astype("float32")
    layer = PixelShuffle(2, total_variation=0.5)
    y = np.array(layer(x))
    assert y.shape == (2, 6, 4, 3)
    for h, w, c, i, j in np.ndindex(3, 2, 3, 2, 2):
        np.testing.assert_array_equal(y[:, 2 * h + i, 2 * w + j, c], x[:, h, w, 4 * c + 2 * i + j])
    varied = np.abs(np.diff(y, axis=1)).mean() + np.abs(np.diff(y, axis=2)).mean()
    np.testing.assert_allclose(layer.losses, [0.5 * varied], rtol=1e-5)


def test_blockwise_convolution_has_weights_of_norm_one_for_each_block():
    keras.utils.set_random_seed(0)  # where two singular values lie close, 60 passes are too few
    layer = BlockwiseConv(2, 5)
    images = np.random.default_rng(0).standard_normal((3, 4, 6, 2)).astype("float32")
    for _ in range(60):
        y = np.array(layer(images, training=True))
    kernel = np.array(layer.kernel)
    assert kernel.shape == (6, 8, 5)
    layer.bias.assign(np.random.default_rng(1).standard_normal((6, 5)))
    y = np.array(layer(images))
    for block in range(6):
        row, column = divmod(block, 3)
        cut = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(3, 8)
        scaled = kernel[block] / np.linalg.svd(kernel[block], compute_uv=False)[0]
        expected = cut @ scaled + np.array(layer.bias)[block]
        np.testing.assert_allclose(y[:, block], expected, rtol=1e-3, atol=1e-3)


def test_penalty_is_zero_for_permutations_alone():
    penalty = PermutationPenalty(0.5)
    permutation = np.eye(4, dtype="float32")[[2, 0, 3, 1]]
    assert float(penalty(tf.constant(permutation))) == pytest.approx(0, abs=1e-5)
    u = np.random.default_rng(0).standard_normal((4, 4)).astype("float32")
    by_hand = sum(np.abs(v).sum() - np.sqrt((v**2).sum()) for v in (*u, *u.T))
    assert float(penalty(tf.constant(u))) == pytest.approx(0.5 * by_hand / 16, rel=1e-5)
    layer = BlockMixing(0.1)
    x = np.random.default_rng(1).standard_normal((2, 4, 3)).astype("float32")
    layer.build(x.shape)
    layer.matrix.assign(permutation)
    np.testing.assert_allclose(layer(x), x[:, [2, 0, 3, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.resnet18(0), "num_classes must be a whole number above 0"),
        (lambda: networks.shake_pyramid_net(10, depth=12), r"depth must be 6 n \+ 2"),
        (lambda: networks.shake_pyramid_net(10, (30, 32, 3)), "multiples of 4"),
        (lambda: networks.shake_pyramid_net(10, adaptation="x"), "adaptation must be one of"),
        (lambda: networks.shake_pyramid_net(10, final_survival=2), "final_survival must be in"),
        (
            lambda: networks.shake_pyramid_net(10, adaptation="le", block_size=5),
            "divisible by block_size=5",
        ),
        (lambda: networks.ShakeDrop(-0.1), "survival must be in"),
        (lambda: PixelShuffle(2)(np.zeros((1, 2, 2, 3), "float32")), "a square that divides"),
    ],
)
def test_bad_sizes_are_refused_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
