"""Frames from a folder of pictures, a video or a camera, read in a separate thread."""

import dataclasses
import os
import pathlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from keras_dpvit.datasets import image_files, picture_files
from keras_dpvit.errors import InputError

# What OpenCV and FFmpeg print about files they cannot read; read once, when they are loaded.
_QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
_AHEAD = 8  # frames read before they are asked for
_WAITS = (0.5, 1, 2, 4, 8)  # seconds before a camera is opened again
_ADDRESSES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://")


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One picture to label.

    Attributes:
        name: the file's name below the folder, or the frame's number.
        pixels: uint8 `(height, width, channels)`, converted and resized as in training.
        picture: uint8 `(height, width, 3)` as it was taken, blue first, to draw on; None unless
            asked for.
    """

    name: str
    pixels: np.ndarray
    picture: np.ndarray | None


def import_cv2() -> Any:
    """OpenCV, silent.

    Raises:
        InputError: if it is not installed.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "Videos, cameras and annotated frames need OpenCV: pip install opencv-python-headless."
        ) from error
    return cv2


class Source:
    """A source of frames.

    Attributes:
        kind: "folder", "video" or "camera".
        rate: float, frames per second of a video or camera, None for a folder.
    """

    kind = ""
    rate: float | None = None

    def frames(self, image_shape: Any, with_pictures: bool) -> Iterator[Frame]:
        """The frames in order.

        Args:
            image_shape: (height, width, channels) of the model.
            with_pictures: bool, whether frames have their `picture`.

        Raises:
            InputError: at the end, if pictures could not be read or the source ended early.
        """
        raise AssertionError("each kind of source reads in its own way")

    def close(self) -> None:
        """Closes the device or file."""


class PictureSource(Source):
    """Pictures of a folder and its sub-folders, by name, or one such file."""

    kind = "folder"

    def __init__(self, source: str, reading: image_files.Reading) -> None:
        self._root, self._reading = pathlib.Path(source), reading
        self._files = picture_files.picture_files([source], "source")

    def frames(self, image_shape: Any, with_pictures: bool) -> Iterator[Frame]:
        bad = []
        for path in self._files:
            name = path.relative_to(self._root).as_posix() if self._root.is_dir() else path.name
            name = image_files.shown(name)
            picture = None
            try:
                pixels = image_files.read_image(path, image_shape, reading=self._reading)
                if with_pictures:
                    picture = _blue_first(image_files.read_image(path, reading=self._reading))
            except InputError as error:
                bad.append(str(error))
                continue
            yield Frame(name, pixels, picture)
        if bad:
            raise picture_files.together(bad)


def _blue_first(image: np.ndarray) -> np.ndarray:
    """Gray or RGB as OpenCV has it."""
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.ascontiguousarray(rgb[..., ::-1])


class _StreamSource(Source):
    """A source that OpenCV reads frame by frame."""

    _stream: Any

    def _first_picture(self, source: str, wanted: str) -> Any:
        read, taken = self._stream.read()
        if not read:
            self.close()
            raise InputError(
                f"source must be a folder of pictures or {wanted}, got "
                f"{image_files.shown(source)!r}."
            )
        return taken


class VideoSource(_StreamSource):
    """A video file, by OpenCV, turned as it says itself."""

    kind = "video"

    def __init__(self, source: str) -> None:
        self._cv2, self._name = import_cv2(), source
        self._stream = _opened(self._cv2, source)
        self._first = self._first_picture(source, "a video that OpenCV can read")
        self.rate = _rate(self._cv2, self._stream)
        count = self._stream.get(self._cv2.CAP_PROP_FRAME_COUNT)
        self._count = int(count) if 0 < count < 2**31 else 0  # 0 where the file does not say

    def frames(self, image_shape: Any, with_pictures: bool) -> Iterator[Frame]:
        number, taken = 0, self._first
        while taken is not None:
            yield _frame(self._cv2, number, taken, image_shape, with_pictures)
            number += 1
            read, taken = self._stream.read()
            taken = taken if read else None
        # Some files count a frame or two that they do not hold.
        if number < self._count - max(2, self._count // 100):
            raise InputError(
                f"source {image_files.shown(self._name)!r} ended after {number} of "
                f"{self._count} frames: the file is cut short."
            )

    def close(self) -> None:
        self._stream.release()


class CameraSource(_StreamSource):
    """A camera by its number or address, opened again where it gives no more pictures."""

    kind = "camera"

    def __init__(self, source: str) -> None:
        self._cv2, self._name = import_cv2(), source
        self._closed = threading.Event()
        self._address: Any = int(source) if source.isdecimal() else source
        self._stream = _opened(self._cv2, self._address)
        what = "a camera's number" if source.isdecimal() else "an address that answers"
        self._first = self._first_picture(source, what)
        self.rate = _rate(self._cv2, self._stream)

    def frames(self, image_shape: Any, with_pictures: bool) -> Iterator[Frame]:
        number, taken = 0, self._first
        while taken is not None:
            yield _frame(self._cv2, number, taken, image_shape, with_pictures)
            number += 1
            read, taken = self._stream.read()
            taken = taken if read else self._again()
        if not self._closed.is_set():
            raise InputError(
                f"source {image_files.shown(self._name)!r} gives no more pictures after "
                f"{number}: it was opened again {len(_WAITS)} times without success."
            )

    def _again(self) -> Any:
        """The next picture after the camera is opened anew; None if it stays away."""
        for seconds in _WAITS:
            if self._closed.wait(seconds):
                return None
            self._stream.release()
            self._stream = _opened(self._cv2, self._address)
            read, taken = self._stream.read()
            if read:
                return taken
        return None

    def close(self) -> None:
        self._closed.set()
        self._stream.release()


def _opened(cv2: Any, source: Any) -> Any:
    stream = cv2.VideoCapture(source)
    # Phones store films as the sensor lies, and how to turn them.
    stream.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return stream


def _rate(cv2: Any, stream: Any) -> float | None:
    rate = stream.get(cv2.CAP_PROP_FPS)
    return float(rate) if np.isfinite(rate) and rate > 0 else None


def _frame(cv2: Any, number: int, taken: Any, image_shape: Any, with_picture: bool) -> Frame:
    import PIL.Image

    rgb = PIL.Image.fromarray(cv2.cvtColor(taken, cv2.COLOR_BGR2RGB))
    pixels = image_files.fitted(rgb, image_shape)
    return Frame(str(number), pixels, taken if with_picture else None)


def open_source(source: str, reading: image_files.Reading | None = None) -> Source:
    """The source that a flag names: a folder, a picture, a video file, a camera.

    Args:
        source: the flag.
        reading: transparency and bit depth of pictures, as in training.

    Raises:
        InputError: if it is none of these, or cannot be opened.
    """
    path = pathlib.Path(source)
    if os.path.isdir(source) or image_files.is_picture(path):
        return PictureSource(source, reading or image_files.Reading())
    if os.path.isfile(source):
        return VideoSource(source)
    if source.isdecimal() or source.startswith(_ADDRESSES):
        return CameraSource(source)
    raise InputError(
        "source must be a folder of pictures, a video file, a camera's number or its address "
        f"(rtsp:// or http://), got {image_files.shown(source)!r}."
    )


def read_ahead(
    source: Source, image_shape: Any, with_pictures: bool, limit: int | None = None
) -> Generator[Frame, None, None]:
    """The frames of a source, read by another thread while earlier ones are worked on.

    Of a camera, frames that are not asked for in time are dropped, so that the next is never old.

    Args:
        source: where from; it is closed at the end.
        image_shape: see `Source.frames`.
        with_pictures: see `Source.frames`.
        limit: int or None, how many at the most.

    Raises:
        InputError: what the source raises.
    """
    live = source.kind == "camera"
    waiting: queue.Queue[Any] = queue.Queue(maxsize=1 if live else _AHEAD)
    stop = threading.Event()

    def put(item: Any, in_place_of_older: bool) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0 if in_place_of_older else 0.1)
                return
            except queue.Full:
                if in_place_of_older:
                    _drop_one(waiting)

    def read() -> None:
        try:
            for frame in source.frames(image_shape, with_pictures):
                put(frame, live)
                if stop.is_set():
                    return
            put(None, False)
        except BaseException as error:  # raised again where the frames are asked for
            put(error, False)

    reader = threading.Thread(target=read, name="frames", daemon=True)
    reader.start()
    try:
        given = 0
        while limit is None or given < limit:
            item = waiting.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            given += 1
    finally:
        stop.set()
        reader.join(timeout=5)
        source.close()


def _drop_one(waiting: "queue.Queue[Any]") -> None:
    try:
        waiting.get_nowait()
    except queue.Empty:
        return
