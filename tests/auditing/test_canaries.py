"""Canaries: their coins, how they are planted, what a training shows of them."""

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit import datasets
from keras_dpvit.auditing.canaries import (
    flip_coins,
    make_canaries,
    plant,
    public_num_examples,
)
from keras_dpvit.auditing.canary_scores import (
    ClippedRecords,
    GradientScores,
    LossScores,
    example_losses,
    step_log_likelihoods,
)
from keras_dpvit.auditing.one_run import audit
from keras_dpvit.errors import InputError

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def clothes():
    return datasets.load("fashion_mnist")


def linear(shape, num_classes=10):
    layers = keras.layers
    network = [layers.Rescaling(1 / 127.5, -1.0), layers.Flatten(), layers.Dense(num_classes)]
    return kd.make_private(keras.Sequential([keras.Input(shape), *network]))


def small_vit():
    keras.utils.set_random_seed(3)
    backbone = kd.DPViTBackbone((4, 4, 1), 2, 8, 2, stage_depths=(1, 1))
    return kd.DPViTClassifier(backbone, 3)


def small_network():
    keras.utils.set_random_seed(3)
    layers = keras.layers
    network = [layers.Rescaling(1 / 127.5, -1.0), layers.Flatten(), layers.Dense(6, "relu")]
    network += [layers.LayerNormalization(), layers.Dense(3)]
    return kd.make_private(keras.Sequential([keras.Input((4, 4, 1)), *network]))


def small_data(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 4, 4, 1)).astype("uint8"), rng.integers(0, 3, n)


def compiled(model, plan, rate=0.1):
    model.compile(kd.DPKerasSGDOptimizer(plan, rate), LOSS)
    return model


def a_plan(num_examples, batch_size, noise_multiplier=0.0, epochs=1, **arguments):
    return kd.PrivacyPlan(
        num_examples=num_examples,
        batch_size=batch_size,
        epochs=epochs,
        delta=1e-5,
        noise_multiplier=noise_multiplier,
        **arguments,
    )


@pytest.mark.parametrize("seeded", [True, False])
def test_each_coin_is_fair_and_none_knows_another(seeded):
    draws = np.stack([flip_coins(12, i if seeded else None) for i in range(3000)]).astype(float)
    # Six deviations of a fair coin's mean, and of the correlation of two: 78 of them are false
    # alarms with a probability below 78 * 2e-9 < 2e-7.
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(3000)
    between = np.corrcoef(draws.T) - np.eye(12)
    assert np.abs(between).max() < 6 / np.sqrt(3000)


def test_coins_come_from_the_system_unless_seeded():
    assert (flip_coins(200) != flip_coins(200)).any()  # a false alarm has 2^-200
    np.testing.assert_array_equal(flip_coins(200, 7), flip_coins(200, 7))


def test_mislabelled_canaries_are_real_images_under_every_wrong_label():
    x, y = small_data(600)
    canaries = make_canaries("mislabelled", x, y, 3, seed=1)
    np.testing.assert_array_equal(canaries.x, x)
    assert (canaries.y != y).all()
    assert {(int(a), int(b)) for a, b in zip(y, canaries.y, strict=True)} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }


def test_noise_canaries_have_little_in_common(clothes):
    x, y = clothes.x_train[:50], clothes.y_train[:50]
    canaries = make_canaries("noise", x, y, 10)
    assert canaries.x.dtype == np.uint8
    assert set(np.unique(canaries.x)) == {0, 255}
    signs = np.where(canaries.x.reshape(50, -1) > 0, 1.0, -1.0)
    angles = signs @ signs.T / signs.shape[1] - np.eye(50)
    assert np.abs(angles).max() < 7 / np.sqrt(signs.shape[1])


def test_labels_and_images_know_nothing_of_the_coin():
    x, y = small_data(4000)
    for kind in ("mislabelled", "noise"):
        canaries = make_canaries(kind, x, y, 3, seed=5)
        rates = [canaries.included[canaries.y == label].mean() for label in range(3)]
        assert np.ptp(rates) < 6 * 0.5 * np.sqrt(2 / 1300)
        brightness = canaries.x.reshape(4000, -1).mean(axis=1)
        assert abs(np.corrcoef(brightness, canaries.included)[0, 1]) < 6 / np.sqrt(4000)


def test_planted_is_what_the_coins_say_and_nothing_else():
    x, y = small_data(30)
    canaries = make_canaries("noise", *small_data(40, seed=1), 3, seed=2)
    planted_x, planted_y = plant(x, y, canaries)
    np.testing.assert_array_equal(planted_x[:30], x)
    np.testing.assert_array_equal(planted_x[30:], canaries.x[canaries.included])
    np.testing.assert_array_equal(planted_y, np.append(y, canaries.y[canaries.included]))
    assert 0 < canaries.included.sum() < 40


def test_sampling_steps_and_cost_depend_on_no_coin():
    """The extremes, every coin heads and every coin tails, in real trainings."""
    x, y = small_data(80)
    canaries = make_canaries("noise", *small_data(16, seed=1), 3)
    records = public_num_examples(80, 16)
    assert records == 88
    seen = []
    for heads in (False, True):
        canaries.included[:] = heads
        model = compiled(linear((4, 4, 1), 3), a_plan(records, 22, 1.0, epochs=2))
        model.fit(*plant(x, y, canaries), epochs=2, verbose=0)
        (entry,) = model.privacy_ledger.all_entries()
        plan = model.private_trainer.plan
        sampler = plan.sampler(bytes(32))
        seen.append(
            (
                entry.steps,
                entry.sampling_probability,
                plan.num_microbatches,
                model.privacy_statement(),
            )
        )
        assert sampler.sampling_probability == 0.25
        # A record's chance of a step is the same, whoever stands behind it.
        first = [0 in sampler.sample(80 + 16 * heads, step) for step in range(400)]
        assert abs(np.mean(first) - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 400)
    assert seen[0] == seen[1]


def flat(tensors):
    return np.concatenate([np.asarray(t, float).ravel() for t in tensors])


@pytest.mark.parametrize(
    ("build", "clipping"),
    [
        (small_vit, kd.MedianLayerClipping(groups="block")),
        (small_network, kd.MedianLayerClipping()),
        (small_network, kd.FlatClipping()),
    ],
    ids=["vit_by_block", "median_by_layer", "flat"],
)
def test_clipped_gradients_are_those_of_the_step(build, clipping):
    """Their sum is what a step without noise over all records does to the weights."""
    x, y = small_data(20)
    plan = a_plan(20, 20, clipping=clipping, sensitivity=kd.FixedSensitivity(0.3))
    model = compiled(build(), plan, rate=1.0)
    gradients = ClippedRecords(model, x, y)
    expected = flat(gradients.sum())
    single = flat(ClippedRecords(model, x[4:5], y[4:5]).sum())
    rng = np.random.default_rng(1)
    directions = [rng.normal(size=v.shape).astype("float32") for v in gradients.variables]
    products, squares = gradients.products(directions)
    assert products[4].sum() == pytest.approx(single @ flat(directions), rel=1e-3, abs=1e-5)
    assert squares[4].sum() == pytest.approx(single @ single, rel=1e-3)
    assert products.sum() == pytest.approx(expected @ flat(directions), rel=1e-3, abs=1e-4)
    assert np.sqrt(squares.sum(axis=1)).max() <= 0.3
    before = flat(gradients.variables)
    model.fit(x, y, verbose=0)
    moved = 20 * (before - flat(gradients.variables))
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_watching_changes_no_weight_and_looks_at_no_coin():
    x, y = small_data(40)
    canaries = make_canaries("noise", *small_data(20, seed=1), 3, seed=1)
    data = plant(x, y, canaries)
    plan = a_plan(50, 25, 1.0, epochs=2, seed=3)
    ends, scores = [], []
    for turned in (None, False, True):
        model = compiled(small_network(), plan)
        callbacks = []
        if turned is not None:
            canaries.included[:] ^= turned
            callbacks = [GradientScores(canaries, x, y), LossScores(canaries)]
        model.fit(*data, epochs=2, verbose=0, callbacks=callbacks)
        ends.append(flat(model.trainable_variables))
        scores += [callback.scores for callback in callbacks]
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
    np.testing.assert_array_equal(scores[0], scores[2])
    np.testing.assert_array_equal(scores[1], scores[3])
    assert np.isfinite(scores[0]).all()
    assert np.ptp(scores[0]) > 0


def test_loss_scores_are_by_how_much_each_loss_fell():
    x, y = small_data(40)
    canaries = make_canaries("mislabelled", *small_data(10, seed=1), 3)
    model = compiled(small_network(), a_plan(40, 20, 1.0))

    def losses():
        logits = model.predict(canaries.x, verbose=0).astype(float)
        shifted = logits - logits.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(10), canaries.y]

    before = losses()
    np.testing.assert_allclose(example_losses(model, canaries.x, canaries.y), before, rtol=1e-5)
    scores = LossScores(canaries)
    model.fit(x, y, verbose=0, callbacks=[scores])
    np.testing.assert_allclose(scores.scores, before - losses(), rtol=1e-3, atol=1e-6)


def test_one_steps_likelihood_is_the_gaussian_one():
    """One unit, unit variance in place: log of the densities' ratio, mixed over being sampled."""
    rng = np.random.default_rng(0)
    products = rng.normal(size=(4000, 1))
    products = (products - products.mean()) / products.std()
    squares = np.full((4000, 1), 0.7)
    found = step_log_likelihoods(products, squares, 0.3)
    from scipy import stats

    ratio = stats.norm.pdf(products[:, 0], 0.7) / stats.norm.pdf(products[:, 0])
    np.testing.assert_allclose(found, np.log(0.7 + 0.3 * ratio), atol=1e-9)
    certain = step_log_likelihoods(products, squares, 1.0)
    np.testing.assert_allclose(certain, np.log(ratio), atol=1e-9)


def audited(clothes, kind, make_plan, score, epochs, rate):
    """The bound for 300 canaries and 200 other records under a linear model."""
    canaries = make_canaries(kind, clothes.x_train[:300], clothes.y_train[:300], 10)
    x, y = clothes.x_train[300:500], clothes.y_train[300:500]
    plan = make_plan(
        num_examples=public_num_examples(200, 300), batch_size=70, epochs=epochs, delta=1e-5
    )
    model = compiled(linear((28, 28, 1)), plan, rate)
    scores = GradientScores(canaries, x, y) if score == "gradient" else LossScores(canaries)
    model.fit(*plant(x, y, canaries), epochs=epochs, verbose=0, callbacks=[scores])
    return audit(scores.scores, canaries.included, [60, 150], 1e-5).epsilon


@pytest.mark.parametrize(("score", "epochs", "rate"), [("gradient", 5, 0.05), ("loss", 40, 0.2)])
def test_a_training_without_noise_is_found_out(clothes, score, epochs, rate):
    def without_noise(**schedule):
        return kd.PrivacyPlan(noise_multiplier=0.0, **schedule)

    assert audited(clothes, "noise", without_noise, score, epochs, rate) > 2.0


@pytest.mark.parametrize("score", ["gradient", "loss"])
def test_a_certified_training_is_not_contradicted(clothes, score):
    def certified(**schedule):
        return kd.PrivacyPlan.for_target(epsilon=2.0, **schedule)

    # A true claim fails here with probability far below 5 %: the bound would have to be twice
    # what the best possible attack of this size finds.
    assert audited(clothes, "noise", certified, score, 5, 0.05) <= 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: make_canaries("loud", x, y, 3), "kind must be one of mislabelled, noise"),
        (lambda x, y: make_canaries("noise", x[:0], y[:0], 3), "canaries need at least one record"),
        (lambda x, y: make_canaries("noise", x, y[:3], 3), "got 10 images and 3 labels"),
        (lambda x, y: make_canaries("noise", x, y, 1), "num_classes must be at least 2, got 1"),
        (lambda x, y: flip_coins(0), "number must be a whole number above 0"),
    ],
)
def test_bad_canaries_are_refused(call, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        call(*small_data(10))


def test_gradient_scores_need_updates_that_give_the_sum_away():
    x, y = small_data(20)
    canaries = make_canaries("noise", *small_data(4, seed=1), 3)
    scores = GradientScores(canaries, x, y)
    adam, heavy = kd.DPKerasAdamOptimizer, kd.DPKerasSGDOptimizer(a_plan(20, 10), momentum=0.9)
    for optimizer in (adam(a_plan(20, 10)), heavy):
        model = small_network()
        model.compile(optimizer, LOSS)
        with pytest.raises(InputError, match="SGD optimizer without momentum"):
            model.fit(x, y, verbose=0, callbacks=[scores])
    shuffled = compiled(small_network(), a_plan(20, 10, sampling="shuffled"))
    with pytest.raises(InputError, match="needs Poisson sampling"):
        shuffled.fit(x, y, verbose=0, callbacks=[scores])


def test_a_training_that_diverges_is_named():
    x, y = small_data(20)
    canaries = make_canaries("noise", *small_data(4, seed=1), 3)
    model = compiled(small_network(), a_plan(20, 10, 1.0, epochs=3), rate=1e38)
    with pytest.raises(InputError, match="learning_rate must be lower"):
        model.fit(x, y, epochs=3, verbose=0, callbacks=[GradientScores(canaries, x, y)])
