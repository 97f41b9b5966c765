"""make_private: private training for a Keras model that we did not write."""

from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.gradients.units import find_units
from keras_dpvit.models.private_training import PrivatelyTrainable
from keras_dpvit.training.validation import validate


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPModel(PrivatelyTrainable, keras.Model):
    """A Keras model that `fit` trains privately under a private optimizer.

    Args:
        network: a built Keras model with one input and one output.
    """

    def __init__(self, network: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self.network(images, training=training)

    @property
    def input_shape(self) -> Any:
        return self.network.input_shape

    @property
    def output_shape(self) -> Any:
        return self.network.output_shape

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.network.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "DPModel":
        config = dict(config)
        config["network"] = keras.saving.deserialize_keras_object(
            config["network"], custom_objects=custom_objects
        )
        return cls(**config)


def make_private(model: Any) -> DPModel:
    """Wraps a model so that `fit` under a private optimizer trains it privately.

    The wrapper shares the model's layers: after training, the model itself holds the trained
    weights and can be saved, served and exported without this package.

    Args:
        model: a built Keras model with one input and one output, whose examples do not mix.

    Raises:
        InputError: if the model is not built, has several inputs or outputs, mixes examples (see
            `training.validation.validate`), or has a layer that cannot give per-example gradients
            (see `gradients.units.find_units`).
    """
    if isinstance(model, PrivatelyTrainable):
        raise InputError(f"model is private already: {type(model).__name__}.")
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(f"model must be a built Keras model, got {model!r}.")
    shapes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not all(isinstance(shape, tuple) for shape in shapes):
        raise InputError("model must have one input and one output tensor.")
    find_units(model)
    validate(model)
    return DPModel(model)
