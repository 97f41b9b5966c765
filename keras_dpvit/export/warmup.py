"""Requests that TensorFlow Serving plays to a model before it takes traffic.

They hold made-up images only: a warm-up log is usually cut from real requests, which here would be
somebody's pictures.
"""

import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_dpvit.errors import InputError
from keras_dpvit.export import signatures
from keras_dpvit.export.served_model import ServedModel

WARMUP_NAME = "tf_serving_warmup_requests"
MISSING = (
    "no warm-up requests for TF Serving were written: tensorflow-serving-api is missing "
    "(pip install 'keras_dpvit[serving]')"
)


def is_available() -> bool:
    """True if tensorflow-serving-api, which defines the requests, is installed."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def synthetic_image(image_shape: tuple[int, int, int]) -> np.ndarray:
    """One uint8 image of stripes; the same every time."""
    y, x, c = np.meshgrid(*(np.arange(side) for side in image_shape), indexing="ij")
    return ((7 * y + 13 * x + 29 * c) % 256).astype("uint8")


def write_warmup(served: ServedModel, path: pathlib.Path) -> None:
    """Writes a TFRecord file of `PredictionLog`s: one image to each signature, or two files.

    Args:
        served: the model that is exported.
        path: the file, `assets.extra/tf_serving_warmup_requests`.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, values in _inputs(served):
            request = predict_request(name, values)
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString(deterministic=True))


def read_warmup(path: pathlib.Path) -> list[Any]:
    """The `PredictRequest`s of a warm-up file, in order.

    Raises:
        InputError: if it is not a TFRecord file of `PredictionLog`s, or the API is missing.
    """
    import tensorflow as tf

    if not is_available():
        raise InputError(
            "Reading warm-up requests needs tensorflow-serving-api: pip install "
            "'keras_dpvit[serving]'."
        )
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import prediction_log_pb2

    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            requests.append(log.predict_log.request)
    except (tf.errors.OpError, DecodeError) as error:
        raise InputError(f"{path} holds no warm-up requests: it is damaged.") from error
    if not requests:
        raise InputError(f"{path} holds no warm-up requests: it is damaged.")
    return requests


def predict_request(signature_name: str, values: Any, model_name: str = "keras_dpvit") -> Any:
    """A `PredictRequest` for one signature of an export.

    Args:
        signature_name: str.
        values: array of the signature's input.
        model_name: str, what the server calls the model.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature_name
    name, dtype = signatures.INPUTS[signature_name]
    request.inputs[name].CopyFrom(tf.make_tensor_proto(values, dtype=dtype))
    return request


def _inputs(served: ServedModel) -> Iterator[tuple[str, Any]]:
    image = synthetic_image(served.image_shape)
    height, width, channels = served.image_shape
    for name in signatures.expected_signatures(served.is_fused, channels):
        if name == signatures.BYTES:
            large = synthetic_image((2 * height, 2 * width, channels))
            yield name, _files(large)
        elif name == signatures.CLASS_NAMES:
            yield name, np.arange(len(served.class_names))
        else:
            yield name, image[None]


def _files(image: np.ndarray) -> list[bytes]:
    import tensorflow as tf

    return [tf.io.encode_jpeg(image).numpy(), tf.io.encode_png(image).numpy()]
