"""Good and malformed REST requests to a served model, each with what its answer has to be."""

import base64
import dataclasses
import http.client
import io
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import numpy as np

_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        kind: str, what is sent.
        body: bytes.
        path: str behind the model's URL.
        expected: str, the way to read the answer: "rows" or "columns" of "predictions" or
            "outputs"; "" if the request is malformed.
        probabilities: `(n, classes)`, the right answer of a good request.
        labels: the right labels.
    """

    kind: str
    body: bytes
    path: str = ":predict"
    expected: str = ""
    probabilities: Any = None
    labels: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it has to be answered."""
        return bool(self.expected)

    def judge(self, status: int, body: bytes) -> str:
        """What is wrong with an answer; nothing if it is right."""
        try:
            content = json.loads(body)
        except ValueError:
            return f"status {status}, no JSON"
        if not self.is_good:
            reason = content.get("error")
            told = isinstance(reason, str) and reason.strip()
            return "" if 400 <= status < 500 and told else f"status {status}, {body[:80]!r}"
        if status != 200:
            return f"status {status}, {body[:80]!r}"
        try:
            probabilities, labels = self._read(content)
        except (KeyError, TypeError, ValueError) as error:
            return f"answer of another form: {error!r}"
        if probabilities.shape != self.probabilities.shape:
            return f"probabilities of shape {probabilities.shape}"
        difference = np.abs(probabilities - self.probabilities).max()
        if difference > _TOLERANCE:
            return f"probabilities off by {difference:.1e}"
        return "" if labels == self.labels else f"labels {labels}"

    def _read(self, content: dict[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
        if self.expected == "rows":
            rows = content["predictions"]
            labels = tuple(row["label"] for row in rows)
            return np.array([row["probabilities"] for row in rows]), labels
        outputs = content["outputs"]
        return np.array(outputs["probabilities"]), tuple(outputs["label"])


class Connection:
    """A connection that is kept open from one request to the next.

    Args:
        url: of the model.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._path = parts.path
        self._http = http.client.HTTPConnection(parts.netloc, timeout=300)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.close()

    def send(self, request: Request) -> tuple[int, bytes]:
        """Status and body of the answer."""
        path = request.path if request.path.startswith("/") else self._path + request.path
        self._http.request("POST", path, request.body, {"Content-Type": "application/json"})
        response = self._http.getresponse()
        return response.status, response.read()


def answers(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The right outputs for images, by name: all of a fused model's, else "probabilities"."""
    found = model.predict(images.astype("float32"), batch_size=250, verbose=0)
    if isinstance(found, dict):
        return found
    powers = np.exp(found - found.max(axis=1, keepdims=True))
    return {"probabilities": powers / powers.sum(axis=1, keepdims=True)}


def mixed_requests(model: Any, names: list[str], images: np.ndarray, number: int) -> list[Request]:
    """Requests in a fixed order, one in four of them malformed.

    Args:
        model: the Keras model, which says what is right.
        names: its class names.
        images: uint8 `(n, height, width, channels)`, of which each good request takes 1 to 4.
        number: int, how many requests.
    """
    probabilities = answers(model, images)["probabilities"]
    labels = [names[i] for i in probabilities.argmax(axis=1)]
    rng = np.random.default_rng(0)
    good, bad = _good_bodies(), _bad_requests(images)
    found = []
    for index in range(number):
        if index % 4 == 3:
            found.append(bad[index // 4 % len(bad)])
            continue
        rows = rng.integers(0, len(images), 1 + index % 4)
        kind, expected, body = good[index % len(good)]
        found.append(
            Request(
                kind,
                json.dumps(body(images[rows])).encode(),
                expected=expected,
                probabilities=probabilities[rows],
                labels=tuple(labels[i] for i in rows),
            )
        )
    return found


def _files(images: np.ndarray) -> list[dict[str, str]]:
    import PIL.Image

    found = []
    for image in images:
        written = io.BytesIO()
        PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(written, "PNG")
        found.append({"b64": base64.b64encode(written.getvalue()).decode()})
    return found


def _good_bodies() -> list[tuple[str, str, Callable[[np.ndarray], dict[str, Any]]]]:
    """Kind, form of the answer, and images to body."""
    return [
        ("whole numbers by rows", "rows", lambda x: {"instances": x.tolist()}),
        (
            "decimals by named rows",
            "rows",
            lambda x: {"instances": [{"images": image} for image in x.astype(float).tolist()]},
        ),
        ("columns", "columns", lambda x: {"inputs": {"images": x.tolist()}}),
        (
            "uint8",
            "columns",
            lambda x: {"signature_name": "serving_uint8", "inputs": x.tolist()},
        ),
        (
            "files by rows",
            "rows",
            lambda x: {"signature_name": "serving_bytes", "instances": _files(x)},
        ),
        (
            "files by columns",
            "columns",
            lambda x: {"signature_name": "serving_bytes", "inputs": {"image_bytes": _files(x)}},
        ),
    ]


def _bad_requests(images: np.ndarray) -> list[Request]:
    one = images[:1].tolist()
    text = json.dumps({"instances": one}).encode()
    ragged = images[:2].tolist()
    ragged[1] = ragged[1][:-1]
    half = {"b64": _files(images[:1])[0]["b64"][:40]}
    a_bomb = {"b64": base64.b64encode(_bomb()).decode()}

    def files(*parts: Any) -> dict[str, Any]:
        return {"signature_name": "serving_bytes", "instances": list(parts)}

    bodies: dict[str, Any] = {
        "images of another size": {"instances": images[:1, :-1].tolist()},
        "no batch": {"inputs": {"images": images[0].tolist()}},
        "text for pixels": {"instances": [[["a"]]]},
        "true for a pixel": {"instances": [[[True]]]},
        "null for pixels": {"instances": [None]},
        "ragged images": {"instances": ragged},
        "no instances": {"instances": []},
        "neither key": {"signature_name": "serving_default"},
        "both keys": {"instances": one, "inputs": one},
        "another input": {"inputs": {"pixels": one}},
        "unknown signature": {"signature_name": "nonsense", "instances": one},
        "signature that is a number": {"signature_name": 7, "instances": one},
        "decimals for uint8": {"signature_name": "serving_uint8", "instances": [[[[0.5]]]]},
        "not an image": files({"b64": base64.b64encode(b"no picture at all").decode()}),
        "file that is cut short": files(half),
        "no base64": files({"b64": "%%%"}),
        "empty file": files({"b64": ""}),
        "decompression bomb": files(a_bomb),
        "class that is none": {"signature_name": "class_names", "instances": [99]},
        "a list": [1, 2],
    }
    found = [Request(kind, json.dumps(body).encode()) for kind, body in bodies.items()]
    found += [
        Request("no body", b""),
        Request("JSON that is cut short", text[:-20]),
        Request("no UTF-8", b"\xff\xfe{}"),
        Request("lists without end", b"[" * 100_000),
        Request("unknown model", text, "/v1/models/nobody:predict"),
        Request("unknown version", text, "/versions/99:predict"),
        Request("unknown method", text, ":predictt"),
        Request("another path", text, "/v2/anything"),
    ]
    return found


def _bomb() -> bytes:
    """The beginning of a PNG file that announces 100,000 x 100,000 pixels."""
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + b"\0\0\0\0"
