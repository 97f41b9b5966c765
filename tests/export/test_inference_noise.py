"""Noise at inference in an export: off unless asked for, and then fresh on every call."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.export.inference_noise import InferenceNoise, _fresh_normal
from keras_dpvit.export.runners import SavedModelRunner


def a_model(**noise):
    keras.utils.set_random_seed(0)
    backbone = kd.DPViTBackbone((4, 4, 1), patch_size=2, hidden_dim=8, num_heads=2, **noise)
    return kd.DPViTClassifier(backbone, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1)).astype("float32")


@pytest.mark.parametrize(
    ("noise", "asked", "is_drawn"),
    [
        ({"attention_noise_stddev": 0.1, "noise_at_inference": True}, None, True),
        ({"attention_noise_stddev": 0.1}, True, True),
        ({"norm_noise_stddev": 0.1}, True, True),
        ({"attention_noise_stddev": 0.1}, None, False),
        ({"attention_noise_stddev": 0.1, "noise_at_inference": True}, False, False),
    ],
    ids=["as made", "attention, asked for", "norm, asked for", "by default", "asked to be silent"],
)
def test_two_requests_differ_if_and_only_if_noise_is_drawn(
    images, noise, asked, is_drawn, tmp_path
):
    model = a_model(**noise)
    kd.export.saved_model(model, tmp_path / "1", noise_at_inference=asked)
    runner = SavedModelRunner(tmp_path / "1")
    first, second = (runner.predict(images)["probabilities"] for _ in range(2))
    if is_drawn:
        assert np.abs(first - second).max() > 1e-4
        assert np.abs(first[0] - first[1]).max() > 0
    else:
        np.testing.assert_array_equal(first, second)
    stored = tf.train.list_variables(str(tmp_path / "1" / "variables" / "variables"))
    weights = [shape for name, shape in stored if name.startswith("model_variables")]
    assert len(weights) == len(model.weights)  # no state of a generator among them


def test_a_server_started_again_draws_other_noise(images, tmp_path):
    model = a_model(attention_noise_stddev=0.1)
    tf.random.set_seed(7)  # must not be written into the graph
    kd.export.saved_model(model, tmp_path / "1", noise_at_inference=True)
    tf.random.set_seed(7)
    first = SavedModelRunner(tmp_path / "1").predict(images)["probabilities"]
    tf.random.set_seed(7)
    second = SavedModelRunner(tmp_path / "1").predict(images)["probabilities"]
    assert np.abs(first - second).max() > 1e-4


def test_the_model_is_left_as_it_was(images, tmp_path):
    model = a_model(attention_noise_stddev=0.1, norm_noise_stddev=0.1)
    noisy = [x for x in model._flatten_layers() if getattr(x, "seed_generator", None)]
    assert len(noisy) > 2
    before = model.predict(images, verbose=0)
    kd.export.saved_model(model, tmp_path / "1", noise_at_inference=True)
    assert not any(layer.noise_at_inference for layer in noisy)
    assert not any("_noise" in vars(layer) for layer in noisy)
    np.testing.assert_array_equal(model.predict(images, verbose=0), before)


def test_a_failure_while_tracing_leaves_the_model_as_it_was():
    model = a_model(attention_noise_stddev=0.1)
    noise = InferenceNoise(model, True)

    def fail():
        with noise.applied():
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    noisy = [x for x in model._flatten_layers() if getattr(x, "seed_generator", None)]
    assert not any(layer.noise_at_inference or "_noise" in vars(layer) for layer in noisy)


def test_noise_has_its_deviation():
    drawn = np.asarray(_fresh_normal(0.3)((200, 200)))
    assert abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(0.3, rel=0.02)


def test_noise_of_a_model_without_any_is_refused(tmp_path):
    with pytest.raises(InputError, match="noise_at_inference=True needs a model with"):
        kd.export.saved_model(a_model(), tmp_path / "1", noise_at_inference=True)
    assert list(tmp_path.iterdir()) == []
