"""The work that a server gives to clients: a model, and how it is trained."""

import dataclasses
import json
from typing import Any

import keras
import numpy as np

from keras_dpvit import _keras_classes, _validate
from keras_dpvit._types import Array
from keras_dpvit.baselines.federated.plans import RecordPrivacy
from keras_dpvit.errors import InputError
from keras_dpvit.layers.inside import layers_inside


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a client is told beside weights; JSON on its way.

    Attributes:
        model: Keras' configuration of the model.
        trained: places among `values` of the variables that are trained.
        exchanged: places of those that clients and server exchange.
        optimizer, loss: Keras' configurations.
        rounds: int, of the whole training.
        batch_size: int, records in a local step.
        local_epochs: float, passes over a client's records in a round.
        local_steps: int or None, steps in a round instead.
        seed: int or None.
        record_privacy: a `RecordPrivacy`, or None.
    """

    model: dict[str, Any]
    trained: tuple[int, ...]
    exchanged: tuple[int, ...]
    optimizer: dict[str, Any]
    loss: dict[str, Any] | str
    rounds: int
    batch_size: int
    local_epochs: float = 1.0
    local_steps: int | None = None
    seed: int | None = None
    record_privacy: RecordPrivacy | None = None

    def __post_init__(self) -> None:
        _validate.keep(
            self,
            rounds=_validate.positive_int,
            batch_size=_validate.positive_int,
            local_epochs=_validate.positive,
            local_steps=_validate.optional(_validate.positive_int),
            seed=_validate.optional(_validate.whole),
        )

    def to_json(self) -> str:
        """The inverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job as it was before it travelled."""
        found = json.loads(text)
        for name in ("trained", "exchanged"):
            found[name] = tuple(found[name])
        privacy = found["record_privacy"]
        found["record_privacy"] = None if privacy is None else RecordPrivacy(**privacy)
        return cls(**found)

    def build_model(self) -> Any:
        """A copy of the model, with fresh weights and the choice of what is trained."""
        _keras_classes.register()  # a client's process may have imported none of ours
        model = keras.saving.deserialize_keras_object(self.model)
        for index, variable in enumerate(values(model)):
            variable.trainable = index in self.trained
        return model

    def build_optimizer(self) -> Any:
        """The clients' optimizer, unused."""
        return keras.optimizers.deserialize(self.optimizer)

    def build_loss(self) -> Any:
        """The loss of a record."""
        loss = keras.losses.get(self.loss)
        if not isinstance(loss, keras.losses.Loss):
            raise InputError(f"loss must be a keras.losses.Loss, got {_validate.shown(loss)}.")
        return loss


def job_of(model: Any, optimizer: Any, loss: Any, moving_statistics: bool, **settings: Any) -> Job:
    """The job of training a model.

    Args:
        model: a built Keras model.
        optimizer: a Keras optimizer, whose settings are taken.
        loss: a `keras.losses.Loss`.
        moving_statistics: bool, whether those of batch normalisation are averaged as well.
        **settings: the other attributes of `Job`.

    Raises:
        InputError: if the model is not built, or nothing in it trains.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(f"model must be a built Keras model, got a {type(model).__name__}.")
    config = dict(keras.saving.serialize_keras_object(model))
    config.pop("compile_config", None)
    trained = [v.trainable for v in values(model)]
    if not any(trained):
        raise InputError("model must have a variable that trains.")
    moving = _moving_statistics(model) if moving_statistics else set()
    exchanged = [t or id(v) in moving for t, v in zip(trained, values(model), strict=True)]
    return Job(
        model=config,
        trained=tuple(np.flatnonzero(trained).tolist()),
        exchanged=tuple(np.flatnonzero(exchanged).tolist()),
        optimizer=keras.optimizers.serialize(optimizer),
        loss=keras.losses.serialize(loss),
        **settings,
    )


def values(model: Any) -> list[Any]:
    """The variables of a model that hold numbers to compute with, in Keras' order."""
    return [v for v in model.weights if "float" in str(v.dtype)]


def _moving_statistics(model: Any) -> set[int]:
    return {
        id(v)
        for layer in layers_inside(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for v in (layer.moving_mean, layer.moving_variance)
    }


def get_arrays(model: Any, places: tuple[int, ...]) -> list[Array]:
    """Copies of the values at some places."""
    every = values(model)
    return [np.array(keras.ops.convert_to_numpy(every[place])) for place in places]


def set_arrays(model: Any, places: tuple[int, ...], arrays: list[Array]) -> None:
    """Writes the values at some places."""
    every = values(model)
    for place, array in zip(places, arrays, strict=True):
        every[place].assign(array)


def other_places(model: Any, places: tuple[int, ...]) -> tuple[int, ...]:
    """The places that are not among some."""
    return tuple(sorted(set(range(len(values(model)))) - set(places)))
