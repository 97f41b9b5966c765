"""A whole run of a private GAN: trained, sampled, scored and written to a directory."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_dpvit import _files, export
from keras_dpvit._files import CARD_NAME, KERAS_NAME, RUN_NAME
from keras_dpvit.baselines import ppgan, ppgan_results
from keras_dpvit.datasets import ImageData
from keras_dpvit.export.files import next_version
from keras_dpvit.privacy import statement
from keras_dpvit.privacy.plan import PrivacyPlan

IMAGES, GENERATOR, SAMPLES, NEIGHBOURS = (
    "images",
    "generator.keras",
    "samples.png",
    "neighbours.json",
)
_CHECKED = 1000

_DISCLOSED = (
    f"{NEIGHBOURS}: distances between generated and training images, without noise; it is for "
    "whoever holds the training images."
)
_ROUNDED = "The number of records, rounded to two digits, is taken as public."


@dataclasses.dataclass(frozen=True)
class PPGANResult:
    """A finished run.

    Attributes:
        directory: where it was written.
        accuracy: float, on real held-out images, of the classifier that saw generated ones alone.
        epsilons: by accountant.
        headline: str, the statement in a line.
        neighbours: JSON-able, the summary of a `NeighbourCheck`.
        seconds: float by part: "training", and "results" for the rest.
    """

    directory: pathlib.Path
    accuracy: float
    epsilons: dict[str, float]
    headline: str
    neighbours: dict[str, Any]
    seconds: dict[str, float]


def run(
    data: ImageData,
    plan: PrivacyPlan,
    output_dir: pathlib.Path,
    *,
    settings: ppgan.PPGANSettings | None = None,
    num_images: int = 30_000,
    checkpoint_dir: str | None = None,
    number_is_public: bool = False,
    flags: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PPGANResult:
    """Trains a `PPGAN` and a classifier on its images, and writes one version directory.

    It holds the image set (`images`, for `kd.datasets.ArrayRecords`), `generator.keras`, the
    classifier `model.keras`, `privacy_card.json`, `samples.png`, `run.json` and `neighbours.json`.
    The last is computed from the training images without noise, as its card says.

    Args:
        data: real images; the held-out ones score the classifier and are the control of the
            near neighbours.
        plan: of `gan_plan`.
        output_dir: where versions are.
        settings: a `PPGANSettings`.
        num_images: int, generated images in the set.
        checkpoint_dir: see `PPGAN.train`.
        number_is_public: bool, the plan's number of records was given, not rounded from the data.
        flags: JSON-able, for `run.json`.
        progress: see `PPGAN.train`.

    Raises:
        InputError: if the directory cannot be written, or as `PPGAN` and `train`.
    """
    begin = time.monotonic()
    gan = ppgan.PPGAN(data.image_shape, data.num_classes, plan, settings)
    for line in (_DISCLOSED,) if number_is_public else (_DISCLOSED, _ROUNDED):
        gan.discriminator.disclose(line)
    gan.train(data.x_train, data.y_train, checkpoint_dir=checkpoint_dir, progress=progress)
    trained = time.monotonic()
    directory = output_dir / str(next_version(output_dir))
    with _files.new_directory(directory) as work:
        classifier, score, neighbours = _write(gan, data, plan, num_images, work)
        seconds = {"training": trained - begin, "results": time.monotonic() - trained}
        epsilons = statement.epsilons(classifier.privacy_ledger, plan.delta)
        about = {
            "flags": flags or {},
            "settings": dataclasses.asdict(gan.settings),
            "steps_of_the_discriminator": plan.steps,
            "batch_size": plan.batch_size,
            "noise_multiplier": plan.noise_multiplier,
            "images": num_images,
            "accuracy_on_real_held_out_images": score,
            "epsilon": epsilons,
            "delta": plan.delta,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
        }
        _files.write_json(work / RUN_NAME, about)
    headline = statement.headline(classifier.privacy_ledger, plan.delta)
    return PPGANResult(directory, score, epsilons, headline, neighbours, seconds)


def _write(
    gan: ppgan.PPGAN, data: ImageData, plan: PrivacyPlan, num_images: int, work: pathlib.Path
) -> tuple[Any, float, dict[str, Any]]:
    """Everything but run.json; the classifier, its accuracy and the near neighbours."""
    records = ppgan_results.write_images(gan, num_images, work / IMAGES)
    classifier = ppgan_results.trained_classifier(records, gan)
    score = ppgan_results.accuracy(classifier, data.x_test, data.y_test)
    gan.generator.save(work / GENERATOR)
    classifier.save(work / KERAS_NAME)
    # The number of training records is private; the one that was planned for is not.
    dataset = {**data.summary(), "num_training_examples": plan.num_examples}
    card = export.privacy_card(classifier, dataset=dataset, delta=plan.delta)
    _files.write_json(work / CARD_NAME, card, indent=2, nan_as_none=False)
    picture = ppgan_results.samples_picture(gan, data.class_names)
    _files.write_whole(work / SAMPLES, picture)
    count = min(_CHECKED, len(records), len(data.x_test))
    made = np.stack([records[i][0] for i in range(count)])
    found = ppgan_results.neighbour_check(made, data.x_test[:count], data.x_train)
    neighbours = found.summary()
    _files.write_json(work / NEIGHBOURS, neighbours)
    return classifier, score, neighbours
