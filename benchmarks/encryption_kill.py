"""A folder encrypted by the command line although it is killed again and again."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from keras_dpvit import datasets
from keras_dpvit._files import partial_prefix
from keras_dpvit.datasets.image_files import read_image
from keras_dpvit.encryption.manifest import JOURNAL_NAME, MANIFEST_NAME, read_manifest
from keras_dpvit.errors import InputError

_BLOCK = 14
_LONGEST = 1800


def measure(work_dir: str | None, images: int, kills: int) -> dict[str, Any]:
    """Encrypts, kills, resumes, decrypts and compares.

    Args:
        work_dir: a new folder; removed in the end.
        images: int, of Fashion-MNIST's training part.
        kills: int, how often the run is killed with SIGKILL.

    Raises:
        InputError: if the folder is not new.
    """
    if work_dir is None or os.path.exists(work_dir):
        raise InputError(f"work_dir must be a new folder, got {work_dir!r}.")
    base = pathlib.Path(work_dir).absolute()
    try:
        return _measure(base, images, kills)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _measure(base: pathlib.Path, images: int, kills: int) -> dict[str, Any]:
    source, hidden, shown, key = (base / name for name in ("plain", "hidden", "shown", "key.json"))
    plain = _write_images(source, images)
    _run("keygen", f"--output={key}", f"--block_size={_BLOCK}", "--image_size=28,28,1")
    encrypt = ("encrypt", f"--key={key}", f"--input={source}", f"--output={hidden}", "--jobs=2")
    killed_at = []
    for number in range(kills):
        # Anywhere in what this run would do, by the number of files that are there.
        least = images * (2 * number + 1) // (2 * kills + 2)
        killed_at.append(_kill_at(encrypt, hidden, least + random.randrange(images // 20 + 1)))
    left = sum(1 for _ in hidden.rglob(f"{partial_prefix()}*"))
    unfinished = (hidden / JOURNAL_NAME).exists() and not (hidden / MANIFEST_NAME).exists()
    start = time.perf_counter()
    last = _run(*encrypt)
    seconds = time.perf_counter() - start
    manifest = read_manifest(hidden)
    on_disk = {p.relative_to(hidden).as_posix() for p in hidden.rglob("*") if p.is_file()}
    listed = {entry.file for entry in manifest.entries}
    _run("inspect", f"--input={hidden}", "--verify")
    _run("decrypt", f"--key={key}", f"--input={hidden}", f"--output={shown}", "--jobs=2")
    equal = sum(np.array_equal(read_image(shown / f"{name}.png"), plain[name]) for name in plain)
    unlike = sum(
        not np.array_equal(read_image(hidden / f"{name}.png"), plain[name]) for name in plain
    )
    return {
        "images": images,
        "block_size": _BLOCK,
        "files_when_killed": killed_at,
        "half_written_files_left_by_the_last_kill": left,
        "unfinished_after_the_last_kill": unfinished,
        "last_run_said": last.replace(f"{base}{os.sep}", "").strip().splitlines(),
        "seconds_of_the_last_run": seconds,
        "files_in_manifest": len(listed),
        "files_on_disk_that_the_manifest_does_not_list": len(on_disk - listed - {MANIFEST_NAME}),
        "files_in_the_manifest_that_are_not_on_disk": len(listed - on_disk),
        "decrypted_images_equal_to_the_plain_ones": equal,
        "encrypted_images_unlike_the_plain_ones": unlike,
        "holds": len(listed) == equal == images and on_disk == listed | {MANIFEST_NAME},
    }


def _write_images(folder: pathlib.Path, count: int) -> dict[str, np.ndarray]:
    import PIL.Image

    data = datasets.load("fashion_mnist")
    plain = {}
    for i in range(count):
        name = f"{data.y_train[i]}/{i:05d}"
        plain[name] = data.x_train[i]
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(data.x_train[i, ..., 0]).save(path)
    return plain


def _kill_at(command: tuple[str, ...], hidden: pathlib.Path, files: int) -> int:
    """Kills the run and all its processes once so many files are there; how many there were."""
    run = subprocess.Popen(
        [sys.executable, "-m", "trainers.encrypt", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    end = time.monotonic() + _LONGEST
    while _count(hidden) < files:
        if run.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"the run ended before it could be killed: {run.communicate()}")
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    _wait_for_orphans(run.pid, end)
    return _count(hidden)


def _wait_for_orphans(group: int, end: float) -> None:
    """Workers of a killed run end by themselves; this fails if they do not."""
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.05)
        raise AssertionError("workers outlived the run that was killed")


def _count(hidden: pathlib.Path) -> int:
    """Finished files, by the lines of the journal below its header."""
    try:
        return max(0, (hidden / JOURNAL_NAME).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trainers.encrypt", *command],
        capture_output=True,
        text=True,
        timeout=_LONGEST,
    )
    if done.returncode:
        raise AssertionError(f"{json.dumps(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
