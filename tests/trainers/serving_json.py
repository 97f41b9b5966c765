"""Bodies of TensorFlow Serving's REST API, read and written as its `json_tensor.cc` does."""

import base64
import binascii
import json

import numpy as np
import tensorflow as tf


class ServingError(Exception):
    """An error by the name of its gRPC status code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def invalid(message):
    return ServingError("INVALID_ARGUMENT", message)


def read_body(body, signature_of):
    """The parts of a predict request.

    Returns:
        The signature's name, arrays by input name, and whether the form was by rows ("instances").
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(content, dict):
        raise invalid("JSON value is not an object")
    name = content.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    infos = signature_of(name).inputs
    if ("instances" in content) == ("inputs" in content):
        raise invalid("expecting one of 'inputs' or 'instances' keys")
    if "instances" in content:
        return name, _from_rows(content["instances"], infos), True
    return name, _from_columns(content["inputs"], infos), False


def _from_columns(inputs, infos):
    if not isinstance(inputs, dict) or _is_base64(inputs):
        if len(infos) > 1:
            raise invalid("inputs is a plain value, but several named inputs are required")
        inputs = {next(iter(infos)): inputs}
    missing = [name for name in infos if name not in inputs]
    if missing:
        raise invalid(f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: _tensor(inputs[name], info.dtype) for name, info in infos.items()}


def _from_rows(rows, infos):
    if not isinstance(rows, list) or not rows:
        raise invalid("'instances' must be a list with at least one element")
    columns = {name: [] for name in infos}
    named = isinstance(rows[0], dict) and not _is_base64(rows[0])
    if not named and len(infos) > 1:
        raise invalid("instances is a plain list, but several named inputs are required")
    for number, row in enumerate(rows):
        if named != (isinstance(row, dict) and not _is_base64(row)):
            raise invalid(f"Failed to process element: {number}: objects and values are mixed")
        row = row if named else {next(iter(infos)): row}
        if set(row) != set(infos):
            raise invalid(f"Failed to process element: {number}: keys must be {sorted(infos)}")
        for name, value in row.items():
            columns[name].append(_tensor(value, infos[name].dtype))
    for name, parts in columns.items():
        if len({part.shape for part in parts}) > 1:
            raise invalid(f"instances differ in the shape of {name}")
    return {name: np.stack(parts) for name, parts in columns.items()}


def _is_base64(value):
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _tensor(value, dtype):
    shape, part = [], value
    while isinstance(part, list):
        shape.append(len(part))
        part = part[0] if part else None
    leaves = []
    dtype = tf.as_dtype(dtype)
    _fill(value, 0, shape, dtype, leaves)
    array = np.empty(len(leaves), dtype.as_numpy_dtype)
    with np.errstate(over="ignore"):
        array[:] = np.array(leaves, object if dtype == tf.string else None).astype(array.dtype)
    return array.reshape(shape)


def _fill(value, level, shape, dtype, leaves):
    if isinstance(value, list):
        if level >= len(shape) or len(value) != shape[level]:
            raise invalid(f"Encountered list at unexpected size: {len(value)} at level: {level}")
        for part in value:
            _fill(part, level + 1, shape, dtype, leaves)
    elif level != len(shape):
        raise invalid(f"JSON Value found at incorrect level: {level + 1}")
    else:
        leaves.append(_leaf(value, dtype))


def _leaf(value, dtype):
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode()
        if _is_base64(value):
            try:
                return base64.b64decode(value["b64"], validate=True)
            except (binascii.Error, ValueError) as error:
                raise invalid("Unable to base64 decode") from error
    elif isinstance(value, int) and not isinstance(value, bool):
        bound = {tf.float32: 2**24, tf.int64: 2**63}.get(dtype, 2**31)
        if -bound <= value < bound:
            return value
    elif isinstance(value, float) and dtype.is_floating:
        return value
    shown = json.dumps(value)[:100]
    raise invalid(f"JSON Value: {shown} is not of expected type: {dtype.name}")


def write_body(outputs, by_rows):
    """The answer as TF Serving writes it: one output alone goes without its name."""
    values = {name: _plain(array, name) for name, array in outputs.items()}
    if not by_rows:
        only = next(iter(values.values())) if len(values) == 1 else values
        return json.dumps({"outputs": only})
    sizes = {len(value) if isinstance(value, list) else None for value in values.values()}
    if len(sizes) > 1 or None in sizes:
        raise invalid("Tensors must have the same batch dimension to be written by rows")
    if len(values) == 1:
        return json.dumps({"predictions": next(iter(values.values()))})
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({"predictions": rows})


def _plain(array, name):
    if array.dtype == np.float32:  # 0.2, not the 0.20000000298 of a double
        texts = array.astype(str)
        return texts.astype("float64").tolist()
    if array.dtype == object:
        if name.endswith("_bytes"):
            return [{"b64": base64.b64encode(value).decode()} for value in array]
        return [value.decode() for value in array]
    return array.tolist()
