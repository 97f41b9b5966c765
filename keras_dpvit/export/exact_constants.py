"""A TFLite model's float32 constants in fewer bytes, where these hold the same numbers.

Constants whose numbers are all whole and within int8, as the directions of `WhitenedFeatures` are,
become int8; those that half precision holds exactly become float16. An op, DEQUANTIZE, widens each
when the file is loaded, so that everything computes in float32 with the same numbers as before.
"""

from typing import Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

_SMALLEST = 1024  # numbers; below, an op would cost more than it saves
_LARGEST_INT8 = 127

# The version of the op that each type needs.
_VERSIONS = {np.dtype("int8"): 2, np.dtype("float16"): 3}
_TYPES = {np.dtype("int8"): schema.TensorType.INT8, np.dtype("float16"): schema.TensorType.FLOAT16}


def compacted(content: bytes) -> bytes:
    """The model with large constants in the smallest type that holds them exactly.

    Args:
        content: flatbuffer of a TFLite model.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    packing = _Packing(model)
    for index in range(len(packing.graph.tensors)):
        packing.pack(index)
    packing.widen_casts()
    packing.finish()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def smaller(values: np.ndarray) -> np.ndarray | None:
    """Float32 values as int8 or float16, whichever holds them exactly; None if neither does."""
    rounded = np.rint(values)
    if np.array_equal(rounded, values) and np.abs(values).max() <= _LARGEST_INT8:
        return rounded.astype("int8")
    with np.errstate(over="ignore"):
        half = values.astype("float16")
    return half if np.array_equal(half.astype("float32"), values) else None


class _Packing:
    """The constants of a model's first graph, and the ops that widen them.

    Attributes:
        graph: the graph.
    """

    def __init__(self, model: Any) -> None:
        self._model, self.graph = model, model.subgraphs[0]
        self._added: list[Any] = []
        self._outputs = set(self.graph.outputs)
        self._matrices: dict[bytes, int] = {}  # a narrow matrix to the wide tensor of it
        self._buffers: dict[bytes, int] = {}

    def pack(self, index: int) -> None:
        """Replaces a tensor's constant, if it is one and fits."""
        tensor = self.graph.tensors[index]
        values = self._constant(tensor)
        if values is None or index in self._outputs:
            return
        narrow = smaller(values)
        if narrow is None:
            return
        tensor.buffer = 0  # what is computed has no bytes
        key = _key(narrow.T) if narrow.ndim == 2 else b""
        if key in self._matrices:
            order = self._tensor(np.array([1, 0], "int32"), schema.TensorType.INT32)
            self._add("TRANSPOSE", 1, [self._matrices[key], order], index)
            return
        self._matrices[_key(narrow)] = index
        source = self._tensor(narrow, _TYPES[narrow.dtype])
        self._add("DEQUANTIZE", _VERSIONS[narrow.dtype], [source], index)

    def widen_casts(self) -> None:
        """Makes casts of int8 constants, done on every call, such ops too, done once."""
        for op in self.graph.operators:
            if str(flatbuffer_utils.opcode_to_name(self._model, op.opcodeIndex)) != "CAST":
                continue
            source, target = (self.graph.tensors[i[0]] for i in (op.inputs, op.outputs))
            is_constant = self._model.buffers[source.buffer].data is not None
            if (
                is_constant
                and source.type == schema.TensorType.INT8
                and target.type == schema.TensorType.FLOAT32
            ):
                source.quantization = _as_they_are()
                op.opcodeIndex = self._code("DEQUANTIZE", 2)
                op.builtinOptionsType, op.builtinOptions = 0, None

    def finish(self) -> None:
        """Puts the new ops before the others, and drops bytes that no tensor has any more."""
        self.graph.operators = [*self._added, *self.graph.operators]
        used = {tensor.buffer for graph in self._model.subgraphs for tensor in graph.tensors}
        used.update(entry.buffer for entry in self._model.metadata or ())
        for number, buffer in enumerate(self._model.buffers):
            if number not in used:
                buffer.data = None

    def _constant(self, tensor: Any) -> np.ndarray | None:
        """The values of a large float32 constant; None for another tensor."""
        data = self._model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.FLOAT32 or data is None or len(data) < 4 * _SMALLEST:
            return None
        values = np.frombuffer(bytes(data), "<f4").reshape(tensor.shape)
        return values if np.isfinite(values).all() else None

    def _tensor(self, values: np.ndarray, kind: int) -> int:
        """Adds a constant; equal ones share their bytes."""
        content = values.tobytes()
        if content not in self._buffers:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content, "uint8")
            self._model.buffers.append(buffer)
            self._buffers[content] = len(self._model.buffers) - 1
        tensor = schema.TensorT()
        tensor.name = f"constant_{len(self.graph.tensors)}".encode()
        tensor.shape = np.array(values.shape, "int32")
        tensor.type, tensor.buffer = kind, self._buffers[content]
        if kind == schema.TensorType.INT8:
            tensor.quantization = _as_they_are()
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _add(self, name: str, version: int, inputs: list[int], output: int) -> None:
        op = schema.OperatorT()
        op.opcodeIndex = self._code(name, version)
        op.inputs, op.outputs = np.array(inputs, "int32"), np.array([output], "int32")
        self._added.append(op)

    def _code(self, name: str, version: int) -> int:
        """The number of an op in the model's list, which gets it if it is new."""
        builtin = getattr(schema.BuiltinOperator, name)
        for number, code in enumerate(self._model.operatorCodes):
            if (code.builtinCode, code.version) == (builtin, version):
                return number
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = version
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1


def _as_they_are() -> Any:
    """The quantisation of numbers that stand for themselves."""
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = np.ones(1, "float32"), np.zeros(1, "int64")
    return parameters


def _key(matrix: np.ndarray) -> bytes:
    return repr((matrix.dtype.str, matrix.shape)).encode() + matrix.tobytes()
