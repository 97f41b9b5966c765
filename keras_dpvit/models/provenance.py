"""The trainings that a variable's value comes from, whoever holds the variable."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np

from keras_dpvit.layers.inside import layers_inside
from keras_dpvit.privacy.ledger import Ledger, PrivacyLedger, compose
from keras_dpvit.privacy.ledger_entries import uncounted

LEDGER_FILE = "privacy_ledger.json"
_ATTRIBUTE = "_keras_dpvit_known"
_CONSTANTS = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)


class Origin(Protocol):
    """A training that left its traces in variables."""

    def own_ledger(self) -> Ledger:
        """The releases of the training so far, and of all that it started from."""


@dataclasses.dataclass(frozen=True)
class _Past:
    """Releases that nothing adds to."""

    ledger: Ledger

    def own_ledger(self) -> Ledger:
        return self.ledger


def _elsewhere(reason: str) -> _Past:
    """Values that no training on record explains."""
    return _Past(PrivacyLedger((uncounted(f"Weights came from elsewhere{reason}"),)))


_CHANGED = _elsewhere(
    ", by a way that carries no ledger: what they tell of these records is not counted."
)
_NOT_FRESH = _elsewhere(
    ": the network was not freshly initialised when it was wrapped, and what its weights tell of "
    "these records is not counted."
)


@dataclasses.dataclass
class _Known:
    """The facts known about one variable.

    Attributes:
        origins: trainings that its value comes from.
        digest: of the value when it was last looked at.
        in_training: while a training of ours may change it, the origins it has if it does.
    """

    origins: tuple[Origin, ...]
    digest: bytes
    in_training: tuple[Origin, ...] | None = None


# What every value that was seen had cost by then: weights that are copied bring it along.
_SEEN: dict[bytes, Ledger] = {}
# Values that fresh networks start from, the same in all of them (identities, fixed tables).
_INITIAL: set[bytes] = set()


@dataclasses.dataclass
class Registry:
    """The values that were seen on one machine."""

    seen: dict[bytes, Ledger] = dataclasses.field(default_factory=dict)
    initial: set[bytes] = dataclasses.field(default_factory=set)


@contextlib.contextmanager
def on_another_machine(registry: Registry) -> Iterator[None]:
    """Within the context, values are looked up and remembered in a registry alone.

    A simulation of several machines in one process is kept from knowing on one what happened on
    another, as it would not where they are several.
    """
    global _SEEN, _INITIAL
    before = _SEEN, _INITIAL
    _SEEN, _INITIAL = registry.seen, registry.initial
    try:
        yield
    finally:
        _SEEN, _INITIAL = before


def observe(model: Any) -> None:
    """Looks for values that have changed since the last look, or that are met for the first time.

    A variable whose new value was seen elsewhere in this process takes over what is known of it;
    any other change, and weights of a network that is not freshly initialised, are entered as
    coming from elsewhere.

    Args:
        model: a built Keras model.
    """
    fresh: bool | None = None
    for variable in _values(model):
        known = getattr(variable, _ATTRIBUTE, None)
        if known is not None and known.in_training is not None:
            continue
        digest = _digest(variable)
        if known is None:
            origins = _origins_of_value(digest) or ()
            if not origins:
                fresh = _is_fresh(model) if fresh is None else fresh
                origins = () if fresh else (_NOT_FRESH,)
                if fresh:
                    _INITIAL.add(digest)
            setattr(variable, _ATTRIBUTE, _Known(origins, digest))
        elif known.digest != digest:
            copied = _origins_of_value(digest)
            known.origins = _union(known.origins, (_CHANGED,)) if copied is None else copied
            known.digest = digest
        _remember(variable)


def origins_of(model: Any) -> tuple[Origin, ...]:
    """The trainings that a model's values come from, each once."""
    each = (getattr(v, _ATTRIBUTE, None) for v in _values(model))
    return _union(*((k.in_training or k.origins) for k in each if k is not None))


def begin_training(model: Any, variables: Iterable[Any], origin: Origin) -> None:
    """Enters that a training is about to change some of a model's variables.

    They now depend on all of the model's values, and so on what those came from.
    """
    observe(model)
    before = origins_of(model)
    for variable in variables:
        known = getattr(variable, _ATTRIBUTE, None)
        if known is not None:
            known.in_training = _union(before, (origin,))


def settle(model: Any, origin: Origin | None = None) -> None:
    """Takes a model's present values as known.

    Args:
        model: a built Keras model.
        origin: the one thing that they come from; None leaves what is known.
    """
    for variable in _values(model):
        known = getattr(variable, _ATTRIBUTE, None) or _Known((), b"")
        digest = _digest(variable)
        if origin is not None:
            known.origins = (origin,)
        elif known.in_training is not None and digest != known.digest:
            known.origins = known.in_training
        known.digest, known.in_training = digest, None
        setattr(variable, _ATTRIBUTE, known)
        _remember(variable)


def take_as_public(model: Any) -> None:
    """Takes a model's present values as ones behind which no record needs protection."""
    settle(model, _Past(PrivacyLedger()))


def digest_of(model: Any) -> str:
    """A digest of all values of a model."""
    whole = hashlib.blake2b(digest_size=16)
    for variable in _values(model):
        whole.update(_digest(variable))
    return whole.hexdigest()


def composed(ledgers: Iterable[Ledger]) -> Ledger:
    """Ledgers about the same values: one that stands alone stays as it is, several compose."""
    distinct = [ledger for ledger in ledgers if ledger.all_entries()]
    if not distinct:
        return PrivacyLedger()
    if all(ledger == distinct[0] for ledger in distinct):
        return distinct[0]
    return compose(distinct, "shared")


def read_ledger(path: str | os.PathLike[str]) -> str | None:
    """The ledger's JSON in a `.keras` or `.weights.h5` file, None if it has none."""
    place = pathlib.Path(path)
    if zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as file:
            # The outermost model's: it holds those of models inside it.
            names = sorted((n for n in file.namelist() if n.endswith(LEDGER_FILE)), key=len)
            return file.read(names[0]).decode() if names else None
    if place.suffix != ".h5":
        return None
    import h5py

    with h5py.File(place, "r") as file:
        found = file.attrs.get(LEDGER_FILE)
    return None if found is None else str(found)


def write_ledger(path: str | os.PathLike[str], text: str) -> None:
    """Puts a ledger's JSON into a `.weights.h5` file; other kinds of files have no place for it."""
    import h5py

    if pathlib.Path(path).suffix != ".h5":
        return

    with h5py.File(path, "r+") as file:
        file.attrs[LEDGER_FILE] = text


def _values(model: Any) -> list[Any]:
    """The variables that hold what was learned; states of generators are whole numbers."""
    return [v for v in model.variables if "float" in str(v.dtype)]


def _digest(variable: Any) -> bytes:
    value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value))
    digest = hashlib.blake2b(f"{value.dtype} {value.shape} ".encode(), digest_size=16)
    digest.update(value.tobytes())
    return digest.digest()


def _origins_of_value(digest: bytes) -> tuple[Origin, ...] | None:
    """The origins of a value, None if it was never seen."""
    ledger = _SEEN.get(digest)
    if ledger is None:
        return None
    return (_Past(ledger),) if ledger.all_entries() else ()


def _remember(variable: Any) -> None:
    known = getattr(variable, _ATTRIBUTE)
    if _is_constant(variable):  # of zeros nobody can say where they came from
        return
    if known.origins == (_NOT_FRESH,):  # said of a network: a fresh one may have started alike
        return
    if known.digest in _INITIAL:  # it tells nothing of any record, whoever holds it
        _SEEN.setdefault(known.digest, PrivacyLedger())
        return
    ledgers = [origin.own_ledger() for origin in known.origins]
    _SEEN[known.digest] = composed([_SEEN.get(known.digest, PrivacyLedger()), *ledgers])


def _is_constant(variable: Any) -> bool:
    value = keras.ops.convert_to_numpy(variable.value)
    return bool(np.all(value == value.flat[0])) if value.size else True


def _union(*several: tuple[Origin, ...]) -> tuple[Origin, ...]:
    return tuple({id(origin): origin for origins in several for origin in origins}.values())


def _is_fresh(model: Any) -> bool:
    """True if what starts from a constant is still that constant, and something does.

    Variables of known origin are left out: a new head on a backbone that was trained here is fresh.
    """
    constants = 0
    for layer in layers_inside(model):
        iterations = getattr(getattr(layer, "optimizer", None), "iterations", None)
        if iterations is not None and int(iterations) > 0:
            return False
        for variable in layer._trainable_variables:  # noqa: SLF001
            initializer = getattr(layer, f"{variable.name}_initializer", None)
            if not hasattr(variable, _ATTRIBUTE) and isinstance(initializer, _CONSTANTS):
                constants += 1
                start = initializer(variable.shape, dtype=variable.dtype)
                if not bool(keras.ops.all(keras.ops.equal(variable, start))):
                    return False
    return constants > 0
