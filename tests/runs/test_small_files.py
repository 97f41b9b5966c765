"""A run's weights in half precision, and its Keras file: small, and the same model."""

import json
import pathlib
import zipfile

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.export.saved_model import saved_model
from keras_dpvit.export.served_model import exact_half
from keras_dpvit.export.verification import Verification
from keras_dpvit.models import provenance
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import mean_entry
from keras_dpvit.runs.model_files import save_compressed
from keras_dpvit.runs.training import round_to_half

SHIPPED = pathlib.Path(__file__).parents[2] / "savedmodels" / "fashion_mnist" / "1"
ENTRY = mean_entry(20.0, 100, 1e-5)


def small(seed=0):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", 3)
    rng = np.random.default_rng(seed)
    model.start_from(PrivacyLedger((ENTRY,)))
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(0.3 * rng.normal(size=variable.shape))
    provenance.settle(model)
    return model


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (20, 8, 8, 1)).astype("float32")


def test_rounding_moves_no_weight_by_more_than_a_part_in_2048(images):
    model = small()
    before, said = model.get_weights(), model.predict(images, verbose=0)
    round_to_half(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        if old.dtype == np.float32:
            assert np.array_equal(new, new.astype("float16"))
            assert np.abs(new - old).max() <= np.abs(old).max() / 2**11
    np.testing.assert_allclose(model.predict(images, verbose=0), said, rtol=0, atol=0.02)


def test_rounding_costs_nothing_and_hides_nothing():
    model = small()
    before = model.privacy_ledger
    round_to_half(model)
    assert model.privacy_ledger == before
    assert model.privacy_ledger.all_entries() == (ENTRY,)


@pytest.mark.parametrize("value", [1e-7, 1e6, np.nan])
def test_what_half_precision_does_not_hold_stays(value):
    model = small()
    bias = model.get_layer("logits").bias
    bias.assign(np.array([1.1, 2.2, 3.3], "float32") * value)
    before = bias.numpy()
    round_to_half(model)
    np.testing.assert_array_equal(bias.numpy(), before)
    assert exact_half(bias) is None


def test_a_compressed_file_is_the_same_model(tmp_path, images):
    model = small()
    round_to_half(model)
    save_compressed(model, tmp_path / "model.keras")
    model.save(tmp_path / "plain.keras")
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "plain.keras"}
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_DEFLATED}
    sizes = [(tmp_path / name).stat().st_size for name in ("model.keras", "plain.keras")]
    assert sizes[0] < 0.75 * sizes[1]
    again = kd.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    assert again.privacy_ledger == model.privacy_ledger
    fresh = kd.DPViTClassifier.from_preset("dpvit_tiny_8", 3)
    assert kd.load_initial_weights(fresh, tmp_path / "model.keras").has_ledger


def test_a_saved_model_keeps_in_half_what_half_holds(tmp_path, images):
    from keras_dpvit.export.runners import SavedModelRunner

    model, sizes = small(), {}
    for name in ("plain", "rounded"):
        if name == "rounded":
            round_to_half(model)
        saved_model(model, tmp_path / name, warmup_requests=False)
        found = SavedModelRunner(tmp_path / name).predict(images)["probabilities"]
        logits = model.predict(images, verbose=0)
        expected = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected /= expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        data = next((tmp_path / name / "variables").glob("*.data*"))
        sizes[name] = data.stat().st_size
    assert sizes["rounded"] < 0.6 * sizes["plain"]


def test_the_model_that_ships_is_small_accurate_and_as_its_card_says():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    card = json.loads((SHIPPED / "privacy_card.json").read_text("utf-8"))
    assert max(card["epsilon"].values()) <= 3
    run = json.loads((SHIPPED / "run.json").read_text("utf-8"))
    assert run["flags"]["recipe"] == "fashion_mnist"
    assert min(run["accuracy_on_held_out_images"].values()) >= 0.9
    assert [c for c in Verification(SHIPPED).all_checks() if c.passed is False] == []
