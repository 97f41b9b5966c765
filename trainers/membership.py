r"""Attacks a training by membership inference, and shows what its epsilon allows beside it.

A target and reference models are trained alike, each on its own random half of the training images.
LiRA (online and offline), RMIA and a loss threshold then say of each image whether the target was
trained on it. The table has their AUC and true positive rates at low false positive rates, with
intervals, and the largest that any attack can reach if epsilon is true.

Exit status 0 if no attack exceeds what epsilon allows, 1 if one does, 2 on bad input. An attack
that finds little proves nothing: another may find more.

Examples:
  python -m trainers.membership --dataset=digits --references=16 --epsilon=8
  python -m trainers.membership --dataset=digits --noprivate --epochs=200 --output=control.json
  python -m trainers.membership --dataset=fashion_mnist --epsilon=2.7 --delta=1e-5
  python -m trainers.membership --dataset=digits --model=dpvit_tiny_8 --epochs=40
"""

import logging
import math
import sys

import numpy as np
from absl import flags

from keras_dpvit import _quiet, _validate
from keras_dpvit.auditing.audit_run import check_output
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import preset_image_shape
from keras_dpvit.runs.settings import RunSettings
from trainers import _cli, _flags, _recipes, train

_HEAD = "head"
_CLAIM = ("epsilon", "delta", "accountant")
_SETTINGS = (*_CLAIM, "batch_size", "epochs", "learning_rate", "seed")

FLAGS = flags.FlagValues()
_flags.define_privacy_flags(FLAGS)
_flags.define_dataset_flags(FLAGS)
FLAGS.set_default("epsilon", 8.0)
FLAGS.set_default("delta", _flags.AUTO)
for _name in ("epochs", "accountant"):  # the recipe's, or those of `RunSettings`
    FLAGS.set_default(_name, None)
flags.DEFINE_string(
    "model",
    _HEAD,
    "head: the head of the data set's recipe, over features that are computed once; or the name of "
    "a preset, which is trained whole.",
    flag_values=FLAGS,
)
flags.DEFINE_bool("private", True, "False trains without privacy: the control.", flag_values=FLAGS)
flags.DEFINE_integer("references", 16, "Reference models; even, at least 4.", flag_values=FLAGS)
flags.DEFINE_float(
    "learning_rate", None, "Default: as in trainers.train; 5e-3 without privacy.", flag_values=FLAGS
)
flags.DEFINE_string("output", None, "A .json file for settings and outcome.", flag_values=FLAGS)
flags.DEFINE_integer("seed", None, "Repeatable run, for tests.", flag_values=FLAGS)


def _check_flags() -> None:
    """Refuses what can be refused before any data is read."""
    _flags.check_numbers(
        FLAGS,
        epsilon=_validate.positive,
        epochs=_validate.positive,
        batch_size=_validate.positive_int,
        learning_rate=_validate.positive,
        references=_validate.positive_int,
    )
    _flags.delta(FLAGS)
    if FLAGS.references < 4 or FLAGS.references % 2:
        raise InputError(f"references must be even and at least 4, got {FLAGS.references}.")
    if not FLAGS.private:
        for name in _CLAIM:
            if FLAGS[name].present:
                raise InputError(f"{name} must be left out with --noprivate: it has no use there.")
    if FLAGS.model != _HEAD:
        preset_image_shape(FLAGS.model)
    elif FLAGS.dataset not in _recipes.names():
        raise InputError(
            f"model must name a preset for dataset={FLAGS.dataset}: head needs a recipe of the "
            "data set's name."
        )
    if FLAGS.output is not None:
        check_output(FLAGS.output)


def _preset_and_settings() -> tuple[str, RunSettings]:
    given = {name: FLAGS[name].value for name in _SETTINGS if FLAGS[name].value is not None}
    if FLAGS.model == _HEAD:
        return train.recipe_settings(FLAGS.dataset, *(f"--{n}={v}" for n, v in given.items()))
    return FLAGS.model, RunSettings(**{**given, "delta": _flags.delta(FLAGS)})


def main() -> None:
    """Trains, attacks and prints what the attacks find."""
    _check_flags()
    preset, settings = _preset_and_settings()
    data = _flags.load_dataset(FLAGS, preset_image_shape(preset))
    _quiet.start_tensorflow()
    from keras_dpvit.auditing import attack_training
    from keras_dpvit.runs.part_trainings import PartTrainings

    # Each model's graph is traced anew, which TensorFlow warns of.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with _quiet.quiet_stderr():
        trainings = PartTrainings(data, preset, settings, FLAGS.private)
    epsilon, delta, how = math.inf, 0.0, "without privacy"
    if FLAGS.private:
        plan = trainings.plan()
        epsilon, delta = settings.epsilon, plan.delta
        how = (
            f"epsilon {epsilon:g} at delta {delta:g}, noise multiplier {plan.noise_multiplier:.4g}"
        )
    print(f"{data.name}, {preset}, {FLAGS.references + 1} trainings, each {how}", flush=True)
    known = len(data.x_train)
    rows = np.arange(known + len(data.x_test))
    result = attack_training(
        trainings.train,
        rows[:known],
        data.y_train,
        (rows[known:], data.y_test),
        num_references=FLAGS.references,
        epsilon=epsilon,
        delta=delta,
        seed=settings.seed,
    )
    print(f"\n{result.text()}")
    sys.stdout.flush()
    if FLAGS.output is not None:
        result.write(
            FLAGS.output,
            what="membership inference, intervals of 95 % over records",
            command="python -m trainers.membership " + " ".join(sys.argv[1:]),
        )
    if result.contradicted:
        print("An attack exceeds what epsilon allows.", file=sys.stderr)
        sys.exit(1)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
