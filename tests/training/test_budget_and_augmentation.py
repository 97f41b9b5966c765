"""Training ends where its budget does; altered copies are what they are said to be."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.ledger import PrivacyLedger

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def a_plan(**changes):
    arguments = {
        "num_examples": 60, "batch_size": 20, "epochs": 10, "delta": 1e-4, "noise_multiplier": 1.5,
    }  # fmt: skip
    return kd.PrivacyPlan(**{**arguments, **changes})


def a_model():
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    return kd.make_private(network)


def compiled(past=None, **changes):
    model = a_model()
    if past is not None:
        model.start_from(past)
    model.compile(kd.DPKerasSGDOptimizer(a_plan(**changes), 0.1), LOSS)
    return model


def spent(steps, past=(), delta=1e-4, accountant="rdp", **changes):
    return PrivacyLedger((*past, *a_plan(**changes).entries(steps))).epsilon(delta, accountant)


def steps_of(model):
    return model.private_trainer.state.steps_taken


@pytest.mark.parametrize(
    "kind",
    [{}, {"noise_schedule": kd.LinearNoise(1.5, 0.7, 5)}, {"microbatch_size": 2}],
    ids=["constant", "linear", "microbatches"],
)
def test_fit_ends_before_the_step_that_would_pass_the_budget(kind, small_records):
    budget = 0.5 * (spent(7, **kind) + spent(8, **kind))
    model, callback = compiled(**kind), kd.PrivacyBudget(budget)
    history = model.fit(*small_records, epochs=10, verbose=0, callbacks=[callback])
    assert steps_of(model) == callback.steps == 7
    assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(spent(7, **kind))
    assert model.privacy_ledger.epsilon(1e-4) <= budget < spent(8, **kind)
    # Seven steps are two epochs and a part of the third.
    expected = [spent(steps, **kind) for steps in (3, 6, 7)]
    assert history.history["epsilon"] == pytest.approx(expected)


def test_a_budget_that_a_step_meets_exactly_allows_it(small_records):
    model = compiled()
    model.fit(*small_records, epochs=10, verbose=0, callbacks=[kd.PrivacyBudget(spent(4))])
    assert steps_of(model) == 4


def test_a_budget_goes_by_its_own_delta_and_accountant(small_records):
    model = compiled()
    between = 0.5 * sum(spent(s, delta=1e-6, accountant="pld", epochs=2) for s in (3, 4))
    callback = kd.PrivacyBudget(between, delta=1e-6, accountant="pld")
    model.compile(kd.DPKerasSGDOptimizer(a_plan(epochs=2), 0.1), LOSS)
    model.fit(*small_records, epochs=2, verbose=0, callbacks=[callback])
    assert steps_of(model) == 3


def test_a_budget_above_the_plan_changes_nothing(small_records):
    model, callback = compiled(epochs=2), kd.PrivacyBudget(1e3)
    model.fit(*small_records, epochs=9, verbose=0, callbacks=[callback])
    assert steps_of(model) == callback.steps == 6


def test_shuffled_passes_are_paid_for_before_they_begin(small_records):
    one, two = (spent(steps, sampling="shuffled") for steps in (3, 6))
    assert spent(4, sampling="shuffled") == two
    model = compiled(sampling="shuffled")
    model.fit(*small_records, epochs=9, verbose=0, callbacks=[kd.PrivacyBudget((one + two) / 2)])
    assert steps_of(model) == 3


def test_a_shuffled_pass_that_fit_starts_in_the_middle_of_is_paid_for_once(small_records):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    two, three = (spent(steps, sampling="shuffled") for steps in (6, 9))
    model = compiled(sampling="shuffled")
    model.fit(*small_records, verbose=0, callbacks=[Stop()])
    assert steps_of(model) == 1
    budget = kd.PrivacyBudget((two + three) / 2)
    model.fit(*small_records, epochs=9, verbose=0, callbacks=[budget])
    assert steps_of(model) == budget.steps == 6
    assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(two)


def test_earlier_trainings_count_against_the_budget(small_records):
    past = a_plan(noise_multiplier=1.0).entries(4)
    budget = 0.5 * (spent(5, past) + spent(6, past))
    model = compiled(PrivacyLedger(past))
    model.fit(*small_records, epochs=10, verbose=0, callbacks=[kd.PrivacyBudget(budget)])
    assert steps_of(model) == 5
    assert model.privacy_ledger.epsilon(1e-4) <= budget


def test_a_second_fit_goes_on_within_the_same_budget_and_a_third_is_refused(small_records):
    model, budget = compiled(), 0.5 * (spent(5) + spent(6))
    for expected in (3, 5):
        model.fit(*small_records, epochs=1, verbose=0, callbacks=[kd.PrivacyBudget(budget)])
        assert steps_of(model) == expected
    with pytest.raises(InputError, match="is spent"):
        model.fit(*small_records, verbose=0, callbacks=[kd.PrivacyBudget(budget)])
    assert steps_of(model) == 5


def test_without_room_for_a_step_none_is_taken(small_records):
    past = PrivacyLedger(a_plan().entries(5))
    published = kd.PrivacyPlan.as_published(
        num_examples=60, batch_size=20, epochs=1, delta=1e-4, noise_multiplier=1.5
    )
    without_bound = a_model()
    without_bound.compile(kd.DPKerasSGDOptimizer(published, 0.1), LOSS)
    for model, budget in (
        (compiled(past), past.epsilon(1e-4)),
        (compiled(), 0.5 * spent(1)),
        (compiled(noise_multiplier=0.0), 100.0),
        (without_bound, 100.0),
    ):
        before = model.get_weights()
        with pytest.raises(InputError, match="is spent: the model's ledger leaves no room"):
            model.fit(*small_records, verbose=0, callbacks=[kd.PrivacyBudget(budget)])
        assert steps_of(model) == 0
        for found, expected in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_budget_without_private_training_is_refused(small_records):
    x, y = small_records
    private = a_model()
    plain = private.network
    for model, arguments in ((private, {"public_data": True}), (plain, {})):
        model.compile("sgd", LOSS)
        with pytest.raises(InputError, match="needs a model compiled with a private optimizer"):
            model.fit(x, y, verbose=0, callbacks=[kd.PrivacyBudget(1.0)], **arguments)
    elsewhere = compiled(sampling="external")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    with pytest.raises(InputError, match="needs a plan that samples records itself"):
        elsewhere.fit(data, verbose=0, callbacks=[kd.PrivacyBudget(1.0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "epsilon must"),
        ({"epsilon": math.inf}, "epsilon must"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta must"),
        ({"epsilon": 1.0, "accountant": "gdp"}, "accountant must be one of"),
    ],
)
def test_bad_budgets_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        kd.PrivacyBudget(**arguments)


SEED = tf.constant([3, 4], tf.int64)


def possible(image, shift, mirror):
    """Every altered image: moved with its border repeated, then perhaps mirrored."""
    height, width, _ = image.shape
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
    moved = {
        (down, right): padded[down : down + height, right : right + width]
        for down, right in itertools.product(range(2 * shift + 1), repeat=2)
    }
    made = {(*by, False): one for by, one in moved.items()}
    if mirror:
        made.update({(*by, True): one[:, ::-1] for by, one in moved.items()})
    return made


def which(copy, made):
    found = [how for how, one in made.items() if np.array_equal(copy, one)]
    assert len(found) == 1, "a copy must be one of the possible ones"
    return found[0]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("shift", "mirror"), [(0, False), (0, True), (2, False), (2, True)])
def test_copies_are_their_image_moved_and_perhaps_mirrored(dtype, shift, mirror):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5, 6, 7, 3)).astype(dtype)
    y, present = np.arange(5), np.array([True, False, True, True, False])
    augmentation = kd.Augmentation(copies=4, shift=shift, mirror=mirror)
    weights = np.ones(5, "float32")
    altered = augmentation.apply(x, y, weights, present, SEED)
    copies, labels, _, here = (t.numpy() for t in altered)
    assert copies.shape == (20, 6, 7, 3)
    assert copies.dtype == x.dtype
    np.testing.assert_array_equal(labels, np.repeat(y, 4))
    np.testing.assert_array_equal(here, np.repeat(present, 4))
    for index, copy in enumerate(copies):
        which(copy, possible(x[index // 4], shift, mirror))


def test_every_alteration_is_equally_likely():
    image = np.random.default_rng(1).integers(0, 256, (1, 6, 6, 1)).astype("uint8")
    augmentation = kd.Augmentation(copies=3600, shift=1)
    copies = augmentation.apply(image, np.zeros(1), np.ones(1), np.ones(1, bool), SEED)[0].numpy()
    made = possible(image[0], 1, True)
    counts = dict.fromkeys(made, 0)
    for copy in copies:
        counts[which(copy, made)] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    mirrored = sum(count for how, count in counts.items() if how[2])
    assert stats.binomtest(mirrored, 3600, 0.5).pvalue > 1e-4


def test_the_same_seed_alters_the_same_way_and_another_does_not():
    x = np.random.default_rng(2).normal(size=(8, 6, 6, 1)).astype("float32")
    rest = np.zeros(8), np.ones(8), np.ones(8, bool)
    augmentation = kd.Augmentation()
    first, again = (augmentation.apply(x, *rest, SEED)[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = augmentation.apply(x, *rest, tf.constant([3, 5], tf.int64))[0].numpy()
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"copies": 0}, "copies must"),
        ({"copies": 1.5}, "copies must"),
        ({"shift": -1}, "shift must"),
        ({"shift": 0.5}, "shift must"),
        ({"shift": 0.0}, "shift must"),
        ({"shift": False}, "shift must"),
        ({"shift": True}, "shift must"),
        ({"mirror": 1}, "mirror must"),
        ({"mirror": "yes"}, "mirror must"),
    ],
)
def test_bad_augmentations_are_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        kd.Augmentation(**arguments)
    assert "\n" not in str(caught.value)


def test_training_on_copies_repeats_under_a_seed_and_costs_no_more(small_records):
    def trained(augmentation):
        model = compiled(seed=5, epochs=1)
        model.fit(*small_records, verbose=0, augmentation=augmentation)
        assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(spent(3, epochs=1))
        return model.get_weights()[0]

    copies = kd.Augmentation(copies=3, shift=1)
    with_copies = trained(copies)
    np.testing.assert_array_equal(with_copies, trained(copies))
    assert not np.array_equal(with_copies, trained(None))


def test_copies_of_microbatches_are_refused(small_records):
    model = compiled(microbatch_size=2)
    with pytest.raises(InputError, match="augmentation cannot be used with microbatch_size"):
        model.fit(*small_records, verbose=0, augmentation=kd.Augmentation())


def test_copies_are_of_one_image():
    first, second = keras.Input((4, 4, 1)), keras.Input((2,))
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(first), second])
    for network, x in (
        (keras.Model([first, second], keras.layers.Dense(1)(joined)), [(4, 4, 1), (2,)]),
        (keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)]), [(6,)]),
    ):
        model = kd.make_private(network)
        plan = kd.PrivacyPlan(20, 10, 1, 1e-3, noise_multiplier=1.0)
        model.compile(kd.DPKerasSGDOptimizer(plan, 0.1), "mse")
        parts = [np.ones((20, *shape), "float32") for shape in x]
        with pytest.raises(kd.InputError, match="augmentation needs a model whose one input is"):
            model.fit(
                parts if len(parts) > 1 else parts[0], np.ones(20), verbose=0,
                augmentation=kd.Augmentation(),
            )  # fmt: skip
