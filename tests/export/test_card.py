"""The privacy card: strict JSON that says what the ledger says."""

import json
import math
from importlib.metadata import version

import dp_accounting
import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.export.card import lack_of_protection
from keras_dpvit.privacy.ledger import PrivacyLedger, ledger_from_dict


class Carrying:
    """A model as far as the card looks at one."""

    def __init__(self, ledger):
        self.privacy_ledger = ledger

    def privacy_delta(self, delta=None):
        return 1e-5 if delta is None else delta


def written(model, directory, **arguments):
    """The card as another program reads it: JSON without Python's additions."""
    path = kd.export.write_privacy_card(kd.export.privacy_card(model, **arguments), directory)
    assert path == directory / "privacy_card.json"
    assert [p.name for p in directory.iterdir()] == ["privacy_card.json"]

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def a_plan(**changes):
    arguments = {
        "num_examples": 1000,
        "batch_size": 100,
        "epochs": 2,
        "delta": 1e-5,
        "noise_multiplier": 1.5,
    }
    return kd.PrivacyPlan(**{**arguments, **changes})


def test_card_says_what_the_ledger_says(trained_fusion, tmp_path):
    dataset = {"name": "digits", "num_training_examples": 1437}
    card = written(trained_fusion, tmp_path, dataset=dataset)
    ledger = trained_fusion.privacy_ledger
    for name in ("rdp", "pld"):
        assert card["epsilon"][name] == ledger.epsilon(1e-4, name)
    assert card["delta"] == 1e-4
    assert card["dataset"] == dataset
    assert card["model"] == "FusedClassifier"
    assert card["adjacency"] == "ADD_OR_REMOVE_ONE"
    assert card["sampling"] == ["poisson"]
    assert card["keras"] == keras.__version__
    assert card["package"] == f"keras_dpvit {kd.__version__}"
    assert card["accountant"] == f"dp_accounting {version('dp-accounting')}"
    assert [m["noise_multiplier"] for m in card["mechanism"]] == [2.0, 2.5]
    assert [m["steps"] for m in card["mechanism"]] == [23, 23]
    assert {m["sampling_probability"] for m in card["mechanism"]} == {256 / 1437}
    assert {m["clipping"]["name"] for m in card["mechanism"]} == {"median_layer"}
    assert card["statement"] == trained_fusion.privacy_statement()
    assert card["not_covered"]
    assert "Training loss and metrics as shown by fit." in card["not_covered"]


def test_ledger_of_the_card_gives_epsilon_again(trained_fusion, tmp_path):
    card = written(trained_fusion, tmp_path)
    again = ledger_from_dict(card["ledger"])
    assert again.epsilon(card["delta"], "rdp") == card["epsilon"]["rdp"]
    # And by hand, from the mechanism as the card has it.
    accountant = dp_accounting.rdp.RdpAccountant()
    for part in card["mechanism"]:
        release = dp_accounting.GaussianDpEvent(part["noise_multiplier"])
        release = dp_accounting.PoissonSampledDpEvent(part["sampling_probability"], release)
        accountant.compose(release, part["steps"])
    assert accountant.get_epsilon(card["delta"]) == pytest.approx(card["epsilon"]["rdp"])


def test_printed_epsilon_is_never_below_the_number(trained_fusion):
    card = kd.export.privacy_card(trained_fusion)
    for name in ("rdp", "pld"):
        (line,) = [x for x in card["statement"].splitlines() if f"epsilon by {name.upper()}" in x]
        printed = float(line.split(":")[1])
        assert 0 <= printed - card["epsilon"][name] < 1.001e-3


def test_other_delta_is_honoured(tmp_path):
    model = Carrying(PrivacyLedger(a_plan().entries(20)))
    card = written(model, tmp_path, delta=1e-7)
    assert card["delta"] == 1e-7
    assert card["epsilon"]["rdp"] == model.privacy_ledger.epsilon(1e-7)
    assert card["epsilon"]["rdp"] > model.privacy_ledger.epsilon(1e-5)


def test_infinite_epsilon_is_a_word(tmp_path):
    model = Carrying(PrivacyLedger(a_plan(noise_multiplier=0.0).entries(20)))
    assert model.privacy_ledger.epsilon(1e-5) == math.inf
    card = written(model, tmp_path)
    assert card["epsilon"] == {"rdp": "infinite", "pld": "infinite"}
    assert "epsilon by RDP: infinite" in card["statement"]


def test_infinite_epsilon_of_ordinary_training_is_a_word_and_a_warning(tmp_path, caplog):
    model = kd.DPViTClassifier(
        kd.DPViTBackbone((4, 4, 1), patch_size=2, hidden_dim=4, num_heads=2), num_classes=2
    )
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    model.fit(np.zeros((4, 4, 4, 1)), np.zeros(4, int), verbose=0)
    card = written(model, tmp_path)
    assert card["epsilon"]["rdp"] == "infinite"
    caplog.clear()
    with caplog.at_level("WARNING", "keras_dpvit"):
        kd.export.tflite(model, tmp_path / "bare.tflite")
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("The model's epsilon is infinite: nothing protects the records")


def test_no_warning_where_epsilon_is_finite_or_nothing_was_trained():
    never_trained = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=2)
    private = Carrying(PrivacyLedger(a_plan().entries(20)))
    for model in (never_trained, private, keras.Sequential()):
        assert lack_of_protection(model) is None


def test_untrained_model_claims_nothing(tmp_path):
    card = written(Carrying(PrivacyLedger()), tmp_path)
    assert "nothing is claimed" in card["statement"]
    assert card["mechanism"] == card["sampling"] == []


def test_fixed_seed_is_told_but_not_which(tmp_path):
    model = Carrying(PrivacyLedger(a_plan(seed=123454321).entries(20)))
    card = written(model, tmp_path)
    assert card["mechanism"][0]["seed_fixed"] is True
    assert "123454321" not in json.dumps(card)
    assert "fixed seed" in card["statement"]


def test_not_a_number_is_refused_rather_than_written(tmp_path):
    with pytest.raises(ValueError):
        kd.export.write_privacy_card({"epsilon": math.nan}, tmp_path)
    assert list(tmp_path.iterdir()) == []
