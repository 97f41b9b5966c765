"""What every benchmark's report needs: the machine it ran on, and a file to go to."""

import os
import pathlib
import platform
import re
from typing import Any

from keras_dpvit.errors import InputError


def machine() -> dict[str, Any]:
    """What the times depend on: cores, processor, load at the start, another `malloc`."""
    try:
        cpuinfo = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        cpuinfo = ""
    preloaded = re.split(r"[\s:]", os.environ.get("LD_PRELOAD", ""))
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "cpu_model": model.group(1) if model else platform.machine(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "preloaded": [pathlib.Path(file).name for file in preloaded if file],
        "python": platform.python_version(),
    }


def checked_output(output: str | None) -> pathlib.Path | None:
    """Where the JSON goes, found fit to be written before any time is spent.

    Raises:
        InputError: if it cannot be written.
    """
    if output is None:
        return None
    path = pathlib.Path(output)
    fit = path.parent.is_dir() and os.access(path.parent, os.W_OK) and not path.is_dir()
    if not fit or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"output must be a file that can be written, got {output!r}.")
    return path
