"""Image translation attack (ITN): a network that learns from pairs to turn ciphertexts back.

The adversary knows the algorithm. In the ciphertext-only form it encrypts its own images, each
under a separate random key, and hopes that what it learns carries over to the victim's key. In
the paired form it has images both plain and encrypted under the victim's key. Source: Ito,
Kinoshita, Kiya, GCCE 2020; here with a sigmoid output against targets in [0, 1] in training and
use alike, and with pairs that are made together, which the public code has not.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_dpvit._validate import non_negative, one_of, open_unit_interval, positive, positive_int
from keras_dpvit.attacks import trained_steps
from keras_dpvit.attacks.trained_steps import EpochStore, OnEpoch, Trained
from keras_dpvit.encryption import SecretKey, make_cipher
from keras_dpvit.encryption.cipher import shape_of
from keras_dpvit.encryption.keys import SECRET_BYTES
from keras_dpvit.errors import InputError

NETWORKS = ("unet", "stack")
OPTIMIZERS = ("sgd", "adam")


@dataclasses.dataclass(frozen=True)
class TranslationSettings:
    """Settings of network and training; the defaults are the published ones of the U-Net.

    Attributes:
        network: "unet" or "stack" (`learned_networks.block_stack`).
        widths: of the network; the stack's published ones are (48, 48, 512), and (64, 128, 256)
            for `PixelEncryption`.
        adaptation: one of `learned_networks.ADAPTATIONS`.
        block_size: int, of the encryption; 1 for `PixelEncryption`.
        epochs: int; 200, for the stack 50.
        batch_size: int.
        optimizer: "sgd" with momentum 0.9, or "adam".
        learning_rate: float; 0.1, for the stack 0.01.
        drops: epochs after which the learning rate is divided by 5.
        weight_decay: float, L2 factor on the kernels.
        mirrored: bool, whether pairs are made of mirrored images too; not where they are given.
        validation_share: float, share of the pairs that choose the epoch and are not trained on.
        seed: int, of weights and batches.
    """

    network: str = "unet"
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    adaptation: str = "none"
    block_size: int = 4
    epochs: int = 200
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    drops: tuple[int, ...] = (60, 120, 160)
    weight_decay: float = 5e-4
    mirrored: bool = True
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(NETWORKS, network=self.network)
        one_of(OPTIMIZERS, optimizer=self.optimizer)
        positive_int(epochs=self.epochs)
        positive_int(batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)
        non_negative(weight_decay=self.weight_decay)
        open_unit_interval(validation_share=self.validation_share)


STACK = TranslationSettings(
    network="stack",
    widths=(48, 48, 512),
    adaptation="shared",
    epochs=50,
    learning_rate=0.01,
    drops=(),
    mirrored=False,
)


def random_key_pairs(
    images: np.ndarray,
    scheme: str,
    options: dict[str, Any],
    generator: np.random.Generator,
    mirrored: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that the adversary makes of its own images, each under a fresh random key.

    Args:
        images: uint8 `(n, height, width, channels)`.
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        options: of the scheme.
        generator: of the keys.
        mirrored: bool, whether each image comes left to right too, under a separate key.

    Returns:
        (ciphertexts, plain images), uint8, row by row.
    """
    plain = trained_steps.check_images("images", images)
    if mirrored:
        plain = np.concatenate([plain, plain[:, :, ::-1]])
    encrypted = np.empty_like(plain)
    for row, image in enumerate(plain):
        key = SecretKey(generator.bytes(SECRET_BYTES))
        encrypted[row] = make_cipher(scheme, key, shape_of(plain), **options).encrypt(image)
    return encrypted, plain


def train(
    encrypted: np.ndarray,
    plain: np.ndarray,
    settings: TranslationSettings,
    store: EpochStore | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Trains the network by the mean squared error; seeds Keras's global generators.

    Args:
        encrypted: uint8 ciphertexts of `plain`, row by row: under random keys
            (`random_key_pairs`), or known plain images under the victim's key.
        plain: uint8 images that the adversary has.
        settings: of network and training.
        store: where the state is kept after each epoch, and found again.
        on_epoch: called after each epoch that was trained now.

    Returns:
        The network with the weights of the epoch that was best on the validation pairs.

    Raises:
        InputError: if the pairs do not fit each other or the settings.
    """
    encrypted = trained_steps.check_images("encrypted", encrypted)
    plain = trained_steps.check_images("plain", plain)
    if encrypted.shape != plain.shape or len(plain) < 2:
        raise InputError(
            "encrypted and plain must be two or more pairs of one shape, got "
            f"{encrypted.shape} and {plain.shape}."
        )
    model = _compiled(shape_of(plain), settings)
    order = np.random.default_rng(settings.seed).permutation(len(plain))
    cut = max(1, round(settings.validation_share * len(plain)))
    held, used = order[:cut], order[cut:]
    variables = [*model.variables, *model.optimizer.variables]
    best = trained_steps.values_of(model.variables)
    history: list[dict[str, float]] = []
    best_epoch, training = 0, trained_steps.fingerprint(settings, encrypted, plain)
    found = store.load(training) if store else None
    if found is not None:
        arrays, meta = found
        trained_steps.assign(variables, arrays[: len(variables)])
        best, history, best_epoch = arrays[len(variables) :], meta["history"], meta["best_epoch"]
    for epoch in range(len(history), settings.epochs):
        drops = sum(epoch >= drop for drop in settings.drops)
        model.optimizer.learning_rate.assign(settings.learning_rate / 5**drops)
        loss = _one_epoch(model, encrypted[used], plain[used], settings, epoch)
        error = _error(model, encrypted[held], plain[held])
        if not best_epoch or error < history[best_epoch - 1]["validation_error"]:
            best, best_epoch = trained_steps.values_of(model.variables), epoch + 1
        history.append({"loss": loss, "validation_error": error})
        if store:
            meta = {"training": training, "history": history, "best_epoch": best_epoch}
            store.save([*trained_steps.values_of(variables), *best], meta)
        if on_epoch:
            on_epoch(epoch + 1, history[-1])
    trained_steps.assign(model.variables, best)
    return Trained(model, history, best_epoch, lowest=0.0)


def _compiled(image_shape: tuple[int, int, int], settings: TranslationSettings) -> Any:
    import keras

    from keras_dpvit.attacks import trained_networks

    keras.utils.set_random_seed(settings.seed)
    make = trained_networks.unet if settings.network == "unet" else trained_networks.block_stack
    model = make(
        image_shape,
        settings.widths,
        adaptation=settings.adaptation,
        block_size=settings.block_size,
        weight_decay=settings.weight_decay,
    )
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(settings.learning_rate, momentum=0.9)
    else:
        optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, keras.losses.MeanSquaredError(), jit_compile=False)
    optimizer.build(model.trainable_variables)
    return model


def _one_epoch(
    model: Any,
    encrypted: np.ndarray,
    plain: np.ndarray,
    settings: TranslationSettings,
    epoch: int,
) -> float:
    """Trains on all pairs once.

    Returns:
        The mean loss.
    """
    model.reset_metrics()
    loss = 0.0
    for rows in trained_steps.shuffled_batches(
        len(plain), settings.batch_size, settings.seed, epoch
    ):
        targets = plain[rows].astype(np.float32) / 255
        loss = model.train_on_batch(encrypted[rows].astype(np.float32), targets)
    return float(loss)


def _error(model: Any, encrypted: np.ndarray, plain: np.ndarray) -> float:
    """Mean squared error of images in [0, 1], as the network is used."""
    recovered = Trained(model, [], 0, lowest=0.0).recover(encrypted).astype(np.float64)
    return float(np.mean((recovered - plain) ** 2) / 255**2)
