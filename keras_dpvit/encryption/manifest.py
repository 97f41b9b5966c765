"""The manifest of a folder of ciphertexts, and the journal from which a run is resumed.

While a run is under way, `.progress.jsonl` grows by a line for each file that is finished. At the
end `manifest.json` is written, whole, and the journal goes.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from types import TracebackType
from typing import IO, Any

from keras_dpvit._files import partial_prefix, write_whole
from keras_dpvit.errors import InputError

FORMAT = "keras_dpvit encrypted images"
VERSION = 1
MANIFEST_NAME = "manifest.json"
JOURNAL_NAME = ".progress.jsonl"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One finished file.

    Attributes:
        file: its path below the folder, with forward slashes.
        sha256: hex digest of its bytes.
        size: int, bytes.
        images: one dict for each image in it: `name` (path without suffix), `source` (original
            path; None where names are hashed) and `shape` of the plain image.
    """

    file: str
    sha256: str
    size: int
    images: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, file: str, data: bytes, images: list[dict[str, Any]]) -> "Entry":
        """The entry of a file with these bytes."""
        return cls(file, hashlib.sha256(data).hexdigest(), len(data), tuple(images))

    def holds(self, data: bytes) -> bool:
        """True if these are the file's bytes."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256

    def is_intact(self, folder: pathlib.Path) -> bool:
        """True if the file is there with exactly these bytes."""
        try:
            return self.holds((folder / self.file).read_bytes())
        except OSError:
            return False

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "images": list(self.images)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Entry":
        """The inverse of `to_dict`."""
        fields = {name: content[name] for name in ("file", "sha256", "size")}
        images = tuple(content["images"])
        for name in (fields["file"], *(image["name"] for image in images)):
            path = pathlib.PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError("a path leaves the folder")
        return cls(images=images, **fields)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A finished folder of ciphertexts.

    Attributes:
        header: scheme, params, kid, file format and so on; nothing secret.
        entries: one for each file.
    """

    header: dict[str, Any]
    entries: tuple[Entry, ...]

    @property
    def num_images(self) -> int:
        """Images in all files."""
        return sum(len(entry.images) for entry in self.entries)


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Reads `manifest.json`.

    Raises:
        InputError: if there is none, the run is unfinished, or the file is damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
        known = content["format"] == FORMAT and content["version"] == VERSION
        entries = tuple(Entry.from_dict(entry) for entry in content.pop("files"))
        told = content.pop("num_files")
        del content["num_images"]  # it follows from the entries
    except FileNotFoundError as error:
        reason = "has no manifest.json"
        if (folder / JOURNAL_NAME).exists():
            reason = "is unfinished: run the same encrypt command again"
        raise InputError(
            f"input must be a folder of encrypted images; {folder} {reason}."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged.") from error
    if not known or told != len(entries):
        raise InputError(f"{path} is damaged, or of another version.")
    return Manifest(content, entries)


class Journal:
    """The files of one run that are finished; a context that one process at a time can enter.

    Entering takes up an interrupted run: what it left half-written is removed, and what it
    finished is in `entries`, checked against the bytes on disk.

    Args:
        folder: where the run writes; made if it is not there.
        header: what the run is; a folder that another run began is refused.
        keep_manifest: bool, whether a manifest is written at the end.

    Raises:
        InputError: on entering, if the folder is not empty and not this run's, cannot be written,
            or is being written by another process.
    """

    def __init__(self, folder: pathlib.Path, header: dict[str, Any], keep_manifest: bool) -> None:
        self._folder = folder
        self._header = json.loads(json.dumps(header))  # as it will be read again
        self._keep_manifest = keep_manifest
        self._file: IO[bytes] | None = None
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> "Journal":
        path = self._folder / JOURNAL_NAME
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = not any(self._folder.iterdir())
            if not fresh and not path.exists() and not self._is_finished():
                raise InputError(
                    f"output must be a new or empty folder, or one that an interrupted run of the "
                    f"same command left; {self._folder} is neither."
                )
            self._file = open(path, "a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._close()
            raise InputError(f"output {self._folder} is being written by another run.") from error
        except OSError as error:
            self._close()
            raise InputError(
                f"output {self._folder} cannot be written: {error.strerror}."
            ) from error
        try:
            self._take_up()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if not self.entries:  # nothing was written, so nothing is left
            (self._folder / JOURNAL_NAME).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def keep_only(self, images: dict[str, list[str]]) -> None:
        """Removes finished files of which this run knows nothing.

        Args:
            images: for each file of this run, the names of its images.
        """
        for name, entry in list(self.entries.items()):
            if images.get(name) != [image["name"] for image in entry.images]:
                (self._folder / name).unlink(missing_ok=True)
                del self.entries[name]

    def add(self, entry: Entry) -> None:
        """Notes a file that is finished."""
        self.entries[entry.file] = entry
        self._write(entry.to_dict())

    def finish(self) -> None:
        """Writes the manifest of all entries, if there is to be one, and removes the journal."""
        if self._keep_manifest:
            content = {
                **self._header,
                "num_files": len(self.entries),
                "num_images": sum(len(entry.images) for entry in self.entries.values()),
                "files": [self.entries[name].to_dict() for name in sorted(self.entries)],
            }
            text = json.dumps(content, indent=1) + "\n"
            write_whole(self._folder / MANIFEST_NAME, text.encode())
        (self._folder / JOURNAL_NAME).unlink()

    def _is_finished(self) -> bool:
        """True if a manifest says that this very run was finished before."""
        if not self._keep_manifest or not (self._folder / MANIFEST_NAME).exists():
            return False
        return read_manifest(self._folder).header == self._header

    def _take_up(self) -> None:
        assert self._file is not None
        header, found = self._read()
        if header is None:
            if (self._folder / MANIFEST_NAME).exists():
                found = list(read_manifest(self._folder).entries)
            self._write(self._header)
        elif header != self._header:
            raise InputError(
                f"output {self._folder} belongs to a run with other options or another key: give "
                "a new folder."
            )
        for left in self._folder.rglob(f"{partial_prefix()}*"):
            left.unlink(missing_ok=True)
        self.entries = {entry.file: entry for entry in found if entry.is_intact(self._folder)}

    def _read(self) -> tuple[dict[str, Any] | None, list[Entry]]:
        """Header and entries up to the first line that a kill has torn, which is cut off."""
        assert self._file is not None
        self._file.seek(0)
        header, entries, end = None, [], 0
        for line in self._file:
            try:
                content = json.loads(line)
                if header is None:
                    header = dict(content)
                else:
                    entries.append(Entry.from_dict(content))
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
        self._file.truncate(end)
        return (header, entries) if end else (None, [])

    def _write(self, content: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            if self._file.seekable():
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
