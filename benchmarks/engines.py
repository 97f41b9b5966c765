r"""Exports in engines that nobody here wrote, beside LiteRT: OpenVINO, LiteRT.js, MediaPipe.

The model that ships goes, as a SavedModel and as four TFLite files, into OpenVINO, and as three
files into LiteRT.js in headless Chromium; an RGB model goes into MediaPipe's image classifier;
`ovmsclient` asks the tests' stand-in for TensorFlow Serving. Each answer is compared with LiteRT's
to the same file (the SavedModel's with the float32 file): the share of images with the same best
class, and the largest difference of a probability. `make engines` installs what it needs and runs
it.

Examples:
  python -m benchmarks.engines
  python -m benchmarks.engines --json --output=docs/results/engines.json
"""

import contextlib
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags

from benchmarks import chromium, engine_models, serving_proof
from benchmarks.engine_models import ROOT, SHIPPED
from benchmarks.reports import checked_output, machine
from keras_dpvit import _files, _quiet, _validate
from keras_dpvit.errors import InputError
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)
flags.DEFINE_integer("images", 1000, "Held-out images of Fashion-MNIST.", flag_values=FLAGS)

PYTHON = ROOT / ".venv-engines" / "bin" / "python"
BAR = 0.995  # of images with LiteRT's best class
CLIENT_BAR = 1e-5  # of a client's probabilities; it only carries them
IN_BROWSER = ("float32", "dynamic", "int8")

_MODEL, _VERSION = "fashion_mnist", "1"


class Side:
    """Runs a script in the engines' environment.

    Args:
        place: an empty folder.

    Attributes:
        versions: of the packages that ran, filled as they run.
    """

    def __init__(self, place: pathlib.Path) -> None:
        self._place = place
        self.versions: dict[str, str] = {}

    def run(self, script: str, first: list[str], images: np.ndarray, *last: str) -> Any:
        """The arrays that `benchmarks/SCRIPT.py FIRST IMAGES ANSWERS LAST` wrote, by name."""
        given, answers = self._place / f"{script}.npy", self._place / f"{script}.npz"
        np.save(given, images)
        path = pathlib.Path(__file__).with_name(f"{script}.py")
        command = [PYTHON, path, *first, given, answers, *last]
        result = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=self._place, timeout=600
        )
        if result.returncode:
            raise RuntimeError(result.stderr)
        self.versions.update(json.loads(result.stdout.splitlines()[-1]))
        with np.load(answers) as loaded:
            return dict(loaded)


def compared(engine: str, file: str, found: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """A row of the table.

    Args:
        engine: its name.
        file: name of the file that it ran.
        found: its probabilities `(n, classes)`.
        expected: LiteRT's.
    """
    assert found.shape == expected.shape
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    return {
        "engine": engine,
        "file": file,
        "images": len(found),
        "top_1": float(same.mean()),
        "largest_difference": float(np.abs(found - expected).max()),
        "classes_predicted": len(set(expected.argmax(axis=1).tolist())),
    }


def openvino(
    side: Side,
    files: dict[str, pathlib.Path],
    images: np.ndarray,
    litert: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Rows of OpenVINO: the SavedModel that ships and its TFLite files."""
    paths = {name: str(path) for name, path in {"SavedModel": SHIPPED, **files}.items()}
    classes = str(litert["float32"].shape[1])
    found = side.run("side_openvino", [json.dumps(paths)], images, classes)
    return [
        compared("OpenVINO", name, found[name], litert.get(name, litert["float32"]))
        for name in paths
    ]


def browser(
    place: pathlib.Path,
    files: dict[str, pathlib.Path],
    images: np.ndarray,
    litert: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Rows of LiteRT.js, in the page that `trainers.web` writes."""
    from keras_dpvit.export import web_page

    rows = []
    with open_browser(place / "profile") as opened:
        for name in IN_BROWSER:
            site = place / f"site-{name}"
            web_page.write_page(files[name].parent, site, web_page.fetch_runtime())
            with chromium.served(site) as address:
                page = chromium.open_model_page(opened, address)
                found = chromium.probabilities(page, images)
            rows.append(compared("LiteRT.js", name, found, litert[name]))
    return rows


@contextlib.contextmanager
def open_browser(profile: pathlib.Path) -> Iterator[chromium.Browser]:
    """Headless Chromium, closed at the end."""
    opened = chromium.Browser(profile)
    try:
        yield opened
    finally:
        opened.close()


def mediapipe(side: Side, place: pathlib.Path, number: int) -> list[dict[str, Any]]:
    """Rows of MediaPipe's image classifier, on a model for RGB images."""
    files = engine_models.colour_files(place / "colour")
    images = engine_models.coloured(engine_models.held_out(number))
    litert = engine_models.by_litert(files, images)
    paths = json.dumps({name: str(path) for name, path in files.items()})
    found = side.run("side_mediapipe", [paths], images)
    rows = []
    for name in files:
        rows.append(compared("MediaPipe", f"{name}, RGB", found[name], litert[name]))
        rows[-1]["labels"] = found[f"{name}/labels"].tolist()
    return rows


def client(side: Side, images: np.ndarray, expected: np.ndarray) -> list[dict[str, Any]]:
    """Rows of `ovmsclient`, over gRPC and REST, asking the stand-in for TensorFlow Serving."""
    with serving_proof.server_module().ServingServer({_MODEL: SHIPPED.parent}) as server:
        ports = [f"127.0.0.1:{port}" for port in (server.grpc_port, server.rest_port)]
        found = side.run("side_ovmsclient", [_MODEL, _VERSION, *ports], images)
    names = np.array((SHIPPED / "assets" / "class_names.txt").read_text("utf-8").splitlines())
    rows = []
    for way in ("grpc", "rest"):
        probabilities = found[f"{way}/probabilities"]
        row = compared("ovmsclient", f"SavedModel by {way}", probabilities, expected)
        right = found[f"{way}/label"] == names[probabilities.argmax(axis=1)]
        about = json.loads(str(found[f"{way}/about"]))
        state = about["status"][_VERSION]["state"]
        rows.append({**row, "labels_right": bool(right.all()), "state": state})
    return rows


def judge(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """The bars, and whether they hold."""
    clients = [row for row in rows if row["engine"] == "ovmsclient"]
    return {
        f"top-1 at least {BAR:.1%} with LiteRT": all(row["top_1"] >= BAR for row in rows),
        "clients carry probabilities to 1e-5, labels and state": all(
            row["largest_difference"] <= CLIENT_BAR
            and row["labels_right"]
            and row["state"] == "AVAILABLE"
            for row in clients
        ),
    }


def prove(number: int) -> dict[str, Any]:
    """Runs every engine.

    Args:
        number: int, how many images.

    Raises:
        InputError: if the engines' environment is missing.
    """
    if not PYTHON.exists():
        raise InputError(".venv-engines is absent and holds the engines: run `make engines`.")
    images = engine_models.held_out(number)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        side = Side(place)
        files = engine_models.gray_files(place / "gray")
        litert = engine_models.by_litert(files, images)
        rows = openvino(side, files, images, litert)
        rows += browser(place, files, images, litert)
        rows += mediapipe(side, place, number)
        rows += client(side, images, served_answers(images))
    return {"versions": versions(side), "rows": rows, "bars": judge(rows)}


def served_answers(images: np.ndarray) -> np.ndarray:
    """The SavedModel's own probabilities, by TensorFlow."""
    from keras_dpvit.export.runners import SavedModelRunner

    found: np.ndarray = SavedModelRunner(SHIPPED).predict(images)["probabilities"]
    return found


def versions(side: Side) -> dict[str, str]:
    """Of the engines, LiteRT and the browser."""
    import importlib.metadata

    from keras_dpvit.export.web_page import LITERT_VERSION

    said = subprocess.run(["chromium", "--version"], capture_output=True, text=True).stdout
    return {
        **side.versions,
        "ai-edge-litert": importlib.metadata.version("ai-edge-litert"),
        "@litertjs/core": LITERT_VERSION,
        "chromium": said.split()[1] if len(said.split()) > 1 else "",
    }


def table(report: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table, as docs/edge.md has it."""
    lines = ["| engine | file | top-1 | largest difference |", "|---|---|---|---|"]
    for row in report["rows"]:
        difference = f"{row['largest_difference']:.1g}" if row["largest_difference"] else "0"
        lines.append(f"| {row['engine']} | {row['file']} | {row['top_1']:.1%} | {difference} |")
    return [line.replace("%", " %") for line in lines]


def main() -> None:
    """Compares, prints, writes."""
    _validate.positive_int(images=FLAGS.images)
    output = checked_output(FLAGS.output)
    facts = machine()
    _quiet.start_tensorflow()
    with _quiet.quiet_stderr():
        found = prove(FLAGS.images)
    command = "python -m benchmarks.engines --output=docs/results/engines.json"
    report = {"benchmark": "engines", "command": command, "machine": facts, **found}
    if output is not None:
        _files.write_json(output, report)
    if FLAGS.json:
        print(json.dumps(report, indent=1))
        return
    print("\n".join(table(report)))
    for name, holds in report["bars"].items():
        print(f"{name:55}  {'holds' if holds else 'does not hold'}")


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
