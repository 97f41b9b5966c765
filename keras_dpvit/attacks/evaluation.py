"""Attacks on victims with fresh keys, and how well they did."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.attacks import (
    chosen_plaintext,
    correlation_jigsaw,
    etc_jigsaw,
    feature_reconstruction,
    known_plaintext,
    weight_matching,
)
from keras_dpvit.attacks.ssim import WINDOWS, ssim
from keras_dpvit.encryption import (
    SCHEMES,
    EncryptionThenCompression,
    ImageCipher,
    SecretKey,
    ViTBlockCipher,
    make_cipher,
)
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.keys import SECRET_BYTES
from keras_dpvit.encryption.schemes import full_options
from keras_dpvit.errors import InputError

# Every attack, and what the adversary has.
ATTACKERS = {
    "fr": "ciphertext only",
    "fr_advanced": "ciphertext only",
    "correlation_jigsaw": "ciphertext only",
    "etc_jigsaw": "ciphertext only",
    "known_plaintext": "known plaintext",
    "chosen_plaintext": "chosen plaintext",
    "weight_matching": "model holder",
}
_VIT_ONLY = ("correlation_jigsaw", "weight_matching")
_RECONSTRUCTIONS = {
    "fr": feature_reconstruction.reconstruct,
    "fr_advanced": feature_reconstruction.reconstruct_advanced,
}

# Above this median SSIM, or with most keys exact, an attack counts as having broken the scheme.
BROKEN_SSIM = 0.5

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """The attack, the scheme and the images of an evaluation.

    Attributes:
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        attack: a name of `ATTACKERS`.
        image_shape: (height, width, channels).
        options: of the scheme.
        public_weights: for "weight_matching", the patch kernel and the position table that
            everybody has.
        drift: float, for "weight_matching": standard deviation of Gaussian noise on the model's
            weights over that of the weights, in the place of fine-tuning.
    """

    scheme: str
    attack: str
    image_shape: Shape
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    public_weights: tuple[np.ndarray, np.ndarray] | None = None
    drift: float = 0.0

    def __post_init__(self) -> None:
        one_of(SCHEMES, scheme=self.scheme)
        one_of(ATTACKERS, attack=self.attack)
        if self.attack in _VIT_ONLY and self.scheme != ViTBlockCipher.scheme:
            raise InputError(f"attack {self.attack!r} is on the ViT cipher, not {self.scheme!r}.")
        if self.attack == "etc_jigsaw" and self.scheme != EncryptionThenCompression.scheme:
            raise InputError(f"attack 'etc_jigsaw' is on 'etc', not {self.scheme!r}.")
        options = full_options(self.scheme, self.options, self.image_shape[2])
        usual = {"channels": "joint", "unit": "quadrant"}
        if self.attack in _VIT_ONLY and {**options, **usual} != options:
            raise InputError(
                f"attack {self.attack!r} takes channels='joint' and unit='quadrant' only."
            )
        colour_only = (*_RECONSTRUCTIONS, "etc_jigsaw")
        if self.attack in colour_only and options.get("mode") == "grayscale":
            raise InputError(
                f"attack {self.attack!r} does not take mode='grayscale', whose ciphertexts have "
                "another shape than the images."
            )
        if self.attack == "weight_matching" and self.public_weights is None:
            raise InputError("public_weights must be given for attack 'weight_matching'.")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One key.

    Attributes:
        plain: uint8 images; none that the adversary had in plain if there are others.
        encrypted: their ciphertexts.
        recovered: what the attack makes of them.
        scores: SSIM of `recovered` and of the untouched ciphertexts, share of the key that was
            recovered and whether it is exact, seconds.
        fresh: whether the adversary had not seen these images at all, plain or encrypted.
    """

    plain: np.ndarray
    encrypted: np.ndarray
    recovered: np.ndarray
    scores: dict[str, float]
    fresh: bool = False


def run(setting: Setting, draw: Draw, keys: int, seed: int) -> Iterator[Trial]:
    """One trial after another, each with its own key.

    Args:
        setting: which attack on what.
        draw: gives the images that the adversary sees (encrypted, or as pairs) and others, which
            it does not; the others may be empty.
        keys: int, how many.
        seed: of keys and images.
    """
    positive_int(keys=keys)
    for i in range(keys):
        generator = np.random.default_rng([seed, i])
        key = SecretKey(generator.bytes(SECRET_BYTES))
        cipher = make_cipher(setting.scheme, key, setting.image_shape, **setting.options)
        yield _trial(setting, cipher, *draw(generator), generator)


def summarize(setting: Setting, trials: list[Trial]) -> dict[str, Any]:
    """The summary of all trials: means, medians and percentiles, rates, and a verdict."""
    summary: dict[str, Any] = {
        "scheme": setting.scheme,
        "attack": setting.attack,
        "attacker": ATTACKERS[setting.attack],
        "image_shape": list(setting.image_shape),
        "options": setting.options,
        "keys": len(trials),
        "images_scored_per_key": len(trials[0].plain),
        "scored_on": "other images" if trials[0].fresh else "the images that were seen",
    }
    for name in trials[0].scores:
        values = np.array([trial.scores[name] for trial in trials])
        if name in ("exact", "seconds", "images_used"):
            summary[name if name != "exact" else "exact_keys"] = float(np.mean(values))
            continue
        summary[name] = {
            "mean": float(np.mean(values)),
            "median": float(np.median(values)),
            "percentile_95": float(np.percentile(values, 95)),
        }
    exact = summary.get("exact_keys", 0.0)
    summary["broken"] = bool(exact > 0.5 or summary["ssim_uniform7"]["median"] > BROKEN_SSIM)
    return summary


def _trial(
    setting: Setting,
    cipher: ImageCipher,
    observed: np.ndarray,
    others: np.ndarray,
    generator: np.random.Generator,
) -> Trial:
    started = time.perf_counter()
    encrypted = cipher.encrypt(observed)
    if setting.attack in _RECONSTRUCTIONS:
        recovered = _RECONSTRUCTIONS[setting.attack](encrypted)
        seconds = time.perf_counter() - started
        scores = {"images_used": 1.0, "seconds": seconds}
        return Trial(observed, encrypted, recovered, _ssims(observed, encrypted, recovered, scores))
    found, used = _recover_key(setting, cipher, observed, encrypted, generator)
    scores = {"images_used": float(used), "seconds": time.perf_counter() - started}
    scores |= _key_scores(cipher, found, setting.image_shape)
    # Pictures that the adversary knew already would prove nothing.
    fresh = ATTACKERS[setting.attack] != "ciphertext only" and len(others) > 0
    plain = others if fresh else observed
    encrypted = cipher.encrypt(plain)
    recovered = found.decrypt(encrypted)
    scores = _ssims(plain, encrypted, recovered, scores)
    return Trial(plain, encrypted, recovered, scores, fresh)


def _recover_key(
    setting: Setting,
    cipher: ImageCipher,
    observed: np.ndarray,
    encrypted: np.ndarray,
    generator: np.random.Generator,
) -> tuple[ImageCipher, int]:
    """The cipher that the attack believes in, and how many images it took."""
    if setting.attack == "correlation_jigsaw":
        seed = int(generator.integers(2**31))
        size = cipher.params()["block_size"]
        return correlation_jigsaw.recover(encrypted, size, seed), len(encrypted)
    if setting.attack == "etc_jigsaw":
        found = etc_jigsaw.recover(encrypted, cipher.params()["block_size"])
        # Which of the views is the right one is seen by whoever looks at them.
        views = etc_jigsaw.views(found, setting.image_shape)
        away = [np.abs(v.decrypt(encrypted).astype(int) - observed).mean() for v in views]
        return views[int(np.argmin(away))], len(encrypted)
    if setting.attack == "known_plaintext":
        found = known_plaintext.recover(setting.scheme, observed, encrypted, cipher.params())
        return found, len(encrypted)
    if setting.attack == "weight_matching":
        return _match_weights(setting, cipher, generator), 0
    used = 0

    def encrypt(images: np.ndarray) -> np.ndarray:
        nonlocal used
        used += len(images)
        return cipher.encrypt(images)

    found = chosen_plaintext.recover(setting.scheme, encrypt, setting.image_shape, cipher.params())
    return found, used


def _match_weights(setting: Setting, cipher: Any, generator: np.random.Generator) -> ImageCipher:
    """Moves the public weights by the victim's key, lets them drift, and matches them."""
    assert setting.public_weights is not None
    kernel, positions = (np.asarray(w, np.float64) for w in setting.public_weights)
    half, depth = kernel.shape[0] // 2, kernel.shape[2:]
    cut = kernel.reshape(2, half, 2, half, *depth).transpose(0, 2, 1, 3, 4, 5)
    cut = cut.reshape(4, half * half, *depth)[:, cipher.pixel_permutation]
    cut = cut.reshape(2, 2, half, half, *depth).transpose(0, 2, 1, 3, 4, 5)
    tokens = len(positions) - len(cipher.block_permutation)
    moved = np.concatenate([positions[:tokens], positions[tokens:][cipher.block_permutation]])
    drifted = [
        w + setting.drift * w.std() * generator.standard_normal(w.shape)
        for w in (cut.reshape(kernel.shape), moved)
    ]
    return weight_matching.recover(kernel, positions, drifted[0], drifted[1], tokens)


def _key_scores(cipher: Any, found: Any, image_shape: Shape) -> dict[str, float]:
    """Shares of the key that were recovered; ties between equal images count as errors."""
    if isinstance(cipher, ViTBlockCipher):
        blocks = found.block_permutation == cipher.block_permutation
        pixels = found.pixel_permutation == cipher.pixel_permutation
        across = image_shape[1] // cipher.block_size
        return {
            "blocks_right": float(np.mean(blocks)),
            "neighbours_right": _neighbours(cipher, found, across),
            "pixels_right": float(np.mean(pixels)),
            "exact": float(blocks.all() and pixels.all()),
        }
    maps = [chosen_plaintext.map_of(c, image_shape) for c in (cipher, found)]
    share = maps[0].agreement(maps[1])
    return {"map_right": share, "exact": float(share == 1)}


def _neighbours(cipher: ViTBlockCipher, found: ViTBlockCipher, across: int) -> float:
    """Share of the pairs side by side in the plain image that are so in the recovered one."""
    # The place of each plain block once the attack has decrypted.
    placed = np.empty(len(cipher.block_permutation), np.int64)
    placed[cipher.block_permutation] = found.block_permutation
    grid = placed.reshape(-1, across)
    left, right = grid[:, :-1], grid[:, 1:]
    return float(np.mean((right == left + 1) & (right % across > 0))) if across > 1 else 1.0


def _ssims(
    plain: np.ndarray, encrypted: np.ndarray, recovered: np.ndarray, scores: dict[str, float]
) -> dict[str, float]:
    for window in WINDOWS:
        if min(plain.shape[1:3]) < WINDOWS[window]:
            raise InputError(
                f"image_shape must be at least {WINDOWS[window]}x{WINDOWS[window]} to be scored, "
                f"got {plain.shape[1]}x{plain.shape[2]}."
            )
        scores[f"ssim_{window}"] = float(np.mean(ssim(plain, recovered, window)))
        if encrypted.shape == plain.shape:
            ciphertexts = ssim(plain, encrypted, window)
            scores[f"ssim_{window}_ciphertext"] = float(np.mean(ciphertexts))
    return scores
