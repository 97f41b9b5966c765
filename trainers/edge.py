r"""Labels the frames of a folder, a video or a camera by a TFLite file, with LiteRT.

Needs LiteRT, numpy, Pillow and, for videos, cameras and annotated frames, OpenCV (headless will
do); neither TensorFlow nor Keras. Frames are converted and resized as in training. The first
pictures of a folder have a line each (--json names them all); of a video or camera, and of further
pictures, one line runs along. Ctrl-C ends a camera, which is opened again where it gives no more
pictures. Pictures that cannot be read, a film that is cut short and a camera that stays away end
with status 2, after what was labelled.

Examples:
  python -m trainers.edge --model=fmnist.tflite --source=photos
  python -m trainers.edge --model=fmnist.tflite --source=clip.mp4 --output=labelled.mp4
  python -m trainers.edge --model=fmnist.tflite --source=0 --threads=4 --limit=300
  python -m trainers.edge --model=fmnist.tflite --source=rtsp://camera.local/stream
  python -m trainers.edge --model=fmnist.tflite --source=photos --output=labelled --json
"""

import collections
import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet, _validate
from keras_dpvit.datasets.image_files import shown
from keras_dpvit.edge import annotation, frames
from keras_dpvit.errors import InputError
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_reading_flags(FLAGS)
flags.DEFINE_string("model", None, "A TFLite file that this package wrote.", flag_values=FLAGS)
flags.DEFINE_string(
    "source",
    None,
    "A folder of pictures, a video file, a camera's number, or its rtsp:// or http:// address.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "threads", 2, "Threads of LiteRT; another one reads the frames.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output",
    None,
    "New folder for annotated frames (PNG), or a new .mp4 or .avi file.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("limit", None, "Frames at the most.", flag_values=FLAGS)
flags.DEFINE_bool(
    "json", False, "Prints one JSON object at the end, and nothing else.", flag_values=FLAGS
)

_LINES_PER_SECOND = 5  # of the running line
_PICTURES_NAMED = 20
_TIMES_KEPT = 10_000


@dataclasses.dataclass
class Run:
    """Counts and times so far. A camera may run for months: without `frames` none of it grows.

    Attributes:
        frames: one dict a frame, with "frame", "label", "class_id" and "probability"; None if
            nobody asks for them.
        num_frames: int.
        labels: how many frames each label was given.
        inference_seconds: what LiteRT took for each of the last frames.
        seconds: from the first frame on, reading and writing included.
        problem: what was wrong with the source, None if nothing.
    """

    frames: list[dict[str, Any]] | None = None
    num_frames: int = 0
    labels: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    inference_seconds: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=_TIMES_KEPT)
    )
    seconds: float = 0.0
    problem: InputError | None = None

    def add(self, found: dict[str, Any]) -> None:
        """Counts a frame."""
        self.num_frames += 1
        self.labels[found["label"]] += 1
        if self.frames is not None:
            self.frames.append(found)

    def summary(self) -> dict[str, Any]:
        """Counts and rates, JSON-able."""
        return {
            "num_frames": self.num_frames,
            "frames_per_second": self.num_frames / self.seconds if self.seconds else None,
            "inference_ms_median": 1e3 * float(np.median(list(self.inference_seconds) or [0.0])),
            "problem": None if self.problem is None else str(self.problem),
            "labels": dict(self.labels),
        }


class Printer:
    """Tells of the first frames in a line each, of the others in one that runs along.

    Args:
        lines: int, frames that have a line.
        in_log: bool, whether the running line is printed where there is no terminal.
    """

    def __init__(self, lines: int, in_log: bool) -> None:
        self._lines = lines
        self._on_terminal = sys.stdout.isatty()
        self._runs = self._on_terminal or in_log
        self._told = 0
        self._last = -1.0

    def tell(self, frame: dict[str, Any]) -> None:
        """Prints a frame's line, the running one only every so often."""
        line = f"{frame['frame']:30} {frame['label']:20} {frame['probability']:.3f}"
        self._told += 1
        if self._told <= self._lines:
            print(line, flush=True)
            return
        if self._told == self._lines + 1 and self._lines:
            print("... (--json names every picture)", flush=True)
        if not self._runs:
            return
        now = time.monotonic()
        if now - self._last < 1 / _LINES_PER_SECOND:
            return
        self._last = now
        print(line, end="\r" if self._on_terminal else "\n", flush=True)


def _check_flags() -> None:
    for name in ("model", "source"):
        if not FLAGS[name].value:
            raise InputError(f"Give --{name}; --help shows what it may be.")
    _validate.positive_int(threads=FLAGS.threads)
    if FLAGS.limit is not None:
        _validate.positive_int(limit=FLAGS.limit)


def label_frames(
    runner: Any,
    source: frames.Source,
    annotated: Any,
    printer: Any,
    limit: int | None,
    keep_frames: bool = True,
) -> Run:
    """Runs every frame; Ctrl-C ends the run as the end of the source does.

    Args:
        runner: a `TFLiteRunner`.
        source: where frames come from.
        annotated: `AnnotatedFrames` or None.
        printer: a `Printer`, or another with its `tell`; None tells nobody.
        limit: int or None, frames at the most.
        keep_frames: bool, whether every frame's answer is kept.
    """
    run = Run(frames=[] if keep_frames else None)
    start = time.perf_counter()
    stream = frames.read_ahead(source, runner.image_shape, annotated is not None, limit)
    try:
        for frame in stream:
            begun = time.perf_counter()
            outputs = runner.predict(frame.pixels[None])
            run.inference_seconds.append(time.perf_counter() - begun)
            class_id = int(outputs["class_id"][0])
            found = {
                "frame": frame.name,
                "label": runner.label(class_id),
                "class_id": class_id,
                "probability": float(outputs["probabilities"][0, class_id]),
            }
            run.add(found)
            if annotated is not None:
                annotated.add(frame, f"{found['label']} {found['probability']:.2f}")
            if printer is not None:
                printer.tell(found)
            run.seconds = time.perf_counter() - start
    except InputError as error:  # the frames so far are good
        run.problem = error
    except KeyboardInterrupt:
        if source.kind != "camera":
            raise
    finally:
        stream.close()
    return run


def main() -> None:
    """Opens model and source, runs, prints."""
    _check_flags()
    output = None if FLAGS.output is None else annotation.check_output(FLAGS.output)
    from keras_dpvit.edge import TFLiteRunner

    with _quiet.quiet_stderr():  # both announce themselves there
        runner = TFLiteRunner(FLAGS.model, FLAGS.threads)
        if runner.image_shape[-1] not in (1, 3):
            raise InputError(f"{FLAGS.model} takes images of {runner.image_shape[-1]} channels.")
        source = frames.open_source(FLAGS.source, _flags.reading(FLAGS))
    printer = None
    if not FLAGS.json:
        is_folder = source.kind == "folder"
        printer = Printer(_PICTURES_NAMED if is_folder else 0, in_log=not is_folder)
    with _quiet.quiet_stderr(), annotation.writing(output, source.rate) as annotated:
        run = label_frames(runner, source, annotated, printer, FLAGS.limit, FLAGS.json)
        if run.problem is not None:  # no annotated frames are left behind
            if run.num_frames or FLAGS.json:
                _print(run)
            raise run.problem
    _print(run)


def _print(run: Run) -> None:
    summary = run.summary()
    if FLAGS.json:
        facts = {"model": FLAGS.model, "source": shown(FLAGS.source), "threads": FLAGS.threads}
        print(json.dumps({**facts, **summary, "frames": run.frames}, indent=2))
        return
    print(
        f"\n{summary['num_frames']} frames, {summary['frames_per_second'] or 0:.1f} a second; "
        f"LiteRT {summary['inference_ms_median']:.2f} ms a frame with {FLAGS.threads} threads"
    )
    for label, count in sorted(summary["labels"].items(), key=lambda item: -item[1]):
        print(f"  {label:20} {count}")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
