"""Processes that end with the one that started them, however that one ends (Linux)."""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import keras_dpvit

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


def start(module: str, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    """Starts `python -m MODULE PARENT ARGUMENTS...`, whose first act is `end_with_parent(PARENT)`.

    The kernel watches the thread that calls this: it must live as long as the process shall.

    Args:
        module: a module of this package that can be run.
        *arguments: further arguments.
        **options: of `subprocess.Popen`; `env` is added to this process' environment.
    """
    ours = str(pathlib.Path(keras_dpvit.__file__).parents[1])
    paths = [ours, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **options.pop("env", {})}
    command = [sys.executable, "-m", module, str(os.getpid()), *arguments]
    return subprocess.Popen(command, env=environment, **options)


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, `kill -9` of the parent included.

    Ctrl-C in a terminal is left to the parent.

    Args:
        parent: process id of the parent, as the parent knows it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)  # as the kernel would: at once


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process that may have ended already, and waits for it."""
    process.kill()
    process.wait()
