"""The private GAN: what one record moves, what the generator sees, its cost, and resuming."""

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

import keras_dpvit as kd
from keras_dpvit.baselines import ppgan, ppgan_results

RECORDS, CLASSES = 24, 3
SETTINGS = ppgan.PPGANSettings(num_cosines=32, generator_batch_size=4, discriminator_steps=2)


@pytest.fixture(scope="module")
def digits(digit_images):
    chosen = np.flatnonzero(digit_images.y_train < CLASSES)[:RECORDS]
    return digit_images.x_train[chosen], digit_images.y_train[chosen]


def made(plan, kind=ppgan.PPGAN, seed=1):
    keras.utils.set_random_seed(seed)
    return kind((8, 8, 1), CLASSES, plan, SETTINGS)


def a_plan(**changes):
    arguments = {"epsilon": 8.0, "delta": 1e-3, "num_examples": RECORDS, "steps": 4, "seed": 7}
    return ppgan.gan_plan(**{**arguments, "discriminator_steps": 2, **changes})


# Every record in every step and no noise: gradients times the records are clipped sums.
OPEN = kd.PrivacyPlan(
    RECORDS,
    RECORDS,
    50,
    1e-3,
    noise_multiplier=0.0,
    clipping=kd.FlatClipping(),
    sensitivity=kd.FixedSensitivity(1.0),
    seed=7,
)


class LooksAtRealOnes(ppgan.PPGAN):
    """A faulty twin: gradients of real images pass as public ones."""

    def discriminator_gradients(self, batch):
        values = [v.value for v in self.step.variables]
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_mean(ppgan._loss_fn(self.discriminator.network, batch.data))
        return self.step.gradients(batch).plus_public(tape.gradient(loss, values))


class MatchesRealOnes(ppgan.PPGAN):
    """A faulty twin: its generator moves by the features of real images."""

    def discriminator_gradients(self, batch):
        self.seen = tf.reduce_sum(tf.cast(batch.data[0], tf.float32))
        return super().discriminator_gradients(batch)

    def generator_step(self):
        super().generator_step()
        bias = self._network.trainable_variables[1]
        bias.assign(bias.value + self.seen)


def moves(gan, features, labels):
    """The distance that one record more moves a discriminator step's sum, by the record."""

    def total(*records):
        gradients = gan.discriminator_gradients(next(gan.step.batches(*records)))
        return np.concatenate([np.ravel(g) for g in gradients]) * RECORDS

    whole, found = total(features, labels), {}
    for name, odd in {
        "ordinary": features[0],
        "NaN": np.full_like(features[0], np.nan),
        "huge": np.full_like(features[0], 1e30),
        "large": 1e4 * features[0],
    }.items():
        more = total(np.concatenate([features, odd[None]]), np.append(labels, labels[:1]))
        found[name] = float(np.linalg.norm(more - whole))
    return found


def test_a_record_moves_the_discriminators_step_by_its_clip_alone(digits):
    gan = made(OPEN)
    features, labels = gan.features.of(digits[0]).astype("float32"), digits[1].astype("int32")
    gan._fill()
    found = moves(gan, features, labels)
    assert max(found.values()) <= 1.001
    assert found["large"] > 0.99
    assert found["NaN"] < 1e-4
    assert moves(made(OPEN, LooksAtRealOnes), features, labels)["large"] > 10
    assert kd.auditing.neighbours(
        gan.discriminator, ppgan.discriminator_losses, features, labels, OPEN
    ).holds


def generator_after_a_step(kind, images, labels):
    """The generator's weights after a step against the same discriminator."""
    gan = made(OPEN, kind)
    gan._fill()
    records = gan.features.of(images), labels.astype("int32")
    gan.discriminator_gradients(next(gan.step.batches(*records)))  # and not applied
    ones = np.random.default_rng(0)
    gan.discriminator.set_weights([ones.normal(size=v.shape) for v in gan.step.variables])
    gan.generator_step()
    return gan._network.get_weights()


def test_the_generator_sees_no_real_image(digits):
    images, labels = digits
    for kind, alike in ((ppgan.PPGAN, True), (MatchesRealOnes, False)):
        ends = [generator_after_a_step(kind, x, labels) for x in (images, 255 - images)]
        assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True)) == alike


def test_epsilon_is_dp_accountings():
    plan = a_plan(num_examples=1400, steps=10, seed=None)
    assert (plan.batch_size, plan.steps) == (466, 20)
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(
            466 / 1400, dp_accounting.GaussianDpEvent(plan.noise_multiplier)
        ),
        20,
    )
    by_hand = RdpAccountant().compose(event).get_epsilon(1e-3)
    assert plan.epsilon() == pytest.approx(by_hand, rel=1e-6)
    assert 7.99 < by_hand <= 8
    assert PLDAccountant().compose(event).get_epsilon(1e-3) < by_hand


class CrashError(Exception):
    """The end of a process."""


def cut_off_after(steps):
    def progress(done, total):
        if done == steps:
            raise CrashError

    return progress


def test_a_training_goes_on_to_the_same_end(digits, tmp_path):
    whole = made(a_plan())
    whole.train(*digits)
    with pytest.raises(CrashError):
        made(a_plan()).train(
            *digits, checkpoint_dir=tmp_path, checkpoint_steps=2, progress=cut_off_after(6)
        )
    resumed = made(a_plan(), seed=2)
    resumed.train(*digits, checkpoint_dir=tmp_path, checkpoint_steps=2)
    labels = np.arange(6) % CLASSES
    np.testing.assert_array_equal(whole.sample(labels, seed=0), resumed.sample(labels, seed=0))
    for ours, its in zip(whole.generator.variables, resumed.generator.variables, strict=True):
        np.testing.assert_array_equal(ours, its)
    assert resumed.ledger.epsilon(1e-3) == a_plan().epsilon()
    again = made(a_plan(), seed=3)
    again.train(*digits, checkpoint_dir=tmp_path)  # finished: nothing more is spent
    np.testing.assert_array_equal(whole.sample(labels, seed=0), again.sample(labels, seed=0))


def test_steps_that_a_crash_lost_are_spent_and_the_ledger_travels(digits, tmp_path):
    plan = a_plan(seed=None)
    with pytest.raises(CrashError):
        made(plan).train(
            *digits,
            checkpoint_dir=tmp_path / "kept",
            checkpoint_steps=1,
            progress=cut_off_after(4),
        )
    gan = made(plan, seed=2)
    gan.train(*digits, checkpoint_dir=tmp_path / "kept")
    assert int(gan._optimizer.iterations) == plan.steps - 2  # two had no checkpoint yet
    assert sum(entry.steps for entry in gan.ledger.all_entries()) == plan.steps
    assert gan.ledger.epsilon(1e-3) == plan.epsilon()
    gan.generator.save(tmp_path / "generator.keras")
    ledger = kd.load_model(tmp_path / "generator.keras").privacy_ledger
    assert ledger.epsilon(1e-3) == plan.epsilon()


def test_a_copy_among_generated_images_is_found():
    rng = np.random.default_rng(0)
    training, held_out, generated = (
        rng.integers(0, 256, (n, 4, 4, 1)).astype("uint8") for n in (50, 400, 20)
    )
    clean = ppgan_results.neighbour_check(generated, held_out, training)
    assert clean.copies == 0
    assert clean.near < 0.2
    by_hand = np.sqrt(
        np.square((generated[:, None] / 255.0) - training / 255.0).sum(axis=(2, 3, 4))
    ).min(axis=1)
    np.testing.assert_allclose(clean.generated, np.sort(by_hand), rtol=1e-9)
    planted = np.concatenate([generated, training[7:8], training[8:9] ^ 1])
    found = ppgan_results.neighbour_check(planted, held_out, training)
    assert found.copies == 1
    assert found.near == pytest.approx(clean.near * 20 / 22 + 2 / 22)


def test_bad_input_is_refused(digits):
    with pytest.raises(kd.InputError, match="num_classes must be at least 2, got 1"):
        ppgan.PPGAN((8, 8, 1), 1, OPEN)
    with pytest.raises(kd.InputError, match="steps must be a whole number above 0, got 0"):
        a_plan(steps=0)
    with pytest.raises(kd.InputError, match="discriminator_rate must be a finite number above 0"):
        ppgan.PPGANSettings(discriminator_rate=0.0)
    with pytest.raises(kd.InputError, match=r"images must be \(n, 8, 8, 1\) with n labels"):
        made(OPEN).train(digits[0], digits[1][1:])
    with pytest.raises(kd.InputError, match="must be images of one shape"):
        ppgan_results.neighbour_check(digits[0], digits[0][:, :4], digits[0])
