"""Means of private vectors released with noise, and the features that they centre."""

import dataclasses
from typing import Any

import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance, synthetic_weights
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.ledger_entries import LedgerEntry, mean_entry
from keras_dpvit.training.frozen_features import whitened_inputs
from keras_dpvit.training.noise_addition import normals_for

_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class PrivateMean:
    """A mean with noise, and what it cost.

    Attributes:
        mean: float32 `(width,)`.
        entry: its `LedgerEntry`.
    """

    mean: Array
    entry: LedgerEntry


def private_mean(
    vectors: Any,
    noise_multiplier: float,
    num_examples: int,
    delta: float,
    l2_norm_clip: float = 1.0,
    seed: int | None = None,
) -> PrivateMean:
    """The mean of private vectors, with noise.

    Guarantee: each vector is scaled to a length of at most `l2_norm_clip` (NaN and infinite ones
    count as zero), so that a record added or removed moves their sum by no more; the sum gets
    Gaussian noise of `noise_multiplier * l2_norm_clip` in each coordinate and is divided by the
    public `num_examples`. It costs one Gaussian release, `entry`, which belongs into the ledger of
    whatever is computed from the mean.

    Args:
        vectors: float `(records, width)`, or an iterable of such batches; a row is one record.
        noise_multiplier: float above 0.
        num_examples: int, the public number of records.
        delta: float in (0, 1), for the entry.
        l2_norm_clip: float above 0.
        seed: None for the operating system's entropy; an int, for tests, makes the noise
            repeatable, and privacy then rests on its secrecy. A second mean of equal noise in one
            process is refused (see `randomness.repeatable`).

    Raises:
        InputError: if an argument is out of range, or there is no vector.

    Example:
        >>> rows = np.ones((1000, 3)) / 2
        >>> found = kd.private_mean(rows, 1.0, 1000, 1e-5, seed=0)
        >>> found.mean.round(1).tolist()
        [0.5, 0.5, 0.5]
    """
    _validate.positive(noise_multiplier=noise_multiplier)
    clip = _validate.clipping_norm(l2_norm_clip=l2_norm_clip)
    num_examples = _validate.positive_int(num_examples=num_examples)
    _validate.open_unit_interval(delta=delta)
    total: Any = None
    for batch in [vectors] if hasattr(vectors, "shape") else vectors:
        part = clipped_rows(np.asarray(batch), clip).sum(axis=0)
        total = part if total is None else total + part
    if total is None:
        raise InputError("vectors must hold at least one batch.")
    noise = noise_multiplier * clip * normals_for("mean", len(total), seed)
    entry = mean_entry(noise_multiplier, num_examples, delta, seed is not None)
    return PrivateMean(((total + noise) / num_examples).astype("float32"), entry)


def clipped_rows(vectors: Array, l2_norm_clip: float) -> Array:
    """Each row scaled to a length of at most the norm; rows that are not finite are zero.

    Raises:
        InputError: if it is not an array of rows.
    """
    if vectors.ndim != 2:
        raise InputError(f"vectors must be (records, width), got {vectors.shape}.")
    rows = vectors.astype("float64")
    rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)  # squares may overflow
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True) * largest
    factors: Array = np.minimum(1.0, l2_norm_clip / np.maximum(norms, 1e-300))
    return rows * factors


def center_features(
    model: Any,
    images: Any,
    noise_multiplier: float,
    num_examples: int,
    delta: float,
    seed: int | None = None,
) -> None:
    """Moves the middle of a whitened head's features to that of the private images, with noise.

    Each block's mean of unit vectors is released by `private_mean`; the model's ledger gets an
    entry for each. To be called before `compile`.

    Guarantee: `private_mean`'s, once for each block, composed.

    Args:
        model: a `DPViTClassifier` with `head="whitened"`.
        images: `(records, height, width, channels)`, pixels 0..255; a row is one record.
        noise_multiplier: float above 0; 20 costs a small part of an epsilon of 1.
        num_examples: int, the public number of records.
        delta: float in (0, 1), at which the statement is to be made.
        seed: as in `private_mean`.

    Raises:
        InputError: if the model has no such head, or an argument is out of range.

    Example:
        >>> backbone = kd.DPViTBackbone((8, 8, 1), hidden_dim=8, num_heads=2, stage_depths=(1,))
        >>> model = kd.DPViTClassifier(backbone, 2, head="whitened", whitening_rank=4)
        >>> kd.center_features(model, np.zeros((50, 8, 8, 1)), 20.0, 50, delta=1e-4)
        >>> len(model.privacy_ledger.all_entries())
        1
    """
    if not synthetic_weights.whitened_layers(model):
        raise InputError("model must have head='whitened' for its features to be centred.")
    center_blocks(
        model, whitened_inputs(model, images), noise_multiplier, num_examples, delta, seed
    )


def center_blocks(
    model: Any,
    blocks: list[Array],
    noise_multiplier: float,
    num_examples: int,
    delta: float,
    seed: int | None = None,
) -> None:
    """As `center_features`, from `whitened_inputs` of the images; the same guarantee."""
    _validate.positive(noise_multiplier=noise_multiplier)
    num_examples = _validate.positive_int(num_examples=num_examples)
    _validate.open_unit_interval(delta=delta)
    layers = synthetic_weights.whitened_layers(model)
    entries = [mean_entry(noise_multiplier, num_examples, delta, seed is not None) for _ in layers]
    # Before the values change: what changes without an entry counts as coming from elsewhere.
    model.start_from(PrivacyLedger(tuple(entries)))
    for layer, block in zip(layers, blocks, strict=True):
        total = np.zeros(block.shape[1])
        for start in range(0, len(block), _BATCH):
            total += unit_rows(block[start : start + _BATCH]).sum(axis=0)
        noise = noise_multiplier * normals_for(f"mean {layer.name}", len(total), seed)
        layer.mean.assign(((total + noise) / num_examples).astype("float32"))
    provenance.settle(model)


def unit_rows(vectors: Array) -> Array:
    """Each row over its length, in double precision; rows that are not finite are zero."""
    rows = vectors.astype("float64")
    rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
    # By the longest entry first, since squares may overflow or vanish; then no norm is below 1.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    rows = rows / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: Array = rows / np.maximum(norms, 1.0)
    return units
