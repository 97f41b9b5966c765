r"""Prints the noise that a privacy budget needs, without training anything.

Examples:
  python -m trainers.plan --epsilon=3 --delta=1e-5 --num_examples=60000 --batch_size=2048 \
      --epochs=30
  python -m trainers.plan --epsilon=8 --delta=1e-4 --num_examples=1437 --batch_size=240 \
      --epochs=50 --members=2
  python -m trainers.plan --noise_multiplier=1.1 --delta=1e-5 --num_examples=60000 \
      --batch_size=256 --epochs=15
"""

import json
import math

from absl import flags

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from keras_dpvit.privacy import accounting, statement
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.privacy.plan import PrivacyPlan
from trainers import _cli, _flags

FLAGS = flags.FlagValues()
_flags.define_privacy_flags(FLAGS)
flags.DEFINE_integer("num_examples", None, "Records to train on.", flag_values=FLAGS)
flags.DEFINE_integer(
    "members", 1, "Models trained on the same records within the one budget.", flag_values=FLAGS
)
flags.DEFINE_float(
    "noise_multiplier", None, "Given this, prints the epsilon it costs instead.", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)


def _plan() -> PrivacyPlan:
    for name in ("num_examples", "batch_size"):
        if FLAGS[name].value is None:
            raise InputError(f"--{name} must be given: a whole number above 0.")
    _flags.check_numbers(
        FLAGS,
        epsilon=_validate.positive,
        epochs=_validate.positive,
        num_examples=_validate.positive_int,
        batch_size=_validate.positive_int,
        members=_validate.positive_int,
        noise_multiplier=_validate.non_negative,
    )
    delta = _flags.delta(FLAGS)
    schedule = {
        "num_examples": FLAGS.num_examples,
        "batch_size": FLAGS.batch_size,
        "epochs": FLAGS.epochs,
        "delta": accounting.auto_delta(FLAGS.num_examples) if delta is None else delta,
        "compositions": FLAGS.members,
    }
    if FLAGS.noise_multiplier is not None:
        return PrivacyPlan(noise_multiplier=FLAGS.noise_multiplier, **schedule)
    return PrivacyPlan.for_target(epsilon=FLAGS.epsilon, accountant=FLAGS.accountant, **schedule)


def main() -> None:
    """Prints the plan as a table or JSON."""
    plan = _plan()
    together = PrivacyLedger(plan.entries(plan.steps) * FLAGS.members)
    epsilons = statement.epsilons(together, plan.delta)
    gradient_noise, count_noise = plan.mechanism().split_noise()
    summary = {
        "noise_multiplier": plan.noise_multiplier,
        "gradient_noise_multiplier": gradient_noise,
        "count_noise_stddev": count_noise,
        "sampling_probability": plan.sampling_probability,
        "steps": plan.steps,
        "members": FLAGS.members,
        "delta": plan.delta,
        **{f"epsilon_{name}": value for name, value in epsilons.items()},
        "adjacency": accounting.ADJACENCY,
        "sampling": "poisson",
        "accountant": accounting.accountant_version(),
    }
    if FLAGS.json:
        for name, value in summary.items():
            if value == math.inf:  # which JSON cannot write
                summary[name] = "infinite"
        print(json.dumps(summary, indent=2))
        return
    for name, value in summary.items():
        if name.startswith("epsilon"):
            value = statement.format_epsilon(value)
        print(f"{name:26} {value:.6g}" if isinstance(value, float) else f"{name:26} {value}")


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
