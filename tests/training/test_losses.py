"""The paper's loss (eq 7) against its formula, inside and outside of private training."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dpvit as kd
from keras_dpvit.training.record_losses import per_example_loss


def eq_7(labels, logits):
    """One value for each record, in float64, class by class."""
    probabilities = 1 / (1 + np.exp(-logits.astype("float64")))
    values = np.zeros(len(logits))
    for i, label in enumerate(labels):
        for c, p in enumerate(probabilities[i]):
            values[i] -= np.log(p) if c == label else np.log1p(-p)
    return values / logits.shape[1]


@settings(max_examples=20, deadline=None)
@given(records=st.integers(1, 5), classes=st.integers(2, 6), seed=st.integers(0, 99))
def test_formula_for_every_form_of_the_labels(records, classes, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (records, classes)).astype("float32")
    labels = rng.integers(0, classes, records)
    one_hot = np.eye(classes)[labels]
    losses = per_example_loss(kd.PerClassBinaryCrossentropy())
    expected = eq_7(labels, logits)
    for form in (labels, labels[:, None], one_hot):
        np.testing.assert_allclose(losses(form, logits), expected, rtol=1e-5, atol=1e-6)
    mean = kd.PerClassBinaryCrossentropy()(labels, logits)
    np.testing.assert_allclose(mean, expected.mean(), rtol=1e-5, atol=1e-6)


def test_huge_logits_stay_finite():
    losses = per_example_loss(kd.PerClassBinaryCrossentropy())
    values = losses(np.array([0, 1]), np.array([[1e4, -1e4], [1e4, -1e4]], "float32")).numpy()
    np.testing.assert_allclose(values, [0.0, 1e4])


def test_private_training_with_it_learns_and_is_saved(digit_images, tmp_path):
    keras.utils.set_random_seed(3)
    data = digit_images
    plan = kd.PrivacyPlan(
        num_examples=len(data.x_train),
        batch_size=256,
        epochs=12,
        delta=1e-4,
        noise_multiplier=0.6,
        seed=3,
    )
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    model.compile(
        kd.DPKerasAdamOptimizer(plan, learning_rate=1e-2), kd.PerClassBinaryCrossentropy()
    )
    history = model.fit(data.x_train, data.y_train, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    model.save(tmp_path / "model.keras")
    again = kd.load_model(tmp_path / "model.keras")
    assert type(again.loss) is kd.PerClassBinaryCrossentropy
    found = np.argmax(again.predict(data.x_test, verbose=0), axis=1)
    assert np.mean(found == data.y_test) > 0.5
