"""Linear heads over frozen features, solved from a few noisy sums over all records."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.datasets.synthetic import synthetic_shapes
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.models.classifier import DPViTClassifier
from keras_dpvit.models.linear_head import LinearHead, linear_head
from keras_dpvit.models.private_model import PrivatelyTrainable
from keras_dpvit.privacy.head_plan import HeadPlan
from keras_dpvit.training.frozen_features import features_of, frozen_features
from keras_dpvit.training.head_rows import RowMap, Rows, is_wide, row_map
from keras_dpvit.training.noise_addition import normals_for
from keras_dpvit.training.private_wrapper import make_private
from keras_dpvit.training.sources import check_images

# Of made-up images, where public ones are needed: for directions, and for a length alone.
_FAMILIES, _FEW_FAMILIES, _PER_FAMILY = 800, 40, 5
_LEAST = 1e-12


def solve_head(
    model: Any,
    images: Any,
    labels: Any,
    plan: HeadPlan,
    public_images: Any = None,
    l2_norm_clip: float | None = None,
) -> Any:
    """Gives a classifier a private linear head without epochs.

    Features of all images are computed once, then the head's weights from a few noisy sums over
    them (see `HeadPlan`): seconds where `fit` takes minutes, and no rate to choose. What lies below
    the last layer stays as it is; what the head had learned before is replaced.

    Guarantee: the one of `HeadPlan`, for the head and all that the sums say. A record's row is its
    features over the public `l2_norm_clip`, projected on public directions where they are wide,
    with a small constant behind them for the bias, and cut to a length of at most 1; it is zero if
    a feature is not finite or the label is none of the classes. The covariance matrix is released
    as its upper triangle, off the diagonal times the root of 2, so that the record moves it by its
    row's squared length: at most 1, and exactly 1 for a row of length 1. A sum of residuals moves
    by the row's length times the residual's, cut to the plan's clip. So each record moves each sum
    by at most its sensitivity, whatever it holds, and no record touches another's row. What is
    computed from the sums is post-processing.

    Args:
        model: a `DPViTClassifier` that is not compiled with a private optimizer, or any functional
            or sequential Keras model that ends in a linear `Dense` layer (or one with a softmax),
            a KerasHub classifier too.
        images: `(records, height, width, channels)` as the model takes them; a row is one record.
        labels: `(records,)` class numbers.
        plan: a `HeadPlan`.
        public_images: images that need no protection, for the length of features and for the
            directions kept of features wider than 4,096. For a `DPViTClassifier` made-up ones by
            default.
        l2_norm_clip: float, the public length of features, or None: 1 for whitened heads, else the
            median length of the public images' features.

    Returns:
        The model with its head and its ledger: `model` itself if it is one of this package, else
        `make_private(model, "head")`, which shares its layers.

    Raises:
        InputError: if the model ends otherwise, or an argument does not fit it.

    Example:
        >>> backbone = kd.DPViTBackbone((8, 8, 1), hidden_dim=8, num_heads=2, stage_depths=(1,))
        >>> model = kd.DPViTClassifier(backbone, 10)
        >>> data = kd.datasets.load("digits")
        >>> plan = kd.HeadPlan.for_target(epsilon=3, delta=1e-4, num_examples=1400)
        >>> solved = kd.solve_head(model, data.x_train, data.y_train, plan)
        >>> round(solved.privacy_ledger.epsilon(1e-4, "pld"), 2)
        3.0
    """
    clip = None if l2_norm_clip is None else _validate.clipping_norm(l2_norm_clip=l2_norm_clip)
    linear_head(model)  # before a long trial of the model
    private = model if isinstance(model, PrivatelyTrainable) else make_private(model, "head")
    head = linear_head(private)
    x = _checked(head, images)
    public = _features_of_public(private, head, public_images)
    mapped = row_map(head, clip, public)
    rows = frozen_features(private, x, mapped.rows)
    put_head(private, rows, labels, plan, mapped)
    return private


def solve_on_blocks(model: Any, blocks: list[Array], labels: Any, plan: HeadPlan) -> RowMap:
    """As `solve_head`, for a whitened head and from `whitened_inputs` of the images."""
    head = linear_head(model)
    mapped = row_map(head, None, _features_of_public(model, head, None))
    put_head(model, features_of(model, blocks, mapped.rows), labels, plan, mapped)
    return mapped


def put_head(model: Any, rows: Array, labels: Any, plan: HeadPlan, mapped: RowMap) -> None:
    """Solves for the weights of a model's head on rows and puts them there, with their ledger."""
    dense = linear_head(model).dense
    source = Rows(rows, labels, int(dense.units))
    # Before the values change: what changes without an entry counts as coming from elsewhere.
    model.enter_release(plan.entry())
    kernel, bias = mapped.head_weights(solve(source, plan))
    dense.kernel.assign(kernel)
    if bias is not None:
        dense.bias.assign(bias)
    provenance.settle(model)


def solve(rows: Rows, plan: HeadPlan) -> Array:
    """Weights float64 `(n, classes)` by the plan's solver; the guarantee of `HeadPlan`.

    Eigenvalues of the noisy matrix are freed of noise's share by the rotation-invariant estimator
    for a matrix with additive Gaussian noise (Bun, Allez, Bouchaud and Potters 2016,
    arXiv:1502.06736), and the plan's ridge is added.
    """
    shrunk, vectors = _eigenvalues(noisy_covariance(rows, plan), plan.covariance_noise_multiplier)
    inverse = rows.num_classes / np.maximum(shrunk + plan.ridge(rows.width), _LEAST)
    weights = np.zeros((rows.width, rows.num_classes))
    for step in range(plan.num_steps):
        found = noisy_residuals(rows, weights, plan, step)
        weights += vectors @ (inverse[:, None] * (vectors.T @ found))
    return weights


def noisy_covariance(rows: Rows, plan: HeadPlan) -> Array:
    """The sum of `x x^T` over all rows with its noise, float64 `(n, n)`, symmetric."""
    width = rows.width
    total = np.zeros((width, width))
    for x, _ in rows:
        total += x.T @ x
    # Released: the diagonal, and what is above it times the root of 2, with equal noise each.
    noise = np.zeros((width, width))
    upper = np.triu_indices(width)
    noise[upper] = normals_for("head covariance", len(upper[0]), plan.seed) / np.sqrt(2)
    noise += noise.T  # makes the diagonal's deviation the root of 2, of which the next line ...
    noise[np.diag_indices(width)] /= np.sqrt(2)  # ... leaves 1
    total = total + plan.covariance_noise_multiplier * noise
    return (total + total.T) / 2


def noisy_residuals(rows: Rows, weights: Array, plan: HeadPlan, step: int) -> Array:
    """The sum of rows times clipped residuals with its noise, float64 `(n, classes)`.

    Args:
        rows: of all records.
        weights: `(n, classes)`, the head so far.
        plan: of the head.
        step: int, from 0.
    """
    clip = plan.l2_norm_clip(rows.num_classes)
    total = np.zeros(weights.shape)
    for x, classes in rows:
        total += x.T @ clipped_residuals(x, classes, weights, clip)
    noise = normals_for(f"head residuals {step}", total.size, plan.seed).reshape(total.shape)
    return total + plan.residual_noise_multiplier * clip * noise


def clipped_residuals(x: Array, classes: Array, weights: Array, clip: float) -> Array:
    """Residuals float32 `(chunk, classes)` of the softmax; a row times its residual is within clip.

    Weights that are not finite, from noise beyond all measure, give residuals of zero.
    """
    logits = x.astype("float64") @ weights
    powers: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    residuals: Array = classes - powers / powers.sum(axis=1, keepdims=True)
    residuals = np.where(np.isfinite(residuals).all(axis=1, keepdims=True), residuals, 0.0)
    norms = np.linalg.norm(residuals, axis=1) * np.linalg.norm(x.astype("float64"), axis=1)
    residuals *= np.minimum(1.0, clip / np.maximum(norms * (1 + 1e-6), _LEAST))[:, None]
    found: Array = residuals.astype("float32")
    return found


def _eigenvalues(matrix: Array, noise: float) -> tuple[Array, Array]:
    """Eigenvalues freed of their noise, none below 0, and the vectors as columns.

    Args:
        matrix: symmetric, with noise of deviation `noise` on the diagonal and `noise / sqrt(2)`
            beside it.
        noise: float.
    """
    values, vectors = np.linalg.eigh(matrix)
    if noise == 0:
        return np.maximum(values, 0.0), vectors
    variance = noise**2 / 2
    repelled = np.empty_like(values)
    for start in range(0, len(values), 512):  # not all pairs at once
        gaps = values[start : start + 512, None] - values
        with np.errstate(invalid="ignore"):
            repelled[start : start + 512] = np.nansum(gaps / (gaps**2 + variance), axis=1)
    return np.maximum(values - 2 * variance * repelled, 0.0), vectors


def _checked(head: LinearHead, images: Any, name: str = "images") -> Array:
    inputs = keras.tree.flatten(head.network.inputs)
    if len(inputs) != 1:
        raise InputError(f"model must have one input, {head.network.name} has {len(inputs)}.")
    found: Array = np.asarray(images)
    if not len(found.shape) or not len(found):
        raise InputError(f"{name} must hold at least one image.")
    check_images(found, tuple(inputs[0].shape[1:]))
    return found


def _features_of_public(
    model: Any, head: LinearHead, public_images: Any
) -> Callable[[], Array] | None:
    """Gives features of images that need no protection; None if there are no such images."""
    if public_images is not None:
        images = _checked(head, public_images, "public_images")
        return lambda: frozen_features(model, images)
    # Other models may take other pixels than 0..255.
    if not isinstance(model, DPViTClassifier) or model.input_shape[-1] not in (1, 3):
        return None
    return lambda: frozen_features(model, made_up_images(model))


def made_up_images(model: Any) -> Array:
    """Images without a record behind them for a classifier of pixels 0..255, as many as it needs.

    Args:
        model: of images with 1 or 3 channels.
    """
    height, width, channels = (int(side) for side in model.input_shape[1:])
    families = _FAMILIES if is_wide(linear_head(model)) else _FEW_FAMILIES
    return synthetic_shapes(families, _PER_FAMILY, (height, width, channels), seed=1).images
