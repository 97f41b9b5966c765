"""From a traced model to a TFLite flatbuffer, in float32 or smaller types.

Full int8: matrix products, attention with its softmax, GELU, layer normalisation, additions and
pooling compute in int8. Three kinds of ops stay in float32:

* **What follows the last matrix product**: softmax over the classes, fusion and argmax. These are a
  few dozen numbers; in int8, probabilities would be multiples of 1/256 and tie.
* **Divisions**: LiteRT's int8 division refuses to run where a denominator rounds to zero, and where
  numerator and denominator differ much in scale, a small negative numerator comes out as the least
  value there is. In this package these are one division of the image by its deviation, and one
  reciprocal for each token and layer normalisation.
* **Resizing, scattering** and the normalisation of its features: fixed preprocessing, in which
  small wavelet coefficients beside large ones count, and would round to zero.

In a model with a whitened head, only the transformer's matrix products compute in int8. Whitening
makes small directions as large as the others, and their rounding with them.

`count_ops` says how many of each a file has.
"""

import collections
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.tools import flatbuffer_utils

from keras_dpvit.export.exact_constants import compacted
from keras_dpvit.export.served_model import ServedModel

QUANTIZATIONS = ("float16", "dynamic", "int8")

_SIGNATURE = "serving_default"
_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "BATCH_MATMUL")
# The layers that `models.stages.feature_maps` names so, in the names of their ops.
_FEATURES = re.compile(r"\b(resizing|scattering|feature_normalization)(_\d+)?/")
# The layers of `models.feature_head`. Joined names of fused ops are found too.
_WHITENED = re.compile(r"\b(whitened_\w+|joined_features|normalized_\w+)(_\d+)?/")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_FLOAT_TYPES = ("FLOAT32", "FLOAT16")


def flatbuffer_of(
    served: ServedModel,
    quantize: str | None = None,
    calibration: np.ndarray | None = None,
    outputs: str = "all",
    batch_size: int | None = 1,
) -> bytes:
    """Converts a served model.

    Args:
        served: the model.
        quantize: None or one of `QUANTIZATIONS`.
        calibration: for "int8", images `(n, height, width, channels)`, pixels 0..255.
        outputs: "all" or "probabilities".
        batch_size: int, images at a time; None for any number.
    """
    module = tf.Module()
    module.model_variables = served.model_variables
    module.serving_default = served.numeric_function(batch_size, outputs=outputs)
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, signatures={_SIGNATURE: module.serving_default})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=[_SIGNATURE])
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            assert calibration is not None
            content = _full_int8(converter, calibration, batch_size or 1)
        else:
            content = converter.convert()
    return compacted(content) if quantize in (None, "int8") else content


def _full_int8(converter: Any, calibration: np.ndarray, batch_size: int) -> bytes:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(calibration), batch_size):
            # The last batch is filled up from the front: ranges do not count images.
            numbers = np.arange(start, start + batch_size) % len(calibration)
            yield {"images": calibration[numbers].astype(np.float32)}

    converter.representative_dataset = batches
    # The two halves of the converter's own int8 conversion, for which ops stay in float is known
    # only when the ranges are. TensorFlow's QuantizationDebugger takes the same way.
    converter._experimental_calibrate_only = True  # noqa: SLF001
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's, about its interpreter being deprecated
        calibrated = converter.convert()
    content = mlir_quantize(
        calibrated, input_data_type=tf.uint8, denylisted_nodes=_float_nodes(calibrated)
    )
    return _without_round_trips(content)


def _float_nodes(calibrated: bytes) -> list[str]:
    """Names of the outputs of ops that stay in float32."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(calibrated))
    graph = model.subgraphs[0]
    names = [_op_name(model, op) for op in graph.operators]
    made = [_text(graph.tensors[op.outputs[0]].name) for op in graph.operators]
    whitens = any(map(_WHITENED.search, made))
    chosen = _after_the_last_product(graph, names)
    for number, (name, output) in enumerate(zip(names, made, strict=True)):
        between = whitens and (name not in _PRODUCTS or _WHITENED.search(output))
        if name == "DIV" or _FEATURES.search(output) or between:
            chosen.add(number)
    tensors = [graph.tensors[index] for i in sorted(chosen) for index in graph.operators[i].outputs]
    return [_text(tensor.name) for tensor in tensors]


def _after_the_last_product(graph: Any, names: list[str]) -> set[int]:
    consumers = collections.defaultdict(list)
    for number, op in enumerate(graph.operators):
        for index in op.inputs:
            consumers[index].append(number)
    tail: set[int] = set()
    for number in reversed(range(len(names))):  # ops are in the order in which they run
        users = [user for index in graph.operators[number].outputs for user in consumers[index]]
        if names[number] not in _PRODUCTS and tail.issuperset(users):
            tail.add(number)
    return tail


def _without_round_trips(content: bytes) -> bytes:
    """The model without conversions to int8 and straight back.

    The converter puts such behind a softmax in float32, and probabilities would be multiples of
    1/256 all the same.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    sources = {op.outputs[0]: op.inputs[0] for op in _named(model, "QUANTIZE")}
    same = {
        op.outputs[0]: sources[op.inputs[0]]
        for op in _named(model, "DEQUANTIZE")
        if op.inputs[0] in sources and _types(graph, [sources[op.inputs[0]]]) == {"FLOAT32"}
    }
    for op in graph.operators:
        op.inputs = [same.get(index, index) for index in op.inputs]
    graph.outputs = [same.get(index, index) for index in graph.outputs]
    for output in model.signatureDefs[0].outputs:
        output.tensorIndex = same.get(output.tensorIndex, output.tensorIndex)
    used = {index for op in graph.operators for index in op.inputs}.union(graph.outputs)
    for name in ("DEQUANTIZE", "QUANTIZE"):  # in this order the second has no readers left
        unread = [op for op in _named(model, name) if op.outputs[0] not in used]
        graph.operators = [op for op in graph.operators if op not in unread]
        used = {index for op in graph.operators for index in op.inputs}.union(graph.outputs)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _named(model: Any, name: str) -> list[Any]:
    return [op for op in model.subgraphs[0].operators if _op_name(model, op) == name]


def _types(graph: Any, indices: Iterable[int]) -> set[str]:
    return {flatbuffer_utils.type_to_name(graph.tensors[i].type) for i in indices if i >= 0}


def count_ops(content: bytes) -> dict[str, int]:
    """Counts the ops of a TFLite model by the type of numbers they compute in.

    Args:
        content: flatbuffer of a TFLite model.

    Returns:
        "float": ops that read or write floating-point numbers, "integer": the others,
        "conversion": QUANTIZE and DEQUANTIZE between the two.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    counts = {"integer": 0, "float": 0, "conversion": 0}
    for op in graph.operators:
        if _op_name(model, op) in _CONVERSIONS:
            counts["conversion"] += 1
        elif _types(graph, (*op.inputs, *op.outputs)).intersection(_FLOAT_TYPES):
            counts["float"] += 1
        else:
            counts["integer"] += 1
    return counts


def _op_name(model: Any, op: Any) -> str:
    return str(flatbuffer_utils.opcode_to_name(model, op.opcodeIndex))


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
