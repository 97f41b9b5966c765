"""A client of TensorFlow Serving for this package's exports, over REST or gRPC.

Both ask the signatures `serving_bytes` (picture files to answers) and `class_names`.
"""

import base64
import http.client
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import requests

from keras_dpvit import _reasons
from keras_dpvit.errors import InputError

_REST = re.compile(
    r"(https?://[^/\s]+(?:/[^\s:]+)?/v1/models/[^/:\s]+(?:/versions/\d+|/labels/[^/:\s]+)?)"
    r"(?::predict)?/?"
)
_GRPC = re.compile(r"grpc://([^/\s]+:\d+)/([^/:\s]+)(?:/versions/(\d+)|/labels/([^/:\s]+))?/?")

Answers = dict[str, list[Any]]


class Client(Protocol):
    """A client that classifies picture files."""

    def answers(self, files: Sequence[bytes]) -> Answers:
        """Outputs of `serving_bytes` by name, one element for each file.

        Raises:
            InputError: if there is no answer, or none that this package's exports give.
        """
        ...

    def class_names(self, number: int) -> list[str]:
        """The names of classes 0 to `number - 1`; where the server tells none, the numbers."""
        ...


def client_for(url: str, timeout: float, headers: Mapping[str, str] | None = None) -> Client:
    """The client of a URL.

    Args:
        url: `http://HOST:8501/v1/models/NAME`, with a prefix before `/v1` where a gateway has one,
            or `grpc://HOST:8500/NAME`, either with `/versions/N` or `/labels/LABEL` behind it.
        timeout: float, seconds for each request.
        headers: for each request over HTTP, as a gateway's token.

    Raises:
        InputError: on another URL, one for gRPC without tensorflow-serving-api, or headers for it.
    """
    found = _REST.fullmatch(url)
    if found:
        return RestClient(found[1], timeout, headers)
    found = _GRPC.fullmatch(url)
    if found and headers:
        raise InputError("header and token_file are for http:// urls: grpc:// takes none.")
    if found:
        return GrpcClient(found[1], found[2], found[3], timeout, label=found[4])
    raise InputError(
        "url must be http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME, with or without "
        "/versions/N or /labels/LABEL, and a prefix before /v1 where a gateway has one, got "
        f"{url!r}."
    )


class RestClient:
    """Over HTTP, in JSON; see `Client`.

    Args:
        url: of the model, without `:predict`.
        timeout: float, seconds.
        headers: of each request.
    """

    def __init__(self, url: str, timeout: float, headers: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._timeout = timeout
        self._headers = dict(headers or {})

    def answers(self, files: Sequence[bytes]) -> Answers:
        """See `Client`."""
        encoded = [{"b64": base64.b64encode(content).decode("ascii")} for content in files]
        outputs = self._post("serving_bytes", {"image_bytes": encoded})
        return _checked(outputs, len(files), self._url)

    def class_names(self, number: int) -> list[str]:
        """See `Client`."""
        try:
            names = self._post("class_names", {"class_id": list(range(number))})
        except InputError:
            names = None
        return _names(names, number)

    def _post(self, signature_name: str, inputs: dict[str, Any]) -> Any:
        body: Any = {"signature_name": signature_name, "inputs": inputs}
        try:
            response = requests.post(
                f"{self._url}:predict", json=body, headers=self._headers, timeout=self._timeout
            )
            if not response.ok:
                raise InputError(
                    f"{self._url} answered {response.status_code}: {_reason(response.content)}."
                )
            content = response.json()
        except requests.exceptions.JSONDecodeError as error:
            raise InputError(f"{self._url} answered no JSON: is it TF Serving?") from error
        except requests.exceptions.Timeout as error:
            raise InputError(_too_late(self._url, self._timeout)) from error
        except requests.exceptions.ProxyError as error:
            raise InputError(
                f"{self._url} cannot be reached through the proxy {_proxy(self._url)}, which the "
                "environment names: unset it, or add the host to no_proxy."
            ) from error
        except requests.exceptions.ConnectionError as error:
            if isinstance(_cause(error), (ConnectionResetError, http.client.HTTPException)):
                raise InputError(f"{self._url} broke off: {_cause(error)}.") from error
            raise InputError(f"{self._url} cannot be reached: {_cause(error)}.") from error
        except requests.exceptions.RequestException as error:
            raise InputError(f"{self._url} broke off: {_one_line(error)}.") from error
        if not isinstance(content, dict) or "outputs" not in content:
            raise InputError(f"{self._url} answered without outputs: is it TF Serving?")
        return content["outputs"]


class GrpcClient:
    """Over gRPC, with the stubs of tensorflow-serving-api; see `Client`.

    Args:
        address: HOST:PORT.
        model_name: str.
        version: str of digits, or None for the newest.
        timeout: float, seconds.
        label: one of the names that the server's configuration gives to versions, or None.

    Raises:
        InputError: if tensorflow-serving-api is not installed.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        version: str | None,
        timeout: float,
        label: str | None = None,
    ) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise InputError(
                "A grpc:// url needs tensorflow-serving-api: pip install 'keras_dpvit[serving]'."
            ) from error
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channel = grpc.insecure_channel(address, options=unlimited)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._name = f"grpc://{address}/{model_name}"
        self._model_name = model_name
        self._version = version
        self._label = label
        self._timeout = timeout

    def answers(self, files: Sequence[bytes]) -> Answers:
        """See `Client`."""
        return _checked(self._predict("serving_bytes", list(files)), len(files), self._name)

    def class_names(self, number: int) -> list[str]:
        """See `Client`."""
        try:
            names = self._predict("class_names", list(range(number)))["class_name"]
        except (InputError, KeyError):
            names = None
        return _names(names, number)

    def _predict(self, signature_name: str, values: list[Any]) -> Answers:
        import grpc
        import tensorflow as tf

        from keras_dpvit.export.warmup import predict_request

        request = predict_request(signature_name, values, self._model_name)
        if self._version is not None:
            request.model_spec.version.value = int(self._version)
        elif self._label is not None:
            request.model_spec.version_label = self._label
        try:
            response = self._stub.Predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise InputError(_too_late(self._name, self._timeout)) from error
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise InputError(f"{self._name} cannot be reached: {error.details()}.") from error
            raise InputError(
                f"{self._name} answered {error.code().name}: {_one_line(error.details())}."
            ) from error
        arrays = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
        return {
            name: [v.decode() for v in array] if array.dtype == object else array.tolist()
            for name, array in arrays.items()
        }


def _proxy(url: str) -> str:
    """The proxy that the environment names for a URL, without a password."""
    named = requests.utils.get_environ_proxies(url)
    found = named.get(url.partition(":")[0], named.get("all", ""))
    return found.rpartition("@")[2] or found


def _cause(error: BaseException) -> BaseException:
    """The error at the bottom, which has the system's words."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        inner = inner or next((a for a in error.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _checked(outputs: Any, number: int, url: str) -> Answers:
    """The outputs, if they are what an export of this package answers."""
    fits = isinstance(outputs, dict) and {"probabilities", "class_id", "label"} <= set(outputs)
    fits = fits and all(isinstance(v, list) and len(v) == number for v in outputs.values())
    fits = fits and all(
        isinstance(row, list) and row and all(_is_probability(p) for p in row)
        for row in outputs["probabilities"]
    )
    if not fits:
        if "NaN" in json.dumps(outputs):
            raise InputError(
                f"{url} answered probabilities that are no numbers (NaN): the model has weights or "
                "pictures that are not finite."
            )
        raise InputError(
            f"{url} answered something else than {number} rows of probabilities: it serves no "
            "export of keras_dpvit."
        )
    return dict(outputs)


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _names(names: Any, number: int) -> list[str]:
    if isinstance(names, list) and len(names) == number:
        return [str(name) for name in names]
    return [str(i) for i in range(number)]


def _reason(body: bytes) -> str:
    try:
        return _one_line(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return _one_line(body.decode("utf-8", "replace")) or "without a reason"


def _one_line(text: Any) -> str:
    """A server's words without the places in its graph, in one line."""
    words = " ".join(_reasons.telling_lines(str(text))).split()
    return _reasons.shortened(" ".join(words).rstrip("."))


def _too_late(url: str, timeout: float) -> str:
    return f"{url} did not answer within {timeout:g} seconds (--timeout)."
