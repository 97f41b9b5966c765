r"""Trains a private GAN (PP-GAN), writes its images, and scores a DP-ViT trained on them alone.

Of the real training images a discriminator takes noised gradients; generator, images and classifier
cost nothing more. OUTPUT_DIR/1 (or the next free version) gets the labelled image set, generator,
classifier, privacy card, a picture of samples, and distances to the nearest training images.

Examples:
  python -m trainers.ppgan --dataset=fashion_mnist --epsilon=8 --delta=1e-5
  python -m trainers.ppgan --dataset=fashion_mnist --validation=10000 --steps=500
  python -m trainers.ppgan --dataset=fashion_mnist --epsilon=3 --checkpoint_dir=kept \
      --output_dir=savedmodels/made_up
"""

import dataclasses
import sys
from typing import Any

from absl import flags

from keras_dpvit import _quiet, _validate
from keras_dpvit.datasets import ImageData
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.accounting import ACCOUNTANTS, auto_delta
from trainers import _cli, _flags

# Kept out of run.json, which travels: a seed is a secret, and places tell of the machine.
_STAY_HERE = ("seed", "data_dir", "output_dir", "checkpoint_dir")

FLAGS = flags.FlagValues()
_flags.define_dataset_flags(FLAGS)
flags.DEFINE_float("epsilon", 8.0, "The whole privacy budget; above 0.", flag_values=FLAGS)
_flags.define_delta_flag(FLAGS)
flags.DEFINE_enum(
    "accountant",
    "rdp",
    ACCOUNTANTS,
    "Whose epsilon is kept within the budget; pld is tighter.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "num_examples",
    None,
    "Public number of records to plan noise for (default: the number of records rounded down to "
    "two digits, which is then taken as public).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size",
    None,
    "Expected real images in a step of the discriminator (default: 4096, a third of the records "
    "if that is less).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "steps",
    1000,
    "Steps of the generator; a second or less each for 28x28 images on two cores.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "discriminator_steps",
    4,
    "Steps of the discriminator to one of the generator.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "validation",
    0,
    "Training images, the last ones, that are left out and stand in for the held-out ones: to "
    "choose settings by.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("num_images", 30_000, "Images in the set that is written.", flag_values=FLAGS)
flags.DEFINE_string(
    "output_dir",
    None,
    "Where versions are written (default: savedmodels/DATASET_ppgan).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "checkpoint_dir",
    None,
    "Keeps the training here while it lasts: the same command resumes it after a crash or Ctrl-C. "
    "Steps that were lost count as spent.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "seed", None, "Repeatable run, for tests: privacy then rests on its secrecy.", flag_values=FLAGS
)


def _check_flags() -> None:
    _flags.check_numbers(
        FLAGS,
        epsilon=_validate.positive,
        num_examples=_validate.positive_int,
        batch_size=_validate.positive_int,
        steps=_validate.positive_int,
        discriminator_steps=_validate.positive_int,
        num_images=_validate.positive_int,
        validation=_validate.non_negative_int,
    )
    _flags.delta(FLAGS)


def _load_data() -> ImageData:
    data, number = _flags.load_dataset(FLAGS, (32, 32, 3)), FLAGS.validation
    if number >= len(data.x_train):
        raise InputError(f"validation must leave images to train on, got {number}.")
    if not number:
        return data
    return dataclasses.replace(
        data,
        x_train=data.x_train[:-number],
        y_train=data.y_train[:-number],
        x_test=data.x_train[-number:],
        y_test=data.y_train[-number:],
    )


def main() -> None:
    """Trains, writes, prints."""
    _check_flags()
    output_dir = _flags.output_dir(FLAGS, f"savedmodels/{FLAGS.dataset}_ppgan")
    data = _load_data()
    _quiet.start_tensorflow()
    import keras
    import tqdm

    from keras_dpvit.baselines import ppgan, ppgan_run
    from keras_dpvit.runs import training
    from keras_dpvit.runs.settings import RunSettings

    num_examples = training.public_number(
        len(data.x_train), RunSettings(num_examples=FLAGS.num_examples)
    )
    delta = _flags.delta(FLAGS)
    plan = ppgan.gan_plan(
        epsilon=FLAGS.epsilon,
        delta=auto_delta(num_examples) if delta is None else delta,
        num_examples=num_examples,
        steps=FLAGS.steps,
        batch_size=FLAGS.batch_size,
        discriminator_steps=FLAGS.discriminator_steps,
        accountant=FLAGS.accountant,
        seed=FLAGS.seed,
    )
    print(
        f"{data.name}: {FLAGS.steps} steps of the generator, {plan.steps} of the discriminator on "
        f"about {plan.batch_size} real images each, noise multiplier {plan.noise_multiplier:.3g}.",
        flush=True,
    )
    if FLAGS.seed is not None:
        keras.utils.set_random_seed(FLAGS.seed)
    with tqdm.tqdm(total=plan.steps, desc="discriminator", unit=" steps", disable=None) as bar:
        result = ppgan_run.run(
            data,
            plan,
            output_dir,
            settings=ppgan.PPGANSettings(discriminator_steps=FLAGS.discriminator_steps),
            num_images=FLAGS.num_images,
            checkpoint_dir=FLAGS.checkpoint_dir,
            number_is_public=FLAGS.num_examples is not None,
            flags=_flags.recorded(FLAGS, _STAY_HERE),
            progress=lambda done, total: bar.update(done - bar.n),
        )
    _report(result)


def _report(result: Any) -> None:
    """Prints what came of the run."""
    print(f"\n{result.headline}")
    print(f"accuracy on real held-out images, trained on generated ones: {result.accuracy:.4f}")
    near = result.neighbours
    print(
        f"nearest training image: median distance {near['generated']['median']} of generated "
        f"images, {near['held_out']['median']} of held-out ones; {near['copies']} copies"
    )
    print(f"Written to {result.directory}")
    sys.stdout.flush()


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
