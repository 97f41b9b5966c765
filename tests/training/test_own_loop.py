"""`kd.PrivateStep`: loops of one's own take the very steps that `fit` takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.training.step import PrivateGradients

RECORDS = 60
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")


@pytest.fixture(scope="module")
def digits(digit_images):
    x = digit_images.x_train[:RECORDS].reshape(RECORDS, 64).astype("float32") / 255
    return x, digit_images.y_train[:RECORDS].astype("int64")


def network(*parts):
    return keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(8, "tanh"), *parts, keras.layers.Dense(10)]
    )


def a_plan(**changes):
    arguments = {"noise_multiplier": 1.0, "seed": 7, **changes}
    return kd.PrivacyPlan(RECORDS, 20, 2, 1e-3, **arguments)


def own_loss(model, batch):
    images, labels = batch
    return SPARSE(labels, model(images, training=True))


def trained_by_loop(model, plan, optimizer, data, loss_fn=own_loss, **options):
    step = kd.PrivateStep(model, plan, loss_fn, **options)
    for batch in step.batches(*data):
        step.apply(optimizer, step.gradients(batch))
    return step


@pytest.mark.parametrize("changes", [{}, {"microbatch_size": 4}, {"sampling": "shuffled"}])
def test_it_ends_where_fit_ends_to_the_bit(digits, changes):
    plan, start = a_plan(**changes), network().get_weights()
    ends = []
    for by_loop in (True, False):
        model = kd.make_private(network())
        model.network.set_weights(start)
        if by_loop:
            step = trained_by_loop(model, plan, keras.optimizers.Adam(1e-2), digits)
            assert step.steps_left == 0
        else:
            model.compile(kd.DPKerasAdamOptimizer(plan, 1e-2), SPARSE)
            model.fit(*digits, epochs=2, verbose=0)
        ends.append(model.get_weights())
        assert model.privacy_ledger.epsilon(1e-3) == plan.epsilon()
    for ours, by_fit in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, by_fit)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(ends[0], start, strict=True))


def test_layers_that_draw_are_keyed_as_in_fit(digits):
    start = network(keras.layers.Dropout(0.5)).get_weights()
    ends = []
    for by_loop in (True, False):
        model = kd.make_private(network(keras.layers.Dropout(0.5)))
        model.network.set_weights(start)
        if by_loop:
            trained_by_loop(model, a_plan(), keras.optimizers.SGD(0.1), digits)
        else:
            model.compile(kd.DPKerasSGDOptimizer(a_plan(), 0.1), SPARSE)
            model.fit(*digits, epochs=2, verbose=0)
        ends.append(model.get_weights())
    for ours, by_fit in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, by_fit)


def test_a_loss_of_several_calls_on_a_batch_of_any_structure(digits):
    """Pairs through one encoder, in a dict; noise 0 and no bound: the plain mean gradient."""
    x, y = digits
    records = {"one": x, "two": x[::-1].copy(), "same": (y == y[::-1]).astype("float32")}
    model = kd.make_private(network())

    def loss_fn(model, batch):
        one, two = (model(batch[name], training=True) for name in ("one", "two"))
        return tf.square(tf.reduce_sum(tf.square(one - two), axis=1) - batch["same"])

    no_bound = {"clipping": kd.FlatClipping(), "sensitivity": kd.FixedSensitivity(1e6)}
    plan = kd.PrivacyPlan(RECORDS, RECORDS, 1, 1e-3, noise_multiplier=0.0, **no_bound)
    step = kd.PrivateStep(model, plan, loss_fn)
    batch = next(step.batches(records))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(loss_fn(model, records))
    expected = tape.gradient(loss, [v.value for v in step.variables])
    for found, own in zip(step.gradients(batch), expected, strict=True):
        np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-5)


def test_public_gradients_are_added_and_stay_private_ones(digits):
    step = kd.PrivateStep(kd.make_private(network()), a_plan(), own_loss)
    found = step.gradients(next(step.batches(*digits)))
    ones = [tf.ones(v.shape) for v in step.variables]
    more = found.plus_public([ones[0], *[None] * (len(ones) - 1)])
    assert isinstance(more, PrivateGradients)
    np.testing.assert_allclose(more[0], found[0] + 1)
    np.testing.assert_array_equal(more[1], found[1])
    step.apply(keras.optimizers.SGD(0.1), more)
    with pytest.raises(kd.InputError, match="gradients must be those of"):
        step.apply(keras.optimizers.SGD(0.1), ones)


def test_a_batch_is_for_one_sum(digits):
    step = kd.PrivateStep(kd.make_private(network()), a_plan(), own_loss)
    drawn = step.batches(*digits)
    batch = next(drawn)
    step.gradients(batch)
    assert step.steps_left == 5
    with pytest.raises(kd.InputError, match="used once"):
        step.gradients(batch)
    with pytest.raises(kd.InputError, match="used once"):
        step.gradients((batch.data, batch.present))
    assert step.ledger.all_entries()[0].steps == 1
    unused = next(drawn)
    again = next(drawn)  # not used, and so drawn again: the same sample for the same step
    np.testing.assert_array_equal(unused.data[0], again.data[0])


def test_the_plan_ends_the_loop_and_another_is_composed(digits):
    model = kd.make_private(network())
    trained_by_loop(model, a_plan(), keras.optimizers.SGD(0.1), digits)
    once = model.privacy_ledger.epsilon(1e-3)
    step = kd.PrivateStep(model, a_plan(seed=8), own_loss)
    for batch in step.batches(*digits):
        step.gradients(batch)
    with pytest.raises(kd.InputError, match="steps are spent"):
        next(step.batches(*digits))
    assert model.privacy_ledger.epsilon(1e-3) > once
    assert sum(e.steps for e in model.privacy_ledger.all_entries()) == 12


def test_a_record_moves_the_sum_by_no_more_than_declared(digits):
    x, y = digits
    plan = kd.PrivacyPlan(
        RECORDS, RECORDS, 1, 1e-3, noise_multiplier=0.0, sensitivity=kd.FixedSensitivity(0.5)
    )
    start = network().get_weights()

    def total(images, labels):
        model = kd.make_private(network())
        model.network.set_weights(start)
        step = kd.PrivateStep(model, plan, own_loss)
        found = step.gradients(next(step.batches(images, labels)))
        return np.concatenate([np.ravel(g) for g in found]) * RECORDS

    whole = total(x, y)
    for odd in (np.full(64, np.nan), np.full(64, 1e30), np.zeros(64), 1e4 * x[0]):
        moved = total(np.concatenate([x, odd[None].astype("float32")]), np.append(y, 3)) - whole
        assert np.linalg.norm(moved) <= 0.5 * 1.001


def test_a_loss_that_mixes_rows_is_refused(digits):
    def centred(model, batch):
        outputs = model(batch[0], training=True)[:, 0]
        return tf.square(outputs - tf.reduce_mean(outputs))

    step = kd.PrivateStep(kd.make_private(network()), a_plan(), centred)
    with pytest.raises(kd.InputError, match="changes with another example"):
        next(step.batches(*digits))


def test_what_is_no_step_is_refused(digits):
    model = kd.make_private(network())
    with pytest.raises(kd.InputError, match="model must be private"):
        kd.PrivateStep(network(), a_plan(), own_loss)
    with pytest.raises(kd.InputError, match="plan must be a PrivacyPlan"):
        kd.PrivateStep(model, 1.0, own_loss)
    with pytest.raises(kd.InputError, match="must sample records itself"):
        kd.PrivateStep(model, a_plan(sampling="external"), own_loss)
    step = kd.PrivateStep(model, a_plan(), own_loss)
    with pytest.raises(kd.InputError, match="arrays of one length"):
        next(step.batches(digits[0], digits[1][:-1]))
    with pytest.raises(kd.InputError, match="fit needs a compiled model"):
        model.fit(*digits, verbose=0)
    drawn = step.batches(*digits)
    batch = next(drawn)
    model.compile(kd.DPKerasSGDOptimizer(a_plan(seed=9), 0.1), SPARSE)
    with pytest.raises(kd.InputError, match="compiled or given to another step"):
        step.gradients(batch)


def test_a_loop_goes_on_where_it_was_saved(digits, tmp_path):
    """A seeded plan, cut off after a save: the same weights as without the cut, to the bit."""
    start, ends = network().get_weights(), []

    def begun(directory=None):
        model = kd.make_private(network())
        model.network.set_weights(start)
        return kd.PrivateStep(model, a_plan(), own_loss), keras.optimizers.Adam(1e-2)

    step, optimizer = begun()
    for batch in step.batches(*digits):
        step.apply(optimizer, step.gradients(batch))
    ends.append(step.model.get_weights())
    step, optimizer = begun()
    assert not step.restore(tmp_path, optimizer)
    for batch in step.batches(*digits):
        if step.steps_left == 3:
            break  # a crash
        step.apply(optimizer, step.gradients(batch))
        if step.steps_left == 4:
            step.save(tmp_path, optimizer)
    step, optimizer = begun()
    assert step.restore(tmp_path, optimizer)
    assert step.steps_left == 4
    for batch in step.batches(*digits):
        step.apply(optimizer, step.gradients(batch))
    ends.append(step.model.get_weights())
    for whole, resumed in zip(*ends, strict=True):
        np.testing.assert_array_equal(whole, resumed)
    assert step.ledger.epsilon(1e-3) == a_plan().epsilon()


def test_steps_that_a_crash_lost_count(digits, tmp_path):
    plan, x = a_plan(seed=None), digits
    model = kd.make_private(network())
    step, optimizer = kd.PrivateStep(model, plan, own_loss), keras.optimizers.SGD(0.1)
    step.save(tmp_path, optimizer)
    for batch in step.batches(*x):
        step.apply(optimizer, step.gradients(batch))
        if step.steps_left == 4:
            break
    again = kd.PrivateStep(kd.make_private(network()), plan, own_loss)
    assert again.restore(tmp_path, keras.optimizers.SGD(0.1))
    assert again.steps_left == 4
    assert again.ledger.epsilon(1e-3) == step.ledger.epsilon(1e-3) > 0
    assert not [path for path in tmp_path.iterdir() if b"key" in path.name.encode()]


def test_a_directory_is_for_one_training(digits, tmp_path):
    step = kd.PrivateStep(kd.make_private(network()), a_plan(seed=None), own_loss)
    step.save(tmp_path)
    step.save(tmp_path)
    other = kd.PrivateStep(kd.make_private(network()), a_plan(seed=None), own_loss)
    with pytest.raises(kd.InputError, match="holds a training already"):
        other.save(tmp_path)
    other = kd.PrivateStep(
        kd.make_private(network()), a_plan(seed=None, noise_multiplier=2.0), own_loss
    )
    with pytest.raises(kd.InputError, match="another plan"):
        other.restore(tmp_path)


def test_an_optimizer_that_comes_later_is_saved_too(digits, tmp_path):
    step = kd.PrivateStep(kd.make_private(network()), a_plan(seed=None), own_loss)
    step.save(tmp_path)
    optimizer = keras.optimizers.Adam(1e-2)
    step.apply(optimizer, step.gradients(next(step.batches(*digits))))
    step.save(tmp_path, optimizer)
    again = kd.PrivateStep(kd.make_private(network()), a_plan(seed=None), own_loss)
    found = keras.optimizers.Adam(1e-2)
    assert again.restore(tmp_path, found)
    assert int(found.iterations) == 1
    for ours, theirs in zip(found.variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
