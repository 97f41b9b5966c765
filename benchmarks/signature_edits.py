r"""One-byte edits of a signed export: how many of them the signature lets through.

A copy of the export is signed with a new key. Each edit changes one byte of one file to another
value; the files take turns, so that the privacy card gets as many edits as the weights. After each,
the folder is verified whole, as `trainers.verify --public_key` does it, and the byte is put back.

Examples:
  python -m benchmarks.signature_edits
  python -m benchmarks.signature_edits --json --output=docs/results/signature_edits.json
"""

import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks.reports import checked_output, machine
from keras_dpvit import _files, _quiet, _validate
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)
flags.DEFINE_integer("edits", 10_000, "One-byte edits.", flag_values=FLAGS)
flags.DEFINE_string(
    "saved_model",
    "savedmodels/fashion_mnist/1",
    "A version directory, of which a copy is edited.",
    flag_values=FLAGS,
)


def write_keys(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A new key on P-256, as PEM files: the private one and the public one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = directory / "key.pem", directory / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def edit(
    folder: pathlib.Path, number: int, problem: Callable[[], str | None], seed: int = 0
) -> dict[str, Any]:
    """Edits a folder byte by byte and asks each time whether it shows.

    Args:
        folder: whose files are edited and put back.
        number: int, how many edits.
        problem: says what is wrong with the folder; None if nothing is.
        seed: int, of the places and values.

    Returns:
        A JSON-able dict: edits by file, and those that did not show as [file, offset, old, new].
    """
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    counts = {path.relative_to(folder).as_posix(): 0 for path in files}
    undetected = []
    for turn in range(number):
        path = files[turn % len(files)]
        offset = int(rng.integers(path.stat().st_size))
        with open(path, "r+b", buffering=0) as file:
            file.seek(offset)
            old = file.read(1)[0]
            new = old ^ int(rng.integers(1, 256))
            for value in (new, old):
                file.seek(offset)
                file.write(bytes([value]))
                if value == new and problem() is None:
                    undetected.append([path.relative_to(folder).as_posix(), offset, old, new])
        counts[path.relative_to(folder).as_posix()] += 1
    return {"edits": number, "edits_by_file": counts, "undetected": undetected}


def prove(export: pathlib.Path, number: int) -> dict[str, Any]:
    """Signs a copy of an export, edits it, and verifies it once more as it was."""
    from keras_dpvit.export import folder_signature

    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place, export.name)
        shutil.copytree(export, folder)
        private, public = write_keys(pathlib.Path(place))
        folder_signature.sign_folder(folder, private)

        def problem() -> str | None:
            return folder_signature.signature_problem(folder, public)

        untouched = problem() is None
        start = time.perf_counter()
        found = edit(folder, number, problem)
        seconds = time.perf_counter() - start
        holds = {
            "none_undetected": not found["undetected"],
            "untouched_verifies": untouched and problem() is None,
        }
    return {**found, "seconds": round(seconds, 1), "bars": holds}


def main() -> None:
    """Proves, prints, writes."""
    _validate.positive_int(edits=FLAGS.edits)
    output = checked_output(FLAGS.output)
    _quiet.start_tensorflow()
    from keras_dpvit.export.runners import version_directory

    facts = machine()
    found = prove(version_directory(FLAGS.saved_model), FLAGS.edits)
    report = {"benchmark": "signature_edits", "machine": facts, **found}
    if output is not None:
        _files.write_json(output, report)
    if FLAGS.json:
        print(json.dumps(report, indent=1))
        return
    for name, number in found["edits_by_file"].items():
        print(f"{name:45}  {number:6} edits")
    print(f"{len(found['undetected'])} of {found['edits']} edits undetected")
    for name, holds in found["bars"].items():
        print(f"{name:45}  {'holds' if holds else 'does not hold'}")


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
