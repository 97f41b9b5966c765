"""Puts faults into the privacy code, one by one, and runs the tests that must find each.

Every fault of `benchmarks.mutation_list` goes into a temporary copy of the package. A fault is
killed if a test fails, and survives if all pass; one whose text is no longer in the sources is not
applicable. What the file has for the same texts and tests is not run again.

    python -m benchmarks.mutations --output=docs/results/mutations.json
    python -m benchmarks.mutations --only=privacy/sensitivity.py
    python -m benchmarks.mutations --unchanged   # the same tests on sources without a fault
"""

import itertools
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

import tqdm
from absl import flags

from benchmarks.mutation_list import MUTATIONS, Mutation
from keras_dpvit import _files
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_string("only", None, "Only faults whose file or text holds this.", flag_values=FLAGS)
flags.DEFINE_bool(
    "unchanged", False, "Run the tests of all faults on unchanged sources.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output", "docs/results/mutations.json", "File that outcomes go to.", flag_values=FLAGS
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
_COPIED = ("keras_dpvit", "tests", "trainers", "benchmarks", "pyproject.toml", "README.md", "docs")
_LIMIT = 240.0  # seconds for the tests of one fault; a run that hangs is found out, too
_PASSED, _FAILED = 0, 1  # pytest's exit statuses


def interleaved(mutations: list[Mutation]) -> list[Mutation]:
    """One of each file in turn, so that a run that is cut short has been everywhere."""
    by_file: dict[str, list[Mutation]] = {}
    for mutation in mutations:
        by_file.setdefault(mutation.file, []).append(mutation)
    rows = itertools.zip_longest(*by_file.values())
    return [mutation for row in rows for mutation in row if mutation is not None]


def apply(copy: pathlib.Path, mutation: Mutation) -> bool:
    """Puts the fault into a copy of the sources; False if its text does not occur once there."""
    path = copy / "keras_dpvit" / mutation.file
    text = path.read_text("utf-8") if path.exists() else ""
    if text.count(mutation.old) != 1:
        return False
    path.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    return True


def restore(copy: pathlib.Path, mutation: Mutation) -> None:
    """Takes the fault out again."""
    shutil.copyfile(ROOT / "keras_dpvit" / mutation.file, copy / "keras_dpvit" / mutation.file)


def make_copy(folder: str) -> pathlib.Path:
    """A copy of what the tests need, without compiled files."""
    copy = pathlib.Path(folder) / "copy"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        elif source.exists():
            shutil.copyfile(source, copy / name)
    return copy


def run_tests(copy: pathlib.Path, tests: tuple[str, ...], log: pathlib.Path) -> int:
    """Runs tests of a copy in a child of this process, which has TensorFlow at hand already.

    Returns:
        pytest's exit status; `_FAILED` for a run that takes too long.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(copy))
        for name in list(sys.modules):  # imported from the sources, and wanted from the copy
            if name.partition(".")[0] in _COPIED:
                del sys.modules[name]
        status = 3
        try:
            import hypothesis
            import pytest

            # Any failure will do: the smallest one takes its time to be found.
            phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
            hypothesis.settings.register_profile("any", derandomize=True, phases=phases)
            names = [f"tests/{test}" for test in tests]
            options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=any"]
            status = int(pytest.main([*options, *names]))
        finally:
            os._exit(status)
    end = time.monotonic() + _LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return _FAILED


def outcome(copy: pathlib.Path, mutation: Mutation) -> dict[str, Any]:
    """Tries one fault."""
    start = time.monotonic()
    log = copy.parent / "log.txt"
    result, told = "not applicable", ""
    if apply(copy, mutation):
        try:
            status = run_tests(copy, mutation.tests, log)
        finally:
            restore(copy, mutation)
        names = {_PASSED: "survived", _FAILED: "killed"}
        # A test that could not begin (a fault that breaks the import) proves nothing about it.
        result = names.get(status, "not run")
        lines = log.read_text("utf-8", "replace").splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        told = failed[0].split(" - ")[0] if failed else (lines or [""])[-1]
        if result == "not run":
            told = " | ".join(lines[-6:])
    return {
        "name": mutation.name,
        "file": mutation.file,
        "old": mutation.old,
        "new": mutation.new,
        "tests": list(mutation.tests),
        "outcome": result,
        "told": told,
        "seconds": round(time.monotonic() - start, 1),
    }


def summary(results: dict[str, dict[str, Any]], mutations: list[Mutation]) -> dict[str, Any]:
    """Counts over the faults of the list, and those that no test found."""
    found = {m.key: results[m.key]["outcome"] for m in mutations if m.key in results}
    names = ("killed", "survived", "not applicable", "not run")
    counts = {name: sum(o == name for o in found.values()) for name in names}
    return {
        "faults": len(mutations),
        **counts,
        "not tried yet": len(mutations) - len(found),
        "survivors": [m.name for m in mutations if found.get(m.key) == "survived"],
    }


def write(path: pathlib.Path, results: dict[str, dict[str, Any]]) -> None:
    """Writes summary and outcomes; faults that the list no longer has are left out."""
    known = {m.key: results[m.key] for m in MUTATIONS if m.key in results}
    content = {"summary": summary(results, MUTATIONS), "results": known}
    _files.write_json(path, content)


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Outcomes of earlier runs; those that were not run are to be tried again."""
    if not path.exists():
        return {}
    known: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))["results"]
    return {key: value for key, value in known.items() if value["outcome"] != "not run"}


def main() -> None:
    """Tries what is missing and prints what survived."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Imported before the children begin, but nothing of it is used.
    import dp_accounting  # noqa: F401
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    chosen = [m for m in MUTATIONS if FLAGS.only is None or FLAGS.only in m.name]
    with tempfile.TemporaryDirectory(prefix="mutations.") as folder:
        copy = make_copy(folder)
        if FLAGS.unchanged:
            tests = tuple(dict.fromkeys(test for m in chosen for test in m.tests))
            log = pathlib.Path(folder) / "log.txt"
            bad = [t for t in tqdm.tqdm(tests, disable=None) if run_tests(copy, (t,), log)]
            print(json.dumps({"tests": len(tests), "fail without a fault": bad}, indent=1))
            sys.exit(bool(bad))
        path = pathlib.Path(FLAGS.output).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        results = read(path)
        missing = [m for m in interleaved(chosen) if m.key not in results]
        for mutation in tqdm.tqdm(missing, unit="fault", disable=None):
            results[mutation.key] = outcome(copy, mutation)
            write(path, results)
    found = summary(results, chosen)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["survived"]))


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
