r"""Asks a served or exported model what is on pictures, and prints the top classes of each.

Pictures are files of any size in the formats that training reads; the model makes them gray or RGB
and resizes them as in training. `--image` may be given more than once, and may name a folder.

Examples:
  python -m trainers.predict --url=http://localhost:8501/v1/models/fmnist --image=shirt.png
  python -m trainers.predict --url=grpc://localhost:8500/fmnist --image=shirt.png --image=bag.jpg
  python -m trainers.predict --saved_model=savedmodels/fmnist --image=photos --top=1 --json
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet, _validate
from keras_dpvit.datasets import image_files, picture_files
from keras_dpvit.errors import InputError
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "url",
    None,
    "A model of TF Serving: http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME, with or "
    "without /versions/N or /labels/LABEL behind it; a gateway's prefix may stand before /v1.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "saved_model",
    None,
    "A version directory, or a base whose newest is taken, instead of --url.",
    flag_values=FLAGS,
)
flags.DEFINE_multi_string("image", [], "A picture file, or a folder of them.", flag_values=FLAGS)
_flags.define_reading_flags(FLAGS)
flags.DEFINE_integer("top", 3, "How many classes are printed for each picture.", flag_values=FLAGS)
flags.DEFINE_multi_string(
    "header", [], "NAME:VALUE, sent with each request to an http:// url.", flag_values=FLAGS
)
flags.DEFINE_string(
    "token_file",
    None,
    "File with a token, sent as Authorization: Bearer; a flag would show it to other users.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout", 30.0, "Seconds that a server has for each request.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)

_FILES_IN_A_REQUEST = 16


class LocalModel:
    """A SavedModel in this process, as `_serving_client.Client` has it.

    Args:
        directory: see `SavedModelRunner`.
    """

    def __init__(self, directory: str) -> None:
        _quiet.start_tensorflow()
        from keras_dpvit.export.runners import SavedModelRunner

        with _quiet.quiet_stderr():
            self._runner = SavedModelRunner(directory)

    def answers(self, files: Any) -> dict[str, list[Any]]:
        """See `Client`."""
        with _quiet.quiet_stderr():
            outputs = self._runner.predict_files(list(files))
        outputs["label"] = np.array([label.decode() for label in outputs["label"]])
        return {name: values.tolist() for name, values in outputs.items()}

    def class_names(self, number: int) -> list[str]:
        """See `Client`."""
        return self._runner.class_names(number)


def _client() -> Any:
    if FLAGS.saved_model is not None:
        return LocalModel(FLAGS.saved_model)
    from keras_dpvit.export import serving_client

    if FLAGS.url.startswith("grpc"):
        _quiet.start_tensorflow()
    return serving_client.client_for(FLAGS.url, FLAGS.timeout, _headers())


def _headers() -> dict[str, str]:
    """The headers of --header and --token_file; their values are never shown."""
    found = {}
    for given in FLAGS.header:
        name, colon, value = given.partition(":")
        if not colon or not name.strip():
            raise InputError("header must be NAME:VALUE.")
        found[name.strip()] = value.strip()
    if FLAGS.token_file is not None:
        try:
            token = pathlib.Path(FLAGS.token_file).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise InputError(
                f"token_file must be a text file, {FLAGS.token_file!r} cannot be read."
            ) from error
        found["Authorization"] = f"Bearer {token}"
    return found


def _predictions(client: Any, names: list[str], files: list[bytes]) -> list[dict[str, Any]]:
    """For each picture its top classes and, of a fused model, the members' weights."""
    found, classes = [], None
    for first in range(0, len(files), _FILES_IN_A_REQUEST):
        part = files[first : first + _FILES_IN_A_REQUEST]
        outputs = client.answers(part)
        if classes is None:
            classes = client.class_names(len(outputs["probabilities"][0]))
        for row, name in enumerate(names[first : first + len(part)]):
            probabilities = np.asarray(outputs["probabilities"][row])
            best = np.argsort(-probabilities, kind="stable")[: FLAGS.top]
            top = [
                {"class_id": int(i), "label": classes[i], "probability": float(probabilities[i])}
                for i in best
            ]
            weights = {"weights": outputs["weights"][row]} if "weights" in outputs else {}
            found.append({"image": name, "top": top, **weights})
    return found


def _print_table(predictions: list[dict[str, Any]]) -> None:
    width = max(len(p["image"]) for p in predictions)
    for prediction in predictions:
        ranked = ", ".join(f"{c['label']} {c['probability']:.4f}" for c in prediction["top"])
        print(f"{prediction['image']:{width}}  {ranked}")


def main() -> None:
    """Reads the pictures, asks, prints."""
    if (FLAGS.url is None) == (FLAGS.saved_model is None):
        raise InputError("Give one of --url=URL and --saved_model=DIR.")
    if not FLAGS.image:
        raise InputError("--image must be given: a picture file, or a folder of them.")
    _flags.check_numbers(FLAGS, top=_validate.positive_int, timeout=_validate.positive)
    paths = picture_files.picture_files(FLAGS.image, "image")
    reading = _flags.reading(FLAGS)
    files = picture_files.read_each(paths, lambda p: image_files.servable_bytes(p, reading))
    predictions = _predictions(_client(), [image_files.shown(path) for path in paths], files)
    if FLAGS.json:
        print(json.dumps(predictions, indent=2))
    else:
        _print_table(predictions)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
