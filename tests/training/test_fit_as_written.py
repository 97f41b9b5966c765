"""`fit` as people write it: heads, weights, several inputs and outputs, against plain Keras.

With every record in the step, no noise and a bound that nothing reaches, a private step is one of
plain Keras: what differs would be a head, a weight or a loss that is taken for another.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.training.class_weights import class_weights

RECORDS = 48
NO_BOUND = {"clipping": kd.FlatClipping(), "sensitivity": kd.FixedSensitivity(1e6)}
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
layers = keras.layers


@pytest.fixture(scope="module")
def digits(digit_images):
    x = digit_images.x_train[:RECORDS].reshape(RECORDS, 64).astype("float32") / 255
    return x, digit_images.y_train[:RECORDS].astype("int64")


def a_plan(**changes):
    arguments = {"noise_multiplier": 0.0, **NO_BOUND, **changes}
    return kd.PrivacyPlan(RECORDS, RECORDS, 3, 1e-3, **arguments)


def head(*parts, shape=(64,)):
    return lambda: keras.Sequential([keras.Input(shape), *[part() for part in parts]])


def trained(make, loss, x, y, compile_arguments=None, **fit_arguments):
    """Weights after three private and three plain steps from the same start, and both histories."""
    found = []
    start = None
    for private in (True, False):
        model = make()
        start = model.get_weights() if start is None else start
        model.set_weights(start)
        optimizer = keras.optimizers.SGD(0.05)
        own = dict(fit_arguments)
        if private:
            model = kd.make_private(model)
            optimizer = kd.DPKerasSGDOptimizer(a_plan(), 0.05)
        else:
            own |= {"batch_size": RECORDS, "shuffle": False}
        model.compile(optimizer, loss, **(compile_arguments or {}))
        history = model.fit(x, y, epochs=3, verbose=0, **own).history
        found.append((model.get_weights(), history))
    return found


def check_same(make, loss, x, y, compile_arguments=None, **fit_arguments):
    private, plain = trained(make, loss, x, y, compile_arguments, **fit_arguments)
    moved = 0.0
    for ours, keras_own in zip(private[0], plain[0], strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-5)
        moved = max(moved, np.abs(ours).max())
    assert moved > 0
    for name, values in plain[1].items():
        if "_loss" in name and not name.startswith("val_"):
            continue  # the losses of single outputs, which private training does not show
        np.testing.assert_allclose(private[1][name], values, rtol=2e-3, atol=2e-3, err_msg=name)
    return private


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("kind", ["int64", "bool", "float32"])
@pytest.mark.parametrize("logits", [False, True])
def test_one_output_of_two_classes(digits, shape, kind, logits):
    x, y = digits[0], (digits[1] % 2).astype(kind).reshape(shape)
    activation = None if logits else "sigmoid"
    loss = keras.losses.BinaryCrossentropy(from_logits=True) if logits else "binary_crossentropy"
    make = head(lambda: layers.Dense(1, activation=activation))
    check_same(make, loss, x, y)


def test_metrics_that_look_at_probabilities(digits):
    x, y = digits[0], digits[1] % 2
    metrics = [keras.metrics.AUC(name="auc"), keras.metrics.Precision(name="precision"), "accuracy"]
    make = head(lambda: layers.Dense(1, activation="sigmoid"))
    private, plain = trained(make, "binary_crossentropy", x, y, {"metrics": metrics})
    for name in ("auc", "precision", "accuracy"):  # a score on a threshold may fall on either side
        np.testing.assert_allclose(private[1][name], plain[1][name], atol=0.03)
    assert 0 < private[1]["auc"][-1] <= 1


def test_f1_of_one_hot_labels(digits):
    x, y = digits[0], np.eye(10)[digits[1]]
    make = head(lambda: layers.Dense(10, activation="softmax"))
    metrics = [keras.metrics.F1Score(average="macro", name="f1")]
    check_same(make, "categorical_crossentropy", x, y, {"metrics": metrics})


@pytest.mark.parametrize("loss", ["mse", "mae", "poisson", "huber", "log_cosh"])
def test_whole_numbers_as_targets(digits, loss):
    """Counts and amounts are no classes, whatever numbers they are."""
    x, y = digits[0], digits[1] * 100
    make = head(lambda: layers.Dense(1, activation="softplus"))
    check_same(make, loss, x, y / 100 if loss in ("mse", "huber") else y // 100)
    check_same(head(lambda: layers.Dense(3)), "mse", x, np.stack([digits[1]] * 3, 1))


def test_several_labels_each(digits):
    x, y = digits[0], (digits[1][:, None] >= np.arange(1, 10)).astype("int64")  # ordinal, too
    check_same(head(lambda: layers.Dense(9, activation="sigmoid")), "binary_crossentropy", x, y)


def test_a_number_that_stands_for_no_class(digits):
    """Of ordinary records the loss is Keras'; one that is ignored adds nothing."""
    x, y = digits
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    make = head(lambda: layers.Dense(10))
    check_same(make, ignoring, x, y)
    weights = trained(make, ignoring, x, np.where(np.arange(RECORDS) < 5, -1, y))[0][0]
    expected = trained(make, SPARSE, x, y, sample_weight=(np.arange(RECORDS) >= 5) * 1.0)[0][0]
    assert len(weights) == len(expected)


def test_pictures_of_labels(digits):
    """A class for each pixel, one of them out of range: its record counts as zero."""
    x = digits[0].reshape(-1, 8, 8, 1)
    y = (x[..., 0] > 0.5).astype("int64")
    make = head(lambda: layers.Conv2D(2, 3, padding="same"), shape=(8, 8, 1))
    check_same(make, SPARSE, x, y)
    bad = y.copy()
    bad[7, 3, 3] = 99
    (ours, _), _ = [*trained(make, SPARSE, x, y), None][:2], None
    model = kd.make_private(make())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), SPARSE)
    history = model.fit(x, bad, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(w).all() for w in ours[0])


def test_weights_of_classes_and_records(digits):
    x, y = digits
    make = head(lambda: layers.Dense(10))
    weights = {k: 1.0 + k for k in range(10)}
    check_same(make, SPARSE, x, y, class_weight=weights)
    own = np.random.default_rng(0).uniform(0, 3, RECORDS)
    check_same(make, SPARSE, x, y, sample_weight=own)
    check_same(make, SPARSE, x, y, {"weighted_metrics": ["accuracy"]}, sample_weight=own)
    one_hot = keras.losses.CategoricalCrossentropy(from_logits=True)
    check_same(make, one_hot, x, np.eye(10)[y], class_weight={3: 5.0})
    binary = head(lambda: layers.Dense(1, activation="sigmoid"))
    check_same(binary, "binary_crossentropy", x, y % 2, class_weight={0: 1.0, 1: 4.0})


def test_other_weights_of_classes_in_a_later_fit_count(digits):
    """The step that was traced for some is not taken for others."""
    x, y = digits
    model = kd.make_private(head(lambda: layers.Dense(10, kernel_initializer="zeros"))())
    start, moved = model.get_weights(), []
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), SPARSE)
    for weights in ({3: 5.0}, None, {3: 5.0}):
        model.set_weights(start)
        model.fit(x, y, epochs=1, verbose=0, class_weight=weights)
        moved.append(model.get_weights()[0])
    np.testing.assert_allclose(moved[0], moved[2], atol=1e-7)
    assert np.abs(moved[0] - moved[1]).max() > 1e-3


def test_a_weight_of_a_class_is_along_its_own_record(digits):
    """Steps as many as records: along the wrong axis one record's class would weigh the others."""
    steps = np.random.default_rng(0).normal(size=(RECORDS, RECORDS, 2)).astype("float32")
    made = class_weights({0: 2.0, 1: 7.0}, head(lambda: layers.Dense(1))(), np.zeros(2, int))
    assert made == class_weights({1: 7, 0: 2}, head(lambda: layers.Dense(1))(), np.zeros(2, int))
    labels = np.array([0, 1, 5, -1])
    assert made(labels).numpy().tolist() == [2.0, 7.0, 1.0, 1.0]
    square = made.applied(tf.ones((4, 4)), labels).numpy()
    np.testing.assert_array_equal(square, np.repeat([[2.0], [7.0], [1.0], [1.0]], 4, axis=1))
    with pytest.raises(AssertionError):  # the faulty twin: a plain product
        np.testing.assert_array_equal(tf.ones((4, 4)) * made(labels), square)
    model = kd.make_private(head(lambda: layers.LSTM(3), shape=(RECORDS, 2))())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), SPARSE)
    with pytest.raises(kd.InputError, match="sample_weight must have one number for each record"):
        model.fit(
            steps, digits[1] % 3, verbose=0,
            class_weight={0: 2.0}, sample_weight=np.ones((RECORDS, RECORDS)),
        )  # fmt: skip


def test_weights_come_with_records_and_batches(digits):
    x, y = digits
    own = np.random.default_rng(0).uniform(0, 3, RECORDS).astype("float32")
    make = head(lambda: layers.Dense(10))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            rows = slice(12 * index, 12 * index + 12)
            return x[rows], y[rows], own[rows]

    start = make().get_weights()
    found = []
    for data in ((x, y), ([*zip(x, y, own, strict=True)], None), (Batches(), None)):
        network = make()
        network.set_weights(start)
        model = kd.make_private(network)
        model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), SPARSE)
        extra = {"sample_weight": own} if data[1] is not None else {}
        model.fit(*data, epochs=3, verbose=0, **extra)
        found.append(model.get_weights())
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_weight_of_any_size_moves_no_more_than_the_bound(digits):
    """Weights act before clipping: one of 1e9, infinite or NaN costs no more than any other."""
    x, y = digits
    plan = a_plan(sensitivity=kd.FixedSensitivity(0.1))

    def sums(weights):
        network = head(lambda: layers.Dense(10, kernel_initializer="zeros"))()
        model = kd.make_private(network)
        model.compile(kd.DPKerasSGDOptimizer(plan, 1.0), SPARSE)
        model.fit(x, y, sample_weight=weights, verbose=0)
        return np.concatenate([w.ravel() for w in model.get_weights()]) * RECORDS

    ordinary = np.ones(RECORDS)
    for weight in (0.0, 1e9, np.inf, np.nan, -1e9):
        odd = np.where(np.arange(RECORDS) == 5, weight, ordinary)
        without = np.where(np.arange(RECORDS) == 5, 0.0, ordinary)
        moved = np.linalg.norm(sums(odd) - sums(without))
        assert moved <= 0.1 * 1.001, weight
        assert np.isfinite(sums(odd)).all()


def two_inputs(as_dict_in, as_dict_out):
    def make():
        image, age = keras.Input((64,), name="image"), keras.Input((2,), name="age")
        hidden = layers.Dense(6, activation="tanh")(layers.Concatenate()([image, age]))
        site, risk = layers.Dense(10, name="site")(hidden), layers.Dense(1, name="risk")(hidden)
        inputs = {"image": image, "age": age} if as_dict_in else [image, age]
        return keras.Model(inputs, {"site": site, "risk": risk} if as_dict_out else [site, risk])

    return make


@pytest.mark.parametrize("as_dict_out", [True, False])
@pytest.mark.parametrize("as_dict_in", [True, False])
def test_several_inputs_and_outputs(digits, as_dict_in, as_dict_out):
    x, y = digits
    age = np.stack([y, y % 3], 1).astype("float32") / 10
    inputs = {"image": x, "age": age} if as_dict_in else [x, age]
    risk = (y > 4).astype("float32")
    named = {"site": y, "risk": risk}
    losses, weights = {"site": SPARSE, "risk": "mse"}, {"site": 1.0, "risk": 0.3}
    compile_arguments = {"loss_weights": weights, "metrics": {"site": ["accuracy"]}}
    check_same(two_inputs(as_dict_in, as_dict_out), losses, inputs, named, compile_arguments)
    if not as_dict_out:
        check_same(
            two_inputs(as_dict_in, False),
            [SPARSE, "mse"],
            inputs,
            [y, risk],
            {"loss_weights": [1.0, 0.3]},
        )


def test_a_record_of_several_parts_is_drawn_whole(digits):
    """Under sampling the parts stay together: each record's second input is twice its first."""
    x = digits[0]
    seen = []

    class Watching(layers.Layer):
        def call(self, pair):
            first, second = pair
            seen.append(1)
            return first - second / 2

    first, second = keras.Input((64,)), keras.Input((64,))
    model = kd.make_private(
        keras.Model([first, second], layers.Dense(1)(Watching()([first, second])))
    )
    plan = kd.PrivacyPlan(RECORDS, 12, 3, 1e-3, noise_multiplier=0.0, **NO_BOUND)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), "mse")
    start = model.get_weights()
    model.fit([x, 2 * x], np.zeros(RECORDS), epochs=3, verbose=0)
    for a, b in zip(start, model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # inputs that cancel give no gradient
    assert seen


def test_pairs_through_one_encoder(digits):
    x, y = digits

    def make():
        encoder = keras.Sequential([keras.Input((64,)), layers.Dense(4, activation="tanh")])
        first, second = keras.Input((64,)), keras.Input((64,))
        squares = keras.ops.square(encoder(first) - encoder(second))
        distance = keras.ops.sum(squares, axis=-1, keepdims=True)
        return keras.Model([first, second], layers.Dense(1, activation="sigmoid")(distance))

    check_same(make, "binary_crossentropy", [x, x[::-1].copy()], y == y[::-1])


def test_words_with_a_mask(digits):
    """Padded steps are left out of the loss of a sequence, each record's own."""
    words = (digits[0][:, :12] * 255).astype("int64") % 8
    words[:, 9:] = 0  # the same padding everywhere: then Keras' mean is the records' mean

    def make():
        return keras.Sequential(
            [
                keras.Input((12,), dtype="int32"),
                layers.Embedding(8, 4, mask_zero=True),
                layers.LSTM(5, return_sequences=True),
                layers.Dense(8),
            ]
        )

    words[:, :9] = np.maximum(words[:, :9], 1)
    check_same(make, SPARSE, words, words)


class Subclassed(keras.Model):
    """As in the guides: layers made in the constructor, shapes known after a call."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="relu")
        self.out = layers.Dense(10)

    def call(self, inputs):
        return self.out(self.hidden(inputs["image"]) * inputs["gain"])


def test_a_subclassed_model_that_takes_a_dict(digits):
    x, y = digits
    inputs = {"image": x, "gain": np.ones((RECORDS, 1), "float32") * 1.5}

    def make():
        model = Subclassed()
        model({key: value[:2] for key, value in inputs.items()})
        return model

    check_same(make, SPARSE, inputs, y)


def test_weight_penalties_are_keras_own(digits):
    """They look at no record: added after the noise, exactly."""
    x, y = digits
    make = head(
        lambda: layers.Dense(6, kernel_regularizer=keras.regularizers.L2(0.1)),
        lambda: layers.Dense(10, bias_regularizer="l1"),
    )
    check_same(make, SPARSE, x, y)


def test_records_are_held_out_each_for_itself(digits):
    x, y = digits
    model = kd.make_private(head(lambda: layers.Dense(10))())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(seed=5), 0.05), SPARSE)
    history = model.fit(x, y, validation_split=0.25, verbose=0).history
    assert "val_loss" in history
    assert "Validation metrics" in model.privacy_statement()
    from keras_dpvit.training.validation_split import split_off

    parts = []
    for records in (np.arange(RECORDS), np.arange(RECORDS - 1)):
        kept, _, arguments = split_off(
            a_plan(seed=5), records, records, {"validation_split": 0.25}, False
        )
        assert sorted([*kept, *arguments["validation_data"][0]]) == list(records)
        parts.append(set(kept))
    assert parts[0] - {RECORDS - 1} == parts[1]  # nobody else changes sides


def test_what_keras_takes_beside(digits):
    x, y = digits
    model = kd.make_private(head(lambda: layers.Dense(10))())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), SPARSE)
    seen = []
    one = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    model.fit(x, y, initial_epoch=1, epochs=3, steps_per_epoch=1, callbacks=one, verbose=0)
    assert seen == [1, 2]
    assert model.privacy_ledger.all_entries()[0].steps == 2


REFUSED = {
    "too few labels": (
        lambda x, y: ([x, x[:, :2]], [y]),
        "y must have labels for each of 2 outputs",
    ),
    "another name": (
        lambda x, y: ({"image": x, "old": x[:, :2]}, [y, y]),
        "x must have an array for",
    ),
    "one input": (lambda x, y: ([x], [y, y]), "x must have an array for each of 2 inputs, got 1"),
    "another shape": (lambda x, y: ([x, x], [y, y]), "images must be 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_records_that_do_not_fit_are_refused_in_one_line(digits, name):
    make, message = REFUSED[name]
    model = kd.make_private(two_inputs(False, False)())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), [SPARSE, "mse"])
    with pytest.raises(kd.InputError, match=message) as caught:
        model.fit(*make(*digits), verbose=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "loss_weights", "message"),
    [
        ([SPARSE], None, "one entry for each of 2 outputs"),
        ({"site": SPARSE}, None, "one entry for each output"),
        ({"site": SPARSE, "risk": None}, None, "loss must be given for each output"),
        ([SPARSE, "mse"], [1.0], "loss_weights must have one entry"),
    ],
)
def test_losses_that_do_not_fit_are_refused(digits, loss, loss_weights, message):
    x, y = digits
    model = kd.make_private(two_inputs(False, False)())
    model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.05), loss, loss_weights)
    with pytest.raises(kd.InputError, match=message):
        model.fit([x, x[:, :2]], [y, y * 1.0], verbose=0)
