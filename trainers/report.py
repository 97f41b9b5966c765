r"""Writes one self-contained HTML page about a training run.

The page shows accuracy, epsilon over the steps, training curves, confusions, calibration, sample
predictions, attention maps, the privacy statement and where the model comes from. It needs no other
file, no network and no script; its figures stand in it as JSON too.

Held-out images are printed on the page, and every figure about them is computed from them: epsilon
protects neither. Where the images are private, --sample_images=0 leaves them (and the attention
maps) out, and the page is still for those alone who may see such figures.

With --model, the images held out are those that trainers.train would hold out of the data set. If
your own training saw them, the page's accuracy is not one on unseen images.

Examples:
  python -m trainers.report --run=savedmodels/demo --output=report.html
  python -m trainers.report --run=savedmodels/fmnist/1 --max_images=2000
  python -m trainers.report --run=savedmodels/image_folder --data_dir=photos --sample_images=0
  python -m trainers.report --model=mine.keras --dataset=image_folder --data_dir=photos
"""

import pathlib

from absl import flags

from keras_dpvit import _files, _quiet, _validate, datasets
from keras_dpvit.errors import InputError
from keras_dpvit.report import run_files
from keras_dpvit.runs import model_files
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "run", None, "A version directory, or a base whose newest version is taken.", flag_values=FLAGS
)
flags.DEFINE_string(
    "model",
    None,
    "A .keras file of your own training, in place of --run; --dataset says what on.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "dataset", None, datasets.DATASETS, "With --model: its images.", flag_values=FLAGS
)
flags.DEFINE_list(
    "classes",
    None,
    "With --model and image_folder: the sub-folders that are its classes, in order.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "delta",
    None,
    "With --model: what epsilon is stated at (default: as the training was planned).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output",
    None,
    "The .html file to write (default: RUN_NAME-report.html here).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "data_dir", None, "Folder of the run's data, as trainers.train was given it.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "max_images", 10_000, "Held-out images to score, spread evenly over all.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "sample_images",
    8,
    "Held-out images printed on the page, 0..48; 0 leaves attention maps out.",
    flag_values=FLAGS,
)

_MOST_SAMPLES = 48


def _check_flags() -> run_files.RunFiles | None:
    """Refuses what can be refused before TensorFlow starts; returns the run's files."""
    if (FLAGS.run is None) == (FLAGS.model is None):
        raise InputError(
            "Give one of --run=DIR, a directory written by trainers.train, and --model=FILE.keras."
        )
    _flags.check_numbers(
        FLAGS, max_images=_validate.positive_int, delta=_validate.open_unit_interval
    )
    if not 0 <= FLAGS.sample_images <= _MOST_SAMPLES:
        raise InputError(f"sample_images must be 0..{_MOST_SAMPLES}, got {FLAGS.sample_images}.")
    if FLAGS.run is not None:
        for name in ("dataset", "classes", "delta"):
            if FLAGS[name].value is not None:
                raise InputError(f"{name} is for --model: a run has its own.")
        return run_files.read_files(FLAGS.run)
    if FLAGS.dataset is None:
        raise InputError("--dataset must be given with --model: the images it was trained on.")
    model_files.check_model_file(FLAGS.model)
    return None


def _output(files: run_files.RunFiles | None) -> pathlib.Path:
    """Checks the place for the page and returns it."""
    if FLAGS.output is None and files is None:
        output = pathlib.Path(f"{pathlib.Path(FLAGS.model).stem}-report.html")
    elif FLAGS.output is None:
        assert files is not None
        version = files.directory.absolute()
        output = pathlib.Path(f"{version.parent.name}-{version.name}-report.html")
    else:
        output = pathlib.Path(FLAGS.output)
    folder = output.absolute().parent
    if (
        output.suffix.lower() not in (".html", ".htm")
        or output.is_dir()
        or not _files.is_writable(folder)
    ):
        raise InputError(
            "output must be a file ending in .html in a directory that can be written, "
            f"got {str(output)!r}."
        )
    return output


def _load_data(files: run_files.RunFiles) -> datasets.ImageData:
    """The run's data set, images of a folder resized as they were for the training."""
    name = _validate.one_of(datasets.DATASETS, dataset=files.flags.get("dataset"))
    shape = files.card["dataset"].get("image_shape") if name == "image_folder" else None
    classes = files.flags.get("classes") if name == "image_folder" else None
    data = datasets.load(name, FLAGS.data_dir, image_shape=shape, class_names=classes)
    run_files.check_classes(files, data.class_names)
    return data


def _own_model() -> tuple[run_files.Run, datasets.ImageData]:
    """The model of --model as a run, and its data, images of a folder resized as it takes them."""
    model = model_files.load_any(FLAGS.model)
    shape = tuple(model.input_shape[1:]) if FLAGS.dataset == "image_folder" else None
    data = datasets.load(
        FLAGS.dataset, FLAGS.data_dir, image_shape=shape, class_names=FLAGS.classes
    )
    return run_files.of_model(FLAGS.model, model, data, FLAGS.delta), data


def main() -> None:
    """Writes the page."""
    files = _check_flags()
    output = _output(files)
    data = None if files is None else _load_data(files)
    _quiet.start_tensorflow()
    from keras_dpvit.report.page import html_page, write_page
    from keras_dpvit.report.predictions import predict

    with _quiet.quiet_stderr():
        if files is None:
            run, data = _own_model()
        else:
            run = run_files.load(files)
        assert data is not None
        held_out = predict(run, data, FLAGS.max_images)
        page = html_page(run, held_out, FLAGS.sample_images)
    write_page(page, output)
    print(f"{output}: {len(held_out.truth)} held-out images of {data.name}, {len(page):,} bytes.")
    if FLAGS.model is not None:
        print("Held out are the images that trainers.train holds out: did your training, too?")
    if FLAGS.sample_images:
        print("It shows held-out images, which epsilon does not protect.")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
