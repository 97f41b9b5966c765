"""Frames with their label drawn on them, as a folder of PNG files or a video."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_dpvit import _files
from keras_dpvit.edge.frames import Frame, import_cv2
from keras_dpvit.errors import InputError

_CODES = {".mp4": "mp4v", ".avi": "MJPG"}
_RATE = 10.0  # frames per second of a video made of what has no rate
_LEAST_WIDTH = 240  # smaller frames are enlarged: the label has to be read


class AnnotatedFrames:
    """Writes annotated frames; see `writing`."""

    def __init__(self, place: pathlib.Path, rate: float | None) -> None:
        self._cv2 = import_cv2()
        self._place = place
        self._rate = rate or _RATE
        self._video: Any = None
        self._size: tuple[int, int] = (0, 0)

    def add(self, frame: Frame, text: str) -> None:
        """Draws `text` on a frame and writes it.

        Raises:
            InputError: if it cannot be written.
        """
        assert frame.picture is not None
        drawn = draw_label(frame.picture, text)
        if self._place.suffix in _CODES:
            self._add_to_video(drawn)
            return
        path = self._place / f"{frame.name.rsplit('.', 1)[0]}.png"
        while path.exists():  # a.png and a.jpg
            path = path.with_name(f"{path.stem}_.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._cv2.imwrite(str(path), drawn):
            raise InputError(f"output: {path.name} cannot be written.")

    def _add_to_video(self, drawn: np.ndarray) -> None:
        if self._video is None:
            # Codecs take even sides alone.
            self._size = (drawn.shape[1] // 2 * 2, drawn.shape[0] // 2 * 2)
            code = self._cv2.VideoWriter_fourcc(*_CODES[self._place.suffix])
            self._video = self._cv2.VideoWriter(str(self._place), code, self._rate, self._size)
            if not self._video.isOpened():
                raise InputError(f"output: OpenCV cannot write {self._place.suffix} videos here.")
        if (drawn.shape[1], drawn.shape[0]) != self._size:
            drawn = self._cv2.resize(drawn, self._size)
        self._video.write(drawn)

    def close(self) -> None:
        """Ends a video."""
        if self._video is not None:
            self._video.release()


def check_output(output: str) -> pathlib.Path:
    """Checks the place for annotated frames before any time is spent.

    Raises:
        InputError: if it exists, or its folder cannot be written.
    """
    path = pathlib.Path(output)
    if path.suffix and path.suffix not in _CODES:
        raise InputError(
            f"output must be a new folder, or a new file ending in {' or '.join(_CODES)}, "
            f"got {output!r}."
        )
    if os.path.lexists(path):
        raise InputError(f"output must be new, and {output!r} exists: nothing is written over.")
    folder = path.absolute().parent
    if not _files.is_writable(folder):
        raise InputError(f"output must be in a folder that can be written, got {output!r}.")
    return path


@contextlib.contextmanager
def writing(output: pathlib.Path | None, rate: float | None) -> Iterator[AnnotatedFrames | None]:
    """Frames to add to, moved to `output` when the context ends well, removed when not."""
    if output is None:
        yield None
        return
    work = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    place = work / output.name
    try:
        if not output.suffix:
            place.mkdir()
        frames = AnnotatedFrames(place, rate)
        try:
            yield frames
        finally:
            frames.close()
        os.rename(place, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def draw_label(picture: np.ndarray, text: str) -> np.ndarray:
    """A copy of a frame with a line of text on a dark band below its upper edge.

    Args:
        picture: uint8 `(height, width, 3)`, blue first; small ones are enlarged by a whole factor.
        text: letters beyond ASCII are drawn as question marks, for OpenCV's fonts have no others.
    """
    cv2 = import_cv2()
    factor = -(-_LEAST_WIDTH // picture.shape[1])
    drawn = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    text = text.encode("ascii", "replace").decode()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.5, drawn.shape[1] / 1000)
    thickness = max(1, round(scale))
    (width, height), base = cv2.getTextSize(text, font, scale, thickness)
    if width > drawn.shape[1] - 8:
        scale *= (drawn.shape[1] - 8) / width
    band = height + base + 8
    drawn[:band] //= 4
    cv2.putText(drawn, text, (4, height + 4), font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return drawn
