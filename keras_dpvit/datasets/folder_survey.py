"""The contents of a folder of pictures: classes, parts, and what is left out of them."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from keras_dpvit import _reasons
from keras_dpvit._validate import open_unit_interval
from keras_dpvit.datasets import image_files
from keras_dpvit.datasets.image_data import existing_folder
from keras_dpvit.datasets.image_files import shown
from keras_dpvit.errors import InputError

TRAIN, TEST = "train", "test"
_VALIDATION = ("val", "valid", "validation", "dev")

# A file, and the number of its class.
Item = tuple[Path, int]


@dataclasses.dataclass(frozen=True)
class FolderSurvey:
    """The pictures of a folder, none of them opened.

    Attributes:
        root: the folder.
        class_names: names of the classes, in order.
        train, test: the parts' files, each with the number of its class, in the order of the
            classes and then of the files' paths.
        left_out: files that are in neither part, by the reason.
    """

    root: Path
    class_names: tuple[str, ...]
    train: list[Item]
    test: list[Item]
    left_out: dict[str, list[Path]]

    def counts(self) -> list[tuple[str, int, int]]:
        """Each class with its number of pictures to train on and held out."""
        of_parts = [collections.Counter(label for _, label in part)
                    for part in (self.train, self.test)]  # fmt: skip
        return [
            (name, of_parts[0][label], of_parts[1][label])
            for label, name in enumerate(self.class_names)
        ]

    def left_out_line(self) -> str | None:
        """One line on the files that are left out; None if none is."""
        if not self.left_out:
            return None
        out = sum(map(len, self.left_out.values()))
        total = out + len(self.train) + len(self.test)
        reasons = "; ".join(f"{len(files)} {reason}" for reason, files in self.left_out.items())
        return f"{out} of {total} files in {shown(self.root)} are left out: {reasons}."


def in_test_part(relative_path: str, test_fraction: float) -> bool:
    """Decides by a file's name alone whether it belongs to the test part.

    The SHA-256 of the path, read as a number in [0, 1), is compared with `test_fraction`. No
    other file is looked at, so adding or removing a file moves no other file between the parts,
    and two folders which differ in one file have parts which differ in that file only.

    Args:
        relative_path: the file's path below the data folder, with forward slashes.
        test_fraction: the expected share of files in the test part.

    Returns:
        True for the test part.
    """
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    # 53 bits, as many as a float holds, so that the quotient is exact and stays below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53 < test_fraction


def survey_folder(
    data_dir: str | os.PathLike[str],
    *,
    test_fraction: float = 0.2,
    class_names: Sequence[str] | None = None,
) -> FolderSurvey:
    """Lists the pictures of a folder by class and part; see `load_image_folder`.

    Raises:
        InputError: if the folder is missing, has fewer than two classes, a class without pictures
            to train on, or an empty part.
    """
    open_unit_interval(test_fraction=test_fraction)
    root = existing_folder(data_dir, "one sub-folder of images for each class")
    given = None if class_names is None else _check_class_names(class_names)
    found = _given_parts(root, given) or _split_by_name(root, test_fraction, given)
    for name, train, test in found.counts():
        if given is None and not train:
            raise InputError(
                f"each class must have pictures to train on; {shown(name)!r} has none and "
                f"{test} to test on: add some, or name the classes by --classes."
            )
    return found


def _check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(class_names, str) else tuple(class_names)
    # Each must be a name and no path, which could lead out of the folder.
    plain = all(isinstance(x, str) and x == Path(x).name and not x.startswith(".") for x in names)
    if len(names) < 2 or len(set(names)) != len(names) or not plain:
        raise InputError(
            "classes must be at least 2 different names of sub-folders, got "
            f"{', '.join(map(str, names)) or class_names!r}."
        )
    return names


def _given_parts(root: Path, given: tuple[str, ...] | None) -> FolderSurvey | None:
    """A folder that has its own parts; None if it has not.

    A validation folder stands for the test part where there is none, and is left out beside one.
    """
    validation = [name for name in _VALIDATION if (root / name).is_dir()]
    has_test = (root / TEST).is_dir()
    if not (root / TRAIN).is_dir() or not (has_test or validation):
        return None
    held_out = TEST if has_test else validation[0]
    left_out: dict[str, list[Path]] = {}
    class_names, train = _list_classes(root / TRAIN, given, left_out)
    test_names, test = _list_classes(root / held_out, given, left_out)
    for part, chosen in ((TRAIN, train), (held_out, test)):
        if not chosen:
            raise InputError(f"data_dir must have images of the classes in {part}, got none.")
    if class_names != test_names:
        odd = sorted(set(class_names) ^ set(test_names))[0]
        raise InputError(
            f"data_dir must have the same classes in {TRAIN} and {held_out}; {shown(root)!r} has "
            f"{shown(odd)!r} in one of them only."
        )
    for other in _entries(root):
        if other.name not in (TRAIN, held_out):
            _note(left_out, f"outside of {TRAIN} and {held_out}, in {shown(other.name)}", other)
    return FolderSurvey(root, class_names, train, test, left_out)


def _split_by_name(root: Path, test_fraction: float, given: tuple[str, ...] | None) -> FolderSurvey:
    """A folder of classes, split by the files' names."""
    left_out: dict[str, list[Path]] = {}
    class_names, items = _list_classes(root, given, left_out)
    found = FolderSurvey(root, class_names, [], [], left_out)
    for item in items:
        relative_path = item[0].relative_to(root).as_posix()
        is_test = in_test_part(relative_path, test_fraction)
        (found.test if is_test else found.train).append(item)
    for part, chosen in ((TRAIN, found.train), (TEST, found.test)):
        if not chosen:
            raise InputError(
                f"test_fraction must leave images in both parts; {test_fraction} puts none of the "
                f"{len(items)} images of {shown(root)!r} in the {part} part."
            )
    return found


def _list_classes(
    root: Path, given: tuple[str, ...] | None, left_out: dict[str, list[Path]]
) -> tuple[tuple[str, ...], list[Item]]:
    """The class names, and the files at any depth below their folders."""
    entries = _entries(root)
    if given is None:
        folders = [path for path in entries if path.is_dir()]
    else:
        folders = [root / name for name in given]
    for folder in folders:
        _check_class_folder(folder)
    if len(folders) < 2:
        raise InputError(
            f"data_dir must have at least 2 sub-folders, one for each class; {shown(root)!r} "
            f"has {len(folders)}."
        )
    for other in entries:
        if other not in folders:
            reason = "in no class" if given is None else "of classes that are not named"
            _note(left_out, reason, other)
    items: list[Item] = []
    for label, folder in enumerate(folders):
        before = len(items)
        for path in image_files.files_below(folder):
            if image_files.is_picture(path):
                items.append((path, label))
            else:
                _note(left_out, _why_not(path), path)
        if len(items) == before and given is None:
            raise InputError(
                f"data_dir must have pictures in each class; {shown(folder)!r} has none."
            )
    return tuple(folder.name for folder in folders), items


def _check_class_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(
            f"classes must name sub-folders of data_dir; {shown(folder)!r} is not a folder."
        )
    # A name goes into the model's files, which hold UTF-8.
    if shown(folder.name) != folder.name:
        raise InputError(
            f"class names must be printable UTF-8; rename the folder {shown(folder.name)!r}."
        )


def _why_not(path: Path) -> str:
    package = image_files.missing_reader(path)
    if package is not None:
        return f"that pip install {package} would read"
    return f"that are no pictures ({shown(path.suffix) or 'no suffix'})"


def _note(left_out: dict[str, list[Path]], reason: str, path: Path) -> None:
    """Enters a file, or all files below a folder."""
    files = image_files.files_below(path) if path.is_dir() else [path]
    for file in files:
        left_out.setdefault(reason, []).append(file)


def _entries(folder: Path) -> list[Path]:
    """The contents of a folder that are not hidden, sorted by name."""
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"data_dir must be readable; {shown(folder)!r} is not: {_reasons.reason(error)}."
        ) from error
    return sorted((p for p in paths if not p.name.startswith(".")), key=lambda path: path.name)
