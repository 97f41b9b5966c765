"""What travels beside the graph: class names, card, provenance, warm-up requests."""

import hashlib
import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.export import assets, warmup


@pytest.fixture(scope="module")
def exported(trained_fusion, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "1"
    names = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
    kd.export.saved_model(trained_fusion, directory, class_names=names)
    return directory


def read_json(path):
    return json.loads(path.read_text())


def test_class_names_are_a_line_each(exported):
    lines = (exported / "assets" / "class_names.txt").read_text("utf-8").split("\n")
    assert lines[:2] == ["null", "eins"]
    assert lines[5] == "fünf"
    assert len(lines) == 11
    assert assets.read_class_names(exported) == lines[:-1]


def test_a_name_of_two_lines_is_refused(trained_members, tmp_path):
    with pytest.raises(InputError, match="class_names must be names of one line each"):
        kd.export.saved_model(trained_members[0], tmp_path / "1", class_names=["a\nb"] * 10)
    assert list(tmp_path.iterdir()) == []


def test_card_is_the_models_or_the_one_given(exported, trained_fusion, tmp_path):
    card = read_json(exported / "assets.extra" / "privacy_card.json")
    assert card == read_json(
        kd.export.write_privacy_card(kd.export.privacy_card(trained_fusion), tmp_path)
    )
    given = kd.export.privacy_card(trained_fusion, dataset={"name": "ours"})
    kd.export.saved_model(trained_fusion, tmp_path / "1", card=given)
    card = read_json(tmp_path / "1" / "assets.extra" / "privacy_card.json")
    assert card["dataset"] == {"name": "ours"}


def test_provenance_names_versions_preset_and_plan(exported):
    provenance = read_json(exported / "assets.extra" / "provenance.json")
    assert provenance["package"] == f"keras_dpvit {kd.__version__}"
    assert provenance["tensorflow"] == tf.__version__
    assert provenance["keras"] == keras.__version__
    assert provenance["noise_at_inference"] is False
    model = provenance["model"]
    assert (model["type"], model["members_data"]) == ("FusedClassifier", "shared")
    assert [member["preset"] for member in model["members"]] == ["dpvit_tiny_8"] * 2
    assert model["parameters"] == sum(member["parameters"] for member in model["members"])
    assert [plan["noise_multiplier"] for plan in provenance["plan"]] == [2.0, 2.5]
    assert {plan["num_examples"] for plan in provenance["plan"]} == {1437}
    assert not {"commit", "git", "date", "time", "host"} & set(provenance)


def test_provenance_has_the_digest_of_every_other_file(exported):
    recorded = read_json(exported / "assets.extra" / "provenance.json")["sha256"]
    found = {
        path.relative_to(exported).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in exported.rglob("*")
        if path.is_file() and path.name != "provenance.json"
    }
    assert recorded == found
    assert len(found) == 7


@pytest.mark.parametrize(
    ("changes", "preset"),
    [
        ({}, "dpvit_tiny_8"),
        ({"attention_noise_stddev": 0.5}, "dpvit_tiny_8"),
        ({"hidden_dim": 16}, None),
    ],
)
def test_preset_is_found_by_its_arguments(changes, preset):
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=3, **changes)
    assert assets.preset_of(model) == preset


def test_provenance_of_a_foreign_network():
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    content = assets.provenance(kd.make_private(network))
    assert content["model"]["type"] == "DPModel"
    assert content["model"]["preset"] is None
    assert content["model"]["parameters"] == 51
    assert content["plan"] == []


def test_warm_up_has_a_request_for_each_signature_that_replays(exported):
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    signatures = tf.saved_model.load(str(exported)).signatures
    played = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(t)) for key, t in request.inputs.items()}
        outputs = signatures[name](**inputs)
        if "probabilities" in outputs:
            np.testing.assert_allclose(tf.reduce_sum(outputs["probabilities"], 1), 1, atol=1e-5)
        played.append(name)
    assert sorted(played) == sorted(signatures)


def test_warm_up_images_are_made_of_a_formula(exported, trained_members, tmp_path):
    # Another model's requests for images of the same shape are the same, so no data is in them.
    kd.export.saved_model(trained_members[0], tmp_path / "1")
    ours, other = (
        {r.model_spec.signature_name: r for r in warmup.read_warmup(d / assets.WARMUP_FILE)}
        for d in (exported, tmp_path / "1")
    )
    assert set(other) == set(ours) - {"member_probabilities"}
    assert all(ours[name] == request for name, request in other.items())


def test_without_the_api_there_is_one_line_and_no_request(trained_members, tmp_path, monkeypatch):
    monkeypatch.setattr(warmup, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="tensorflow-serving-api is missing") as caught:
        kd.export.saved_model(trained_members[0], tmp_path / "1")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert not (tmp_path / "1" / assets.WARMUP_FILE).exists()
    with pytest.raises(InputError, match="warmup_requests cannot be True"):
        kd.export.saved_model(trained_members[0], tmp_path / "2", warmup_requests=True)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_no_requests_if_none_are_wanted(trained_members, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kd.export.saved_model(trained_members[0], tmp_path / "1", warmup_requests=False)
    assert not (tmp_path / "1" / assets.WARMUP_FILE).exists()


@pytest.mark.parametrize("content", [b"nonsense", b"\0" * 40])
def test_damaged_requests_are_refused(content, tmp_path):
    (tmp_path / "requests").write_bytes(content)
    with pytest.raises(InputError, match="holds no warm-up requests: it is damaged"):
        warmup.read_warmup(tmp_path / "requests")
