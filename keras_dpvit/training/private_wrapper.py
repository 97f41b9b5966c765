"""make_private: private training for a Keras model that we did not write."""

from typing import Any

import keras

from keras_dpvit.errors import InputError
from keras_dpvit.gradients.layer_rules import layer_rules
from keras_dpvit.layers.model_structure import inputs_of, output_names, outputs_of, shapes_of
from keras_dpvit.models.private_model import PrivatelyTrainable
from keras_dpvit.models.trainable import choose_trainable
from keras_dpvit.training.example_independence import check_examples_independent
from keras_dpvit.training.recipe import once_for_each_recipe
from keras_dpvit.training.strategies import refuse_strategies

# Methods by which a model trains in its own way.
_OWN_TRAINING = ("train_step", "compute_loss", "compute_metrics", "make_train_function", "fit")
_KERAS = ("keras.", "keras_hub.")


@keras.saving.register_keras_serializable(package="keras_dpvit")
class DPModel(PrivatelyTrainable, keras.Model):
    """A Keras model that `fit` trains privately under a private optimizer.

    Args:
        network: a built Keras model.
        trainable_part: "all", "head" or "bias", see `make_private`.
    """

    def __init__(self, network: Any, trainable_part: str = "all", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        choose_trainable(self, trainable_part)
        self.built = True  # its network is
        self._observe()

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self.network(images, training=training)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `PrivatelyTrainable.compile`; chooses anew, since the network may be shared."""
        choose_trainable(self, self.trainable_part)
        super().compile(*args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As `PrivatelyTrainable.fit`; chooses anew, as `compile` does."""
        choose_trainable(self, self.trainable_part)
        return super().fit(*args, **kwargs)

    @property
    def input_shape(self) -> Any:
        return shapes_of(inputs_of(self.network))

    @property
    def output_shape(self) -> Any:
        return shapes_of(outputs_of(self.network))

    @property
    def inputs(self) -> list[Any]:
        """The network's inputs, as a functional model has them."""
        found: list[Any] = keras.tree.flatten(inputs_of(self.network))
        return found

    @property
    def outputs(self) -> list[Any]:
        """The network's outputs, as a functional model has them."""
        found: list[Any] = keras.tree.flatten(outputs_of(self.network))
        return found

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """The network, or a layer of it, as `keras.Model.get_layer`."""
        if name == self.network.name:
            return self.network
        return self.network.get_layer(name, index)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`, of the network; `export.saved_model` writes the card along."""
        return self.network.export(*args, **kwargs)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, by which `compile` takes losses and metrics."""
        return output_names(self.network)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.network.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        # How the network was compiled is of no use here, and KerasHub's classifiers,
        # which compile themselves, would warn of it when they are loaded.
        network.pop("compile_config", None)
        return {"name": self.name, "network": network, "trainable_part": self.trainable_part}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "DPModel":
        config = dict(config)
        config["network"] = keras.saving.deserialize_keras_object(
            config["network"], custom_objects=custom_objects
        )
        return cls(**config)


def make_private(model: Any, trainable: str = "all") -> DPModel:
    """Wraps a model so that `fit` under a private optimizer trains it privately.

    The wrapper shares the model's layers: after training, the model itself holds the trained
    weights and can be saved, served and exported without this package. It shares the choice of
    what is trained as well, as `variable.trainable`: `choose_trainable(model, "all")` lifts it,
    and so does a file, into which Keras writes no such choice.

    Args:
        model: a built Keras model whose examples do not mix, of any inputs and outputs: a record
            is one row of each. A KerasHub classifier too, given images as its backbone takes them.
        trainable: "all", whatever is trainable in the model; "head", only the layers outside of
            `model.backbone`, or the last layer with variables where there is no backbone; "bias",
            additive biases (variables named bias or beta) and the whole head, because a head of
            new classes starts from random weights (DP-BiTFiT, Bu et al. 2022).

    Raises:
        InputError: if the model is not built or has inputs of sides that are not fixed, has a
            preprocessor that training would pass by, mixes examples (see
            `check_examples_independent`), or has a layer that cannot give per-example gradients
            (see `gradients.layer_rules`); if `trainable` is another word or leaves nothing.

    Example:
        >>> network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model = kd.make_private(network)
        >>> plan = kd.PrivacyPlan(60, 20, 1, 1e-3, noise_multiplier=1.0)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile(kd.DPKerasSGDOptimizer(plan), loss)
        >>> history = model.fit(np.ones((60, 4), "float32"), np.arange(60) % 3, verbose=0)
        >>> model.privacy_ledger.epsilon(1e-3) == plan.epsilon()
        True
    """
    _check_network(model)
    choose_trainable(model, trainable)
    try:
        layer_rules(model)
        once_for_each_recipe(lambda: check_examples_independent(model), model)
    except InputError:
        choose_trainable(model, "all")
        raise
    return DPModel(model, trainable_part=trainable)


def _check_network(model: Any) -> None:
    if isinstance(model, PrivatelyTrainable):
        raise InputError(f"model is private already: {type(model).__name__}.")
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(f"model must be a built Keras model, got {model!r}.")
    refuse_strategies(model)
    for name in _OWN_TRAINING:
        owner = next(kind for kind in type(model).__mro__ if name in vars(kind))
        if not f"{owner.__module__}.".startswith(_KERAS):
            raise InputError(
                f"model must train as Keras does, {type(model).__name__} has a {name} of its own, "
                "which private training would pass by: put its loss into compile, and its forward "
                "pass into call."
            )
    outputs_of(model)  # refuses a model whose shapes are not known
    if getattr(model, "preprocessor", None) is not None:
        raise InputError(
            "model must have no preprocessor, because private training does not call it: "
            "preprocess the images, then set model.preprocessor = None."
        )
