"""Attention maps: those of every block, without noise, whatever the network."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd

NOISE = {"attention_noise_stddev": 0.2, "norm_noise_stddev": 0.2, "seed": 3}


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def weights_and_seeds(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


def test_every_block_has_a_map_of_its_tokens(variant, make_variant, variant_images):
    model = make_variant(variant)
    maps = model.attention_maps(variant_images)
    assert list(maps) == [block.name for block in model.backbone.blocks]
    assert list(maps) == ["stage_1_block_1", "stage_1_block_2", "stage_2_block_1"]
    heads = variant.get("num_heads", 2)
    for block in model.backbone.blocks:
        found, tokens = maps[block.name], block.input.shape[1]
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        assert found.shape == (3, heads, tokens, tokens)
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
        assert (found >= 0).all()


def test_backbone_and_classifier_give_the_same_maps(variant, make_variant, variant_images):
    model = make_variant(variant)
    ours, backbones = (m.attention_maps(variant_images) for m in (model, model.backbone))
    for name, found in ours.items():
        np.testing.assert_array_equal(backbones[name], found)


def by_hand(block, tokens):
    """Softmax of the block's own projections of its normalised input, mixed with place."""
    norm, attention = block.norm_1.gain_and_bias, block.attention
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    x = centred / tokens.std(axis=-1, keepdims=True) * norm.gain.numpy() + norm.bias.numpy()
    query = x @ attention.query.kernel.numpy() + attention.query.bias.numpy()
    key = x @ attention.key.kernel.numpy()
    size = x.shape[-1] // attention.num_heads
    maps = []
    for h in range(attention.num_heads):
        part = slice(h * size, (h + 1) * size)
        maps.append(softmax(query[..., part] @ key[..., part].swapaxes(1, 2) / np.sqrt(size)))
    maps = np.stack(maps, axis=1)
    gate = getattr(attention, "position_gate", None)
    if gate is None:
        return maps
    share = 1 / (1 + np.exp(-gate.gate.numpy()))[:, None, None]
    place = softmax(np.einsum("hc,ijc->hij", gate.position_weights.numpy(), gate.encodings))
    return (1 - share) * maps + share * place


def test_maps_are_the_softmax_of_the_blocks_own_projections(make_variant, variant_images):
    model = make_variant({})
    maps = model.attention_maps(variant_images)
    x = variant_images
    for layer in model.backbone.layers[1:]:
        if layer.name in maps:
            expected = by_hand(layer, np.asarray(x, "float64"))
            np.testing.assert_allclose(maps[layer.name], expected, rtol=1e-3, atol=1e-5)
        x = layer(x)


@pytest.mark.parametrize("noise_at_inference", [False, True])
def test_maps_are_without_the_models_noise(make_variant, variant_images, noise_at_inference):
    noisy = make_variant(NOISE, noise_at_inference=noise_at_inference)
    expected = make_variant({}).attention_maps(variant_images)
    for _ in range(2):
        found = noisy.attention_maps(variant_images)
        for name, known in expected.items():
            np.testing.assert_allclose(found[name], known, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("noise_at_inference", [False, True])
def test_looking_changes_nothing_in_the_model(make_variant, variant_images, noise_at_inference):
    model, twin = (make_variant(NOISE, noise_at_inference=noise_at_inference) for _ in range(2))
    before = weights_and_seeds(model)
    model.attention_maps(variant_images)
    for old, new in zip(before, weights_and_seeds(model), strict=True):
        np.testing.assert_array_equal(old, new)
    # The noise goes on as if nobody had looked.
    np.testing.assert_array_equal(
        model(variant_images, training=True), twin(variant_images, training=True)
    )


def test_one_image_gives_its_row_of_the_batch(variant, make_variant, variant_images):
    model = make_variant(variant)
    together = model.attention_maps(variant_images)
    alone = model.attention_maps(variant_images[1:2])
    for name, found in alone.items():
        np.testing.assert_allclose(found[0], together[name][1], rtol=1e-4, atol=1e-6)


def test_maps_of_a_loaded_model_are_the_same(make_variant, variant_images, tmp_path):
    # Every variant is loaded, and looked at, in a fresh process by `test_network_options`.
    model = make_variant(NOISE)
    model.save(tmp_path / "model.keras")
    found = kd.load_model(tmp_path / "model.keras").attention_maps(variant_images)
    for name, known in model.attention_maps(variant_images).items():
        np.testing.assert_array_equal(found[name], known)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_maps_are_float32_whatever_the_precision(policy, make_variant, variant_images):
    exact = make_variant({}).attention_maps(variant_images)
    rough = make_variant({}, dtype=policy).attention_maps(variant_images)
    for name, found in rough.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(found, exact[name], atol=0.1)


def test_whole_numbers_and_one_block_will_do(small_classifier, images):
    model = small_classifier(stage_depths=(1,))
    (found,) = model.attention_maps(images.astype("uint8")).values()
    (expected,) = model.attention_maps(images).values()
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (6, 2, 4, 4)
