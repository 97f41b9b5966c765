"""Results of a private GAN: its image set, a classifier trained on it, samples, near neighbours."""

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_dpvit import _validate
from keras_dpvit._types import Array
from keras_dpvit.baselines import ppgan
from keras_dpvit.baselines.ppgan_networks import feature_preset
from keras_dpvit.datasets import ArrayRecords, to_array_record
from keras_dpvit.errors import InputError
from keras_dpvit.models.classifier import DPViTClassifier
from keras_dpvit.models.linear_head import linear_head
from keras_dpvit.training.frozen_features import frozen_features
from keras_dpvit.training.private_wrapper import make_private

_EPOCHS, _BATCH, _RATE = 10, 256, 5e-3
_PER_CLASS = 10
# Of the held-out images' distances: nearer than this share of them counts as near.
_NEAR = 0.01


def balanced_labels(number: int, num_classes: int) -> Array:
    """int64 `(number,)`, class numbers in turn: no class of the real images is counted."""
    return np.arange(_validate.positive_int(number=number)) % num_classes


def write_images(gan: Any, number: int, directory: str | os.PathLike[str]) -> ArrayRecords:
    """Writes generated images, as many of each class, as records `(image, label)`.

    Args:
        gan: a `PPGAN`.
        number: int, images.
        directory: path of a new directory; `kd.datasets.ArrayRecords` reads it.

    Raises:
        InputError: if the directory exists or cannot be written.
    """
    labels = balanced_labels(number, gan.num_classes)

    def records() -> Iterator[tuple[Array, Array]]:
        yield gan.sample(labels), labels

    return to_array_record(records(), directory, batched=True)


def trained_classifier(records: ArrayRecords, gan: Any) -> Any:
    """A DP-ViT trained by plain Keras on generated images, at no further cost.

    Backbone and whitening were learned from made-up images, and its head learns by Adam.

    Args:
        records: from `write_images`.
        gan: the `PPGAN` that made them; its ledger becomes the classifier's.

    Returns:
        a `DPViTClassifier`.
    """
    images, labels = map(np.stack, zip(*(records[i] for i in range(len(records))), strict=True))
    model = DPViTClassifier.from_preset(
        feature_preset(gan.image_shape),
        gan.num_classes,
        weights="synthetic",
        image_shape=gan.image_shape,
    )
    model.start_from(gan.ledger, (ppgan.NOTE,))
    head = make_private(linear_head(model).head_model, trainable="head")
    head.start_from(model.privacy_ledger, model.privacy_notes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(_RATE), loss)
    features = frozen_features(model, images)
    head.fit(features, labels, batch_size=_BATCH, epochs=_EPOCHS, verbose=0, public_data=True)
    return model


def samples_picture(gan: Any, class_names: Sequence[str], seed: int | None = None) -> bytes:
    """A PNG with ten generated images of each class, a class in a row.

    Args:
        gan: a `PPGAN`.
        class_names: in the order of the class numbers.
        seed: see `PPGAN.sample`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, (height, width, channels) = gan.num_classes, gan.image_shape
    images = gan.sample(np.repeat(np.arange(rows), _PER_CLASS), seed)
    grid = images.reshape(rows, _PER_CLASS, height, width, channels).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, _PER_CLASS * width, channels)
    figure = Figure(figsize=(5.2, 0.42 * rows + 0.1), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(grid[..., 0] if channels == 1 else grid, cmap="gray", vmin=0, vmax=255)
    axes.set_yticks([(i + 0.5) * height for i in range(rows)], class_names, fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()


@dataclasses.dataclass(frozen=True)
class NeighbourCheck:
    """Distances from images to their nearest training image, of pixels in 0..1.

    It is computed from the training images without noise: it is for their holder, not to publish.

    Attributes:
        generated: float64 `(n,)`, of generated images, sorted.
        held_out: float64 `(m,)`, of real images that were not trained on, sorted.
    """

    generated: Array
    held_out: Array

    @property
    def copies(self) -> int:
        """Generated images that equal a training image in every pixel."""
        return int((self.generated == 0).sum())

    @property
    def near(self) -> float:
        """The share of generated images nearer than all but 1 % of the held-out ones.

        About 0.01 where generated images are no nearer to training images than real ones are.
        """
        return float((self.generated < np.quantile(self.held_out, _NEAR)).mean())

    def summary(self) -> dict[str, Any]:
        """JSON-able: copies, near, and quantiles of both."""
        shares = {"least": 0.0, "1 %": 0.01, "10 %": 0.1, "median": 0.5, "90 %": 0.9}
        found: dict[str, Any] = {"copies": self.copies, "near": self.near}
        for name in ("generated", "held_out"):
            distances = getattr(self, name)
            found[name] = {k: round(float(np.quantile(distances, s)), 3) for k, s in shares.items()}
        return found


def neighbour_check(generated: Array, held_out: Array, training: Array) -> NeighbourCheck:
    """Looks for generated images that lie too near to a training image.

    Args:
        generated: `(n, height, width, channels)`, pixels 0..255.
        held_out: `(m, ...)`, real images that were not trained on.
        training: `(records, ...)`.

    Raises:
        InputError: if one holds no image, or their shapes differ.
    """
    shapes = {np.shape(images)[1:] for images in (generated, held_out, training)}
    if len(shapes) != 1 or not all(map(len, (generated, held_out, training))):
        raise InputError("generated, held_out and training must be images of one shape.")
    return NeighbourCheck(
        np.sort(_nearest(generated, training)), np.sort(_nearest(held_out, training))
    )


def _nearest(images: Array, training: Array, chunk: int = 5000) -> Array:
    """The L2 distance from each image to the nearest of others, float64 `(n,)`."""
    # Whole numbers in float64: a copy is at distance 0 exactly.
    rows = np.reshape(images, (len(images), -1)).astype("float64")
    lengths, least = np.square(rows).sum(axis=1), np.full(len(rows), np.inf)
    for start in range(0, len(training), chunk):
        others = training[start : start + chunk].reshape(-1, rows.shape[1]).astype("float64")
        squares = lengths[:, None] - 2 * rows @ others.T + np.square(others).sum(axis=1)
        least = np.minimum(least, squares.min(axis=1))
    distances: Array = np.sqrt(least) / 255.0
    return distances


def accuracy(model: Any, images: Array, labels: Array) -> float:
    """The share of images whose best class is right."""
    logits = model.predict(images, batch_size=500, verbose=0)
    return float((logits.argmax(axis=1) == labels).mean())
