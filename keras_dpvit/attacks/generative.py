"""GAN attacks: a generator that turns ciphertexts into what a critic takes for natural images.

The adversary has ciphertexts under one key and its own natural images, which belong to none of
them: there are no pairs.

* `form="sia"`: SIA-GAN (Madono et al. 2021). It has the ciphertexts' labels too: a classifier is
  trained together with the generator on what that puts out. Hinge losses, spectral norm.
* `form="dcgan"`: the lab's form (Ito's evaluation code). No labels; binary cross-entropy.

The number of epochs is fixed beforehand: without the victim's images nothing says which is best.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_dpvit._validate import non_negative, one_of, positive, positive_int
from keras_dpvit.attacks import trained_steps
from keras_dpvit.attacks.trained_steps import EpochStore, OnEpoch, Trained
from keras_dpvit.encryption.cipher import shape_of
from keras_dpvit.errors import InputError

FORMS = ("sia", "dcgan")
CLASSIFIERS = ("shake_pyramid_net", "small")


@dataclasses.dataclass(frozen=True)
class GanSettings:
    """Settings of generator, discriminator and training; defaults are SIA-GAN's published ones.

    Attributes:
        form: "sia" or "dcgan".
        generator_widths: for "sia" the width and the number of residual blocks; for "dcgan" those
            of `learned_networks.block_stack`, published as (48, 48, 512), and (64, 128, 256) for
            `PixelEncryption`.
        discriminator_widths: of `sia_discriminator`, or of `dcgan_discriminator`.
        adaptation: one of `learned_networks.ADAPTATIONS` but "none".
        block_size: int, of the encryption; 1 for `PixelEncryption`.
        classifier: "shake_pyramid_net" (110 layers, as published) or "small"; for "sia".
        epochs: int, passes over the ciphertexts.
        batch_size: int.
        learning_rates: of generator (and classifier) and discriminator.
        beta_1: float, of Adam.
        beta_2: float, of Adam.
        total_variation: float, factor of the mean absolute difference between neighbours.
        seed: int, of weights and batches.
    """

    form: str = "sia"
    generator_widths: tuple[int, ...] = (64, 3)
    discriminator_widths: tuple[int, ...] = (128, 256, 512, 1024)
    adaptation: str = "per_block"
    block_size: int = 4
    classifier: str = "shake_pyramid_net"
    epochs: int = 100
    batch_size: int = 64
    learning_rates: tuple[float, float] = (1e-4, 4e-4)
    beta_1: float = 0.0
    beta_2: float = 0.9
    total_variation: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(FORMS, form=self.form)
        one_of(CLASSIFIERS, classifier=self.classifier)
        positive_int(epochs=self.epochs)
        positive_int(batch_size=self.batch_size)
        for rate in self.learning_rates:
            positive(learning_rates=rate)
        non_negative(total_variation=self.total_variation)


DCGAN = GanSettings(
    form="dcgan",
    generator_widths=(48, 48, 512),
    discriminator_widths=(64, 128),
    adaptation="shared",
    epochs=25,
    learning_rates=(2e-4, 2e-4),
    beta_1=0.5,
    beta_2=0.999,
    total_variation=0.0,
)


def train(
    encrypted: np.ndarray,
    labels: np.ndarray | None,
    own_images: np.ndarray,
    settings: GanSettings,
    store: EpochStore | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Trains the generator; seeds Keras's global generators.

    Args:
        encrypted: uint8 ciphertexts under one key, none of images in `own_images`.
        labels: int class numbers of the ciphertexts; None for "dcgan".
        own_images: uint8 natural images of the adversary's.
        settings: of networks and training.
        store: where the state is kept after each epoch, and found again.
        on_epoch: called after each epoch that was trained now.

    Returns:
        The generator after the last epoch.

    Raises:
        InputError: if images and labels do not fit each other or the settings.
    """
    encrypted = trained_steps.check_images("encrypted", encrypted)
    own_images = trained_steps.check_images("own_images", own_images)
    labels = _checked_labels(labels, encrypted, own_images, settings)
    gan = _Gan(shape_of(own_images), settings, int(labels.max()) + 1)
    training = trained_steps.fingerprint(settings, encrypted, labels, own_images)
    history: list[dict[str, float]] = []
    found = store.load(training) if store else None
    if found is not None:
        trained_steps.assign(gan.variables, found[0])
        history = found[1]["history"]
    for epoch in range(len(history), settings.epochs):
        history.append(_one_epoch(gan, encrypted, labels, own_images, settings, epoch))
        if store:
            meta = {"training": training, "history": history}
            store.save(trained_steps.values_of(gan.variables), meta)
        if on_epoch:
            on_epoch(epoch + 1, history[-1])
    return Trained(gan.generator, history, settings.epochs, lowest=-1.0)


def _checked_labels(
    labels: np.ndarray | None,
    encrypted: np.ndarray,
    own_images: np.ndarray,
    settings: GanSettings,
) -> np.ndarray:
    if encrypted.shape[1:] != own_images.shape[1:]:
        raise InputError(
            "encrypted and own_images must have one image shape, got "
            f"{encrypted.shape[1:]} and {own_images.shape[1:]}."
        )
    if settings.form == "dcgan":
        if labels is not None:
            raise InputError("labels must be None for form='dcgan', which uses none.")
        return np.zeros(len(encrypted), np.int64)
    labels = np.asarray(labels)
    if labels.shape != (len(encrypted),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(
            f"labels must be {len(encrypted)} class numbers from 0 on, one for each ciphertext."
        )
    return labels.astype(np.int64)


def _one_epoch(
    gan: "_Gan",
    encrypted: np.ndarray,
    labels: np.ndarray,
    own_images: np.ndarray,
    settings: GanSettings,
    epoch: int,
) -> dict[str, float]:
    """One pass over the ciphertexts, each batch beside as many random natural images.

    Returns:
        Mean losses.
    """
    sums: dict[str, float] = {}
    batches = trained_steps.shuffled_batches(
        len(encrypted), settings.batch_size, settings.seed, epoch, 0
    )
    generator = np.random.default_rng([settings.seed, epoch, 1])
    for rows in batches:
        real = own_images[generator.integers(len(own_images), size=len(rows))]
        losses = gan.step(
            encrypted[rows].astype(np.float32),
            labels[rows],
            real.astype(np.float32) / 127.5 - 1,
        )
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value) / len(batches)
    return sums


class _Gan:
    """The networks, their optimizers, and one step of all.

    Args:
        image_shape: (height, width, channels).
        settings: of networks and training.
        num_classes: int, for "sia".

    Attributes:
        generator: `keras.Model`.
        variables: all that a checkpoint must hold.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], settings: GanSettings, num_classes: int
    ) -> None:
        import keras
        import tensorflow as tf

        keras.utils.set_random_seed(settings.seed)
        self._settings = settings
        self.generator = _generator(image_shape, settings)
        self._discriminator = _discriminator(image_shape, settings)
        self._classifier = _classifier(image_shape, settings, num_classes)
        self._painters = list(self.generator.trainable_variables)
        models = [self.generator, self._discriminator]
        if self._classifier is not None:
            self._painters += self._classifier.trainable_variables
            models.append(self._classifier)
        self._optimizers = []
        for rate, trained in zip(
            settings.learning_rates,
            (self._painters, self._discriminator.trainable_variables),
            strict=True,
        ):
            optimizer = keras.optimizers.Adam(rate, settings.beta_1, settings.beta_2)
            optimizer.build(trained)
            self._optimizers.append(optimizer)
        self.variables = [v for part in (*models, *self._optimizers) for v in part.variables]
        self.step = tf.function(self._step, autograph=False)

    def _step(self, encrypted: Any, labels: Any, real: Any) -> dict[str, Any]:
        """The discriminator learns, then the generator (and the classifier) against it."""
        import tensorflow as tf

        settings = self._settings
        with tf.GradientTape() as tape:
            fake = self.generator(encrypted, training=True)
            with tape.stop_recording():
                losses = {"discriminator": self._discriminator_step(real, fake)}
            losses["generator"] = self._deceit(self._discriminator(fake, training=True))
            loss = losses["generator"]
            if self._classifier is not None:
                logits = self._classifier((fake + 1) * 127.5, training=True)
                entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                losses["classifier"] = tf.reduce_mean(entropy)
                loss += losses["classifier"]
            if settings.total_variation:
                loss += settings.total_variation * _variation(fake)
        gradients = tape.gradient(loss, self._painters)
        self._optimizers[0].apply(gradients, self._painters)
        return losses

    def _discriminator_step(self, real: Any, fake: Any) -> Any:
        import tensorflow as tf

        trained = self._discriminator.trainable_variables
        with tf.GradientTape() as tape:
            scores = self._discriminator(tf.concat([real, fake], 0), training=True)
            of_real, of_fake = tf.split(scores, 2)
            if self._settings.form == "sia":
                loss = tf.reduce_mean(tf.nn.relu(1 - of_real))
                loss += tf.reduce_mean(tf.nn.relu(1 + of_fake))
            else:
                loss = tf.reduce_mean(tf.nn.softplus(-of_real) + tf.nn.softplus(of_fake))
        self._optimizers[1].apply(tape.gradient(loss, trained), trained)
        return loss

    def _deceit(self, scores: Any) -> Any:
        """The generator's loss: small for fakes that score as natural images do."""
        import tensorflow as tf

        if self._settings.form == "sia":
            return -tf.reduce_mean(scores)
        return tf.reduce_mean(tf.nn.softplus(-scores))


def _generator(image_shape: tuple[int, int, int], settings: GanSettings) -> Any:
    from keras_dpvit.attacks import trained_networks

    about: dict[str, Any] = {
        "adaptation": settings.adaptation,
        "block_size": settings.block_size,
    }
    if settings.form == "sia":
        width, residual_blocks = settings.generator_widths
        return trained_networks.sia_generator(image_shape, width, residual_blocks, **about)
    return trained_networks.block_stack(
        image_shape, settings.generator_widths, activation="tanh", **about
    )


def _discriminator(image_shape: tuple[int, int, int], settings: GanSettings) -> Any:
    from keras_dpvit.attacks import trained_networks

    if settings.form == "sia":
        return trained_networks.sia_discriminator(image_shape, settings.discriminator_widths)
    first, second = settings.discriminator_widths
    return trained_networks.dcgan_discriminator(image_shape, (first, second))


def _classifier(
    image_shape: tuple[int, int, int], settings: GanSettings, num_classes: int
) -> Any | None:
    from keras_dpvit.attacks import trained_networks
    from keras_dpvit.models.networks import shake_pyramid_net

    if settings.form == "dcgan":
        return None
    if settings.classifier == "small":
        return trained_networks.small_classifier(num_classes, image_shape)
    return shake_pyramid_net(num_classes, image_shape, seed=settings.seed)


def _variation(images: Any) -> Any:
    """Mean absolute difference between neighbours down and across."""
    import tensorflow as tf

    down = tf.reduce_mean(tf.abs(images[:, 1:] - images[:, :-1]))
    return down + tf.reduce_mean(tf.abs(images[:, :, 1:] - images[:, :, :-1]))
