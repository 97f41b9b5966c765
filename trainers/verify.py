r"""Checks an exported model again, and prints a short table.

It runs every signature on made-up images (and those of --images), compares the answers with each
other and with a TFLite and a Keras file, plays the warm-up requests, works the privacy card's
epsilon out again from its ledger, and compares the files with the digests made at the export. With
--public_key, a signature that does not hold ends it before anything of the model is loaded. Exit
status 0 if every check passes, 1 if one fails, 2 on bad input.

Examples:
  python -m trainers.verify --saved_model=savedmodels/fmnist
  python -m trainers.verify --saved_model=savedmodels/fmnist/1 --images=photos \
      --tflite=savedmodels/fmnist/1/model.tflite --keras=savedmodels/fmnist/1/model.keras
  python -m trainers.verify --saved_model=served/fmnist/1 --public_key=key.pub.pem
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

from absl import flags

from keras_dpvit import _quiet
from keras_dpvit.datasets import image_files, picture_files
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_reading_flags(FLAGS)
flags.DEFINE_string(
    "saved_model", None, "A version directory, or a base whose newest is taken.", flag_values=FLAGS
)
flags.DEFINE_string("tflite", None, "A TFLite file of the same model.", flag_values=FLAGS)
flags.DEFINE_string("keras", None, "The .keras file of the same model.", flag_values=FLAGS)
flags.DEFINE_string(
    "images", None, "A picture file, or a folder of them, to compare on too.", flag_values=FLAGS
)
flags.DEFINE_string(
    "public_key",
    None,
    "A PEM file with the EC key of who signed the directory (trainers.export --private_key).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "signature", None, "The signature's file (default: DIR.sig beside DIR).", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)

_RESULTS = {True: "ok", False: "FAILED", None: "not checked"}


def main() -> None:
    """Runs the checks, prints them, and exits with 1 if one failed."""
    if FLAGS.saved_model is None:
        raise InputError("--saved_model must be given: a directory with a SavedModel.")
    if FLAGS.signature is not None and FLAGS.public_key is None:
        raise InputError("signature cannot be checked without --public_key=FILE.")
    if FLAGS.keras is not None:
        model_files.check_model_file(FLAGS.keras, "keras")
    paths = [] if FLAGS.images is None else picture_files.picture_files([FLAGS.images], "images")
    reading = _flags.reading(FLAGS)
    picture_files.read_each(paths, lambda p: image_files.servable_bytes(p, reading))
    _quiet.start_tensorflow()
    with _quiet.quiet_stderr():
        checks = _signature_checks()
        if all(check.passed for check in checks):
            checks += _checks(paths)
    if FLAGS.json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.name:{width}}  {_RESULTS[check.passed]:11}  {check.detail}")
    if any(check.passed is False for check in checks):
        sys.stdout.flush()
        sys.exit(1)


def _signature_checks() -> list[Any]:
    """The check of the signature, if there is a key; it comes before the model is loaded."""
    if FLAGS.public_key is None:
        return []
    from keras_dpvit.export import folder_signature
    from keras_dpvit.export.runners import version_directory
    from keras_dpvit.export.verification import Check

    directory = version_directory(FLAGS.saved_model)
    problem = folder_signature.signature_problem(directory, FLAGS.public_key, FLAGS.signature)
    number = sum(path.is_file() for path in directory.rglob("*"))
    return [Check("signature", problem is None, problem or f"{number} files as they were signed")]


def _checks(paths: list[pathlib.Path]) -> list[Any]:
    from keras_dpvit.export.runners import SavedModelRunner, TFLiteRunner
    from keras_dpvit.export.verification import Verification

    tflite = None if FLAGS.tflite is None else TFLiteRunner(FLAGS.tflite)
    shape = SavedModelRunner(FLAGS.saved_model).image_shape
    if paths and shape[-1] not in (1, 3):
        raise InputError(f"images cannot be given to a model of {shape[-1]} channels.")
    reading = _flags.reading(FLAGS)
    pictures = [
        (
            image_files.servable_bytes(path, reading),
            image_files.read_image(path, shape, reading=reading),
        )
        for path in paths
    ]
    verification = Verification(FLAGS.saved_model, pictures)
    checks = list(verification.all_checks())
    if tflite is not None:
        checks.append(verification.tflite_check(tflite))
    if FLAGS.keras is not None:
        checks += verification.keras_check(model_files.load_any(FLAGS.keras, "keras"))
    return checks


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
