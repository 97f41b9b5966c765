"""One file from start to end, and many of them over processes."""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_dpvit import _files
from keras_dpvit.datasets import image_files
from keras_dpvit.datasets.picture_files import read_each
from keras_dpvit.encryption import ciphertext_files, tfrecords
from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.cipher import ImageCipher, shape_of
from keras_dpvit.encryption.key_file import KeyFile
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.manifest import Entry
from keras_dpvit.errors import InputError

_BATCH = 8
_CIPHERS_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Task:
    """One file to write.

    Attributes:
        file: its path below the target.
        images: dicts with `name`, `source` and, for ciphertexts, `shape`.
        entry: the ciphertext file to read; None for plain pictures.
        index: int, which image of `entry` alone; None for all.
    """

    file: str
    images: tuple[dict[str, Any], ...]
    entry: Entry | None = None
    index: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """The work on every file: decrypt under `old` if there is one, encrypt under `new`.

    Attributes:
        source: folder to read.
        target: folder to write.
        file_format: to write.
        source_format: of ciphertexts; None for plain pictures.
        size: (height, width) that plain pictures are stretched to.
        channels: of plain pictures; None leaves them.
        resize: how they are stretched.
        reading: transparency and bit depth of plain pictures.
        old: key of the ciphertexts.
        new: key for the output.
    """

    source: pathlib.Path
    target: pathlib.Path
    file_format: str
    source_format: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    resize: str = "bilinear"
    reading: image_files.Reading = image_files.AS_STORED
    old: KeyFile | None = None
    new: KeyFile | None = None


class Worker:
    """Does one file after another.

    Args:
        job: what is done.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ciphers: dict[tuple[str, Shape], ImageCipher] = {}
        self._last: tuple[Entry, list[bytes]] | None = None

    def __call__(self, task: Task) -> Entry | str:
        """The entry of the file that was written, or one line that says what was wrong."""
        try:
            plains = self._read(task)
            outputs = plains
            if self._job.new is not None:
                outputs = [self._cipher(self._job.new, p.shape).encrypt(p) for p in plains]
            data = self._encode(task, outputs)
            _files.write_whole(self._job.target / task.file, data)
        except InputError as error:
            told = str(error)
            # A cipher does not know which image it was given.
            where = task.images[0].get("source") or task.file
            return told if str(self._job.source) in told else f"{where}: {told}"
        images = [
            {"name": image["name"], "source": image.get("source"), "shape": list(plain.shape)}
            for image, plain in zip(task.images, plains, strict=True)
        ]
        return Entry.of(task.file, data, images)

    def _read(self, task: Task) -> list[np.ndarray]:
        job = self._job
        if task.entry is None or job.old is None or job.source_format is None:
            return [_read_plain(job, job.source / image["source"]) for image in task.images]
        encoded = self._ciphertexts(task.entry, job.source_format)
        if task.index is not None:
            encoded = encoded[task.index : task.index + 1]
        kind = "png" if job.source_format == "tfrecord" else job.source_format
        plains = []
        for data, image in zip(encoded, task.images, strict=True):
            shape = tuple(image["shape"])
            cipher = self._cipher(job.old, shape)
            pixels = ciphertext_files.decode(data, kind, cipher.encrypted_shape(shape)[2])
            plains.append(cipher.decrypt(pixels))
        return plains

    def _ciphertexts(self, entry: Entry, source_format: str) -> list[bytes]:
        """The images of a file whose bytes are those of the manifest; a shard is read once."""
        if self._last is not None and self._last[0] == entry:
            return self._last[1]
        path = self._job.source / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        if not entry.holds(data):
            raise InputError(f"{path} was changed: its bytes are not those of the manifest.")
        encoded = tfrecords.read(path) if source_format == "tfrecord" else [data]
        self._last = entry, encoded
        return encoded

    def _encode(self, task: Task, outputs: list[np.ndarray]) -> bytes:
        kid = None if self._job.new is None else self._job.new.key.kid
        if self._job.file_format != "tfrecord":
            return ciphertext_files.encode(outputs[0], self._job.file_format, kid)
        encoded = [ciphertext_files.encode(output, "png", kid) for output in outputs]
        names = [image["name"] for image in task.images]
        shapes = [shape_of(output[None]) for output in outputs]
        return tfrecords.pack(encoded, names, shapes, kid or "")

    def _cipher(self, key_file: KeyFile, shape: Any) -> ImageCipher:
        """Ciphers of the last few shapes are kept: deriving one takes milliseconds."""
        found = self._ciphers.get((key_file.key.kid, shape))
        if found is None:
            found = key_file.cipher(shape)
            while len(self._ciphers) >= _CIPHERS_KEPT:
                self._ciphers.pop(next(iter(self._ciphers)))
            self._ciphers[key_file.key.kid, shape] = found
        return found


def run_tasks(job: Job, tasks: list[Task], jobs: int) -> Iterator[tuple[Task, "Entry | str"]]:
    """Every task with its entry or its one-line failure, in the order in which they end.

    Args:
        job: what is done.
        tasks: the files.
        jobs: int, processes; 1 works in this one.

    Raises:
        InputError: if a process died, for want of memory for example.
    """
    if jobs == 1 or len(tasks) <= 1:
        worker = Worker(job)
        for task in tasks:
            yield task, worker(task)
        return
    # Spawned, not forked: TensorFlow's threads do not survive a fork. The secrets travel through
    # a pipe, because keys are not pickled.
    plain_job = dataclasses.replace(job, old=None, new=None)
    executor = concurrent.futures.ProcessPoolExecutor(
        max_workers=min(jobs, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(plain_job, _parts(job.old), _parts(job.new)),
    )
    batches = [tasks[i : i + _BATCH] for i in range(0, len(tasks), _BATCH)]
    try:
        yield from _in_order_of_end(executor, batches, 3 * jobs)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "jobs: a process ended unexpectedly, perhaps for want of memory; run the command "
            "again with fewer."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _in_order_of_end(
    executor: concurrent.futures.Executor, batches: Iterable[list[Task]], most: int
) -> Iterator[tuple[Task, "Entry | str"]]:
    """Keeps at most `most` batches on their way, however many tasks there are."""
    under_way: dict[Any, list[Task]] = {}
    source = iter(batches)
    while True:
        for batch in itertools.islice(source, most - len(under_way)):
            under_way[executor.submit(_work, batch)] = batch
        if not under_way:
            return
        done, _ = concurrent.futures.wait(under_way, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            yield from zip(under_way.pop(future), future.result(), strict=True)


_worker: Worker | None = None

_KeyParts = tuple[bytes, str, dict[str, Any], Shape | None]


def _parts(key_file: KeyFile | None) -> _KeyParts | None:
    if key_file is None:
        return None
    return key_file.key.reveal(), key_file.scheme, key_file.options, key_file.image_shape


def _start(job: Job, old: _KeyParts | None, new: _KeyParts | None) -> None:
    """Makes the worker of a process, once in each."""
    global _worker
    keys = [
        None if parts is None else KeyFile(SecretKey(parts[0]), *parts[1:]) for parts in (old, new)
    ]
    _worker = Worker(dataclasses.replace(job, old=keys[0], new=keys[1]))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its processes; they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(tasks: list[Task]) -> list["Entry | str"]:
    assert _worker is not None
    return [_worker(task) for task in tasks]


def _read_plain(job: Job, path: pathlib.Path) -> np.ndarray:
    if job.size is None:
        return image_files.read_image(path, channels=job.channels, reading=job.reading)
    depth = job.channels or image_files.read_shape(path)[2]
    shape = (*job.size, depth)
    return image_files.read_image(path, shape, resize=job.resize, reading=job.reading)


def plain_shapes(paths: list[pathlib.Path], job: Job) -> list[Shape]:
    """The shapes that pictures will have, by their headers.

    Raises:
        InputError: if a header is not a picture's. Then all files are read, so that the message
            is of everything that is wrong.
    """
    try:
        return read_each(paths, lambda path: image_files.read_shape(path, job.channels))
    except InputError:
        read_each(
            paths,
            lambda path: (
                image_files.read_image(path, channels=job.channels, reading=job.reading).shape
            ),
        )
        raise
