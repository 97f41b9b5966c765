"""Asks a server by OpenVINO's client for TF Serving's API; runs in the engines' environment.

Usage: python benchmarks/side_ovmsclient.py MODEL VERSION GRPC REST IMAGES.npy ANSWERS.npz

GRPC and REST are host:port. IMAGES are uint8. ANSWERS gets `grpc/NAME` and `rest/NAME` for every
output, and as JSON texts `grpc/about` and `rest/about`: status and inputs of the served version.

The version has to be named: the client otherwise asks for version 0, which is the newest to
OpenVINO's own server and none to TensorFlow Serving. Over REST the client reads the metadata of
OpenVINO's server alone, whose keys are not TensorFlow Serving's; those it gives as they come.
"""

import importlib.metadata
import json
import sys
from typing import Any

import numpy as np
import ovmsclient

_BATCH = 50


def ask(
    client: Any, model: str, version: int, images: np.ndarray
) -> tuple[dict[str, np.ndarray], str]:
    """The outputs by name, and what the server says of the model."""
    parts = [
        client.predict({"images": images[i : i + _BATCH].astype("float32")}, model, version)
        for i in range(0, len(images), _BATCH)
    ]
    outputs = {
        name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]
    }
    metadata = client.get_model_metadata(model, version)
    if "inputs" not in metadata:
        metadata = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    about = {
        "status": client.get_model_status(model, version),
        "inputs": sorted(metadata["inputs"]),
    }
    return outputs, json.dumps(about, default=str)


def main(
    model: str, version: str, grpc: str, rest: str, images_file: str, answers_file: str
) -> None:
    """Writes the answers, and prints the version as JSON."""
    images = np.load(images_file)
    answers: dict[str, Any] = {}
    clients = {
        "grpc": ovmsclient.make_grpc_client(grpc),
        "rest": ovmsclient.make_http_client(rest),
    }
    for way, client in clients.items():
        outputs, answers[f"{way}/about"] = ask(client, model, int(version), images)
        for name, values in outputs.items():
            text = values.dtype.kind in "OSU"
            answers[f"{way}/{name}"] = np.array(list(map(_text, values))) if text else values
    np.savez(answers_file, **answers)
    print(json.dumps({"ovmsclient": importlib.metadata.version("ovmsclient")}))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main(*sys.argv[1:])
