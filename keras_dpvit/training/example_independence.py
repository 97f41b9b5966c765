"""Checks by trial that no example of a batch touches another."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator

from keras_dpvit._types import Array
from keras_dpvit.errors import InputError
from keras_dpvit.gradients.randomness import seed_generators
from keras_dpvit.layers.model_structure import inputs_for, inputs_of
from keras_dpvit.training import traced_pass

_SIZES = (8, 5)  # of the batches
# A random order of the rows escapes a draw for each size where it moves no row: for MixUp, whose
# NaN goes through any weight, 1/8! * 1/5! = 2e-7. CutMix moves a row by whole pixels or not at all:
# on images of 4x4 it shows nothing in 0.06 % of the draws of 8 rows and 1.7 % of those of 5
# (400 000 simulated draws each), which is 1e-5 for both. Two draws leave less than 1e-9 of either;
# twelve are for layers that mix now and then.
_DRAWS = 12
_LARGE = 1e6
_TOLERANCE = 1e-5
_MOVED_TOLERANCE = 1e-4  # sums of a matrix product round otherwise in another row
_MOVED = np.array([2, 0, 5, 1, 7, 3, 4, 6])  # no row stays

_MIXES = (
    "{where} of one example changes with another example of the batch: the model mixes examples "
    "(batch statistics?), so it cannot be trained privately; use layers that treat each row alone."
)
_DRAWS_ELSEWHERE = (
    "The model draws random numbers outside of its layers' SeedGenerators: they cannot be keyed "
    "for private training; give each layer a keras.random.SeedGenerator and draw from that."
)


def check_examples_independent(
    model: Any,
    losses: Callable[[Any, Any], Any] | None = None,
    labels: Any = None,
    images: Any = None,
) -> None:
    """Raises unless a model's examples are independent of each other in training.

    The model is run forward and backward in training mode, then again, with the same layer
    noise, with one example's image and label spoiled: by NaN, by large numbers, by another
    example's label. No other row may change in what any layer is given or returns, in the
    gradients in that, in the outputs or the losses. Each row of batches of two sizes is spoiled
    in turn; a model that draws random numbers otherwise than row by row is tried under many
    draws. Examples in another order must give the same results in that order. All random numbers
    must come from the layers' own seed generators, and nothing else may be written.

    A trial sees what the tried batches bring about, and no more. It does not see layers that mix
    examples only for rare inputs, rarely by chance (one draw in ten escapes one trial in 12),
    from a number of rows or a step on that was not tried, or only for weights that come later;
    mixing that changes a row by less than a part in 100 000; tensors inside a layer that has no
    layers for its parts; layers called inside a loop of TensorFlow's; tensors whose first axis is
    not the batch (windows, or tokens of all rows in one axis); the effect of the row's position
    below one part in 10 000, or on gradients alone, or, in a model that draws random numbers, in
    training mode alone (or at all, if it draws them at inference too); labels, if they are
    integers and all those at hand are the same; rows that are not finite before anything is
    spoiled, at the images' own scale or scaled to 1; and bad pixels, where the model fails on them
    instead.

    Args:
        model: a built Keras model.
        losses: a per-example loss of `(labels, outputs)`, checked along with the model.
        labels: labels of some records, for `losses`, in the structure of the outputs.
        images: the inputs of those records, in the structure that the model takes; random ones
            if None.

    Raises:
        InputError: if a record depends on another record or on its position, if random numbers
            come from elsewhere, or the forward pass writes what it saw into a variable, past the
            noise.

    Example:
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
        >>> kd.check_examples_independent(network)
        Traceback (most recent call last):
        keras_dpvit.errors.InputError: ... changes with another example of the batch: ...
    """
    _tried(_Trial(model, losses, labels, images))


def check_rows_independent(model: Any, loss_fn: Callable[[Any, Any], Any], batch: Any) -> None:
    """As `check_examples_independent`, for a loss that calls the model itself.

    Args:
        model: a built Keras model.
        loss_fn: of the model and a batch, gives `(rows,)`.
        batch: a few rows, arrays in any structure.

    Raises:
        InputError: as there.
    """
    _tried(_Trial(model, None, None, batch, loss_fn))


def _tried(trial: "_Trial") -> None:
    try:
        trial.repeat()
        trial.spoil()
        trial.move()
        trial.check_written()
    finally:
        trial.put_back()


def config_of(layer: Any) -> str | None:
    """A layer's settings, to see whether they are those that were tried; None if it has none."""
    try:
        return repr(layer.get_config())
    except (NotImplementedError, TypeError):
        return None


class _Trial:
    """One model, its batches and the values that its variables had before."""

    def __init__(
        self, model: Any, losses: Any, labels: Any, images: Any, loss_fn: Any = None
    ) -> None:
        self._model, self._losses, self._loss_fn = model, losses, loss_fn
        self._rng = np.random.default_rng()
        most = max(_SIZES)
        if loss_fn is None:
            self._images = _images(model, images, most, self._rng)
        else:
            self._images = keras.tree.map_structure(
                lambda own: _finite(np.asarray(own), str(np.asarray(own).dtype), most), images
            )
        labels = np.zeros(1, "int64") if losses is None or labels is None else labels
        self._labels = keras.tree.map_structure(
            lambda own: np.resize(np.asarray(own), (most, *np.shape(own)[1:])), labels
        )
        # Must exist before a pass is traced, which may make no variable.
        self._global_state = global_seed_generator().state
        self._global_before = self._global_state.numpy()
        self._states = [generator.state for generator in seed_generators(model)]
        self._before: dict[int, tuple[Any, Any]] = {}
        self._pass = self._traced(training=True)
        self._draw()
        if not self._can_be_run():
            # Nothing would be seen: exp(255) is infinite, exp(1) is not, and a table may be short.
            self._images = keras.tree.map_structure(_within_one, self._images)
        self._rows = self._which_have_rows()

    def _traced(self, training: bool) -> traced_pass.TracedPass:
        traced = traced_pass.TracedPass(
            self._model, self._losses, self._images, self._labels, training, self._loss_fn
        )
        for handle in traced.variables():
            if id(handle) not in self._before:
                self._before[id(handle)] = handle, traced_pass.read_variable(handle)
        return traced

    def _can_be_run(self) -> bool:
        try:
            return bool(np.isfinite(self._run(self._images, self._labels)[-1]).any())
        except tf.errors.InvalidArgumentError:
            return False

    def _run(self, images: Any, labels: Any) -> list[Array]:
        """A pass under the current draw of the generators' states."""
        for state, value in zip(self._states, self._drawn, strict=True):
            state.assign(value)
        return self._pass.run(images, labels)

    def _draw(self) -> None:
        self._drawn = [self._rng.integers(2**31 - 1, size=s.shape) for s in self._states]

    def _which_have_rows(self) -> list[bool]:
        """True for each tensor whose first axis is the batch, whatever its size."""
        self._draw()
        found = [self._run(*self._rows_of(slice(size))) for size in _SIZES]
        rows = [
            all(t.ndim and len(t) == size for t, size in zip(pair, _SIZES, strict=True))
            for pair in zip(*found, strict=True)
        ]
        last = -1 - self._pass.num_outputs
        for name, has_rows in zip(self._pass.names[last:], rows[last:], strict=True):
            if not has_rows:
                raise InputError(
                    f"The {name} must have one row for each example, got shapes "
                    f"{[f[self._pass.names.index(name)].shape for f in found]} for batches of "
                    f"{_SIZES}: keep the first axis."
                )
        return rows

    def _rows_of(self, which: Any) -> tuple[Any, Any]:
        """Some rows of the batch and their labels."""
        images, labels = keras.tree.map_structure(lambda a: a[which], (self._images, self._labels))
        return images, labels

    def repeat(self) -> None:
        """The same batch under the same states gives the same results."""
        first = self._run(self._images, self._labels)
        if not np.array_equal(self._global_state.numpy(), self._global_before):
            raise InputError(_DRAWS_ELSEWHERE)
        second = self._run(self._images, self._labels)
        if self._change(first, second, slice(None)) is not None:
            self.check_written(keras_only=True)
            raise InputError(_DRAWS_ELSEWHERE)

    def spoil(self) -> None:
        """No row changes when another is spoiled."""
        draws = _DRAWS if self._pass.draws_elsewhere else 1
        for draw in range(draws):
            for size in _SIZES:
                self._draw()
                images, labels = self._rows_of(slice(size))
                clean = self._run(images, labels)
                for row in range(size):
                    for found in self._spoiled(images, labels, row, thoroughly=draw == 0):
                        for others in (slice(0, row), slice(row + 1, None)):
                            where = self._change(clean, found, others)
                            if where is not None:
                                raise InputError(_MIXES.format(where=f"The {where}"))

    def _spoiled(
        self, images: Any, labels: Any, row: int, thoroughly: bool
    ) -> Iterator[list[Array]]:
        """Results of a pass with one row spoiled, in one way after the other."""
        # Other numbers and a bad label; large numbers and label; the row's own and a bad label.
        ways = ((np.nan, np.nan), (_LARGE, 1e30), (None, np.nan))
        for value, label in ways if thoroughly else ways[:1]:
            bad_labels = keras.tree.map_structure(
                lambda own, label=label: _with_row(own, row, _other_label(own, row, label)), labels
            )
            bad_images = keras.tree.map_structure(
                lambda own, value=value: self._spoiled_row(own, row, value), images
            )
            try:
                yield self._run(bad_images, bad_labels)
            except tf.errors.InvalidArgumentError:
                ordinary = keras.tree.map_structure(
                    lambda own: _with_row(own, row, self._ordinary(own)), images
                )
                yield self._run(ordinary, bad_labels)

    def _spoiled_row(self, images: Array, row: int, value: float | None) -> Array:
        if not np.issubdtype(images.dtype, np.floating):
            return _with_row(images, row, self._ordinary(images))
        if value is None:
            return images
        return _with_row(images, row, value * self._rng.choice([-1.0, 1.0], images.shape[1:]))

    def _ordinary(self, images: Array) -> Array:
        """Numbers for a row that may have to stay within a range: those of the batch, mixed up."""
        mixed = self._rng.permutation(images.ravel())[: images[0].size]
        return np.asarray(mixed.reshape(images.shape[1:]))

    def move(self) -> None:
        """Examples in another order give the same results in that order."""
        if self._pass.draws and self._loss_fn is not None:
            return  # it says itself in which mode it calls the model
        if self._pass.draws:
            self._pass = self._traced(training=False)
            self._rows = self._which_have_rows()
            if self._pass.draws:
                return
        first = self._run(self._images, self._labels)
        second = self._run(*self._rows_of(_MOVED))
        for name, has_rows, a, b in zip(self._pass.names, self._rows, first, second, strict=True):
            if not has_rows or name.startswith("gradient"):
                continue
            a = a[_MOVED]
            finite = np.isfinite(a)
            tolerance = _MOVED_TOLERANCE * max(1e-3, np.abs(a[finite]).max(initial=0.0))
            if not np.all(np.abs(a[finite] - b[finite]) <= tolerance):
                raise InputError(
                    f"The {name} of an example changes with its position in the batch: the "
                    "sampler gives each example any position; use layers that treat all rows "
                    "alike."
                )

    def _change(self, first: list[Any], second: list[Any], rows: slice) -> str | None:
        """The name of a tensor that differs in these rows, the last in the model if several."""
        found = zip(self._pass.names, self._rows, first, second, strict=True)
        changed = [n for n, has_rows, a, b in found if has_rows and _differ(a[rows], b[rows])]
        return changed[-1] if changed else None

    def check_written(self, keras_only: bool = False) -> None:
        """No variable but the generators' states has been written."""
        names = {id(v.value.handle): v.path for v in self._model.variables}
        generators = {id(state.value.handle) for state in self._states}
        for handle, value in self._before.values():
            if id(handle) in generators or (keras_only and id(handle) not in names):
                continue
            now = traced_pass.read_variable(handle)
            if not np.array_equal(now.numpy(), value.numpy(), equal_nan=True):
                raise InputError(
                    f"Variable {names.get(id(handle), 'outside of Keras')} is written during the "
                    "forward pass: what it learns of the images would be released without noise; "
                    "remove what writes it."
                )

    def put_back(self) -> None:
        """Gives all variables the values that they had."""
        for handle, value in self._before.values():
            traced_pass.write_variable(handle, value)
        self._global_state.assign(self._global_before)


def _images(model: Any, given: Any, count: int, rng: np.random.Generator) -> Any:
    """A batch of inputs in the types that the model takes, finite."""
    inputs = inputs_of(model)
    types = [keras.backend.standardize_dtype(t.dtype) for t in keras.tree.flatten(inputs)]
    if given is None or not all(np.size(own) for own in keras.tree.flatten(given)):
        drawn = [
            rng.uniform(0, 255 if _is_float(kind) else 2, (count, *tensor.shape[1:]))
            for kind, tensor in zip(types, keras.tree.flatten(inputs), strict=True)
        ]
        found = [
            own.astype("float32" if _is_float(kind) else kind)
            for own, kind in zip(drawn, types, strict=True)
        ]
        return keras.tree.pack_sequence_as(inputs, found)
    taken = [keras.backend.standardize_dtype(t.dtype) for t in inputs_for(model, given)]
    found = [
        _finite(np.asarray(own), "float32" if _is_float(kind) else kind, count)
        for own, kind in zip(keras.tree.flatten(given), taken, strict=True)
    ]
    return keras.tree.pack_sequence_as(given, found)


def _is_float(kind: str) -> bool:
    return kind.startswith(("float", "bfloat"))


def _finite(given: Array, kind: str, count: int) -> Array:
    """As many rows as wanted, of a type, and finite."""
    found = np.nan_to_num(given.astype("float32"), posinf=0.0, neginf=0.0)
    return np.resize(found, (count, *given.shape[1:])).astype(kind)


def _with_row(rows: Array, row: int, value: Any) -> Array:
    """A copy with one row replaced."""
    found = rows.copy()
    with np.errstate(over="ignore"):  # too large for half precision is infinite: as hostile
        found[row] = value
    return found


def _within_one(images: Array) -> Array:
    """Images of floats with the largest scaled down to 1; whole numbers as 0 and 1."""
    if not np.issubdtype(images.dtype, np.floating):
        return images % 2
    return np.asarray(images / np.maximum(np.abs(images).max(initial=0.0), images.dtype.type(1)))


def _other_label(labels: Array, row: int, value: float) -> Any:
    """A label for a row that is not its own: a bad number, or another row's where it is a class."""
    if np.issubdtype(labels.dtype, np.floating):
        # A half has no number as large.
        return value if np.isnan(value) else min(value, float(np.finfo(labels.dtype).max))
    others = [label for label in labels if not np.array_equal(label, labels[row])]
    return others[0] if others else labels[row]


def _differ(first: Array, second: Array) -> bool:
    """True if rows differ by more than rounding; what is not finite in the first is left out."""
    if np.array_equal(first, second):
        return False
    first, second = (t.reshape(len(t), -1) for t in (first, second))
    finite = np.isfinite(first)
    scale = np.max(np.abs(first), axis=1, keepdims=True, where=finite, initial=1e-30)
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(first - second) <= _TOLERANCE * scale
    return not np.all(close | ~finite)
