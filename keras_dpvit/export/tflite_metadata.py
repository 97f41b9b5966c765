"""TFLite Model Metadata: what a file is, what goes in and out, and where its labels are.

A separate flatbuffer, by the schema "M001" of TFLite Support, in the buffer that the entry
`TFLITE_METADATA` of the model names. The labels themselves are attached behind the model
(`edge.attachments`). Slots below are the fields' places in the schema's tables.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.tools import flatbuffer_utils

from keras_dpvit.edge.attachments import LABELS
from keras_dpvit.version import __version__

_ENTRY = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
# Enumerations and unions of the schema.
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1
_COLOR_SPACES = {1: 2, 3: 1}  # channels to GRAYSCALE, RGB; else UNKNOWN
_NORMALIZATION = 1
_AXIS_LABELS, _VALUE_LABELS = 2, 3

_OUTPUTS = {
    "probabilities": "Probability of each class.",
    "class_id": "Number of the class with the highest probability.",
    "weights": "Weight of each member in the fusion of this image.",
    "member_probabilities": "Each member's probability of each class.",
}
_LABEL_TYPES = {"probabilities": _AXIS_LABELS, "class_id": _VALUE_LABELS}


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of a model in the metadata.

    Attributes:
        name: str.
        text: str, what it does, its privacy included.
        image_shape: (height, width, channels).
    """

    name: str
    text: str
    image_shape: tuple[int, int, int]


def with_metadata(model: bytes, description: Description) -> bytes:
    """The model with a metadata buffer; its input and outputs are taken from its signature.

    Args:
        model: flatbuffer of a TFLite model with one signature.
        description: what to say of it.
    """
    parsed = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    names = {output.tensorIndex: _text(output.name) for output in parsed.signatureDefs[0].outputs}
    order = [names[index] for index in parsed.subgraphs[0].outputs]
    buffer = flatbuffer_utils.schema_fb.BufferT()
    buffer.data = np.frombuffer(_metadata(description, order), np.uint8)
    parsed.buffers.append(buffer)
    entry = flatbuffer_utils.schema_fb.MetadataT()
    entry.name, entry.buffer = _ENTRY, len(parsed.buffers) - 1
    parsed.metadata = [*(parsed.metadata or []), entry]
    parsed.description = description.text
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _metadata(description: Description, outputs: Sequence[str]) -> bytes:
    b = flatbuffers.Builder(1024)
    files = {name: _vector(b, [_labels(b, kind)]) for name, kind in _LABEL_TYPES.items()}
    tensors = [_output(b, name, files.get(name)) for name in outputs]
    subgraph = _table(
        b,
        10,
        {2: _vector(b, [_input(b, description.image_shape)]), 3: _vector(b, tensors)},
    )
    model = _table(
        b,
        8,
        {
            0: b.CreateString(description.name),
            1: b.CreateString(description.text),
            2: b.CreateString(__version__),
            3: _vector(b, [subgraph]),
            4: b.CreateString(f"keras_dpvit {__version__}"),
            7: b.CreateString("1.0.0"),  # the least schema version that has all of this
        },
    )
    b.Finish(model, file_identifier=_IDENTIFIER)
    return bytes(b.Output())


def _input(b: Any, image_shape: tuple[int, int, int]) -> int:
    height, width, channels = image_shape
    size = _table(
        b,
        2,
        {0: lambda: b.PrependUint32Slot(0, width, 0), 1: lambda: b.PrependUint32Slot(1, height, 0)},
    )
    color = _COLOR_SPACES.get(channels, 0)
    image = _table(b, 2, {0: lambda: b.PrependInt8Slot(0, color, 0), 1: size})
    # Mean 0 and deviation 1: pixels go in as they are.
    options = _table(b, 2, {0: _floats(b, [0.0]), 1: _floats(b, [1.0])})
    unit = _table(b, 2, {0: lambda: b.PrependUint8Slot(0, _NORMALIZATION, 0), 1: options})
    stats = _table(b, 2, {0: _floats(b, [255.0]), 1: _floats(b, [0.0])})
    return _table(
        b,
        7,
        {
            0: b.CreateString("images"),
            1: b.CreateString("Pixels 0 to 255; normalisation is inside the model."),
            3: _content(b, _IMAGE_PROPERTIES, image),
            4: _vector(b, [unit]),
            5: stats,
        },
    )


def _output(b: Any, name: str, files: int | None) -> int:
    fields: dict[int, Any] = {
        0: b.CreateString(name),
        1: b.CreateString(_OUTPUTS.get(name, "")),
        3: _content(b, _FEATURE_PROPERTIES, _table(b, 0, {})),
    }
    if files is not None:
        fields[6] = files
    return _table(b, 7, fields)


def _labels(b: Any, kind: int) -> int:
    return _table(
        b,
        5,
        {
            0: b.CreateString(LABELS),
            1: b.CreateString("Names of the classes, one on each line."),
            2: lambda: b.PrependInt8Slot(2, kind, 0),
        },
    )


def _content(b: Any, kind: int, properties: int) -> int:
    return _table(b, 3, {0: lambda: b.PrependUint8Slot(0, kind, 0), 1: properties})


def _table(b: Any, slots: int, fields: dict[int, int | Callable[[], None]]) -> int:
    """A table; each field is the offset of what was written before, or writes itself."""
    b.StartObject(slots)
    for slot, field in fields.items():
        if callable(field):
            field()
        else:
            b.PrependUOffsetTRelativeSlot(slot, field, 0)
    return int(b.EndObject())


def _vector(b: Any, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _floats(b: Any, values: Sequence[float]) -> int:
    return int(b.CreateNumpyVector(np.asarray(values, np.float32)))
