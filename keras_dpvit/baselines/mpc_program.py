"""A trained model as a private program, in a process under Keras' JAX backend.

The model's computation is cut into three parts. What depends on the image alone (standardisation,
patches, fixed wavelets) its owner computes in the clear; what depends on the weights alone
(attention by place, say) the model's owner computes in the clear, once; all the rest is compiled
for SPU, and both hand their results to it as secret shares. Constants are architecture and public.
"""

import dataclasses
import functools
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dpvit._reasons import reason
from keras_dpvit._types import Array
from keras_dpvit.baselines import mpc_trace
from keras_dpvit.baselines.mpc_images import ModelFacts
from keras_dpvit.errors import InputError
from keras_dpvit.layers import WhitenedFeatures
from keras_dpvit.layers.inside import layers_inside
from keras_dpvit.models import classifier, fused


@dataclasses.dataclass(frozen=True)
class PrivateProgram:
    """A model for private inference on batches of one size.

    Attributes:
        executable: bytes, SPU's; public.
        weights: arrays that only the model's owner knows, to be shared.
        image_part: bytes, `jax.export`'s: from a float32 batch to what is shared of it; public.
        about: `ModelFacts`; public.
    """

    executable: bytes
    weights: list[Array]
    image_part: bytes
    about: ModelFacts


def load_model(path: str | os.PathLike[str], member: int | None = None) -> Any:
    """A `.keras` file under the JAX backend, without optimizer and losses.

    Args:
        path: a `DPViTClassifier` or a `FusedClassifier`.
        member: int, the number of one member of a fused model, from 1; None for all of it.

    Raises:
        InputError: if it is no such file, or has no such member.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError("this process has Keras under another backend than JAX")
    place = pathlib.Path(path)
    if place.suffix != ".keras" or not place.is_file():
        raise InputError(f"model must be a .keras file that exists, got {str(path)!r}.")
    try:
        model = _read(place)
    except Exception as error:
        raise InputError(
            "model must be a .keras file of a DPViTClassifier or a FusedClassifier of them; "
            f"{str(path)!r} cannot be read: {reason(error)}."
        ) from error
    members = getattr(model, "members", [])
    for part in members or [model]:
        if not isinstance(part, classifier.DPViTClassifier):
            raise InputError(
                "model must be a DPViTClassifier or a FusedClassifier of them, got "
                f"{type(part).__name__}."
            )
    if member is None:
        return model
    if not 1 <= member <= len(members):
        raise InputError(f"member must be the number of one of {len(members)}, got {member}.")
    return members[member - 1]


def _read(place: pathlib.Path) -> Any:
    """The model; private optimizers, those of members too, need TensorFlow and are left out."""
    with tempfile.TemporaryDirectory() as folder:
        bare = pathlib.Path(folder, "model.keras")
        with zipfile.ZipFile(place) as given, zipfile.ZipFile(bare, "w") as written:
            for name in given.namelist():
                content = given.read(name)
                if name == "config.json":
                    content = json.dumps(_uncompiled(json.loads(content))).encode()
                written.writestr(name, content)
        return keras.saving.load_model(bare, compile=False)


def _uncompiled(config: Any) -> Any:
    if isinstance(config, dict):
        return {k: _uncompiled(v) for k, v in config.items() if k != "compile_config"}
    return [_uncompiled(item) for item in config] if isinstance(config, list) else config


def private_program(
    model: Any, batch_size: int, class_names: Sequence[str] | None = None
) -> PrivateProgram:
    """Cuts and compiles a model.

    Guarantee: the image's part and the executable hold none of the model's variables, and the
    weights nothing of an image: each of the three parts is made from those steps of the traced
    computation alone that depend on nothing else.

    Args:
        model: see `load_model`.
        batch_size: int.
        class_names: in the order of the classes; None numbers them.

    Raises:
        InputError: if the names do not fit the classes, layers draw noise at inference, or SPU
            cannot compile a step of the model.
    """
    import jax

    classes = int(model.output_shape[-1])
    names = tuple(map(str, range(classes) if class_names is None else class_names))
    if len(names) != classes:
        raise InputError(f"class_names must be {classes} names, got {len(names)}.")
    for layer in layers_inside(model):
        if getattr(layer, "noise_at_inference", False) and layer.seed_generator is not None:
            raise InputError(
                "model must be silent outside training: noise_at_inference would be one draw for "
                "all images here."
            )
    function, variables = stateless(model)
    height, width, channels = map(int, model.input_shape[1:])
    shape = batch_size, height, width, channels
    images = jax.ShapeDtypeStruct(shape, "float32")  # type: ignore[no-untyped-call]
    try:
        image_part, weights, executable = mpc_trace.cut(function, variables, images)
    except Exception as error:
        raise InputError(f"model has a step that SPU cannot compute: {reason(error)}.") from error
    output = "probabilities" if isinstance(model, fused.FusedClassifier) else "logits"
    about = ModelFacts((height, width, channels), batch_size, output, names)
    return PrivateProgram(executable, weights, image_part, about)


def stateless(model: Any) -> tuple[Callable[..., Any], list[Array]]:
    """The model as a function of its variables and images, and the variables' values."""
    trainable = len(model.trainable_variables)
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    for layer in layers_inside(model):
        if isinstance(layer, WhitenedFeatures):
            layer.taken_away = functools.partial(_taken_away, layer)  # type: ignore[method-assign]

    def function(given: Sequence[Any], images: Any) -> Any:
        answer, _ = model.stateless_call(
            given[:trainable], given[trainable:], images, training=False
        )
        return answer["probabilities"] if isinstance(answer, dict) else answer

    return function, [np.asarray(variable) for variable in variables]


def _taken_away(layer: WhitenedFeatures, z: Any) -> Any:
    """As `WhitenedFeatures.taken_away`, the strengths taken into the directions first.

    Fixed point has no strengths of 1e-6; this step depends on the weights alone and is in floats.
    """
    roots = keras.ops.sqrt(keras.ops.cast(layer.strengths, "float32"))
    scaled = keras.ops.cast(layer.directions, "float32") * roots
    return keras.ops.matmul(keras.ops.matmul(z, scaled), keras.ops.transpose(scaled))
