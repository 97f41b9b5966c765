"""A private conditional GAN (PP-GAN): labelled images made up under differential privacy.

Of the real images the discriminator alone takes gradients, by `PrivateStep`; the generator learns
from the discriminator, and what is trained on its images costs nothing more. See docs/ppgan.md.
"""

import dataclasses
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.baselines import ppgan_networks as networks
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.privacy.clipping import FlatClipping
from keras_dpvit.privacy.ledger import Ledger
from keras_dpvit.privacy.plan import PrivacyPlan
from keras_dpvit.privacy.sensitivity import FixedSensitivity
from keras_dpvit.training.own_loop import PrivateBatch, PrivateStep
from keras_dpvit.training.private_wrapper import DPModel, make_private
from keras_dpvit.training.step import PrivateGradients

NOTE = "Learned from images of a private GAN: no real image was looked at besides."


@dataclasses.dataclass(frozen=True)
class PPGANSettings:
    """Settings of a `PPGAN` beside its plan; all are public.

    Found on the last 10,000 training images of Fashion-MNIST.

    Attributes:
        discriminator_steps: int, steps of the discriminator to one of the generator.
        generator_batch_size: int, images that the generator makes in a step.
        recent_batches: int, its last batches, against which the discriminator learns.
        discriminator_rate: float, of SGD.
        discriminator_decay: float, of its weights: the discriminator forgets within about
            `1 / (rate * decay)` steps what the generator did, and its own noise.
        generator_rate: float, of Adam; it falls to 0 by a cosine.
        average: float in (0, 1), what the averaged generator keeps of itself in a step.
        num_cosines: int, see `WitnessFeatures`.
    """

    discriminator_steps: int = 4
    generator_batch_size: int = 256
    recent_batches: int = 4
    discriminator_rate: float = 4.0
    discriminator_decay: float = 0.01
    generator_rate: float = 1e-3
    average: float = 0.99
    num_cosines: int = 4096

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            discriminator_steps=_validate.positive_int,
            generator_batch_size=_validate.positive_int,
            recent_batches=_validate.positive_int,
            discriminator_rate=_validate.positive,
            discriminator_decay=_validate.non_negative,
            generator_rate=_validate.positive,
            average=_validate.open_unit_interval,
            num_cosines=_validate.positive_int,
        )


def gan_plan(
    *,
    epsilon: float,
    delta: float,
    num_examples: int,
    steps: int,
    batch_size: int | None = None,
    discriminator_steps: int = 4,
    accountant: str = "rdp",
    seed: int | None = None,
) -> PrivacyPlan:
    """The plan of a `PPGAN`: flat clipping to length 1, and noise for a target.

    Args:
        epsilon: float above 0.
        delta: float in (0, 1).
        num_examples: int, the public number of records.
        steps: int, of the generator.
        batch_size: int or None for 4,096, a third of the records if that is less.
        discriminator_steps: int, to each step of the generator.
        accountant: "rdp" or "pld", whose epsilon is kept within the target.
        seed: see `PrivacyPlan`.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> plan = kd.baselines.ppgan.gan_plan(
        ...     epsilon=8, delta=1e-4, num_examples=1400, steps=10
        ... )
        >>> plan.steps, plan.epsilon() <= 8
        (40, True)
    """
    _validate.positive_int(num_examples=num_examples)
    if batch_size is None:
        batch_size = max(1, min(4096, num_examples // 3))
    _validate.positive_int(batch_size=batch_size)
    total = _validate.positive_int(steps=steps) * discriminator_steps
    return PrivacyPlan.for_target(
        epsilon=epsilon,
        delta=delta,
        num_examples=num_examples,
        batch_size=batch_size,
        epochs=(total - 0.5) * batch_size / num_examples,  # rounded up to whole steps
        clipping=FlatClipping(),
        sensitivity=FixedSensitivity(1.0),  # about the length of an image's features
        accountant=accountant,
        seed=seed,
    )


def discriminator_losses(labels: Any, scores: Any) -> Any:
    """Hinge losses of real images, float32 `(n,)`: each of its own record alone.

    Args:
        labels: int `(n,)`.
        scores: float `(n, classes)`, of the discriminator.
    """
    labels = tf.cast(tf.reshape(labels, (-1,)), tf.int32)  # Keras hands losses floats
    return tf.nn.relu(1.0 - networks.scores_of(tf.cast(scores, tf.float32), labels))


def _loss_fn(model: Any, batch: Any) -> Any:
    features, labels = batch
    return discriminator_losses(labels, model(tf.cast(features, tf.float32), training=True))


class PPGAN:
    """A conditional GAN whose discriminator learns privately, and its averaged generator.

    The discriminator is linear over fixed features (`WitnessFeatures`), with one weight vector for
    each class and a hinge loss (Miyato & Koyama 2018, arXiv:1802.05637): few numbers that noise can
    enter. Gradients of real images are those of `PrivateStep`. Gradients of generated images, which
    are computed from the discriminator and random numbers, are added by `plus_public`.

    Guarantee: discriminator, generator, generated images and all that is computed from them cost
    what `ledger` says, the plan's epsilon, for one real image with its label added or removed.

    Args:
        image_shape: (height, width, channels).
        num_classes: int, at least 2.
        plan: a `PrivacyPlan` of `gan_plan`, or another for `PrivateStep`; its steps are those of
            the discriminator.
        settings: a `PPGANSettings`.

    Attributes:
        features: the `WitnessFeatures`.
        discriminator: a private model of features, `(n, width)` to scores `(n, classes)`.
        generator: the averaged generator, a private model from `(n, 32 + classes)` to pixels
            0..255; its ledger is the discriminator's.
        step: the `PrivateStep`.

    Raises:
        InputError: if the classes are fewer than 2, or the plan is none for `PrivateStep`.

    Example:
        >>> images, labels = np.zeros((60, 8, 8, 1), "uint8"), np.arange(60) % 2
        >>> plan = kd.baselines.ppgan.gan_plan(epsilon=8, delta=1e-3, num_examples=60, steps=1)
        >>> settings = kd.baselines.ppgan.PPGANSettings(num_cosines=64, generator_batch_size=8)
        >>> gan = kd.baselines.ppgan.PPGAN((8, 8, 1), 2, plan, settings)
        >>> gan.train(images, labels)
        >>> gan.sample([0, 1, 1], seed=0).shape, gan.ledger.epsilon(1e-3) == plan.epsilon()
        ((3, 8, 8, 1), True)
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        plan: PrivacyPlan,
        settings: PPGANSettings | None = None,
    ) -> None:
        if _validate.positive_int(num_classes=num_classes) < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}.")
        self.settings = settings or PPGANSettings()
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.features = networks.WitnessFeatures(image_shape, self.settings.num_cosines)
        width = self.features.width
        self.discriminator = make_private(networks.discriminator_network(width, num_classes))
        self.step = PrivateStep(self.discriminator, plan, _loss_fn, physical_batch_size=8192)
        self._network = networks.generator_network(image_shape, num_classes)
        averaged = networks.generator_network(image_shape, num_classes)
        for ours, its in zip(averaged.variables, self._network.variables, strict=True):
            ours.assign(its.value)
        # It carries the ledger. No gradient of a record enters it: it may mix rows.
        self.generator = DPModel(averaged)
        self._make_optimizers()
        s = self.settings
        shape = (s.recent_batches, s.generator_batch_size)
        self._recent = tf.Variable(tf.zeros((*shape, width)), trainable=False)
        self._recent_labels = tf.Variable(tf.zeros(shape, tf.int32), trainable=False)
        seed = secrets.randbits(31) if plan.seed is None else plan.seed
        self._seed = tf.Variable(seed, dtype=tf.int64, trainable=False)
        self._progress = _Variables(
            [
                *self._network.variables,
                *averaged.variables,
                *self._generator_optimizer.variables,
                self._recent,
                self._recent_labels,
                self._seed,
            ]
        )
        self._move = tf.function(self._make_batch, autograph=False)
        self._against = tf.function(self._gradients_of_generated, autograph=False)

    def _make_optimizers(self) -> None:
        s = self.settings
        total = max(1, self.step.plan.steps // s.discriminator_steps)
        self._optimizer = keras.optimizers.SGD(
            s.discriminator_rate, weight_decay=s.discriminator_decay
        )
        rate = keras.optimizers.schedules.CosineDecay(s.generator_rate, total)
        self._generator_optimizer = keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.99)
        self._generator_optimizer.build(self._network.trainable_variables)

    @property
    def ledger(self) -> Ledger:
        """The cost of the discriminator, and so of all that is computed from it."""
        return self.step.ledger

    def train(
        self,
        images: Array,
        labels: Array,
        *,
        checkpoint_dir: str | None = None,
        checkpoint_steps: int = 50,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Takes the steps that the plan has left.

        Args:
            images: `(n, height, width, channels)`, pixels 0..255.
            labels: int `(n,)`, class numbers.
            checkpoint_dir: a directory in which the training is kept; one that is there already is
                resumed. Under a seed it ends as if it had not been cut off, otherwise steps of
                the discriminator that were lost count as spent.
            checkpoint_steps: int, steps of the generator between checkpoints.
            progress: called after each step of the generator with the number of steps of the
                discriminator so far, and in all.

        Raises:
            InputError: if images and labels do not fit, or the directory holds another training.
        """
        _validate.positive_int(checkpoint_steps=checkpoint_steps)
        if tuple(np.shape(images)[1:]) != self.image_shape or len(images) != len(labels):
            raise InputError(
                f"images must be (n, {', '.join(map(str, self.image_shape))}) with n labels, got "
                f"{np.shape(images)} and {len(labels)} labels."
            )
        provenance.begin_training(self.generator, self.generator.variables, self.discriminator)
        try:
            if checkpoint_dir is None or not self._restore(checkpoint_dir):
                self._fill()
                self._save(checkpoint_dir)
            if self.step.steps_left:
                self._loop(images, labels, checkpoint_dir, checkpoint_steps, progress)
        finally:
            provenance.settle(self.generator)

    def _loop(
        self,
        images: Array,
        labels: Array,
        checkpoint_dir: str | None,
        checkpoint_steps: int,
        progress: Callable[[int, int], None],
    ) -> None:
        total, each = self.step.plan.steps, self.settings.discriminator_steps
        records = self.features.of(images), np.asarray(labels, "int32")
        for batch in self._batches(records):
            self.step.apply(self._optimizer, self.discriminator_gradients(batch))
            done = batch.step + 1
            if done % each == 0:
                self.generator_step()
                progress(done, total)
            if done == total or done % (each * checkpoint_steps) == 0:
                self._save(checkpoint_dir)

    def _batches(self, records: tuple[Array, Array]) -> Iterator[PrivateBatch]:
        # Before its first batch a step tries huge records, which half precision has no room for.
        with np.errstate(over="ignore"):
            yield from self.step.batches(*records)

    def discriminator_gradients(self, batch: PrivateBatch) -> PrivateGradients:
        """Gradients of a step: noised ones of real images, and those of generated ones.

        Args:
            batch: from `step.batches` of features and labels.
        """
        return self.step.gradients(batch).plus_public(self._against())

    def _gradients_of_generated(self) -> list[Any]:
        """Of the mean hinge loss of the generator's recent images; no record is looked at."""
        values = [v.value for v in self.step.variables]
        features = tf.reshape(self._recent, (-1, self.features.width))
        labels = tf.reshape(self._recent_labels, (-1,))
        with tf.GradientTape() as tape:
            tape.watch(values)
            scores = networks.scores_of(self.discriminator.network(features), labels)
            loss = tf.reduce_mean(tf.nn.relu(1.0 + scores))
        return list(tape.gradient(loss, values))

    def _fill(self) -> None:
        """Makes the first recent batches, and leaves the generator as it is."""
        for number in range(self.settings.recent_batches):
            self._move(tf.constant(number, tf.int64), learns=False)

    def generator_step(self) -> None:
        """One step of the generator against the discriminator as it is; no record is looked at."""
        number = int(self._generator_optimizer.iterations) + self.settings.recent_batches
        self._move(tf.constant(number, tf.int64), learns=True)

    def _make_batch(self, number: Any, learns: bool) -> None:
        """Makes a batch, keeps it as the most recent, and lets the generator learn from it.

        Args:
            number: scalar int64, of the batch; random numbers follow from it.
            learns: bool.
        """
        s, network = self.settings, self._network
        labels = tf.random.stateless_uniform(
            (s.generator_batch_size,), (self._seed, 2 * number), 0, self.num_classes, tf.int32
        )
        inputs = networks.latents(labels, self.num_classes, (self._seed, 2 * number + 1))
        weights = [v.value for v in network.trainable_variables]
        with tf.GradientTape() as tape:
            features = self.features(network(inputs, training=True))
            scores = networks.scores_of(self.discriminator.network(features), labels)
            loss = -tf.reduce_mean(scores)
        place = number % s.recent_batches
        self._recent[place].assign(features)
        self._recent_labels[place].assign(labels)
        if learns:
            self._learn(tape.gradient(loss, weights))

    def _learn(self, gradients: list[Any]) -> None:
        self._generator_optimizer.apply(gradients, self._network.trainable_variables)
        kept, averaged = self.settings.average, self.generator.network.variables
        for ours, its in zip(averaged, self._network.variables, strict=True):
            ours.assign(kept * ours.value + (1 - kept) * its.value)

    def sample(self, labels: Any, seed: int | None = None) -> Array:
        """Makes images by the averaged generator, at no cost.

        Args:
            labels: int `(n,)`, class numbers.
            seed: int or None for other images each time.

        Returns:
            uint8 `(n, height, width, channels)`.
        """
        labels = np.asarray(labels, "int32")
        seed = secrets.randbits(31) if seed is None else seed
        images = np.empty((len(labels), *self.image_shape), "uint8")
        for number, start in enumerate(range(0, len(labels), 500)):
            part = labels[start : start + 500]
            inputs = networks.latents(part, self.num_classes, (seed, number))
            made = self.generator(inputs, training=False)
            images[start : start + 500] = np.round(keras.ops.convert_to_numpy(made))
        return images

    def _save(self, directory: str | None) -> None:
        if directory is not None:
            self.step.save(directory, self._optimizer, self._progress)

    def _restore(self, directory: str) -> bool:
        return self.step.restore(directory, self._optimizer, self._progress)


class _Variables:
    """Variables that `PrivateStep.save` keeps in the one file with the discriminator's state.

    It has what that asks of an optimizer: both are whole, or neither is.
    """

    built = True

    def __init__(self, variables: list[Any]) -> None:
        self.variables = variables
