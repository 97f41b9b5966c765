"""The tensors that a Keras model takes and returns, in nested structures."""

from typing import Any

import keras

from keras_dpvit.errors import InputError


def inputs_of(model: Any) -> Any:
    """The inputs of a built model, as `keras.KerasTensor` in its own structure.

    Args:
        model: a functional, sequential or subclassed model, or a wrapper with one as `network`.

    Returns:
        one tensor, or a list, tuple or dict of them; the first axis, of records, is None.

    Raises:
        InputError: if the model is not built, or takes tensors whose other sides are not fixed.
    """
    network = getattr(model, "network", model)
    found = _declared(network, "inputs")
    if found is None:
        found = _from_build(network)
    for tensor in keras.tree.flatten(found):
        if None in tensor.shape[1:]:
            raise InputError(
                f"model must have inputs of fixed sides, {tensor.name} has {tensor.shape}: build "
                "it for one size, or pad the records to one."
            )
    return keras.tree.map_structure(_with_records, found)


def outputs_of(model: Any) -> Any:
    """The outputs of a built model, as `inputs_of` gives its inputs."""
    network = getattr(model, "network", model)
    found = _declared(network, "outputs")
    if found is None:
        found = network.compute_output_spec(inputs_of(model))
    return keras.tree.map_structure(_with_records, found)


def output_names(model: Any) -> list[str]:
    """A name for each of the outputs in the order of `keras.tree.flatten`."""
    network = getattr(model, "network", model)
    outputs = outputs_of(model)
    if isinstance(outputs, dict):
        return [str(key) for key in sorted(outputs)]
    names = list(getattr(network, "output_names", None) or [])
    count = len(keras.tree.flatten(outputs))
    return names if len(names) == count else [f"output {i + 1}" for i in range(count)]


def inputs_for(model: Any, x: Any) -> list[Any]:
    """The model's input for each array of `x`, in the order of `keras.tree.flatten(x)`.

    Raises:
        InputError: if there are not as many, or they have other names.
    """
    inputs = inputs_of(model)
    wanted = keras.tree.flatten(inputs)
    if isinstance(x, dict) and not isinstance(inputs, dict):
        by_name = {tensor.name: tensor for tensor in wanted}
        if set(x) != set(by_name):
            raise InputError(
                f"x must have an array for each input ({', '.join(by_name)}), got "
                f"{', '.join(map(str, x)) or 'none'}."
            )
        return [by_name[key] for key in sorted(x)]
    if isinstance(inputs, dict) and not isinstance(x, dict):
        raise InputError(
            f"x must be a dict with an array for each input: {', '.join(map(str, inputs))}."
        )
    given = len(keras.tree.flatten(x))
    if given != len(wanted):
        raise InputError(f"x must have an array for each of {len(wanted)} inputs, got {given}.")
    return wanted


def as_model_takes(model: Any, x: Any) -> Any:
    """Tensors in the model's own structure, from `as_tuples` of it."""
    inputs = inputs_of(model)
    if isinstance(x, dict) and not isinstance(inputs, dict):
        return x  # Keras finds its inputs by their names
    return keras.tree.pack_sequence_as(inputs, keras.tree.flatten(x))


def as_model_returns(model: Any, y: Any) -> Any:
    """Labels in the structure of the model's outputs, from `as_tuples` of it."""
    return keras.tree.pack_sequence_as(outputs_of(model), keras.tree.flatten(y))


def as_tuples(structure: Any) -> Any:
    """The structure with tuples for lists, which tf.data would take for tensors."""
    if isinstance(structure, dict):
        return {key: as_tuples(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return tuple(as_tuples(value) for value in structure)
    return structure


def shapes_of(structure: Any) -> Any:
    """The shape of a tensor as a tuple; of several the shapes in their structure."""
    if isinstance(structure, dict):
        return {key: shapes_of(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [shapes_of(value) for value in structure]
    return tuple(structure.shape)


def _declared(network: Any, what: str) -> Any:
    """The structure that a functional or sequential model or a model of ours declares, or None."""
    structure = getattr(network, f"_{what}_struct", None)  # Keras has no public name for it
    if structure is not None:
        return structure
    tensors = getattr(network, what, None)  # of a sequential one
    if isinstance(tensors, list) and len(tensors) == 1:
        return tensors[0]
    shape = getattr(network, "input_shape" if what == "inputs" else "output_shape", None)
    return keras.KerasTensor(shape, "float32") if _is_shape(shape) else None


def _from_build(network: Any) -> Any:
    """The inputs that a subclassed model was first called on."""
    config = network.get_build_config() if getattr(network, "built", False) else None
    shapes = (config or {}).get("input_shape")
    if shapes is None:
        raise InputError(
            f"model must be built, so that its input is known: call {type(network).__name__} once "
            "on a batch, with all inputs in its first argument."
        )
    return _tensors(shapes)


def _tensors(shapes: Any) -> Any:
    if _is_shape(shapes):
        return keras.KerasTensor(tuple(shapes), "float32")
    if isinstance(shapes, dict):
        return {key: _tensors(value) for key, value in shapes.items()}
    return [_tensors(value) for value in shapes]


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(
        side is None or isinstance(side, int) for side in value
    )


def _with_records(tensor: Any) -> Any:
    return keras.KerasTensor((None, *tensor.shape[1:]), tensor.dtype, name=tensor.name)
