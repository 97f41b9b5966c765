"""A stand-in for TensorFlow Serving, to test clients and exports against: REST and gRPC.

TensorFlow Serving itself is a C++ program that these machines cannot install. What is here answers
as its documentation says (the REST API's page, `predict.proto`, `get_model_metadata.proto`): paths,
both JSON forms, base64 objects, the `_bytes` suffix of outputs, status codes, `{"error": ...}`. The
model is loaded and run as TF Serving does it: by TensorFlow's session loader, from the signature
definitions alone. It serves the newest version of each model and does not batch.
"""

import base64
import binascii
import concurrent.futures
import http.server
import json
import pathlib
import re
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

tf.get_logger().setLevel("ERROR")  # the session loader is called deprecated

_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:(predict|classify|regress)")
_STATUS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?")
_METADATA = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?/metadata")

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 501,
    "RESOURCE_EXHAUSTED": 429,
}


class ServingError(Exception):
    """An error by the name of its gRPC status code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def invalid(message):
    return ServingError("INVALID_ARGUMENT", message)


class Servable:
    """The newest version of one SavedModel, in a session of its own."""

    def __init__(self, base):
        versions = [p for p in pathlib.Path(base).iterdir() if p.name.isdecimal()]
        directory = max(versions, key=lambda p: int(p.name))
        self.version = int(directory.name)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(directory))
        self.signatures = {
            name: signature
            for name, signature in graph.signature_def.items()
            if name != "__saved_model_init_op"
        }

    def signature(self, name):
        name = name or "serving_default"
        if name not in self.signatures:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        return self.signatures[name]

    def predict(self, signature_name, inputs):
        """Arrays by name to arrays by name."""
        signature = self.signature(signature_name)
        if set(inputs) != set(signature.inputs):
            raise invalid(f"inputs must be {sorted(signature.inputs)}, got {sorted(inputs)}")
        feed = {}
        for name, info in signature.inputs.items():
            dtype = tf.as_dtype(info.dtype)
            given = tf.as_dtype(inputs[name].dtype)
            if given != dtype and not (dtype == tf.string and inputs[name].dtype == object):
                raise invalid(f"{name}: expected dtype {dtype.name}, got {given.name}")
            feed[info.name] = inputs[name]
        fetch = {name: info.name for name, info in signature.outputs.items()}
        try:
            return self._session.run(fetch, feed)
        except tf.errors.OpError as error:
            code = next(k for k, v in vars(grpc.StatusCode).items() if _is(v, error.error_code))
            raise ServingError(code, error.message) from error
        except (TypeError, ValueError) as error:  # the session's own check of shapes
            raise invalid(str(error)) from error

    def close(self):
        self._session.close()


def _is(status, number):
    return isinstance(status, grpc.StatusCode) and status.value[0] == number


# === JSON ===


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


# === servers ===


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _answer(self, work):
        length = self.headers.get("Content-Length", "0")
        self.body = self.rfile.read(int(length)) if length.isdecimal() else b""
        try:
            status, text = 200, work()
        except ServingError as error:
            status = _HTTP.get(error.code, 500)
            text = json.dumps({"error": str(error)})
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _post(self):
        found = _PREDICT.fullmatch(self.path)
        if not found or found[3] != "predict":
            raise invalid(f"Malformed request: POST {self.path}")
        servable = self.server.servable(found[1], found[2])
        name, inputs, by_rows = read_body(self.body, servable.signature)
        return write_body(servable.predict(name, inputs), by_rows)

    def _get(self):
        found = _METADATA.fullmatch(self.path)
        if found:
            return json.dumps(self._metadata(found))
        found = _STATUS.fullmatch(self.path)
        if not found:
            raise invalid(f"Malformed request: GET {self.path}")
        status = {
            "version": str(self.server.servable(found[1], found[2]).version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        return json.dumps({"model_version_status": [status]})

    def _metadata(self, found):
        servable = self.server.servable(found[1], found[2])
        signatures = {k: json_format.MessageToDict(v) for k, v in servable.signatures.items()}
        return {
            "model_spec": {
                "name": found[1],
                "signature_name": "",
                "version": str(servable.version),
            },
            "metadata": {"signature_def": {"signature_def": signatures}},
        }


class _RestServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, servable):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.servable = servable


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, servable):
        self._servable = servable

    def Predict(self, request, context):  # noqa: N802
        try:
            spec = request.model_spec
            version = str(spec.version.value) if spec.HasField("version") else None
            servable = self._servable(spec.name, version)
            inputs = {name: _from_proto(proto) for name, proto in request.inputs.items()}
            outputs = servable.predict(spec.signature_name, inputs)
        except ServingError as error:
            context.abort(getattr(grpc.StatusCode, error.code), str(error))
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        response.model_spec.version.value = servable.version
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    def GetModelMetadata(self, request, context):  # noqa: N802
        try:
            servable = self._servable(request.model_spec.name, None)
        except ServingError as error:
            context.abort(getattr(grpc.StatusCode, error.code), str(error))
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
        response.metadata["signature_def"].Pack(signatures)
        return response


def _from_proto(proto):
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid(f"TensorProto cannot be parsed: {error}") from error


class ServingServer:
    """Serves SavedModels over REST and gRPC on ports of the loopback, while it is entered.

    Args:
        models: model name to base directory, which holds numbered versions.
    """

    def __init__(self, models):
        self._models = models

    def __enter__(self):
        self._servables = {name: Servable(base) for name, base in self._models.items()}
        self._rest = _RestServer(self.servable)
        self._thread = threading.Thread(target=self._rest.serve_forever, daemon=True)
        self._thread.start()
        pool = concurrent.futures.ThreadPoolExecutor(8)
        unlimited = [("grpc.max_receive_message_length", -1)]
        self._grpc = grpc.server(pool, options=unlimited)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Predictions(self.servable), self._grpc
        )
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self.rest_port = self._rest.server_address[1]
        self._grpc.start()
        return self

    def __exit__(self, *_):
        self._rest.shutdown()
        self._rest.server_close()
        self._thread.join()
        self._grpc.stop(0).wait()
        for servable in self._servables.values():
            servable.close()

    def servable(self, name, version):
        found = self._servables.get(name)
        if found is None or version not in (None, str(found.version)):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {asked}")
        return found

    def rest_url(self, name):
        return f"http://127.0.0.1:{self.rest_port}/v1/models/{name}"

    def grpc_url(self, name):
        return f"grpc://127.0.0.1:{self.grpc_port}/{name}"
