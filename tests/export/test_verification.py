"""The checks of an export: a sound one passes, and each thing that can be wrong with it fails."""

import json
import shutil
import sys

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.datasets.image_files import read_image
from keras_dpvit.errors import InputError
from keras_dpvit.export import assets, signatures, verification
from keras_dpvit.export.card import contradictions
from keras_dpvit.export.runners import TFLiteRunner
from keras_dpvit.export.verification import NUM_IMAGES, Verification, _png


@pytest.fixture(scope="module")
def exported(trained_fusion, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "1"
    kd.export.saved_model(trained_fusion, directory, class_names=list("abcdefghij"))
    return directory


@pytest.fixture
def copied(exported, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "1")


def results(checks):
    return {check.name: check.passed for check in checks}


def failed(checks):
    return sorted(name for name, passed in results(checks).items() if passed is False)


def test_a_sound_export_passes_everything(exported, trained_fusion, tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for name, size in (("a.png", (30, 17)), ("b.jpg", (90, 200))):
        image = PIL.Image.fromarray(rng.integers(0, 256, (*size, 3)).astype("uint8"))
        image.save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        pictures.append((content, read_image(tmp_path / name, (8, 8, 1))))
    verified = Verification(exported, pictures)
    kd.export.tflite(trained_fusion, tmp_path / "x.tflite", class_names=list("abcdefghij"))
    checks = [
        *verified.all_checks(),
        *verified.keras_check(trained_fusion),
        verified.tflite_check(TFLiteRunner(tmp_path / "x.tflite")),
    ]
    found = results(checks)
    assert set(found.values()) == {True}, [c for c in checks if not c.passed]
    assert set(found) == {
        "signatures",
        "outputs",
        "labels",
        "noise",
        "serving_uint8",
        "serving_bytes",
        "member_probabilities",
        "given pictures",
        "warm-up",
        "privacy card",
        "files",
        "keras",
        "keras ledger",
        "tflite",
    }
    assert all("\n" not in check.detail for check in checks)


def test_a_single_model_has_no_members_to_check(trained_members, tmp_path):
    kd.export.saved_model(trained_members[0], tmp_path / "1")
    found = results(Verification(tmp_path / "1").all_checks())
    assert found.pop("member_probabilities") is None
    assert set(found.values()) == {True}


def test_with_noise_parity_is_not_checked_and_the_rest_is(trained_fusion, tmp_path):
    kd.export.saved_model(trained_fusion, tmp_path / "1", noise_at_inference=True)
    found = results(Verification(tmp_path / "1").all_checks())
    unchecked = {name for name, passed in found.items() if passed is None}
    assert unchecked == {"serving_uint8", "serving_bytes", "member_probabilities"}
    assert failed(Verification(tmp_path / "1").all_checks()) == []


def rewrite_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_epsilon(directory):
    rewrite_json(directory / assets.CARD_FILE, lambda card: card["epsilon"].update(rdp=0.5))


def remove_card(directory):
    (directory / assets.CARD_FILE).unlink()


def swap_class_names(directory):
    (directory / assets.CLASS_NAMES_FILE).write_text("".join(f"{x}\n" for x in "bacdefghij"))


def cut_warm_up(directory):
    path = directory / assets.WARMUP_FILE
    path.write_bytes(path.read_bytes()[:-30])


def claim_noise(directory):
    rewrite_json(
        directory / assets.PROVENANCE_FILE, lambda content: content.update(noise_at_inference=True)
    )


def add_other_card(directory):
    (directory / "privacy_card.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (edit_epsilon, ["files", "privacy card"]),
        (remove_card, ["files", "privacy card"]),
        (swap_class_names, ["files", "labels"]),
        (cut_warm_up, ["files", "warm-up"]),
        (claim_noise, ["noise"]),
        (add_other_card, ["privacy card"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_changed_since_fails(copied, spoil, expected):
    spoil(copied)
    assert failed(Verification(copied).all_checks()) == expected


def test_a_graph_that_decodes_wrongly_fails(trained_fusion, tmp_path, monkeypatch):
    def upside_down(image_bytes, image_shape):
        return real(image_bytes, image_shape)[:, ::-1]

    real = signatures.decode_and_resize
    monkeypatch.setattr(signatures, "decode_and_resize", upside_down)
    kd.export.saved_model(trained_fusion, tmp_path / "1")
    assert failed(Verification(tmp_path / "1").all_checks()) == ["serving_bytes"]


def test_other_weights_of_the_fusion_fail(trained_fusion, tmp_path, monkeypatch):
    def equal(probabilities):
        weights = tf.fill(tf.shape(probabilities)[:2], 0.5)
        return tf.reduce_mean(probabilities, axis=1), weights

    monkeypatch.setattr(trained_fusion.fusion, "call", equal)
    kd.export.saved_model(trained_fusion, tmp_path / "1")
    assert failed(Verification(tmp_path / "1").all_checks()) == ["member_probabilities"]


def test_a_missing_signature_fails(trained_fusion, tmp_path, monkeypatch):
    make = signatures.make_signatures

    def without_uint8(served):
        return {name: f for name, f in make(served).items() if name != "serving_uint8"}

    module = sys.modules["keras_dpvit.export.saved_model"]  # the name is the function's, too
    monkeypatch.setattr(module, "make_signatures", without_uint8)
    kd.export.saved_model(trained_fusion, tmp_path / "1")
    (check,) = (c for c in Verification(tmp_path / "1").all_checks() if c.name == "signatures")
    assert check.passed is False
    assert check.detail == "serving_uint8: missing"


def test_another_keras_model_fails(exported, trained_members):
    keras.utils.set_random_seed(5)
    other = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    assert failed(Verification(exported).keras_check(other)) == ["keras", "keras ledger"]
    small = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3)
    with pytest.raises(InputError, match="it has other classes"):
        Verification(exported).keras_check(small)


@pytest.mark.parametrize("quantize", [None, "dynamic"])
def test_another_tflite_file_fails(exported, trained_members, quantize, tmp_path):
    path = tmp_path / "other.tflite"
    keras.utils.set_random_seed(5)
    other = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    names = list("abcdefghij")
    kd.export.tflite(other, path, quantize=quantize, class_names=names)
    assert Verification(exported).tflite_check(TFLiteRunner(path)).passed is False
    kd.export.tflite(trained_members[0], path)
    check = Verification(exported).tflite_check(TFLiteRunner(path))
    assert (check.passed, check.detail) == (False, "its class names are others")


def test_int8_is_held_to_given_pictures_more_than_to_made_up_ones(
    exported, trained_fusion, digit_images, tmp_path, monkeypatch
):
    """The agreement is counted apart: noise lies outside of what the file was calibrated for."""
    path = tmp_path / "int8.tflite"
    names = list("abcdefghij")
    made_up = kd.export.synthetic_images((8, 8, 1), 64)
    kd.export.tflite(trained_fusion, path, quantize="int8", calibration=made_up, class_names=names)
    runner = TFLiteRunner(path)
    alone = Verification(exported).tflite_check(runner)
    assert alone.passed, alone.detail
    assert "made-up pictures" in alone.detail
    assert "real ones by --images=FOLDER" in alone.detail

    digits = [(_png(image), image) for image in digit_images.x_test[:40]]
    verified = Verification(exported, digits)
    check = verified.tflite_check(runner)
    assert check.passed, check.detail
    assert "given pictures" in check.detail
    # Three errors among as many pictures: too many of given ones, not of made-up ones.
    monkeypatch.setattr(verification, "_CLEAR_LEAD", 0.0)
    for first, passes in ((NUM_IMAGES, False), (0, True)):
        found = verified._outputs["probabilities"].copy()
        found[first : first + 3] = np.roll(found[first : first + 3], 1, axis=1)
        assert verified._same_classes(found).passed is passes


def test_outputs_that_are_no_distribution_fail(exported, monkeypatch):
    verified = Verification(exported)
    for change in (lambda p: p * 1.01, lambda p: p * np.nan, lambda p: -p, lambda p: p[:, ::-1]):
        outputs = {**verified._outputs, "probabilities": change(verified._outputs["probabilities"])}
        with monkeypatch.context() as patch:
            patch.setattr(verified, "_outputs", outputs)
            assert verified._finite().passed is False
    assert verified._finite().passed is True


# === the card, without its export ===


@pytest.fixture(scope="module")
def card(trained_fusion, tmp_path_factory):
    path = kd.export.write_privacy_card(
        kd.export.privacy_card(trained_fusion), tmp_path_factory.mktemp("card")
    )
    return json.loads(path.read_text())


def changed(card, *keys, value):
    """A copy with one thing changed, at any depth."""
    copy = json.loads(json.dumps(card))
    place = copy
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return copy


def test_an_unchanged_card_is_consistent(card):
    assert contradictions(card) == []
    assert contradictions(changed(card, "package", value="keras_dpvit 9.9")) == []


@pytest.mark.parametrize(
    ("keys", "value", "found"),
    [
        (("epsilon", "rdp"), 1.0, ["epsilon"]),
        (("epsilon", "pld"), 1.0, ["epsilon"]),
        (("epsilon",), {"rdp": 1.0}, ["epsilon"]),
        (("epsilon",), "small", ["epsilon"]),
        (("epsilon", "rdp"), "infinite", ["epsilon"]),
        (("delta",), 1e-3, ["epsilon"]),
        (("delta",), 0, ["ledger"]),
        (("delta",), "small", ["ledger"]),
        (("ledger", "entries", 0, "noise_multiplier"), 9.0, ["epsilon"]),
        (("ledger", "entries", 0, "steps"), 1, ["epsilon"]),
        (("ledger", "entries", 1, "sampling_probability"), 0.01, ["epsilon"]),
        (("ledger", "entries"), [], ["epsilon"]),
        (("ledger",), {}, ["ledger"]),
        (("ledger",), {"kind": "parallel", "parts": 3}, ["ledger"]),
        (("mechanism", 0, "noise_multiplier"), 9.0, ["mechanism"]),
        (("mechanism",), [], ["mechanism"]),
        (("adjacency",), "REPLACE_ONE", ["adjacency"]),
        (("sampling",), ["fixed_size"], ["sampling"]),
        (("not_covered",), [], ["not_covered"]),
        (("statement",), "Perfectly private.", ["statement"]),
    ],
    ids=str,
)
def test_a_card_edited_by_hand_contradicts_itself(card, keys, value, found):
    assert contradictions(changed(card, *keys, value=value)) == found


def test_a_statement_with_another_epsilon_contradicts_the_card(card):
    text = card["statement"]
    line = next(x for x in text.splitlines() if "epsilon by RDP" in x)
    edited = text.replace(line, "    epsilon by RDP: 0.100")
    assert contradictions(changed(card, "statement", value=edited)) == ["statement"]
    edited = text.replace("ADD_OR_REMOVE_ONE", "NONE_AT_ALL")
    assert contradictions(changed(card, "statement", value=edited)) == ["statement"]


def test_a_card_without_an_entry_contradicts_itself(card):
    for name in ("epsilon", "delta", "adjacency", "sampling", "mechanism", "statement", "ledger"):
        rest = {key: value for key, value in card.items() if key != name}
        assert contradictions(rest), name


def test_infinite_and_absent_costs_are_consistent(tmp_path):
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model = kd.make_private(network)
    for train in (False, True):
        if train:
            model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            model.fit(np.zeros((4, 4, 4, 1)), np.zeros(4, int), verbose=0)
        kd.export.write_privacy_card(kd.export.privacy_card(model), tmp_path)
        card = json.loads((tmp_path / "privacy_card.json").read_text())
        assert contradictions(card) == []
    assert card["epsilon"]["rdp"] == "infinite"
    assert contradictions(changed(card, "epsilon", "rdp", value=3.0)) == ["epsilon"]
    assert verification._short(card["epsilon"]["rdp"]) == "infinite"
