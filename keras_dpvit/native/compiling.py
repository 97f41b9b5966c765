"""Compiling the kernels for the processor at hand, once, and loading them into TensorFlow."""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_dpvit import _reasons

SWITCH = "KERAS_DPVIT_NATIVE"

_HERE = pathlib.Path(__file__).parent
# Fast mathematics for the normals alone, and not when linking, where it would change how the whole
# process rounds the smallest numbers.
_SOURCES = {"sums.cc": ["-O3"], "normals.cc": ["-O3", "-ffast-math"], "ops.cc": ["-O2", "-w"]}
_LOG = logging.getLogger("keras_dpvit")


@functools.cache
def library() -> Any | None:
    """The kernels as a module of ops; None if they are switched off or not available.

    They are compiled on first use (some ten seconds) by `$CXX` or g++ and kept in
    `$XDG_CACHE_HOME/keras_dpvit` or `~/.cache/keras_dpvit`, one file for each processor, version of
    TensorFlow and state of the sources. `KERAS_DPVIT_NATIVE=0` switches them off. They are for
    Linux and for tensors on the CPU: with a GPU in sight they are left alone.
    """
    if os.environ.get(SWITCH) == "0" or platform.system() != "Linux":
        return None
    if tf.config.list_physical_devices("GPU"):
        return None
    try:
        return tf.load_op_library(str(compiled()))
    except (OSError, RuntimeError, subprocess.SubprocessError, tf.errors.OpError) as error:
        _LOG.info("Private steps do without compiled kernels: %s", _reason(error))
        return None


def compiled() -> pathlib.Path:
    """The compiled file, made if it is missing or damaged. Processes that want it wait for one.

    Raises:
        OSError: if there is no compiler or no place for the file.
        subprocess.SubprocessError: if the compiler fails.
    """
    path = _cache() / f"kernels-{_digest()}.so"
    if not _is_whole(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if not _is_whole(path):
                _compile(path)
    return path


def _is_whole(path: pathlib.Path) -> bool:
    """True if the file is there and ends with its own digest: loading a damaged one would crash."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "keras_dpvit"


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _flags() -> list[str]:
    native = "-mcpu=native" if platform.machine() == "aarch64" else "-march=native"
    return [native, "-fPIC", *tf.sysconfig.get_compile_flags()]


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted([*_HERE.glob("*.cc"), *_HERE.glob("*.h")]):
        digest.update(path.read_bytes())
    for part in (tf.__version__, _compiler(), *_flags(), *map(str, _SOURCES.items()), _processor()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The features of the processor, as Linux lists them."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        found = [line for line in lines if line.startswith(("flags", "Features"))]
    return platform.machine() + "".join(found[:1])


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(path: pathlib.Path) -> None:
    compiler = _compiler()
    if shutil.which(compiler) is None:
        raise FileNotFoundError(f"no C++ compiler {compiler}.")
    _LOG.info("Compiling kernels for this processor into %s.", path)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        objects = []
        for name, optimization in _SOURCES.items():
            objects.append(os.path.join(directory, name + ".o"))
            command = [compiler, *_flags(), *optimization, "-c", str(_HERE / name), "-o"]
            _run([*command, objects[-1]])
        linked = os.path.join(directory, "kernels.so")
        _run([compiler, "-shared", *objects, "-o", linked, *tf.sysconfig.get_link_flags()])
        with open(linked, "r+b") as file:
            file.write(hashlib.sha256(file.read()).digest())
        os.replace(linked, path)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)


def _reason(error: Exception) -> str:
    if not isinstance(error, subprocess.CalledProcessError):
        return _reasons.reason(error)
    lines = error.stderr.splitlines()
    return next((line for line in lines if "error" in line), _reasons.reason(error.stderr))
