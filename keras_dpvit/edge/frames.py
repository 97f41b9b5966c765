"""Frames from a folder of pictures, a video or a camera, read in a separate thread."""

import dataclasses
import os
import pathlib
import queue
import threading
import warnings
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from keras_dpvit.datasets import picture_files
from keras_dpvit.datasets.image_folder import read_image
from keras_dpvit.errors import InputError

# What OpenCV and FFmpeg print about files they cannot read; read once, when they are loaded.
_QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
_AHEAD = 8  # frames read before they are asked for


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
            InputError: on a frame that cannot be read.
        """
        raise AssertionError("each kind of source reads in its own way")

    def close(self) -> None:
        """Closes the device or file."""


class PictureSource(Source):
    """PNG and JPEG files of a folder and its sub-folders, by name, or one such file."""

    kind = "folder"

    def __init__(self, source: str) -> None:
        self._root = pathlib.Path(source)
        self._files = picture_files.picture_files([source], "source")

    def frames(self, image_shape: Any, with_pictures: bool) -> Iterator[Frame]:
        for path in self._files:
            _check_size(path)
            name = path.relative_to(self._root).as_posix() if self._root.is_dir() else path.name
            picture = _blue_first(read_image(path, None)) if with_pictures else None
            yield Frame(name, read_image(path, image_shape), picture)


def _check_size(path: pathlib.Path) -> None:
    """Refuses a picture of too many pixels by its header."""
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, which are counted here
            with PIL.Image.open(path, formats=("PNG", "JPEG")) as image:
                pixels = image.width * image.height
    except Exception:  # what is not an image at all is refused where it is read
        return
    if pixels > picture_files.MAX_PIXELS:
        raise InputError(
            f"source must hold pictures of at most {picture_files.MAX_PIXELS} pixels; "
            f"{str(path)!r} has {image.width}x{image.height}."
        )


def _blue_first(image: np.ndarray) -> np.ndarray:
    """Gray or RGB as OpenCV has it."""
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))
    return np.ascontiguousarray(rgb[..., ::-1])


class StreamSource(Source):
    """A video file or a camera, by OpenCV."""

    def __init__(self, source: str) -> None:
        self._cv2 = import_cv2()
        self.kind = "video" if os.path.isfile(source) else "camera"
        self._stream = self._cv2.VideoCapture(source if self.kind == "video" else int(source))
        opened, first = self._stream.read() if self._stream.isOpened() else (False, None)
        if not opened:
            self.close()
            what = "a video that OpenCV can read" if self.kind == "video" else "a camera's number"
            raise InputError(f"source must be a folder of pictures or {what}, got {source!r}.")
        self._first = first
        rate = self._stream.get(self._cv2.CAP_PROP_FPS)
        self.rate = float(rate) if np.isfinite(rate) and rate > 0 else None

    def frames(self, image_shape: Any, with_pictures: bool) -> Iterator[Frame]:
        number, taken = 0, self._first
        while taken is not None:
            pixels = _fitted(self._cv2.cvtColor(taken, self._cv2.COLOR_BGR2RGB), image_shape)
            yield Frame(str(number), pixels, taken if with_pictures else None)
            number += 1
            read, taken = self._stream.read()
            taken = taken if read else None

    def close(self) -> None:
        self._stream.release()


def _fitted(rgb: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """A frame as `datasets.load_image_folder` would make it."""
    import PIL.Image

    height, width, channels = image_shape
    image = PIL.Image.fromarray(rgb).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def open_source(source: str) -> Source:
    """The source that a flag names: a folder, a picture, a video file or a camera's number.

    Raises:
        InputError: if it is none of these, or cannot be opened.
    """
    path = pathlib.Path(source)
    if os.path.isdir(source) or path.suffix.lower() in picture_files.SUFFIXES:
        return PictureSource(source)
    if os.path.isfile(source) or source.isdecimal():
        return StreamSource(source)
    raise InputError(
        f"source must be a folder of pictures, a video file or a camera's number, got {source!r}."
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
