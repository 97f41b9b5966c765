r"""Memory and exit statuses of what runs for long: the camera program, and a server that reloads.

Each case runs in a process of its own, which tells its resident memory (`/proc/self/statm`, after a
garbage collection) once it is warm and at its end.

* `clip`: `trainers.edge` over a film of 300 frames, ten times; warm after the first.
* `camera`: 250 frames of a camera that is unplugged after 150 pictures and comes back; warm after
  100.
* `unplugged`: the same camera, which stays away: the program has to end with status 2.
* `reloads`: the tests' stand-in for TensorFlow Serving reloads a version 50 times under requests;
  warm after ten more.

Examples:
  python -m benchmarks.memory
  python -m benchmarks.memory --rounds=3 --json --output=docs/results/memory.json
"""

import contextlib
import gc
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from absl import flags

from benchmarks.reports import checked_output, machine
from keras_dpvit import _quiet, _validate
from keras_dpvit.edge import TFLiteRunner, frames
from trainers import _cli, edge

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)
flags.DEFINE_integer("rounds", 1, "Times that every case runs.", flag_values=FLAGS)
flags.DEFINE_string("case", None, "Runs this case in this process alone.", flag_values=FLAGS)

_MODEL = pathlib.Path(__file__).parents[1] / "savedmodels" / "fashion_mnist" / "1"
_FRAMES, _PASSES = 300, 10
_LIMIT = 250
_RELOADS, _WARM_RELOADS = 50, 10
_SHAPE = (48, 64, 3)  # of the pictures that are made up
BAR = 1.02


def resident() -> int:
    """Bytes of this process that are in memory, once garbage is collected."""
    gc.collect()
    fields = pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def picture(number: int) -> np.ndarray:
    """A made-up picture, uint8 `(48, 64, 3)`: a bright block that wanders."""
    made = np.full(_SHAPE, 20, np.uint8)
    left = number % (_SHAPE[1] - 16)
    made[8:40, left : left + 16] = 200
    return made


def write_clip(path: pathlib.Path, number: int) -> None:
    """Writes a film of that many frames, in Motion JPEG."""
    cv2 = frames.import_cv2()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, _SHAPE[1::-1])
    for index in range(number):
        writer.write(picture(index))
    writer.release()


class Camera:
    """As `cv2.VideoCapture`: a number of pictures each time that it is opened, then none."""

    def __init__(self, batches: list[int]) -> None:
        self._left = batches.pop(0) if batches else 0

    def read(self) -> tuple[bool, Any]:
        """The next picture, 200 a second."""
        self._left -= 1
        time.sleep(0.005)
        return (True, picture(self._left)) if self._left >= 0 else (False, None)

    def get(self, which: int) -> float:
        """Cameras of this kind tell nothing of themselves."""
        del which
        return 0.0

    def release(self) -> None:
        """Unplugs it."""
        self._left = 0


@contextlib.contextmanager
def camera(*batches: int) -> Iterator[None]:
    """Within the context, every camera gives these numbers of pictures as it is opened again."""
    left = list(batches)

    def plug(cv2: Any, source: Any) -> Camera:
        del cv2, source
        return Camera(left)

    with (
        mock.patch.object(frames, "_opened", plug),
        mock.patch.object(frames, "_WAITS", (0.0, 0.05, 0.05)),
    ):
        yield


class Meter:
    """Notes the memory at some frames, in the place of the program's printer."""

    def __init__(self, *numbers: int) -> None:
        self._numbers, self.frames = numbers, 0
        self.found: list[int] = []

    def tell(self, frame: dict[str, Any]) -> None:
        """Counts a frame."""
        del frame
        self.frames += 1
        if self.frames in self._numbers:
            self.found.append(resident())


def status_of(program: Any, arguments: list[str]) -> int:
    """The exit status of a program run in this process, which prints nothing."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            program.run(arguments)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def _edge_flags(source: str) -> list[str]:
    return [f"--model={_MODEL / 'model.tflite'}", f"--source={source}", "--threads=1"]


def _report(warm: int, end: int, **facts: Any) -> dict[str, Any]:
    return {"warm_kib": warm >> 10, "end_kib": end >> 10, "ratio": round(end / warm, 4), **facts}


def clip(place: pathlib.Path) -> dict[str, Any]:
    """The film over and over, whole and cut."""
    path = place / "clip.avi"
    write_clip(path, _FRAMES)
    runner = TFLiteRunner(_MODEL / "model.tflite", num_threads=1)
    sizes, counts = [], []
    for _ in range(_PASSES):
        run = edge.label_frames(runner, frames.open_source(str(path)), None, None, None, False)
        counts.append(run.num_frames)
        sizes.append(resident())
    whole = status_of(edge, _edge_flags(str(path)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = status_of(edge, _edge_flags(str(path)))
    return _report(sizes[0], sizes[-1], frames=sum(counts), statuses={"whole": whole, "cut": cut})


def unplugged_and_back(place: pathlib.Path) -> dict[str, Any]:
    """A camera that gives no more pictures for a while."""
    del place
    runner = TFLiteRunner(_MODEL / "model.tflite", num_threads=1)
    meter = Meter(100, _LIMIT)
    # More pictures than are asked for: those that come too fast are dropped.
    with camera(_FRAMES // 2, 0, _FRAMES):
        source = frames.open_source("0")
        run = edge.label_frames(runner, source, None, meter, _LIMIT, keep_frames=False)
    with camera(_FRAMES // 2, 0, _FRAMES):
        status = status_of(edge, [*_edge_flags("0"), f"--limit={_LIMIT}"])
    return _report(*meter.found, frames=run.num_frames, statuses={"limit": status})


def stays_away(place: pathlib.Path) -> dict[str, Any]:
    """A camera that gives no more pictures at all, and one that was never there."""
    del place
    statuses = {}
    for name, number in (("unplugged", _FRAMES // 2), ("absent", 0)):
        with camera(number):
            statuses[name] = status_of(edge, _edge_flags("0"))
    with camera(_FRAMES // 2):
        warm = resident()
        statuses["unplugged_again"] = status_of(edge, _edge_flags("0"))
        end = resident()
    return _report(warm, end, statuses=statuses)


def reloads(place: pathlib.Path) -> dict[str, Any]:
    """A server that takes up version after version."""
    import requests

    from benchmarks.serving_proof import server_module

    base = place / "fmnist"
    shutil.copytree(_MODEL, base / "1")
    body = {"instances": np.zeros((4, 28, 28, 1), int).tolist()}
    sizes, wrong = [], []
    with server_module().ServingServer({"fmnist": base}) as server, requests.Session() as client:
        url = server.rest_url("fmnist")
        for version in range(2, _WARM_RELOADS + _RELOADS + 2):
            shutil.copytree(_MODEL, base / "new")
            (base / "new").rename(base / str(version))  # versions appear whole
            server.models.look_for_versions()
            shutil.rmtree(base / str(version - 1))
            answers = [client.post(f"{url}:predict", json=body) for _ in range(3)]
            states = client.get(url).json()["model_version_status"]
            found = [(s["version"], s["state"]) for s in states[-2:]]
            expected = [(str(version - 1), "END"), (str(version), "AVAILABLE")]
            if found != expected or not all(answer.ok for answer in answers):
                wrong.append(version)
            sizes.append(resident())
    kept = sizes[_WARM_RELOADS - 1 :]
    return _report(kept[0], kept[-1], reloads=len(kept) - 1, wrong=wrong,
                   every_tenth_kib=[size >> 10 for size in kept[::10]])  # fmt: skip


CASES = {
    "clip": clip,
    "camera": unplugged_and_back,
    "unplugged": stays_away,
    "reloads": reloads,
}
EXPECTED = {
    "clip": {"whole": 0, "cut": 2},
    "camera": {"limit": 0},
    "unplugged": {"unplugged": 2, "absent": 2, "unplugged_again": 2},
}


def measure(case: str) -> dict[str, Any]:
    """Runs a case in a process of its own.

    Raises:
        RuntimeError: if the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.memory", f"--case={case}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if result.returncode:
        raise RuntimeError(result.stderr)
    found: dict[str, Any] = json.loads(result.stdout)
    statuses_right = found.get("statuses") == EXPECTED.get(case) and not found.get("wrong")
    return {**found, "statuses_right": statuses_right, "flat": found["ratio"] <= BAR}


def main() -> None:
    """Measures, prints, writes."""
    _validate.positive_int(rounds=FLAGS.rounds)
    if FLAGS.case is not None:
        _validate.one_of(tuple(CASES), case=FLAGS.case)
        if FLAGS.case == "reloads":
            _quiet.start_tensorflow()
        with tempfile.TemporaryDirectory() as place, _quiet.quiet_stderr():
            found = CASES[FLAGS.case](pathlib.Path(place))
        print(json.dumps(found))
        return
    output = checked_output(FLAGS.output)
    report: dict[str, Any] = {"benchmark": "memory", "machine": machine(), "bar": BAR}
    report["cases"] = {name: [measure(name) for _ in range(FLAGS.rounds)] for name in CASES}
    text = json.dumps(report, indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json:
        print(text)
        return
    for name, runs in report["cases"].items():
        for found in runs:
            verdict = "statuses right" if found["statuses_right"] else "WRONG STATUSES"
            print(
                f"{name:10}  {found['warm_kib']:>8} KiB warm  {found['end_kib']:>8} at the end  "
                f"{found['ratio']:.3f}  {verdict}"
            )


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
