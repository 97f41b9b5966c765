r"""Audits epsilon: plants canaries in one training, or attacks one step, and bounds epsilon below.

One run (Steinke, Nasr, Jagielski 2023): each canary is put into the training data by a fair coin
of its own, a model is trained by plain `model.fit`, and the program guesses the coins. The more
guesses are right, the larger epsilon must be. --attack=step instead releases the first step many
times with and without one record. --attack=neighbours adds records that mechanisms stumble over to
a data set, one by one, and compares a step of a model file's own loss and plan with and without.

Exit status 0 if the lower bound does not exceed what is claimed, 1 if it does, 2 on bad input. A
bound below the claim does not prove the claim.

Examples:
  python -m trainers.audit --dataset=fashion_mnist --epsilon=2 --delta=1e-5 --canaries=1000 \
      --model=linear --output=audit.json
  python -m trainers.audit --dataset=fashion_mnist --score=loss --canary=mislabelled --epochs=40
  python -m trainers.audit --dataset=digits --canaries=500 --mechanism=no_noise
  python -m trainers.audit --dataset=fashion_mnist --attack=step --mechanism=as_published
  python -m trainers.audit --dataset=digits --attack=neighbours --model=model.keras
"""

import sys
from typing import Any

from absl import flags

from keras_dpvit import _quiet, _validate
from keras_dpvit.auditing import audit_run, neighbours_report
from keras_dpvit.auditing.canaries import KINDS
from keras_dpvit.auditing.one_run import check_guesses
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.accounting import auto_delta
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_privacy_flags(FLAGS)
_flags.define_dataset_flags(FLAGS)
FLAGS.set_default("epsilon", 2.0)
flags.DEFINE_enum(
    "mechanism",
    "certified",
    audit_run.MECHANISMS,
    "certified: a plan for --epsilon. as_published: the paper's formulas with the noise that would "
    "cost --epsilon if they were right. no_noise: a certified plan without its noise; the audit "
    "must find it out, or it finds nothing.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "attack",
    "one_run",
    ["one_run", "step", "neighbours"],
    "Canaries in one training, one step many times, or one step with one record more.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("canaries", 1000, "Canaries that have a coin; even.", flag_values=FLAGS)
flags.DEFINE_enum(
    "canary",
    "noise",
    KINDS,
    "Images of random pixels, or real ones mislabelled.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "score",
    "gradient",
    ["gradient", "loss"],
    "gradient: white box, every noisy sum (SGD). loss: black box, first and last weights (Adam).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "model",
    "vit",
    "vit: the DP-ViT for the images' size. linear: softmax regression on pixels, in which noise "
    "canaries have next to nothing in common: the sharper audit. With --attack=neighbours a .keras "
    "file.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "guesses",
    None,
    "Even numbers of guesses, half of each 'in' (default: a fifth and half of the canaries). The "
    "best counts, at a confidence corrected for their number.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "num_examples",
    None,
    "Other records (default: 1000 or what there is; 20 for --attack=step).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "trials", 20000, "With --attack=step: releases on each side; even.", flag_values=FLAGS
)
flags.DEFINE_float(
    "learning_rate", None, "Default: 0.05 for gradient scores, 3e-3 for loss.", flag_values=FLAGS
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
        canaries=_validate.positive_int,
        num_examples=_validate.positive_int,
        trials=_validate.positive_int,
        learning_rate=_validate.positive,
    )
    if _flags.delta(FLAGS) is None:
        FLAGS["delta"].value = auto_delta(FLAGS.num_examples or 2 * FLAGS.canaries)
    for name in ("canaries", "trials"):
        if FLAGS[name].value % 2:
            raise InputError(f"{name} must be even, got {FLAGS[name].value}.")
    if FLAGS.output is not None:
        audit_run.check_output(FLAGS.output)
    if FLAGS.attack == "neighbours":
        neighbours_report.check_flags(FLAGS)
        return
    if FLAGS.model not in ("vit", "linear"):
        raise InputError(f"model must be vit or linear, got {FLAGS.model!r}.")
    if FLAGS.attack == "step":
        for name in ("batch_size", "epochs", "canaries", "guesses", "score", "learning_rate"):
            if FLAGS[name].present:
                raise InputError(
                    f"{name} must be left out with --attack=step: it has no use there."
                )
        return
    if 2 * FLAGS.canaries * FLAGS.delta >= 1:
        raise InputError(
            f"delta must be below 1/(2 canaries) = {1 / (2 * FLAGS.canaries):.3g}, got "
            f"{FLAGS.delta:g}."
        )
    check_guesses(_guesses(), FLAGS.canaries)


def _guesses() -> list[int]:
    if FLAGS.guesses is None:
        # Few guesses show most of a private training, many of one that is not.
        return [max(2, FLAGS.canaries // part // 2 * 2) for part in (5, 2)]
    try:
        return [int(number) for number in FLAGS.guesses]
    except ValueError:
        raise InputError(
            f"guesses must be whole numbers, got {','.join(FLAGS.guesses)!r}."
        ) from None


def main() -> None:
    """Runs the audit and prints what it shows."""
    _check_flags()
    data = _flags.load_dataset(FLAGS, (32, 32, 3))
    report: Any
    if FLAGS.attack == "neighbours":
        _quiet.start_tensorflow()
        report = neighbours_report.run(FLAGS.model, data)
    else:
        job = audit_run.Job.prepare(
            _flags.settings(FLAGS, audit_run.AuditSettings), data, _guesses()
        )
        _quiet.start_tensorflow()
        report = job.run()
    print(f"\n{report.text()}")
    sys.stdout.flush()
    if FLAGS.output is not None:
        report.write(FLAGS.output)
    if report.contradicted:
        sys.exit(1)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
