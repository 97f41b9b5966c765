"""Looks through a folder of pictures before any budget is spent on them.

Every picture is opened. What cannot be read is listed, all of it at once, and what is left out,
with the reason; then the pictures of each class and part are counted, and their sizes. The status
is 1 if a training on the folder would be refused.

Examples:
  python -m trainers.check --data_dir=photos
  python -m trainers.check --data_dir=photos --classes=cat,dog --json
"""

import collections
import json
import sys
from typing import Any

from absl import flags

from keras_dpvit.datasets.folder_survey import FolderSurvey, survey_folder
from keras_dpvit.datasets.image_files import read_image, shown
from keras_dpvit.datasets.image_folder import with_progress
from keras_dpvit.errors import InputError
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_reading_flags(FLAGS)
flags.DEFINE_string(
    "data_dir", None, "Folder with a sub-folder of pictures for each class.", flag_values=FLAGS
)
flags.DEFINE_list(
    "classes", None, "Names of the sub-folders that are classes, in order.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)

_FILES_SHOWN = 3  # of those that are left out for one reason


def main() -> None:
    """Prints what is in the folder and exits with 1 if it cannot be trained on."""
    if FLAGS.data_dir is None:
        raise InputError("--data_dir must be given: a folder with a sub-folder for each class.")
    survey = survey_folder(FLAGS.data_dir, class_names=FLAGS.classes)
    sizes, bad = _read(survey)
    if FLAGS.json:
        print(json.dumps(_as_json(survey, sizes, bad), indent=2))
    else:
        _print(survey, sizes, bad)
    if bad:
        sys.stdout.flush()
        sys.exit(1)


def _read(survey: FolderSurvey) -> tuple[collections.Counter[tuple[int, ...]], list[str]]:
    """Counts the pictures of each size; gathers what is wrong with the others."""
    sizes: collections.Counter[tuple[int, ...]] = collections.Counter()
    bad = []
    reading = _flags.reading(FLAGS)
    for path, _ in with_progress([*survey.train, *survey.test]):
        try:
            sizes[read_image(path, reading=reading).shape] += 1
        except InputError as error:
            bad.append(str(error))
    return sizes, bad


def _as_json(survey: FolderSurvey, sizes: Any, bad: list[str]) -> dict[str, Any]:
    return {
        "classes": [
            {"name": name, "train": train, "test": test} for name, train, test in survey.counts()
        ],
        "sizes": [{"shape": list(shape), "pictures": n} for shape, n in sizes.most_common()],
        "unreadable": bad,
        "left_out": {
            reason: [shown(path) for path in files] for reason, files in survey.left_out.items()
        },
    }


def _print(survey: FolderSurvey, sizes: Any, bad: list[str]) -> None:
    for line in bad:
        print(line)
    for reason, files in survey.left_out.items():
        named = ", ".join(shown(path.relative_to(survey.root)) for path in files[:_FILES_SHOWN])
        more = f" and {len(files) - _FILES_SHOWN} more" if len(files) > _FILES_SHOWN else ""
        print(f"left out: {len(files)} {reason}: {named}{more}")
    rows = [("class", "train", "test"), *survey.counts()]
    rows.append(("all", len(survey.train), len(survey.test)))
    width = max(len(str(name)) for name, *_ in rows)
    for name, train, test in rows:
        print(f"{name:{width}}  {train:>7}  {test:>7}")
    for (height, width, channels), number in sizes.most_common(5):
        kind = "gray" if channels == 1 else "colour"
        are = "picture is" if number == 1 else "pictures are"
        print(f"{number} {are} {height} high, {width} wide, {kind}.")
    if len(sizes) > 1:
        print("They differ: give --image_size to training.")
    if bad:
        print(f"{len(bad)} pictures cannot be read: a training would be refused.")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
