"""Running the programs as a user types them, and data for them to read."""

import importlib.util
import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def environment():
    """The environment variables of a program's process."""
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    # The programs quieten TensorFlow themselves; what a developer has set shall not help them.
    found.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return found


@pytest.fixture(scope="session")
def run_by_itself(environment):
    """Runs `python -m trainers.PROGRAM FLAGS...` from a directory, in a process of its own."""

    def run_program(program, *flags, cwd):
        return subprocess.run(
            [sys.executable, "-m", f"trainers.{program}", *map(str, flags)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=600,
        )

    return run_program


@pytest.fixture(scope="session")
def run(environment, tmp_path_factory):
    """As `run_by_itself`, in a fork of a process that has imported TensorFlow and the programs."""
    server = subprocess.Popen(
        [sys.executable, pathlib.Path(__file__).with_name("program_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    output = tmp_path_factory.mktemp("programs")

    def run_program(program, *flags, cwd):
        files = {name: str(output / name) for name in ("stdout", "stderr")}
        request = {"program": program, "flags": list(map(str, flags))}
        request |= {"cwd": str(cwd), "env": environment, **files}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        texts = [pathlib.Path(file).read_text() for file in files.values()]
        return subprocess.CompletedProcess(request["flags"], status, *texts)

    yield run_program
    server.stdin.close()
    server.wait(30)


@pytest.fixture(scope="session")
def write_idx():
    """Writes the four files of an MNIST-like data set of 8x8 images."""

    def write(folder, labels=(0, 1, 2, 1, 0), num_labels=None, cut=0):
        folder.mkdir(parents=True)
        labels = np.asarray(labels, np.uint8)
        images = np.zeros((len(labels), 8, 8), np.uint8)
        for part in ("train", "t10k"):
            told = labels if num_labels is None or part == "t10k" else labels[:num_labels]
            body = struct.pack(">4I", 0x803, len(images), 8, 8) + images.tobytes()
            end = len(body) - (cut if part == "train" else 0)
            (folder / f"{part}-images-idx3-ubyte").write_bytes(body[:end])
            body = struct.pack(">2I", 0x801, len(told)) + told.tobytes()
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(body)
        return folder

    return write


@pytest.fixture(scope="session")
def write_images():
    """Writes a folder of PNG files: dark ones in one class, bright ones in the other."""

    def write(folder, number=30, size=(8, 8)):
        rng = np.random.default_rng(0)
        for name, base in (("bright", 150), ("dark", 0)):
            (folder / name).mkdir(parents=True)
            for i in range(number):
                pixels = (base + rng.integers(0, 100, size)).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def serving_server():
    """The module beside this one: a stand-in for TensorFlow Serving."""
    path = pathlib.Path(__file__).with_name("serving_server.py")
    spec = importlib.util.spec_from_file_location("serving_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
