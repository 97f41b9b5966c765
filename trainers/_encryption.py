"""Parts of trainers.encrypt and --encryption_key: keys, passphrases, progress, keyed models."""

import getpass
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

from keras_dpvit import _files, _quiet
from keras_dpvit.encryption.key_file import KeyFile, read_header, read_key_file
from keras_dpvit.encryption.passphrase import VARIABLE
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files


def load_key(path: str, passphrase_file: str | None) -> KeyFile:
    """Reads a key file; its passphrase comes from a file, the environment or a prompt."""
    passphrase = None
    if read_header(path)["wrapped"]:
        passphrase = read_passphrase(f"Passphrase of {path}: ", passphrase_file)
    return read_key_file(path, passphrase)


def read_passphrase(prompt: str, passphrase_file: str | None, confirm: bool = False) -> str:
    """A passphrase from a file, the environment or a prompt; never from a flag.

    Args:
        prompt: what the user is asked.
        passphrase_file: its first line is taken.
        confirm: bool, True if a prompt asks twice.

    Raises:
        InputError: if there is none.
    """
    if passphrase_file is not None:
        try:
            lines = pathlib.Path(passphrase_file).read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"passphrase_file {passphrase_file!r} cannot be read.") from error
        passphrase = lines[0] if lines else ""
    elif os.environ.get(VARIABLE):
        passphrase = os.environ[VARIABLE]
    elif sys.stdin.isatty():
        passphrase = getpass.getpass(prompt)
        if confirm and getpass.getpass("Once more: ") != passphrase:
            raise InputError("passphrase: the two were different.")
    else:
        raise InputError(f"passphrase must come from --passphrase_file, ${VARIABLE} or a terminal.")
    if not passphrase:
        raise InputError("passphrase must not be empty.")
    return passphrase


class ProgressBar:
    """A bar on a terminal, nothing in a log.

    Args:
        words: what is being done.
    """

    def __init__(self, words: str) -> None:
        self._words = words
        self._bar: Any = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        import tqdm

        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=total, initial=done, desc=self._words, unit="image", disable=None
            )
        self._bar.update(done - self._bar.n)


def report(result: Any, words: str) -> None:
    """Prints how a run went.

    Args:
        result: a `Report` of keras_dpvit.encryption.folders.
        words: what was done, and where to.

    Raises:
        InputError: if something failed; what was done is kept.
    """
    if result.resumed:
        print(f"{result.resumed} files were there already, intact.")
    if result.ignored:
        print(f"{result.ignored} files are not images by their names and were left out.")
    if result.failures:
        *others, last = result.failures
        for failure in others:
            print(f"error: {failure}", file=sys.stderr)
        raise InputError(
            f"{last} {result.num_images} images are done; put this right and run the same "
            "command again."
        )
    print(f"{result.num_images} images in {result.num_files} files {words}")


def convert_model(source: str, target: str, key_file: KeyFile, move: Callable[[Any], Any]) -> None:
    """Reads a model, moves it to a key and writes it, whole or not at all.

    Args:
        source: a .keras file.
        target: a new .keras file.
        key_file: the key for the output.
        move: from a model to the model under that key.

    Raises:
        InputError: if a file cannot be read or written, or as `move` does.
    """
    _check_model_files(source, target)
    _quiet.start_tensorflow()
    model = model_files.load_any(source, "input")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = move(model)
    for warning in caught:
        if warning.category is UserWarning:
            print(f"warning: {warning.message}", file=sys.stderr)
    work = pathlib.Path(target).with_name(f".{os.getpid()}-{pathlib.Path(target).name}")
    try:
        moved.save(work)
        os.link(work, target)  # unlike a rename, never over another file
    except OSError as error:
        raise InputError(f"output {target!r} cannot be written: {error.strerror}.") from error
    finally:
        work.unlink(missing_ok=True)
    print(f"The model is under key {key_file.key.kid} in {target}.")


def _check_model_files(source: str, target: str) -> None:
    model_files.check_model_file(source, "input")
    path = pathlib.Path(target).absolute()
    if path.suffix != ".keras" or not _files.is_writable(path.parent):
        raise InputError(
            "output must be a file ending in .keras in a folder that can be written, "
            f"got {target!r}."
        )
    if path.exists():
        raise InputError(f"output must be a new file; {target!r} exists.")
