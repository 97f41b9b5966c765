"""What the commands of trainers.encrypt share: keys, passphrases, progress and reports."""

import getpass
import os
import pathlib
import sys
from typing import Any

from absl import flags

from keras_dpvit.encryption.key_file import KeyFile, read_header, read_key_file
from keras_dpvit.encryption.passphrase import VARIABLE
from keras_dpvit.errors import InputError

FLAGS = flags.FLAGS


def define_folder_flags() -> None:
    """--input --output --key --passphrase_file --jobs."""
    flags.DEFINE_string("input", None, "Folder to read.")
    flags.DEFINE_string("output", None, "New folder to write, or that of an interrupted run.")
    flags.DEFINE_string("key", None, "Key file.")
    flags.DEFINE_string(
        "passphrase_file",
        None,
        f"File whose first line is the key's passphrase (otherwise ${VARIABLE}, or a prompt).",
    )
    flags.DEFINE_integer("jobs", os.cpu_count() or 1, "Processes.", lower_bound=1)


def needed(name: str) -> str:
    """The value of a flag that must be given.

    Raises:
        InputError: if it was not.
    """
    value = FLAGS[name].value
    if not value:
        raise InputError(f"--{name} must be given.")
    return str(value)


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
        confirm: bool, whether a prompt asks twice.

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

    def __call__(self, done: int, total: int) -> None:
        import tqdm

        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=total, initial=done, desc=self._words, unit="image", disable=None
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leaves the line of the bar."""
        if self._bar is not None:
            self._bar.close()


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
        print(f"{result.ignored} files are no images by their names and were left out.")
    if result.failures:
        *others, last = result.failures
        for failure in others:
            print(f"error: {failure}", file=sys.stderr)
        raise InputError(
            f"{last} {result.num_images} images are done; put this right and run the same "
            "command again."
        )
    print(f"{result.num_images} images in {result.num_files} files {words}")
