r"""Two proofs of a SavedModel, on Fashion-MNIST: alone in a process, and under many threads.

The model is the one that ships, exported anew. The first proof loads it where Keras and this
package cannot be imported and compares every signature with the Keras model. The second serves it
by the tests' stand-in for TensorFlow Serving (`tests/trainers/serving_server.py`), or asks a server
that runs already, from threads that mix good requests with malformed ones: each good one must be
answered with the Keras model's numbers, each bad one with a 4xx and a reason. Exit status 0 if
every bar holds, 1 if not. `serving/prove.sh` runs it against TensorFlow Serving itself.

Examples:
  python -m benchmarks.serving_proof
  python -m benchmarks.serving_proof --json --output=docs/results/serving_proof.json
  python -m benchmarks.serving_proof --saved_model=served/fmnist/1 \
      --url=http://localhost:8501/v1/models/fmnist
"""

import contextlib
import http.client
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from benchmarks import serving_requests, tf_only
from benchmarks.engine_models import SHIPPED
from benchmarks.reports import checked_output, machine
from keras_dpvit import _quiet, _validate
from keras_dpvit.errors import InputError
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "images", 1000, "Held-out images of Fashion-MNIST that are compared.", flag_values=FLAGS
)
flags.DEFINE_integer("threads", 32, "Threads that send requests.", flag_values=FLAGS)
flags.DEFINE_integer("requests", 2000, "Requests that they send together.", flag_values=FLAGS)

flags.DEFINE_string(
    "url",
    None,
    "The model of a server that runs already: http://HOST:PORT/v1/models/NAME.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "saved_model",
    None,
    "The version directory that it serves: an export of savedmodels/fashion_mnist.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "wait", 120, "Seconds to wait until the server has the model ready.", flag_values=FLAGS
)

_HERE = pathlib.Path(__file__).parent
_SERVER = _HERE.parent / "tests" / "trainers" / "serving_server.py"


def alone(model: Any, names: list[str], directory: pathlib.Path, images: np.ndarray) -> Any:
    """Runs an export in a TensorFlow-only process and compares it with the Keras model.

    Args:
        model: the Keras model.
        names: its class names.
        directory: its SavedModel.
        images: uint8 `(n, height, width, channels)`.

    Returns:
        A JSON-able dict: the largest differences by output, how many labels are right.
    """
    with tempfile.TemporaryDirectory() as place:
        given, answers = pathlib.Path(place, "images.npy"), pathlib.Path(place, "answers.npz")
        np.save(given, images)
        script = [sys.executable, tf_only.__file__, str(directory), str(given), str(answers)]
        result = subprocess.run(script, capture_output=True, text=True, cwd=place, timeout=600)
        if result.returncode:
            raise RuntimeError(result.stderr)
        with np.load(answers) as loaded:
            found = dict(loaded)
    expected = serving_requests.answers(model, images)
    same = {
        "probabilities": "probabilities",
        "weights": "weights",
        "serving_uint8/probabilities": "probabilities",
        "serving_bytes/probabilities": "probabilities",
        "member_probabilities/member_probabilities": "member_probabilities",
        "member_probabilities/weights": "weights",
    }
    best = expected["probabilities"].argmax(axis=1)
    labels = np.array(names)[best]
    return {
        "printed": result.stdout.strip(),
        "num_images": len(images),
        "classes_predicted": len(set(best.tolist())),
        "largest_difference": {
            name: float(np.abs(found[name] - expected[key]).max())
            for name, key in same.items()
            if key in expected
        },
        "labels_right": int((found["label"] == labels).sum()),
        "labels_right_of_files": int((found["serving_bytes/label"] == labels).sum()),
        "class_names_right": found["class_names"].tolist() == names,
    }


def load(url: str, requests: list[Any], threads: int) -> dict[str, Any]:
    """Sends requests from many threads and judges every answer.

    Args:
        url: of the model.
        requests: as from `serving_requests.mixed_requests`.
        threads: int.

    Returns:
        A JSON-able dict: numbers of requests sent, right, wrong and lost, with the first reasons.
    """
    verdicts: list[str | None] = [None] * len(requests)

    def send(first: int) -> None:
        with serving_requests.Connection(url) as connection:
            for number in range(first, len(requests), threads):
                verdicts[number] = requests[number].judge(*connection.send(requests[number]))

    workers = [threading.Thread(target=send, args=(first,)) for first in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    counts: dict[str, int] = {}
    right: dict[str, int] = {}
    for request, verdict in zip(requests, verdicts, strict=True):
        counts[request.kind] = counts.get(request.kind, 0) + 1
        right[request.kind] = right.get(request.kind, 0) + (verdict == "")
    wrong = [
        f"{request.kind}: {verdict}"
        for request, verdict in zip(requests, verdicts, strict=True)
        if verdict not in (None, "")
    ]
    return {
        "threads": threads,
        "requests": len(requests),
        "good": sum(request.is_good for request in requests),
        "bad": sum(not request.is_good for request in requests),
        "judged_right": verdicts.count(""),
        "judged_wrong": len(wrong),
        "lost": verdicts.count(None),
        "first_wrong": wrong[:5],
        "seconds": round(seconds, 2),
        "kinds": counts,
        "kinds_right": right,
    }


def server_module() -> Any:
    """The stand-in for TensorFlow Serving, which lies among the tests."""
    spec = importlib.util.spec_from_file_location("serving_server", _SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(url: str, seconds: float) -> str:
    """Waits until a server says that it has a version of the model ready.

    Returns:
        The version.

    Raises:
        InputError: if it does not say so in time.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as the requests go
    end = time.monotonic() + seconds
    while True:
        try:
            with direct.open(url, timeout=5) as answer:
                for version in json.load(answer)["model_version_status"]:
                    if version["state"] == "AVAILABLE":
                        return str(version["version"])
            reason = "no version is AVAILABLE"
        except urllib.error.HTTPError as error:  # up, and without the model so far
            reason = f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))
        except (KeyError, TypeError, ValueError):
            reason = "its status has another form"
        if time.monotonic() >= end:
            raise InputError(f"url must be of a model that is served: {url}, {reason}.")
        time.sleep(0.2)


@contextlib.contextmanager
def stand_in(model: Any, names: list[str]) -> Iterator[tuple[pathlib.Path, str]]:
    """Exports a model and serves it by the stand-in; gives the directory and the model's URL."""
    import keras_dpvit as kd

    with tempfile.TemporaryDirectory() as place:
        directory = pathlib.Path(place, "fmnist", "1")
        kd.export.saved_model(model, directory, class_names=names)
        with server_module().ServingServer({"fmnist": directory.parent}) as server:
            yield directory, server.rest_url("fmnist")


def prove(
    images: int,
    threads: int,
    requests: int,
    running: tuple[pathlib.Path, str] | None = None,
    model: Any = None,
) -> dict[str, Any]:
    """Both proofs of the model that ships, or of another.

    Args:
        images: int, that are compared.
        threads: int.
        requests: int, of all threads together.
        running: the directory of an export of that model and the URL at which it is served; None
            for a new export and the stand-in.
        model: a Keras model of 28x28 gray images; None for the one that ships.
    """
    import keras_dpvit as kd

    if model is None:
        model = kd.load_model(SHIPPED / "model.keras")
    data = kd.datasets.load("fashion_mnist")
    names, held_out = list(data.class_names), data.x_test[:images]
    mixed = serving_requests.mixed_requests(model, names, held_out, requests)
    serving = stand_in(model, names) if running is None else contextlib.nullcontext(running)
    with serving as (directory, url):
        parity = alone(model, names, directory, held_out)
        served = load(url, mixed, threads)
    largest = max(parity["largest_difference"].values())
    right = parity["labels_right"] == parity["labels_right_of_files"] == len(held_out)
    return {
        "tf_only": parity,
        "load": served,
        "bars": {
            "differences_at_most_1e-5": largest <= 1e-5,
            "labels_right": right and parity["class_names_right"],
            "every_request_judged_right": served["judged_right"] == requests,
        },
    }


def running_server() -> tuple[pathlib.Path, str] | None:
    """The server that --url names, once it is ready, and what it serves.

    Raises:
        InputError: if only one of --url and --saved_model is given, or there is nothing there.
    """
    if (FLAGS.url is None) != (FLAGS.saved_model is None):
        raise InputError("Give --url and --saved_model together: a server and what it serves.")
    if FLAGS.url is None:
        return None
    if not FLAGS.url.startswith("http://"):
        raise InputError(f"url must be http://HOST:PORT/v1/models/NAME, got {FLAGS.url!r}.")
    directory = pathlib.Path(FLAGS.saved_model).absolute()
    if not (directory / "saved_model.pb").is_file():
        raise InputError(f"saved_model must be a version directory, got {FLAGS.saved_model!r}.")
    url = FLAGS.url.rstrip("/")
    print(f"{url} has version {wait_for(url, FLAGS.wait)} ready", file=sys.stderr)
    return directory, url


def print_table(report: dict[str, Any]) -> None:
    """Differences, verdicts by kind of request, and bars."""
    for name, difference in report["tf_only"]["largest_difference"].items():
        print(f"{name:42}  within {difference:.1e}")
    served = report["load"]
    print()
    for kind, number in served["kinds"].items():
        print(f"{kind:42}  {served['kinds_right'][kind]:5} of {number:5} right")
    print(
        f"\n{served['good']} good and {served['bad']} bad requests by {served['threads']} threads: "
        f"{served['judged_right']} right, {served['judged_wrong']} wrong, {served['lost']} lost"
    )
    for text in served["first_wrong"]:
        print(f"wrong: {text}")
    for name, holds in report["bars"].items():
        print(f"{name:42}  {'holds' if holds else 'does not hold'}")


def main() -> None:
    """Proves, prints, writes."""
    _validate.positive_int(images=FLAGS.images)
    _validate.positive_int(threads=FLAGS.threads)
    _validate.positive_int(requests=FLAGS.requests)
    output = checked_output(FLAGS.output)
    running = running_server()
    facts = machine()
    _quiet.start_tensorflow()
    with _quiet.quiet_stderr():
        found = prove(FLAGS.images, FLAGS.threads, FLAGS.requests, running)
    server = "stand-in" if running is None else running[1]
    report = {"benchmark": "serving_proof", "machine": facts, "server": server, **found}
    text = json.dumps(report, indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json:
        print(text)
    else:
        print_table(report)
    if not all(report["bars"].values()):
        sys.exit(1)


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
