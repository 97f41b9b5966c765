"""Learned attacks on one victim, and how well they did.

Three sets of images with no image in common: the adversary's own, the victim's, of which the
adversary gets ciphertexts (and labels) only, and test images under the victim's key, on which all
is scored. `_train` decides what reaches which attack; no plain image of the victim's does.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.attacks import feature_reconstruction, generative, image_translation, trained_steps
from keras_dpvit.attacks.evaluation import BROKEN_SSIM
from keras_dpvit.attacks.generative import GanSettings
from keras_dpvit.attacks.image_translation import TranslationSettings
from keras_dpvit.attacks.ssim import WINDOWS, ssim
from keras_dpvit.attacks.trained_settings import ATTACKERS, Settings
from keras_dpvit.attacks.trained_steps import EpochStore, OnEpoch, Trained
from keras_dpvit.encryption import ImageCipher, SecretKey, make_cipher
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.cipher import shape_of
from keras_dpvit.encryption.keys import SECRET_BYTES
from keras_dpvit.errors import InputError

# The same measures for attacks that learn nothing.
UNTRAINED = {
    "fr": feature_reconstruction.reconstruct,
    "fr_advanced": feature_reconstruction.reconstruct_advanced,
}
_JUDGE_EPOCHS = 5
_JUDGE_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Parts:
    """Images that have none in common, all uint8 `(n, height, width, channels)`, and labels."""

    own: np.ndarray
    own_labels: np.ndarray
    victim: np.ndarray
    victim_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of an attack.

    Attributes:
        plain: the test images.
        encrypted: their ciphertexts.
        recovered: what the attack makes of them.
        summary: scores and facts, JSON-able.
    """

    plain: np.ndarray
    encrypted: np.ndarray
    recovered: np.ndarray
    summary: dict[str, Any]


def _cipher_of_one_key(scheme: str, options: dict[str, Any], shape: Shape, seed: int) -> Any:
    generator = np.random.default_rng([seed, 0])
    cipher = make_cipher(scheme, SecretKey(generator.bytes(SECRET_BYTES)), shape, **options)
    if cipher.encrypted_shape(shape) != shape:
        raise InputError(
            f"scheme {scheme!r} with these options changes the images' shape, which learned "
            "attacks and their scores do not take."
        )
    return cipher


def attack_test_images(
    attack: str,
    scheme: str,
    options: dict[str, Any],
    parts: Parts,
    judge: Callable[[np.ndarray, np.ndarray], float],
    settings: Settings | None = None,
    seed: int = 0,
    checkpoint_dir: str | pathlib.Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Outcome:
    """Attacks one key, which is made for it and thrown away, and scores what comes of it.

    Args:
        attack: a name of `ATTACKERS` or `UNTRAINED`.
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        options: of the scheme.
        parts: the images.
        judge: gives the accuracy of a classifier of plain images on images with labels.
        settings: of the attack (`settings_for`); None for those that learn nothing.
        seed: of the keys.
        checkpoint_dir: where a training is kept after each epoch, and resumes.
        on_epoch: called after each epoch.

    Raises:
        InputError: if scheme, options and images do not go together.
    """
    one_of((*ATTACKERS, *UNTRAINED), attack=attack)
    shape = shape_of(parts.test)
    cipher = _cipher_of_one_key(scheme, options, shape, seed)
    started = time.process_time()
    encrypted = cipher.encrypt(parts.test)
    trained = None
    if attack in UNTRAINED:
        recovered = UNTRAINED[attack](encrypted)
    else:
        store = None if checkpoint_dir is None else EpochStore(checkpoint_dir)
        trained = _train(attack, cipher, parts, settings, seed, store, on_epoch)
        recovered = trained.recover(encrypted)
    judged = {"recovered": recovered, "plain": parts.test, "ciphertext": encrypted}
    summary: dict[str, Any] = {
        "scheme": scheme,
        "attack": attack,
        "attacker": ATTACKERS.get(attack, "ciphertext only"),
        "image_shape": list(shape),
        "options": options,
        "keys": 1,
        "images_scored_per_key": len(parts.test),
        "scored_on": "other images" if trained else "the images that were seen",
        "images_used": _images_used(attack, parts),
        "seconds": time.process_time() - started,
        **score(parts, encrypted, recovered),
        "accuracy": {name: judge(images, parts.test_labels) for name, images in judged.items()},
    }
    if trained and settings:
        summary["settings"] = dataclasses.asdict(settings)
        summary["best_epoch"] = trained.best_epoch
        summary["history"] = trained.history
    return Outcome(parts.test, encrypted, recovered, summary)


def _images_used(attack: str, parts: Parts) -> int:
    """Ciphertexts or pairs under the victim's key that the adversary had before."""
    if attack in ("sia_gan", "dcgan"):
        return len(parts.victim)
    return {"itn": 0, "itn_paired": len(parts.own)}.get(attack, 1)


def _train(
    attack: str,
    cipher: ImageCipher,
    parts: Parts,
    settings: Settings | None,
    seed: int,
    store: EpochStore | None,
    on_epoch: OnEpoch | None,
) -> Trained:
    """Gives each attack what its adversary has, and no more."""
    if isinstance(settings, TranslationSettings) and attack == "itn":
        keys = np.random.default_rng([seed, 1])
        pairs = image_translation.random_key_pairs(
            parts.own, cipher.scheme, cipher.params(), keys, settings.mirrored
        )
        return image_translation.train(*pairs, settings, store, on_epoch)
    if isinstance(settings, TranslationSettings) and attack == "itn_paired":
        seen = cipher.encrypt(parts.own)
        return image_translation.train(seen, parts.own, settings, store, on_epoch)
    if isinstance(settings, GanSettings) and attack in ("sia_gan", "dcgan"):
        labels = parts.victim_labels if settings.form == "sia" else None
        seen = cipher.encrypt(parts.victim)
        return generative.train(seen, labels, parts.own, settings, store, on_epoch)
    raise InputError(f"settings must be those of the attack {attack!r}.")


def score(parts: Parts, encrypted: np.ndarray, recovered: np.ndarray) -> dict[str, Any]:
    """SSIM of the test images with what was recovered, and with what costs no attack.

    Beside the ciphertexts these are: the mean of the adversary's own images, and what was
    recovered of another image. An attack that is not better than these two has recovered nothing
    of the image in hand, whatever its pictures look like.

    Args:
        parts: the images.
        encrypted: ciphertexts of the test images.
        recovered: what was made of them.

    Returns:
        For each window and each of these the mean, median and 95th percentile over the images, and
        whether the scheme counts as broken: the median of the 7x7 window is above `BROKEN_SSIM`,
        and above those of the mean image and of other images.
    """
    mean = np.rint(parts.own.mean(axis=0)).astype(np.uint8)
    others = {
        "": recovered,
        "_ciphertext": encrypted,
        "_mean_image": np.broadcast_to(mean, parts.test.shape),
        "_other_image": np.roll(recovered, 1, axis=0),
    }
    found: dict[str, Any] = {}
    for window in WINDOWS:
        for name, images in others.items():
            values = ssim(parts.test, images, window)
            found[f"ssim_{window}{name}"] = {
                "mean": float(np.mean(values)),
                "median": float(np.median(values)),
                "percentile_95": float(np.percentile(values, 95)),
            }
    bars = [found[f"ssim_uniform7{name}"]["median"] for name in ("_mean_image", "_other_image")]
    found["broken"] = bool(found["ssim_uniform7"]["median"] > max(BROKEN_SSIM, *bars))
    return found


def train_judge(
    images: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0
) -> Callable[[np.ndarray, np.ndarray], float]:
    """A classifier of plain images that tells how much of a class is left in pictures.

    It belongs to the measurement, not to an attack. Seeds Keras's global generators.

    Args:
        images: uint8 plain images.
        labels: int class numbers.
        num_classes: int.
        seed: int, of weights and batches.

    Returns:
        A function from uint8 images and labels to the accuracy.
    """
    import keras

    from keras_dpvit.attacks import trained_networks

    keras.utils.set_random_seed(seed)
    model = trained_networks.small_classifier(num_classes, shape_of(images))
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    for epoch in range(_JUDGE_EPOCHS):
        for rows in trained_steps.shuffled_batches(len(images), _JUDGE_BATCH, seed, epoch):
            model.train_on_batch(images[rows].astype(np.float32), labels[rows])

    def accuracy(pictures: np.ndarray, truth: np.ndarray) -> float:
        guesses = [
            np.argmax(model(pictures[i : i + 256].astype(np.float32), training=False), -1)
            for i in range(0, len(pictures), 256)
        ]
        return float(np.mean(np.concatenate(guesses) == truth))

    return accuracy


def make_parts(
    data: Any, image_shape: Shape, own: int, victim: int, test: int, seed: int = 0
) -> Parts:
    """Cuts a data set into the three sets, with images stretched to one shape.

    Args:
        data: a `keras_dpvit.datasets.ImageData`; own and victim's images come out of its training
            part, test images out of its test part.
        image_shape: (height, width, channels); gray images become three equal channels.
        own: int, how many images the adversary has.
        victim: int, how many of the victim's ciphertexts it sees.
        test: int, how many images are scored.
        seed: int, of the choice.

    Raises:
        InputError: if the data set has too few images.
    """
    for name, value in (("own", own), ("victim", victim), ("test", test)):
        positive_int(**{f"{name}_images": value})
    if own + victim > len(data.x_train) or test > len(data.x_test):
        raise InputError(
            f"own_images and victim_images must be at most {len(data.x_train)} together and "
            f"test_images {len(data.x_test)}, got {own}, {victim} and {test}."
        )
    generator = np.random.default_rng([seed, 2])
    order = generator.permutation(len(data.x_train))
    mine, theirs = order[:own], order[own : own + victim]
    tested = generator.permutation(len(data.x_test))[:test]
    return Parts(
        _stretched(data.x_train[mine], image_shape),
        data.y_train[mine],
        _stretched(data.x_train[theirs], image_shape),
        data.y_train[theirs],
        _stretched(data.x_test[tested], image_shape),
        data.y_test[tested],
    )


def _stretched(images: np.ndarray, image_shape: Shape) -> np.ndarray:
    """Bilinear, in the number of channels that is asked for."""
    import PIL.Image

    height, width, channels = image_shape
    mode = "L" if channels == 1 else "RGB"
    result = np.empty((len(images), *image_shape), np.uint8)
    for row, image in enumerate(images):
        picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture = picture.convert(mode).resize((width, height), PIL.Image.Resampling.BILINEAR)
        result[row] = np.asarray(picture).reshape(image_shape)
    return result
