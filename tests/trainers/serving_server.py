"""A stand-in for TensorFlow Serving, to test clients and exports against: REST and gRPC.

TensorFlow Serving itself is a C++ program that these machines cannot install. What is here answers
as its documentation and its sources say (the REST API's page, `http_rest_api_util.cc`,
`get_model_status_impl.cc`, `predict.proto`): paths with versions and labels, both JSON forms,
base64 objects, the `_bytes` suffix of outputs, metadata and status as it prints them, status codes,
`{"error": ...}`. It does not batch.
"""

import concurrent.futures
import http.server
import json
import pathlib
import re
import sys
import threading
import urllib.parse

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from serving_json import ServingError, invalid, read_body, write_body
from serving_models import Models

_VERSION = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(_VERSION + r":(predict|classify|regress)", re.IGNORECASE)
_STATUS = re.compile(_VERSION + r"(?:/(metadata))?", re.IGNORECASE)

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 501,
    "RESOURCE_EXHAUSTED": 429,
}


def _printed(proto):
    """A message as the REST API prints it: the proto's names, nothing left out, int64 as text."""
    return json_format.MessageToDict(
        proto, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )


def _statuses(models, name, version):
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state, code, message in models.states(name, version):
        status = response.model_version_status.add()
        status.version = number
        status.state = type(status).State.Value(state)
        status.status.error_code = getattr(grpc.StatusCode, code).value[0]
        status.status.error_message = message
    return response


def _metadata(servable, name):
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = servable.version
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.all_signatures)
    response.metadata["signature_def"].Pack(signatures)
    return response, signatures


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

    def _asked(self, pattern):
        """Name, version, label and what is asked of them."""
        found = pattern.fullmatch(self.path)
        if not found:
            raise invalid(f"Malformed request: {self.command} {self.path}")
        name, label = (part and urllib.parse.unquote(part) for part in (found[1], found[3]))
        return name, found[2] and int(found[2]), label, (found[4] or "").lower()

    def _post(self):
        name, version, label, method = self._asked(_PREDICT)
        if method != "predict":
            kind = {"classify": "classification", "regress": "regression"}[method]
            raise invalid(
                f"Expected {kind} signature method_name to be tensorflow/serving/{method}. "
                "Was: tensorflow/serving/predict"
            )
        with self.server.models.servable(name, version, label).in_use() as servable:
            signature_name, inputs, by_rows = read_body(self.body, servable.signature)
            return write_body(servable.predict(signature_name, inputs), by_rows)

    def _get(self):
        name, version, label, resource = self._asked(_STATUS)
        if not resource:
            return json.dumps(_printed(_statuses(self.server.models, name, version)))
        servable = self.server.models.servable(name, version, label)
        response, signatures = _metadata(servable, name)
        return json.dumps(
            {
                "model_spec": _printed(response.model_spec),
                "metadata": {"signature_def": _printed(signatures)},
            }
        )


class _RestServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, models):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models


def _or_status(method):
    """Ends a call by the status of the `ServingError` that its method raises."""

    def answer(self, request, context):
        try:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            return method(self, request)
        except ServingError as error:
            context.abort(getattr(grpc.StatusCode, error.code), str(error))

    return answer


def _choice(spec):
    """Version and label that a request asks for."""
    choice = spec.WhichOneof("version_choice")
    return (
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self._models = models

    @_or_status
    def Predict(self, request):  # noqa: N802
        spec = request.model_spec
        with self._models.servable(spec.name, *_choice(spec)).in_use() as servable:
            inputs = {name: _from_proto(proto) for name, proto in request.inputs.items()}
            outputs = servable.predict(spec.signature_name, inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = spec.name
        response.model_spec.signature_name = spec.signature_name or "serving_default"
        response.model_spec.version.value = servable.version
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    @_or_status
    def GetModelMetadata(self, request):  # noqa: N802
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        spec = request.model_spec
        return _metadata(self._models.servable(spec.name, *_choice(spec)), spec.name)[0]


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models):
        self._models = models

    @_or_status
    def GetModelStatus(self, request):  # noqa: N802
        # As in the server's own code, a label does not choose: the states of all are told.
        return _statuses(self._models, request.model_spec.name, _choice(request.model_spec)[0])


def _from_proto(proto):
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError) as error:
        raise invalid(f"TensorProto cannot be parsed: {error}") from error


class ServingServer:
    """Serves SavedModels over REST and gRPC on ports of the loopback, while it is entered.

    Args:
        models: model name to base directory, which holds numbered versions.
        labels: model name to a dict of label to version.
        num_versions: how many of a model's newest versions are served.
    """

    def __init__(self, models, labels=None, num_versions=1):
        self._arguments = models, labels, num_versions

    def __enter__(self):
        self.models = Models(*self._arguments)
        self._rest = _RestServer(self.models)
        self._thread = threading.Thread(target=self._rest.serve_forever, daemon=True)
        self._thread.start()
        pool = concurrent.futures.ThreadPoolExecutor(8)
        unlimited = [("grpc.max_receive_message_length", -1)]
        self._grpc = grpc.server(pool, options=unlimited)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Predictions(self.models), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(self.models), self._grpc
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
        self.models.close()

    def rest_url(self, name):
        return f"http://127.0.0.1:{self.rest_port}/v1/models/{name}"

    def grpc_url(self, name):
        return f"grpc://127.0.0.1:{self.grpc_port}/{name}"
