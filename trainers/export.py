r"""Writes a trained model as a SavedModel for TensorFlow Serving, as a TFLite file, or both.

The model is a `.keras` file of this package (a classifier, a fused model, one made private), or the
directory of a run, whose class names and data set then go along.

Examples:
  python -m trainers.export --run=savedmodels/fmnist --saved_model=served/fmnist/1
  python -m trainers.export --model=fused.keras --class_names=cat,dog --saved_model=served/pets/1 \
      --tflite=pets.tflite --quantize=float16
  python -m trainers.export --run=savedmodels/fmnist/2 --tflite=fmnist.tflite --quantize=int8
  python -m trainers.export --run=savedmodels/fmnist --saved_model=served/fmnist/1 \
      --private_key=key.pem
"""

import pathlib
import re
import sys
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _files, _quiet
from keras_dpvit._files import CARD_NAME, KERAS_NAME
from keras_dpvit.datasets import picture_files
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_reading_flags(FLAGS)
flags.DEFINE_string("model", None, "A .keras file.", flag_values=FLAGS)
flags.DEFINE_string(
    "run",
    None,
    "A version directory of a run, or a base whose newest is taken; not with --model.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "saved_model",
    None,
    "A new directory for a SavedModel; for TF Serving, NAME/VERSION.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "tflite", None, "A TFLite file to write; a file of that name is replaced.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "quantize",
    "none",
    ["none", "float16", "dynamic", "int8"],
    "Of the TFLite file: half-precision weights, 8-bit weights, or all in 8 bits.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "outputs",
    "all",
    ["all", "probabilities"],
    "Of the TFLite file: all, or probabilities alone, as classifier APIs want it.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "batch_size",
    "1",
    "Of the TFLite file: images that it takes at a time, or any for any number.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "calibration",
    None,
    "A folder of public pictures for --quantize=int8 (default: made-up images). Their "
    "activations' ranges are written into the file, so they must not be private.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "class_names",
    None,
    "Names in the order of the classes (default: the run's).",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "noise_at_inference",
    None,
    "Whether the layers' noise is drawn on every request (default: as the model was made).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "private_key",
    None,
    "A PEM file with an EC key: signs the SavedModel's directory, into DIR.sig beside it.",
    flag_values=FLAGS,
)


def _check_flags() -> None:
    """Refuses what can be refused before TensorFlow starts."""
    if (FLAGS.model is None) == (FLAGS.run is None):
        raise InputError("Give one of --model=FILE.keras and --run=DIR.")
    if FLAGS.saved_model is None and FLAGS.tflite is None:
        raise InputError("Give --saved_model=DIR, --tflite=FILE, or both.")
    if FLAGS.tflite is None and FLAGS.quantize != "none":
        raise InputError("quantize is for TFLite: give --tflite=FILE.")
    _batch_size()
    if FLAGS.calibration is not None and FLAGS.quantize != "int8":
        raise InputError("calibration is for --quantize=int8 alone.")
    if FLAGS.saved_model is None and FLAGS.private_key is not None:
        raise InputError("private_key signs a SavedModel: give --saved_model=DIR.")
    for name in ("saved_model", "tflite"):
        if FLAGS[name].value is not None:
            _check_place(name, FLAGS[name].value)
    if FLAGS.model is not None:
        model_files.check_model_file(FLAGS.model)


def _batch_size() -> int | None:
    """The number of --batch_size; None for any."""
    text = FLAGS.batch_size
    if not re.fullmatch(r"any|[1-9]\d{0,4}", text):
        raise InputError(f"batch_size must be any or a number from 1 to 99999, got {text!r}.")
    if FLAGS.tflite is None and text != "1":
        raise InputError("batch_size is for TFLite: give --tflite=FILE.")
    return None if text == "any" else int(text)


def _check_place(name: str, value: str) -> None:
    place = pathlib.Path(value).absolute()
    if name == "saved_model" and place.exists():
        raise InputError(f"{value} exists already: nothing is written over it.")
    if name == "tflite" and (place.is_dir() or place.suffix != ".tflite"):
        raise InputError(f"tflite must be a file ending in .tflite, got {value!r}.")
    if not _files.can_be_made(place):
        raise InputError(f"{name} must be in a directory that can be written, got {value!r}.")


def _run_directory() -> pathlib.Path:
    """The version of the run that is converted."""
    base = pathlib.Path(FLAGS.run)
    versions = [p for p in base.glob("*") if p.name.isdecimal() and (p / KERAS_NAME).is_file()]
    if (base / KERAS_NAME).is_file():
        return base
    if not versions:
        raise InputError(f"run must be a directory with {KERAS_NAME}, got {FLAGS.run!r}.")
    return max(versions, key=lambda p: int(p.name))


def _dataset(directory: pathlib.Path) -> dict[str, Any]:
    """The data set's entry in the run's card."""
    from keras_dpvit.export.files import read_json

    card = directory / CARD_NAME
    dataset = read_json(card).get("dataset", {}) if card.is_file() else {}
    return dataset if isinstance(dataset, dict) else {}


def _calibration(image_shape: tuple[int, int, int]) -> np.ndarray | None:
    """The images of --calibration, or made-up ones; None where none are needed."""
    if FLAGS.quantize != "int8":
        return None
    from keras_dpvit.datasets.image_files import read_image
    from keras_dpvit.export import synthetic_images

    if FLAGS.calibration is None:
        return np.asarray(synthetic_images(image_shape))

    paths = picture_files.picture_files([FLAGS.calibration], "calibration")
    if image_shape[-1] not in (1, 3):
        raise InputError(f"calibration cannot be pictures for {image_shape[-1]} channels.")
    reading = _flags.reading(FLAGS)
    return np.stack(
        picture_files.read_each(paths, lambda p: read_image(p, image_shape, reading=reading))
    )


def _write(model: Any, dataset: dict[str, Any]) -> list[tuple[str, pathlib.Path]]:
    from keras_dpvit import export
    from keras_dpvit.export import warmup
    from keras_dpvit.export.card import lack_of_protection

    card = export.privacy_card(model, dataset=dataset) if hasattr(model, "privacy_ledger") else None
    unprotected = lack_of_protection(model)
    if unprotected is not None:
        print(f"warning: {unprotected}", file=sys.stderr)
    options = {
        "class_names": FLAGS.class_names or dataset.get("class_names"),
        "noise_at_inference": FLAGS.noise_at_inference,
        "card": card,
    }
    calibration = _calibration(tuple(model.input_shape[1:]))
    written = []
    if FLAGS.saved_model is not None:
        requests = warmup.is_available()
        with _quiet.quiet_stderr():
            export.saved_model(model, FLAGS.saved_model, warmup_requests=requests, **options)
        written.append(("SavedModel", pathlib.Path(FLAGS.saved_model)))
        if not requests:
            print(f"{warmup.MISSING}.")
    if FLAGS.tflite is not None:
        quantize = None if FLAGS.quantize == "none" else FLAGS.quantize
        with _quiet.quiet_stderr():
            export.tflite(
                model,
                FLAGS.tflite,
                quantize=quantize,
                calibration=calibration,
                outputs=FLAGS.outputs,
                batch_size=_batch_size(),
                **options,
            )
        written.append(("TFLite", pathlib.Path(FLAGS.tflite)))
    return written


def _sign() -> list[tuple[str, pathlib.Path]]:
    if FLAGS.private_key is None:
        return []
    from keras_dpvit.export import folder_signature

    return [("signature", folder_signature.sign_folder(FLAGS.saved_model, FLAGS.private_key))]


def _size(path: pathlib.Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    """Loads, writes, and prints what was written."""
    _check_flags()
    path = pathlib.Path(FLAGS.model) if FLAGS.run is None else _run_directory() / KERAS_NAME
    _quiet.start_tensorflow()
    if FLAGS.private_key is not None:
        from keras_dpvit.export import folder_signature

        folder_signature.check_private_key(FLAGS.private_key)
    dataset = {} if FLAGS.run is None else _dataset(path.parent)
    with _quiet.quiet_stderr():
        model = model_files.load_any(str(path))
    for name, place in [*_write(model, dataset), *_sign()]:
        print(f"{name:10}  {place}  {_size(place) / 1e6:.2f} MB")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
