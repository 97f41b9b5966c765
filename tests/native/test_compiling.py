"""Compiling and loading, each case in a fresh process with a cache of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

from keras_dpvit.native import compiling

ASK = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
from keras_dpvit import native
print("loaded" if native.library() is not None else "none")
"""


def start(cache, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", ASK],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(cache, **environment):
    process = start(cache, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip(), err


def files(cache):
    return sorted(p.name for p in (cache / "keras_dpvit").glob("*") if p.suffix != ".lock")


@pytest.mark.proof
def test_processes_that_come_at_once_compile_one_file(tmp_path):
    processes = [start(tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [out.strip() for out, _ in answers] == ["loaded"] * 2
    assert sum("Compiling kernels" in err for _, err in answers) == 1
    (name,) = files(tmp_path)
    assert (tmp_path / "keras_dpvit").stat().st_mode & 0o777 == 0o700
    # A file that something cut short is made anew.
    path = tmp_path / "keras_dpvit" / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    out, err = ask(tmp_path)
    assert out == "loaded"
    assert "Compiling kernels" in err
    assert path.stat().st_size == size


def test_a_missing_compiler_is_no_error(tmp_path):
    out, err = ask(tmp_path, CXX="no-such-compiler")
    assert out == "none"
    assert "do without compiled kernels: no C++ compiler no-such-compiler" in err
    assert files(tmp_path) == []


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text(
        "#!/bin/sh\necho 'note: of interest' >&2\necho 'x.cc: error: no' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    out, err = ask(tmp_path, CXX=str(compiler))
    assert out == "none"
    assert "do without compiled kernels: x.cc: error: no" in err
    assert files(tmp_path) == []


def test_they_can_be_switched_off(tmp_path):
    out, _ = ask(tmp_path, **{compiling.SWITCH: "0"})
    assert out == "none"
    assert not (tmp_path / "keras_dpvit").exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "keras_dpvit").write_text("a file where the folder should be")
    out, err = ask(tmp_path)
    assert out == "none"
    assert "do without compiled kernels" in err


def test_files_are_kept_apart_by_what_they_depend_on(monkeypatch):
    before = compiling._digest()
    assert before == compiling._digest()
    for name, value in {"_processor": lambda: "another", "_compiler": lambda: "another"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(compiling, name, value)
            assert compiling._digest() != before
    with monkeypatch.context() as patch:
        patch.setattr(compiling.tf, "__version__", "1.0")
        assert compiling._digest() != before


def test_sources_are_all_there_is_to_compile():
    here = pathlib.Path(compiling.__file__).parent
    assert {path.name for path in here.glob("*.cc")} == set(compiling._SOURCES)
