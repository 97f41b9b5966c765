"""Whole folders of images: encrypting, decrypting and changing the key, over several processes."""

import dataclasses
import hashlib
import hmac
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.datasets import image_files
from keras_dpvit.encryption.key_file import KeyFile
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.manifest import FORMAT, VERSION, Journal, Manifest, read_manifest
from keras_dpvit.encryption.schemes import block_size_of
from keras_dpvit.encryption.workers import Job, Task, plain_shapes, run_tasks
from keras_dpvit.errors import InputError

_LONGEST_NAME = 255 - len(".webp")  # bytes that a file system takes
FILE_FORMATS = ("png", "webp", "npy", "tfrecord")
DECRYPTED_FORMATS = ("png", "npy")
SHARD_IMAGES = 256

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of a run over a folder.

    Attributes:
        num_images: int, images that are in the output now.
        num_files: int, files that are in the output now.
        resumed: int, how many of those files were there before, intact.
        failures: one line for each file that could not be done; empty if the output is complete.
        ignored: int, files of the input, hidden ones aside, that are not images by their names.
    """

    num_images: int
    num_files: int
    resumed: int
    failures: tuple[str, ...]
    ignored: int = 0


def _check_size(size: tuple[int, int] | None, fixed: tuple[int, ...] | None) -> None:
    if fixed is not None and size not in (None, fixed[:2]):
        raise InputError(
            f"size must be {fixed[0]},{fixed[1]} or left out under this key, got {size}."
        )


def encrypt_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    key_file: KeyFile,
    *,
    file_format: str = "png",
    size: tuple[int, int] | None = None,
    resize: str = "bilinear",
    reading: image_files.Reading | None = None,
    hash_names: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Encrypts every image below a folder into a new folder of the same tree.

    Labels are not protected: sub-folders keep their names, or hashes that keep them apart. A run
    that was interrupted resumes when it is called again with the same arguments; a file is there
    whole or not at all. The manifest is written once every file is done.

    Args:
        source: folder of pictures, in the formats that training reads.
        target: a new or empty folder, or that of an interrupted run.
        key_file: the key, scheme and options.
        file_format: "png", "webp" (lossless), "npy", or "tfrecord", shards of `SHARD_IMAGES`.
        size: (height, width) to which images are stretched before they are encrypted.
        resize: how, one of `datasets.image_files.RESIZES`.
        reading: transparency and bit depth; None for the usual ones.
        hash_names: bool; names in the output are keyed hashes.
        jobs: int, processes.
        progress: called with images done and images in all.

    Returns:
        The report; its failures name the images that could not be read.

    Raises:
        InputError: before anything is written, if folders, sizes or options do not fit, or a
            file's header is not an image's.
    """
    source, target = _folders(source, target)
    one_of(FILE_FORMATS, file_format=file_format)
    one_of(image_files.RESIZES, resize=resize)
    fixed = key_file.image_shape
    _check_size(size, fixed)
    names, ignored = _list_images(source)
    channels = None if fixed is None else fixed[2]
    reading = reading or image_files.Reading()
    job = Job(
        source,
        target,
        file_format,
        size=size,
        channels=channels,
        resize=resize,
        reading=reading,
        new=key_file,
    )
    images = _name_images(names, key_file.key if hash_names else None)
    tasks = list(_tasks(images, file_format))
    kept_size = None if size is None else list(size)
    how: dict[str, Any] = {"size": kept_size, "resize": resize, "hashed_names": hash_names}
    if reading != image_files.Reading():
        how["reading"] = dataclasses.asdict(reading)
    header = {**_header(key_file, file_format), **how}
    with Journal(target, header, keep_manifest=True) as journal:
        left = _left(journal, tasks)
        _check_plain(left, job, key_file)
        return _finish(journal, job, left, jobs, progress, hash_names, ignored)


def decrypt_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    key_file: KeyFile,
    *,
    file_format: str = "png",
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Decrypts a folder that `encrypt_folder` made.

    Args:
        source: folder with a manifest.
        target: a new or empty folder, or that of an interrupted run.
        key_file: the key that the manifest names.
        file_format: "png" or "npy".
        jobs: int, processes.
        progress: called with images done and images in all.

    Returns:
        The report; its failures name files that are missing or were changed.

    Raises:
        InputError: before anything is written, if the folders or the key do not fit.
    """
    one_of(DECRYPTED_FORMATS, file_format=file_format)
    source, target, manifest = _encrypted_folder(source, target, key_file)
    job = Job(
        source=source,
        target=target,
        file_format=file_format,
        source_format=manifest.header["file_format"],
        old=key_file,
    )
    tasks = [
        Task(f"{image['name']}.{file_format}", (image,), entry, index)
        for entry in manifest.entries
        for index, image in enumerate(entry.images)
    ]
    header = {
        "format": "keras_dpvit decrypted images",
        "kid": key_file.key.kid,
        "file_format": file_format,
    }
    with Journal(target, header, keep_manifest=False) as journal:
        left = _left(journal, tasks)
        return _finish(journal, job, left, jobs, progress, False, 0)


def rotate_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    old: KeyFile,
    new: KeyFile,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Puts a folder of ciphertexts under another key; plain images are in memory only.

    Args:
        source: folder with a manifest.
        target: a new or empty folder, or that of an interrupted run.
        old: the key that the manifest names.
        new: another key; its scheme may be another one.
        jobs: int, processes.
        progress: called with images done and images in all.

    Returns:
        The report; its failures name files that are missing or were changed.

    Raises:
        InputError: before anything is written, if the folders or the keys do not fit, or the old
            scheme is lossy.
    """
    source, target, manifest = _encrypted_folder(source, target, old)
    if old.key == new.key:
        raise InputError(f"new_key must be another key than {old.key.kid}.")
    file_format = manifest.header["file_format"]
    job = Job(
        source=source,
        target=target,
        file_format=file_format,
        source_format=file_format,
        old=old,
        new=new,
    )
    shapes = {tuple(image["shape"]) for entry in manifest.entries for image in entry.images}
    for shape in shapes:
        if not old.cipher(shape).lossless:
            raise InputError(f"{source} was encrypted with loss; encrypt the plain images anew.")
        new.cipher(shape)
    tasks = [Task(entry.file, entry.images, entry) for entry in manifest.entries]
    header = {
        **manifest.header,
        **_header(new, file_format),
    }
    with Journal(target, header, keep_manifest=True) as journal:
        left = _left(journal, tasks)
        return _finish(journal, job, left, jobs, progress, bool(manifest.header["hashed_names"]), 0)


def _finish(
    journal: Journal,
    job: Job,
    tasks: list[Task],
    jobs: int,
    progress: Progress | None,
    hashed: bool,
    ignored: int,
) -> Report:
    """Does what is left, and closes the journal if nothing failed."""
    positive_int(jobs=jobs)
    resumed = len(journal.entries)
    done = sum(len(entry.images) for entry in journal.entries.values())
    total = done + sum(len(task.images) for task in tasks)
    failures = []
    if progress is not None:
        progress(done, total)
    for task, result in run_tasks(job, tasks, jobs):
        if isinstance(result, str):
            failures.append(result)
        else:
            if hashed:
                images = tuple({**image, "source": None} for image in result.images)
                result = dataclasses.replace(result, images=images)
            journal.add(result)
        done += len(task.images)
        if progress is not None:
            progress(done, total)
    report = Report(
        num_images=sum(len(entry.images) for entry in journal.entries.values()),
        num_files=len(journal.entries),
        resumed=resumed,
        failures=tuple(sorted(failures)),
        ignored=ignored,
    )
    if not failures:
        journal.finish()
    return report


def _folders(
    source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> tuple[pathlib.Path, pathlib.Path]:
    """Both as absolute paths, neither within the other."""
    first, second = (
        pathlib.Path(os.path.realpath(os.path.expanduser(p))) for p in (source, target)
    )
    if not first.is_dir():
        raise InputError(f"input must be a folder, got {str(source)!r}.")
    if first == second or first in second.parents or second in first.parents:
        raise InputError(
            f"output must not be the input folder, within it or around it, got {str(target)!r}."
        )
    if second.exists() and not second.is_dir():
        raise InputError(f"output must be a folder, {str(target)!r} is a file.")
    return first, second


def _list_images(source: pathlib.Path) -> tuple[list[str], int]:
    """Sorted paths of the images below a folder, and how many other files there are."""
    names, ignored = [], 0
    for path in image_files.files_below(source):
        if image_files.is_picture(path):
            names.append(path.relative_to(source).as_posix())
        else:
            ignored += 1
    if not names:
        raise InputError(
            f"input must have image files ({', '.join(image_files.suffixes())}); {source} has none."
        )
    return sorted(names), ignored


def _name_images(sources: list[str], hash_key: SecretKey | None) -> list[dict[str, Any]]:
    """The source of each image and a unique name in the output, without suffix."""
    stems = [source.rpartition(".")[0] for source in sources]
    seen: dict[str, int] = {}
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
    # a.png beside a.jpg: both keep their suffix.
    names = [
        stem if seen[stem] == 1 else source for stem, source in zip(stems, sources, strict=True)
    ]
    if hash_key is not None:
        subkey = hash_key.subkey("names")
        names = ["/".join(_hash(subkey, part) for part in name.split("/")) for name in names]
    for name, source in zip(names, sources, strict=True):
        if len(os.fsencode(name.rpartition("/")[2])) > _LONGEST_NAME:
            raise InputError(
                f"input has an image with a name too long for a suffix more: "
                f"{image_files.shown(source)!r}; shorten it, or give --hash_names."
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"input has two images which would both be called {twice!r}.")
    return [{"name": n, "source": s} for n, s in zip(names, sources, strict=True)]


def _hash(subkey: bytes, part: str) -> str:
    """Keyed, so that nobody can try likely names."""
    data = part.encode("utf-8", "surrogateescape")
    return hmac.new(subkey, data, hashlib.sha256).hexdigest()[:32]


def _tasks(images: list[dict[str, Any]], file_format: str) -> Iterator[Task]:
    if file_format != "tfrecord":
        for image in images:
            yield Task(f"{image['name']}.{file_format}", (image,))
        return
    shards = -(-len(images) // SHARD_IMAGES)
    for i in range(shards):
        part = tuple(images[i * SHARD_IMAGES : (i + 1) * SHARD_IMAGES])
        yield Task(f"images-{i:05d}-of-{shards:05d}.tfrecord", part)


def _header(key_file: KeyFile, file_format: str) -> dict[str, Any]:
    fixed = key_file.image_shape
    return {
        "format": FORMAT,
        "version": VERSION,
        "kid": key_file.key.kid,
        "scheme": key_file.scheme,
        "params": dict(key_file.options),
        "image_shape": None if fixed is None else list(fixed),
        "file_format": file_format,
    }


def _check_plain(tasks: list[Task], job: Job, key_file: KeyFile) -> None:
    """Refuses images by their headers, before anything is written."""
    side = block_size_of(key_file.scheme, key_file.options)
    fitting = set()
    paths = [job.source / image["source"] for task in tasks for image in task.images]
    for path, shape in zip(paths, plain_shapes(paths, job), strict=True):
        if job.size is not None:
            shape = (*job.size, shape[2])
        height, width, depth = shape
        fixed = key_file.image_shape
        if fixed is not None and shape != fixed:
            raise InputError(
                f"image {str(path)!r} is {height}x{width}, but this key is for "
                f"{fixed[0]}x{fixed[1]}: give --size={fixed[0]},{fixed[1]} to resize."
            )
        if height % side or width % side:
            raise InputError(
                f"image {str(path)!r} is {height}x{width}, not a multiple of the block size "
                f"{side}: give a --size that is one to resize."
            )
        if depth not in fitting:
            key_file.cipher((side, side, depth) if fixed is None else fixed)
            fitting.add(depth)


def _left(journal: Journal, tasks: list[Task]) -> list[Task]:
    """The files that are not there yet."""
    journal.keep_only({task.file: [image["name"] for image in task.images] for task in tasks})
    return [task for task in tasks if task.file not in journal.entries]


def _encrypted_folder(
    source: str | os.PathLike[str], target: str | os.PathLike[str], key_file: KeyFile
) -> tuple[pathlib.Path, pathlib.Path, Manifest]:
    """Both folders as `_folders` returns them, and the manifest, which names this key."""
    source, target = _folders(source, target)
    manifest = read_manifest(source)
    kid = manifest.header["kid"]
    if kid != key_file.key.kid:
        raise InputError(
            f"key is {key_file.key.kid}, but {source} was encrypted with key {kid}: wrong key."
        )
    return source, target, manifest
