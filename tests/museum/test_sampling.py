"""Faults of sampling: records that enter a step otherwise than the accountant believes."""

import itertools

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.privacy import accounting, sampling
from keras_dpvit.training import batch_selection, sources
from keras_dpvit.training.labels import class_numbers

STEPS = 2000


def drawn(plan, num_records, steps):
    """The row numbers of each step's batch, as training gets them."""
    numbers = np.arange(num_records)
    source = sources.ArraySource(numbers[:, None], numbers)
    found = batch_selection.sampled_batches(plan, source, bytes(32), lambda: 0)
    return [x[:, 0] for x, *_ in itertools.islice(found, steps)]


def check_rates(plan):
    """Each record enters with the probability that the ledger counts."""
    (entry,) = plan.entries(plan.steps)
    counts = np.zeros(plan.num_examples)
    for rows in drawn(plan, plan.num_examples, STEPS):
        counts[rows] += 1
    q = entry.sampling_probability
    assert np.abs(counts / STEPS - q).max() < 5 * np.sqrt(q * (1 - q) / STEPS)


def test_weighted_sampler(museum, monkeypatch):
    """A sampler with class weights under an accountant that is told batch over records.

    Seen: loaders that take any sampler and keep one over the number of batches as their rate.
    """
    plan = museum.plan(40, batch_size=8, noise_multiplier=1.0)
    check_rates(plan)

    class Weighted(sampling.PoissonSampler):
        def sample(self, num_records, step):
            rng = np.random.default_rng(step)
            weights = np.where(np.arange(num_records) < 10, 2.5, 0.5)  # the same mean
            return np.flatnonzero(rng.random(num_records) < weights * self.sampling_probability)

    monkeypatch.setattr(
        kd.PrivacyPlan, "sampler", lambda plan, key: Weighted(plan.sampling_probability, key)
    )
    with museum.caught():
        check_rates(plan)


def check_amplification(plan):
    """Amplified only if batches are Poisson's: sizes vary, and steps know nothing of each other."""
    (entry,) = plan.entries(plan.steps)
    n, q = plan.num_examples, entry.sampling_probability
    if entry.sampling != "poisson":
        release = accounting.subsampled_gaussian_event(plan.noise_multiplier, 1.0, entry.passes)
        assert plan.epsilon() >= 0.999 * accounting.epsilon_of_event(release, plan.delta)
        return
    rows = drawn(plan, n, STEPS)
    sizes = np.array([len(r) for r in rows])
    assert sizes.mean() == pytest.approx(n * q, rel=0.05)
    assert sizes.var() == pytest.approx(n * q * (1 - q), rel=0.25)
    common = [len(np.intersect1d(a, b)) for a, b in itertools.pairwise(rows)]
    assert np.mean(common) == pytest.approx(n * q * q, rel=0.1)


def test_shuffling_accounted_as_poisson(museum, monkeypatch):
    """Batches off a shuffle, with the epsilon of Poisson samples.

    Seen: jax_privacy #84 (its Keras default), TF Privacy #483, private-transformers #7, fastDP's
    examples, Opacus with `poisson_sampling=False`.
    """
    plans = [
        museum.plan(40, batch_size=8, epochs=3, noise_multiplier=1.0, sampling=kind)
        for kind in ("poisson", "shuffled")
    ]
    for plan in plans:
        check_amplification(plan)
    assert plans[1].epsilon() > plans[0].epsilon()
    monkeypatch.setattr(
        kd.PrivacyPlan, "sampler", lambda plan, key: sampling.ShuffledSampler(plan.batch_size, key)
    )
    with museum.caught():
        check_amplification(plans[0])


def check_fixed_sizes(plan, sampler, num_records):
    """A pass of so many equal batches as are accounted, with no record in two of them."""
    passed = [sampler.sample(num_records, step) for step in range(plan.steps_per_epoch)]
    following = sampler.sample(num_records, plan.steps_per_epoch)
    assert {len(rows) for rows in [*passed, following]} == {plan.batch_size}
    assert len(np.unique(np.concatenate(passed))) == plan.steps_per_epoch * plan.batch_size


def test_last_partial_batch(museum):
    """The rest of a pass taken as a step of its own, though all steps are accounted as full.

    Seen: fastDP's training loop.
    """
    plan = museum.plan(45, batch_size=10, noise_multiplier=1.0, sampling="shuffled")
    check_fixed_sizes(plan, plan.sampler(bytes(32)), 45)

    class WithTheRest:
        def sample(self, num_records, step):
            index, batch = divmod(step, 5)
            order = np.random.default_rng(index).permutation(num_records)
            return order[10 * batch : 10 * batch + 10]

    with museum.caught():
        check_fixed_sizes(plan, WithTheRest(), 45)


def check_empty_take(source):
    """No records have the shapes and types of some."""
    pair = (source.take(np.array(rows, int)).parts() for rows in ([], [0]))
    for none, one in zip(*pair, strict=True):
        assert none.shape == (0, *one.shape[1:])
        assert none.dtype == one.dtype


def test_empty_structured_batch(museum, digits):
    """An empty sample that loses its structure: no rows, and no axes either.

    Seen: Opacus before #806.
    """
    x, y = digits
    pairs = list(zip(x, y, strict=True))
    check_empty_take(sources.ArraySource(x, y))
    check_empty_take(sources.RandomAccessSource(pairs))

    class Stacking(sources.RandomAccessSource):
        def _read(self, rows):
            records = [self._record(int(row)) for row in rows]
            return np.array([r[0] for r in records]), np.array([r[1] for r in records]), None

    with museum.caught():
        check_empty_take(Stacking(pairs))


def check_empty_step(bench, digits):
    """A run that never sees a record takes all its steps, and each leaves its noise."""
    x, y = digits
    moved = bench.trained(x[:0], y[:0])
    assert np.isfinite(moved).all()
    assert bench.trainer.state.steps_taken == bench.plan.steps == 2
    expected = bench.plan.noise_multiplier * np.sqrt(bench.plan.steps)
    assert np.std(moved) == pytest.approx(expected, rel=0.15)


def test_empty_sample(museum, digits, realised_divisor, monkeypatch):
    """An empty Poisson sample that is skipped, or whose mean is 0 over 0.

    Seen: TF Privacy's `DPModel` (divides by the microbatches that came; read, not run).
    """
    plan = museum.plan(48, batch_size=24, noise_multiplier=1.0)
    with museum.caught():
        check_empty_step(museum.Bench(plan), digits)
    monkeypatch.undo()
    check_empty_step(museum.Bench(plan), digits)


def check_padding(sums, digits):
    """Rows that only fill a batch up move nothing, whatever they hold."""
    x, y = digits
    whole = sums(x[:5], y[:5], np.ones(5, bool))
    padded = np.concatenate([x[:5], 100 * x[5:9], np.full((1, 64), np.nan, "float32")])
    present = np.arange(10) < 5
    np.testing.assert_allclose(sums(padded, y[:10], present), whole, rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(whole) > 0.1


def test_padding_rows(museum, digits, flat_bench):
    """Padding that enters the sum: blank rows have gradients, in biases above all.

    Seen: static batches padded after Poisson sampling; jax_privacy has `is_padding_example` for it.
    """
    check_padding(flat_bench.sums, digits)
    with museum.caught():
        check_padding(lambda x, y, present: flat_bench.sums(x, y), digits)


def check_classes(classes_of, digits):
    """The number of classes is the same where the only record of one is left out."""
    y = digits[1]
    alone = np.concatenate([y[y != 9], [9]])
    assert classes_of(alone) == classes_of(alone[:-1]) == 10


def test_classes_from_the_data(museum, digits, flat_bench):
    """A class list read off the private labels: one record decides the shape of the model.

    Seen: loaders that take the largest or the unique labels.
    """
    check_classes(lambda y: class_numbers(flat_bench.model, y)[0].classes, digits)
    with museum.caught():
        check_classes(lambda y: len(np.unique(y)), digits)
    with museum.caught():
        check_classes(lambda y: int(y.max()) + 1, digits)
