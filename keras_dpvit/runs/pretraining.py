"""Learning a preset's backbone and the constants of its head from made-up images."""

import dataclasses
import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_dpvit import _files
from keras_dpvit._types import Array
from keras_dpvit.datasets.synthetic import TEXTURES, synthetic_shapes
from keras_dpvit.layers.whitening import quantized_directions
from keras_dpvit.models import synthetic_weights
from keras_dpvit.models.classifier import DPViTClassifier

_BATCH = 256
_TEXTURE_WEIGHT = 0.3
_SMOOTHING = 0.05
_WARMUP_STEPS = 200
_HELD_OUT = 5  # further instances of each family, to see how well they are told apart
_MEASURED = 15  # instances of each family that the head's constants are computed from


@dataclasses.dataclass(frozen=True)
class PretrainingSettings:
    """Settings of a training on made-up images.

    Attributes:
        preset: str, a preset with a whitened head.
        num_families: int, kinds of shapes to tell apart.
        per_family: int, images of each.
        epochs: int.
        learning_rate: float, of AdamW, after a warm-up and before a cosine.
        seed: int, of the images and of the weights.
    """

    preset: str = "dpvit_scatter_28"
    num_families: int = 800
    per_family: int = 100
    epochs: int = 14
    learning_rate: float = 2e-3
    seed: int = 0


def pretrain(
    settings: PretrainingSettings,
    output: str | os.PathLike[str],
    checkpoint_dir: str | os.PathLike[str] | None = None,
    verbose: Any = "auto",
) -> float:
    """Trains a preset's backbone to tell families of shapes apart and writes its weights.

    The backbone learns which family an image shows and, beside it, which texture. Then each block
    of a whitened head gets the mean of its unit vectors and the directions in which instances of
    one family differ most. Made-up images alone enter: what is written has no record behind it.

    Args:
        settings: what is trained, and on how much.
        output: the `.npz` file to write, for `weights` of `DPViTClassifier.from_preset`.
        checkpoint_dir: where the training is kept while it lasts, once an epoch; the same call
            resumes it.
        verbose: as `fit` has it.

    Returns:
        The share of held-out images of the same families whose family is found.
    """
    keras.utils.set_random_seed(settings.seed)
    model = DPViTClassifier.from_preset(settings.preset, num_classes=2)
    accuracy = _train_backbone(model, settings, checkpoint_dir, verbose)
    shapes = _shapes(model, settings, _MEASURED)
    constants = _constants(model, shapes.images, shapes.families, settings.seed)
    synthetic_weights.write(model, constants, pathlib.Path(output))
    return accuracy


def _shapes(model: Any, settings: PretrainingSettings, count: int, first: int = 0) -> Any:
    shape = model.backbone.image_shape
    return synthetic_shapes(settings.num_families, count, shape, settings.seed, first)


def _train_backbone(
    model: Any, settings: PretrainingSettings, checkpoint_dir: Any, verbose: Any
) -> float:
    outputs = model.backbone.output
    # Wavelet features are fixed: computed once, as half-precision numbers.
    wavelets = keras.Model(model.backbone.input, outputs["features"])
    network = _classifier_of_families(outputs, settings.num_families)
    learned = _shapes(model, settings, settings.per_family)
    held_out = _shapes(model, settings, _HELD_OUT, settings.per_family)
    x, x_held_out = (_features(wavelets, s.images) for s in (learned, held_out))
    steps = len(x) // _BATCH * settings.epochs
    warmup = min(_WARMUP_STEPS, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=settings.learning_rate, warmup_steps=warmup
    )
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.02, clipnorm=1.0),
        loss={
            "family": keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=_SMOOTHING
            ),
            "texture": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        },
        loss_weights={"family": 1.0, "texture": _TEXTURE_WEIGHT},
        metrics={"family": "accuracy", "texture": "accuracy"},
    )
    callbacks = []
    if checkpoint_dir is not None:
        kept = _files.make_directory(checkpoint_dir, "checkpoint_dir") / "pretraining"
        callbacks.append(keras.callbacks.BackupAndRestore(str(kept)))
    network.fit(
        _Batches(x, learned, settings),
        epochs=settings.epochs,
        callbacks=callbacks,
        verbose=verbose,
    )
    found = network.predict(x_held_out, batch_size=_BATCH, verbose=0)["family"]
    return float(np.mean(np.argmax(found, axis=1) == held_out.families))


def _classifier_of_families(outputs: dict[str, Any], num_families: int) -> Any:
    tokens = keras.layers.LayerNormalization(name="norm")(outputs["tokens"])
    pooled = keras.layers.GlobalAveragePooling1D(name="pooler")(tokens)
    heads = {"family": num_families, "texture": len(TEXTURES)}
    logits = {name: keras.layers.Dense(n, name=name)(pooled) for name, n in heads.items()}
    return keras.Model(outputs["features"], logits)


def _features(wavelets: Any, images: Array) -> Array:
    parts = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    return np.concatenate(
        [keras.ops.convert_to_numpy(wavelets(part)).astype("float16") for part in parts]
    )


class _Batches(keras.utils.PyDataset):
    """Shuffled batches of features; the order of an epoch depends on its number alone."""

    def __init__(self, features: Array, shapes: Any, settings: PretrainingSettings) -> None:
        super().__init__()
        self._features, self._shapes, self._settings = features, shapes, settings
        self._epoch = 0
        self._draw()

    def __len__(self) -> int:
        return len(self._features) // _BATCH

    def __getitem__(self, index: int) -> Any:
        rows = self._order[index * _BATCH : (index + 1) * _BATCH]
        families = np.eye(self._settings.num_families, dtype="float32")[self._shapes.families[rows]]
        labels = {"family": families, "texture": self._shapes.textures[rows]}
        return self._features[rows].astype("float32"), labels

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._draw()

    def _draw(self) -> None:
        rng = np.random.default_rng((self._settings.seed, self._epoch))
        self._order = rng.permutation(len(self._features))


def _constants(
    model: Any, images: Array, families: Array, seed: int
) -> dict[str, dict[str, Array]]:
    """For each whitened layer the arguments of its `take`."""
    layers = synthetic_weights.whitened_layers(model)
    blocks = keras.Model(model.input, {layer.name: layer.input for layer in layers})
    parts = [blocks(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    found = {}
    for layer in layers:
        vectors = np.concatenate([keras.ops.convert_to_numpy(part[layer.name]) for part in parts])
        found[layer.name] = _constants_of_block(vectors, families, layer.rank, seed)
    return found


def _constants_of_block(vectors: Array, families: Array, rank: int, seed: int) -> dict[str, Array]:
    """Mean of the unit vectors, and the directions in which members of one family differ."""
    from sklearn.utils.extmath import randomized_svd

    vectors = _unit(vectors)
    mean = vectors.mean(axis=0)
    vectors = _unit(vectors - mean)
    number = families.max() + 1
    counts = np.bincount(families, minlength=number)[:, None]
    sums = np.zeros((number, vectors.shape[1]), "float64")
    np.add.at(sums, families, vectors)
    vectors = vectors - (sums / counts)[families].astype("float32")
    _, values, rows = randomized_svd(vectors, rank, n_iter=5, random_state=seed)
    directions, scales = quantized_directions(rows.T)
    return {
        "mean": mean.astype("float16"),
        "directions": directions,
        "scales": scales,
        "variances": (values**2 / len(vectors)).astype("float32"),
    }


def _unit(vectors: Array) -> Array:
    units: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return units
