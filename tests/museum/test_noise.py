"""Faults of noise: the wrong scale, the wrong number of draws, steps without it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting, ledger
from keras_dpvit.privacy.mechanism import StepMechanism
from keras_dpvit.privacy.sensitivity import PublishedSensitivity
from keras_dpvit.training import step as steps
from keras_dpvit.training.optimizers import _PrivateOptimizer
from keras_dpvit.training.step import PrivateGradients


@pytest.fixture(scope="module")
def noisy(museum):
    """A bench with noise 1.5 times a clipping norm of 0.4, and a batch of 24."""
    return museum.Bench(museum.plan(48, 0.4, batch_size=24, noise_multiplier=1.5))


def check_scale(noises, plan):
    """Noise on the sum is normal, of the plan's multiplier times the sensitivity."""
    drawn = np.concatenate(noises) / (1.5 * 0.4)
    assert plan.noise_multiplier * plan.mechanism().sensitivity(0.4) == pytest.approx(0.6)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(drawn, "norm", args=(0, wrong)).pvalue < 1e-4


def test_noise_of_the_sum_on_the_mean(museum, noisy):
    """Noise for the sum is added to the mean: wrong by the batch size.

    Seen: jax_privacy #383.
    """
    noises = [noisy.noise(step) for step in range(6)]
    check_scale(noises, noisy.plan)
    rng = np.random.default_rng(0)
    on_mean = [0.6 * rng.standard_normal(900) * noisy.plan.batch_size for _ in range(6)]
    with museum.caught():
        check_scale(on_mean, noisy.plan)


def check_effective(stddevs, norms, noise_multiplier):
    """Layers of these clipping norms, noised so, are one Gaussian of the plan's multiplier."""
    effective = np.sum((np.array(norms) / np.array(stddevs)) ** 2) ** -0.5
    assert effective == pytest.approx(noise_multiplier, rel=0.05)


def test_noise_for_each_layer_by_its_own_norm(museum):
    """Each of K layers gets noise for its own norm: too little by the root of K.

    Seen: the DP-ViT paper's equations as they are usually read.
    """
    clips = (0.1, 0.3)
    whole = float(np.hypot(*clips))
    plan = museum.plan(48, whole, clipping=kd.FixedLayerClipping(clips), noise_multiplier=2.0)
    bench = museum.Bench(plan)
    noise = np.concatenate([bench.noise(step).reshape(1, -1) for step in range(8)])
    cut = sum(int(np.prod(v.shape)) for v in bench.step._rules[0].variables)
    check_effective([noise[:, :cut].std(), noise[:, cut:].std()], clips, 2.0)
    with museum.caught():
        check_effective([2.0 * clip for clip in clips], clips, 2.0)


def check_chunks(bench, digits):
    """A batch in one piece or in many: the same weights, noise and all."""
    found = []
    for physical in (64, 5):
        bench.model.set_weights(bench.start)
        bench.trainer.prepare(physical)
        x, y = (tf.constant(t) for t in digits)
        state = tf.constant(0.4)
        sums, below_count, *_ = bench.trainer.step.clipped_sums(
            x, y, tf.ones(48), tf.ones(48, tf.bool), state
        )
        release = bench.trainer.step.release(
            sums, below_count, state, tf.constant(0, tf.int64), bench.trainer.keys.noise
        )
        found.append(bench._flat(release[0]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_noise_in_every_micro_step(museum, digits, monkeypatch):
    """Gradient accumulation that adds noise to each part: another noise than is accounted.

    Seen: TF Privacy's `gradient_accumulation_steps`.
    """
    plan = museum.plan(48, 0.4, noise_multiplier=1.0)

    def build():
        bench = museum.Bench(plan)
        bench.start = bench.model.get_weights()
        return bench

    check_chunks(build(), digits)
    with pytest.raises(InputError, match="gradient_accumulation_steps"):
        kd.DPKerasSGDOptimizer(plan, 1.0, gradient_accumulation_steps=2)
    chunk = steps.CertifiedStep._chunk_sums

    def noised(self, *arguments):
        sums, *rest = chunk(self, *arguments)
        return (sums + 0.4 * tf.random.normal(tf.shape(sums)), *rest)

    monkeypatch.setattr(steps.CertifiedStep, "_chunk_sums", noised)
    with museum.caught():
        check_chunks(build(), digits)


def check_adjacency(bench, relation, digits):
    """Between data sets that are neighbours as stated, the noise is the event's multiplier."""
    x, y = digits
    alike = y == y[0]
    x, y = x[alike], y[alike]
    other = (y[0] + 1) % 10
    pairs = {
        "ADD_OR_REMOVE_ONE": ((x[1:], y[1:]), (x, y)),
        "REPLACE_SPECIAL": ((np.where(np.arange(len(x))[:, None], x, np.nan), y), (x, y)),
        "REPLACE_ONE": ((x, y), (x, np.append(other, y[1:]))),
    }
    less, more = pairs[relation]
    moved = np.linalg.norm(bench.sums(*more) - bench.sums(*less))
    mechanism = bench.plan.mechanism()
    assert moved == pytest.approx(mechanism.sensitivity(0.4), rel=1e-3)
    expected = moved * mechanism.event_noise_multiplier
    assert mechanism.noise_stddev(0.4) == pytest.approx(expected, rel=1e-3)


def test_sensitivity_of_another_adjacency(museum, digits, noisy, monkeypatch):
    """Noise by the sensitivity of one relation, epsilon by another: off by up to 2.

    Seen: accountants without a relation in their interface (Opacus, fastDP), mixed by hand.
    """
    bench = museum.Bench(museum.plan(48, 0.4, noise_multiplier=1.5))
    for plan in (noisy.plan, museum.plan(48, 0.4, noise_multiplier=1.5, sampling="shuffled")):
        stated = ledger.adjacency(ledger.PrivacyLedger(plan.entries(plan.steps)))
        assert stated == {"poisson": "ADD_OR_REMOVE_ONE"}.get(plan.sampling, "REPLACE_SPECIAL")
        check_adjacency(bench, stated, digits)
    with museum.caught():
        check_adjacency(bench, "REPLACE_ONE", digits)
    stddev = StepMechanism.noise_stddev
    monkeypatch.setattr(StepMechanism, "noise_stddev", lambda *given: 2 * stddev(*given))
    with museum.caught():
        check_adjacency(bench, "ADD_OR_REMOVE_ONE", digits)


def check_noise_for_epsilon(build):
    """An option at its end is refused, or leaves noise wherever epsilon is finite."""
    try:
        plan = build()
    except InputError:
        return
    if np.isinf(plan.epsilon()):
        return
    state = tf.constant(plan.sensitivity.initial_state(), tf.float32)
    for below_count in (0.0, 1e4, 0.0, -1e4):
        stddev = float(plan.mechanism().noise_stddev(state))
        assert 0 < stddev < np.inf
        assert stddev >= 0.99 * plan.noise_multiplier * float(plan.mechanism().sensitivity(state))
        count = tf.constant(below_count, tf.float32)
        state = plan.sensitivity.next_state(state, count, 0.0, plan.num_microbatches)


@pytest.mark.parametrize(
    "options",
    [
        {"l2_norm_clip": 0.0},
        {"l2_norm_clip": -1.0},
        {"target_quantile": 0.0},
        {"target_quantile": 1.0},
        {"learning_rate": 0.0},
        {"learning_rate": 50.0},
        {"floor": 0.0},
        {"initial": 0.0},
        {"count_noise_stddev": 0.0},
        {"floor": 1e-9, "combine": "max"},
        {"microbatch_size": 1},
        {"noise_multiplier": 0.0},
    ],
    ids=str,
)
def test_options_at_their_ends(museum, options):
    """A clipping norm, quantile or rate at its end makes the sensitivity, and the noise, 0.

    Seen: adaptive clipping that walks to 0; clips of 0 taken as "off".
    """

    def build():
        rule = dict(options)
        outer = {k: rule.pop(k) for k in ("microbatch_size", "noise_multiplier") if k in rule}
        kind = kd.FixedSensitivity if "l2_norm_clip" in rule else kd.DynamicSensitivity
        return museum.plan(48, sensitivity=kind(**rule), **{"noise_multiplier": 1.0, **outer})

    check_noise_for_epsilon(build)


def test_options_at_their_ends_twins(museum):
    """The twins of the above: an unchecked norm of 0, and a walk without a floor."""

    def unchecked():
        plan = museum.plan(48, noise_multiplier=1.0)
        object.__setattr__(plan.sensitivity, "l2_norm_clip", 0.0)
        return plan

    class WithoutFloor(kd.DynamicSensitivity):
        def cap(self, state):
            return state

        def next_state(self, state, below_count, noise, expected_records):
            share = float(below_count) / expected_records + 0.5
            return state * float(np.exp(-self.learning_rate * 10 * share))

    walk = WithoutFloor(learning_rate=0.2)
    for build in (unchecked, lambda: museum.plan(48, sensitivity=walk, noise_multiplier=1.0)):
        with museum.caught():
            check_noise_for_epsilon(build)


def check_one_group(factors):
    """A model of one layer is no reason to clip nothing: the cap is there."""
    from keras_dpvit.privacy.sensitivity import release_weights

    norms = tf.constant([[0.1], [5.0], [1e6]], tf.float64)
    weights, _ = release_weights(norms, factors(norms), 1.0)
    assert (weights.numpy() * norms.numpy()).max() <= 1.0
    np.testing.assert_allclose((weights.numpy() * norms.numpy())[:, 0], [0.1, 1, 1], rtol=1e-4)


def test_groups_of_one(museum, monkeypatch):
    """The median of one group's norm is that norm: a clip to it is none.

    Seen: the DP-ViT paper's equations 9 and 10, taken literally.
    """
    check_one_group(kd.MedianLayerClipping().factors)
    monkeypatch.setattr(
        "keras_dpvit.privacy.sensitivity.release_weights",
        lambda norms, factors, cap: (tf.cast(factors, tf.float32), norms),
    )
    with museum.caught():
        check_one_group(kd.MedianLayerClipping().factors)


def check_every_step_is_taken(bench, digits):
    """Records whose loss is infinite end in a step of noise, like any others."""
    x, y = digits
    moved = bench.trained(np.full_like(x, 3e38), y)
    assert bench.trainer.state.steps_taken == 1
    assert np.std(moved) == pytest.approx(1.0, rel=0.15)


def test_loss_scale_that_skips_steps(museum, digits, monkeypatch):
    """A step that is skipped where a gradient is not finite: one record decides, in public.

    Seen: Keras' `LossScaleOptimizer` (read, not run).
    """
    plan = museum.plan(48, noise_multiplier=1.0)
    check_every_step_is_taken(museum.Bench(plan), digits)
    model = kd.make_private(museum.network())
    scaled = keras.optimizers.LossScaleOptimizer(kd.DPKerasSGDOptimizer(plan, 1.0))
    model.compile(scaled, "sparse_categorical_crossentropy")
    with pytest.raises(InputError):
        model.fit(*digits, verbose=0)

    sums, release = steps.CertifiedStep.clipped_sums, steps.CertifiedStep.release_all

    def looking(self, *arguments):
        found = sums(self, *arguments)
        self._sound = tf.reduce_all(tf.math.is_finite(found[3]))
        return found

    def skipping(self, *arguments):
        gradients, *rest = release(self, *arguments)
        kept = [tf.where(self._sound, g, tf.zeros_like(g)) for g in gradients]
        return (PrivateGradients(kept), *rest)

    monkeypatch.setattr(steps.CertifiedStep, "clipped_sums", looking)
    monkeypatch.setattr(steps.CertifiedStep, "release_all", skipping)
    with museum.caught():
        check_every_step_is_taken(museum.Bench(plan), digits)


def check_next_clip(following):
    """The next clip is a function of the noised count: of the number of records only through it."""
    few, many = following(below=10, above=0), following(below=15, above=5)
    assert few == pytest.approx(many, rel=1e-5)


def test_adaptive_clipping_that_divides_by_the_batch(museum, digits):
    """The share of norms below the clip, taken of the records that came: their number leaks.

    Seen: Opacus' adaptive ghost clipping, which says so itself.
    """
    rule = kd.DynamicSensitivity(initial=5.0)
    bench = museum.Bench(museum.plan(48, batch_size=24, sensitivity=rule))

    def ours(below, above):
        x = np.concatenate([np.zeros((below, 64)), np.full((above, 64), 50.0)])
        _, below_count = bench.chunk_sums(x, np.zeros(below + above, int))
        assert below_count == pytest.approx((below - above) / 2)
        return float(
            rule.next_state(5.0, tf.constant(below_count), 0.0, bench.plan.num_microbatches)
        )

    check_next_clip(ours)
    with museum.caught():
        check_next_clip(lambda below, above: 5 * np.exp(-0.2 * (below / (below + above) - 0.5)))


def check_threshold(rule):
    """A rule that claims a finite epsilon has its noise before it sees the records."""
    if not rule.certified:
        return
    state = tf.constant(1.0)
    present = tf.ones(4, tf.bool)
    scales = []
    for size in (0.5, 8.0):
        norms = tf.fill([4], size)
        scales.append(
            float(rule.noise_scale(state, rule.below_count(state, norms, norms, present)))
        )
    assert scales[0] == scales[1]
    assert np.isfinite(float(rule.cap(state)))


def test_threshold_of_the_current_batch(museum, monkeypatch):
    """A clip, and noise in proportion, from the norms of the very batch that they bound.

    Seen: the DP-ViT paper's dynamic sensitivity (equations 11 to 13).
    """
    for rule in (kd.FixedSensitivity(1.0), kd.DynamicSensitivity(), PublishedSensitivity()):
        check_threshold(rule)
    monkeypatch.setattr(PublishedSensitivity, "certified", True)
    with museum.caught():
        check_threshold(PublishedSensitivity())


def check_unwrapped(museum, digits):
    """A private optimizer on a model that gives no gradients of records trains nothing."""
    network = museum.network()
    before = network.get_weights()
    network.compile(
        kd.DPKerasSGDOptimizer(museum.plan(48, noise_multiplier=100.0), 1.0),
        "mse",
        run_eagerly=True,
    )
    with pytest.raises(InputError, match="plain gradients"):
        network.train_on_batch(digits[0], np.eye(10, dtype="float32")[digits[1]])
    for was, now in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_framework_that_fails_open(museum, digits, monkeypatch):
    """A hook in the optimizer that the framework stopped calling: training without noise.

    Seen: TF Privacy #72.
    """
    check_unwrapped(museum, digits)
    monkeypatch.setattr(
        _PrivateOptimizer,
        "apply",
        lambda self, grads, variables=None: keras.optimizers.SGD.apply(self, grads, variables),
    )
    with pytest.raises(pytest.fail.Exception):
        check_unwrapped(museum, digits)


def check_fresh(noises):
    """No two steps share noise, and within one no two numbers are the same."""
    for index, one in enumerate(noises):
        assert len(np.unique(one)) > 0.99 * len(one)
        for other in noises[:index]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_noise_that_comes_again(museum, noisy):
    """The same noise in two steps: their difference is without any.

    Seen: generators seeded afresh on resume; jax_privacy tests for it.
    """
    check_fresh([noisy.noise(step) for step in range(5)])
    with museum.caught():
        check_fresh([noisy.noise(step % 3) for step in range(5)])


def check_event(event):
    """A step costs its noise over its sensitivity, at the plan's own rate."""
    by_hand = accounting.subsampled_gaussian_event(1.5, 24 / 48, 1)
    expected = accounting.epsilon_of_event(by_hand, 1e-5)
    assert accounting.epsilon_of_event(event, 1e-5) == pytest.approx(expected)


def test_rate_from_the_number_of_batches(museum, noisy):
    """A rate of one over the number of batches, rounded as a loader does, is not the sampler's.

    Seen: Opacus #571 and #819.
    """
    check_event(noisy.plan.mechanism().event())
    batches_of_20 = int(np.ceil(48 / 20))
    with museum.caught():
        check_event(accounting.subsampled_gaussian_event(1.5, 1 / batches_of_20, 1))
