"""The pictures: real files, words that say what the model is, nothing on top of anything."""

import itertools

import keras
import numpy as np
import PIL.Image
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import PRESETS
from keras_dpvit.plots import (
    architecture_figure,
    attention_figure,
    plot_architecture,
    plot_attention_maps,
)
from keras_dpvit.plots.attention_sheet import Column

NETWORKS = {
    "stem": {"conv_module": "stem"},
    "depthwise": {"conv_module": "depthwise"},
    "parallel": {"conv_module": "parallel"},
    "scattering": {"features": "scattering", "patch_size": 1, "conv_module": "parallel"},
    "deep": {"stage_depths": (1, 4, 2), "pool_placement": "first_block", "pool_axis": "1d"},
    "head": {"final_norm": True, "head_hidden_dim": 12, "position_table": "none"},
    "plain attention": {"first_attention": "self"},
    "noise": {"attention_noise_stddev": 0.05, "norm_noise_stddev": 0.01, "renormalize": False},
}


def tiny(**changes):
    return kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=5, **changes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype("uint8")


def words_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def check_layout(figure):
    """All words lie on the sheet, and no two on each other."""
    renderer = figure.canvas.get_renderer()
    sheet = figure.bbox
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.axes[0].texts
        if text.get_text()
    ]
    for words, box in boxes:
        assert sheet.x0 <= box.x0 < box.x1 <= sheet.x1, words
        assert sheet.y0 <= box.y0 < box.y1 <= sheet.y1, words
    for (words, box), (others, other) in itertools.combinations(boxes, 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        down = min(box.y1, other.y1) - max(box.y0, other.y0)
        # A box has room above and below its letters.
        assert across <= 0 or down <= 0.15 * min(box.height, other.height), (words, others)


@pytest.mark.parametrize("name", PRESETS)
def test_architecture_of_every_preset(described_presets, name):
    facts, figure = described_presets[name]
    check_layout(figure)
    words = words_of(figure)
    width = facts["stages"][0]["width"]
    for tokens in {tokens for stage in facts["stages"] for tokens in stage["block_tokens"]}:
        assert f"{tokens} tokens × {width}" in words
    assert any(f"{facts['parameters']:,} parameters" in line for line in words)
    assert [line for line in words if line.startswith("Stage") and ":" not in line][
        : len(facts["stages"])
    ] == [f"Stage {stage['stage']}" for stage in facts["stages"]]
    local = [line for line in words if line.startswith("Threshold attention,")]
    assert len(local) == len(facts["stages"])


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_architecture_of_other_networks(changes):
    figure = architecture_figure(tiny(**changes))
    check_layout(figure)
    words = words_of(figure)
    conv = changes.get("conv_module", "none")
    assert ("CONV module" in words) == (conv != "none")
    assert ("CONV branch" in words) == ("CONV(x) + ViT(x)" in words) == (conv == "parallel")
    assert words.count("Two 3×3 convolutions, 16 channels") == (conv == "stem")
    assert words.count("Depthwise convolution over 3 tokens") == 2 * (conv == "depthwise")
    scattering = "Wavelet scattering, 2 scales, 8 angles, fixed"
    assert (scattering in words) == ("features" in changes)
    noise = ("Noise, t = 0.01", "Noise on the weights, t = 0.05", "rows left as they are")
    assert all((line in words) == ("norm_noise_stddev" in changes) for line in noise)


def test_equal_blocks_are_drawn_as_one_with_their_number_and_sum():
    model = tiny(stage_depths=(1, 4))
    words = words_of(architecture_figure(model))
    assert "Self-attention, 4 heads, MLP 64   × 3" in words
    each = next(p for p in kd.describe(model)["parts"] if p["name"] == "stage_2_block_2")
    assert f"{3 * each['parameters'] / 1000:.1f} k" in words


def test_pictures_are_files_of_a_sensible_size(images, tmp_path):
    model = tiny()
    plot_architecture(model, tmp_path / "network.png")
    plot_architecture(model.backbone, tmp_path / "backbone.png")
    plot_attention_maps(model, images, tmp_path / "maps.png", labels=["a", "b", "c"])
    for name in ("network", "backbone", "maps"):
        path = tmp_path / f"{name}.png"
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        with PIL.Image.open(path) as picture:
            assert all(800 < side < 4000 for side in picture.size)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_drawing_changes_nothing_global(images):
    # Keras loads pyplot by itself, so what counts is that its state stays as it is.
    from matplotlib import pyplot, rcParams

    before = dict(rcParams)
    architecture_figure(tiny())
    attention_figure(tiny(), images)
    assert pyplot.get_fignums() == []
    assert dict(rcParams) == before


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, ["head 1", "head 2", "head 3", "head 4"] * 2),
        ({"num_heads": 8}, []),
        ({"stage_depths": (4, 4)}, []),
        ({"conv_module": "parallel"}, ["head 1", "head 2", "head 3", "head 4"] * 2),
    ],
    ids=["heads", "many heads", "many blocks", "two outputs"],
)
def test_attention_figure(images, changes, columns):
    figure = attention_figure(tiny(**changes), images, labels=["one", "two\nlines", "three"])
    check_layout(figure)
    words = words_of(figure)
    assert [line for line in words if line.startswith("head ")] == columns
    assert {"one", "two\nlines", "three", "at the start", "now"} <= set(words)
    assert "0.73 → 0.73" in words
    if len(changes.get("stage_depths", ())) == 2:
        # The first of each stage and the last of all, at the query and on average.
        blocks = ("block 1.1\n16 tokens", "block 2.1\n8 tokens", "block 2.4\n8 tokens")
        assert all(words.count(block) == 2 for block in blocks)
        assert not any(line.startswith("block 1.2") for line in words)


def test_gates_and_places_at_the_start_and_now(images):
    model = tiny()
    gate = model.backbone.blocks[0].attention.position_gate
    gate.gate.assign(np.array([-2.0, 0.0, 1.0, 3.0]))
    words = words_of(attention_figure(model, images))
    for share in ("0.12", "0.50", "0.73", "0.95"):
        assert f"0.73 → {share}" in words


def one_hot(footprints, token):
    weights = np.zeros((2, len(footprints)))
    weights[:, token] = 1
    return weights


def test_heat_is_relative_to_attending_to_all_alike():
    model = kd.DPViTBackbone(
        (8, 8, 1), patch_size=2, hidden_dim=8, num_heads=2, pool_size=3, pool_first_stage=True
    )
    for block in model.blocks:
        footprints = model.token_footprints()[block.name]
        column = Column(block, footprints, 0, None, 0.0)
        alike = np.full((2, len(footprints)), 1 / len(footprints))
        heat, covered = column.heat(alike), footprints.sum(axis=0) > 0
        np.testing.assert_allclose(heat[covered], 1)
        assert (heat[~covered] == 0).all()
        for token in range(len(footprints)):
            hot = column.heat(one_hot(footprints, token)) > 0
            np.testing.assert_array_equal(hot, footprints[token] > 0)


def test_query_is_the_token_nearest_to_a_patch(images):
    def dots(query):
        """Where the query is marked in the first column of maps, in cells."""
        figure = attention_figure(tiny(), images, query=query)
        lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
        marks = [line for line in lines if line.get_markersize() == 5]
        return np.array([float(marks[0].get_xdata()[0]), float(marks[0].get_ydata()[0])])

    step = 0.98 / 4
    np.testing.assert_allclose(dots((2, 3)) - dots((0, 0)), [3 * step, 2 * step])
    np.testing.assert_allclose(dots(None), dots((1, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["one"]}, "labels must be one for each of 3 images, got 1"),
        ({"query": (4, 0)}, r"query must be \(row, column\) within 4 x 4 patches, got \(4, 0\)"),
        ({"query": (0, -1)}, r"query must be \(row, column\) within 4 x 4 patches"),
    ],
)
def test_bad_options(images, options, message):
    with pytest.raises(InputError, match=message):
        attention_figure(tiny(), images, **options)


@pytest.mark.parametrize("shape", [(3, 8, 9, 1), (0, 8, 8, 1), (25, 8, 8, 1), (8, 8, 1)])
def test_bad_images(shape):
    with pytest.raises(InputError, match=r"images must be 1..24 of 8x8x1, got shape"):
        attention_figure(tiny(), np.zeros(shape))


def test_other_models_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="model must be a DPViTClassifier or a DPViTBackbone"):
        plot_architecture(other, tmp_path / "none.png")
    with pytest.raises(InputError, match="model must be a DPViTClassifier or a DPViTBackbone"):
        attention_figure(other, np.zeros((1, 4)))
