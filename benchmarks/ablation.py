r"""Accuracy of the recipe for 28x28 images with one thing changed at a time.

A lever is a change of the recipe `fashion_mnist`: a part left out, a rate, a solver. Trained on the
first 50,000 training images of Fashion-MNIST and scored on the last 10,000; the test images are not
read. A seed is a file of `trainers.pretrain`, so that pre-training, sampling and noise are all
drawn anew; levers of `SEVERAL` are measured with every seed, the others with the first one. Runs
that the output file holds are passed by, so the same command resumes.

Examples:
  python -m benchmarks.ablation --weights=w0.npz,w1.npz --output=ablation.json
  python -m benchmarks.ablation --weights=w0.npz --levers=recipe,momentum_0 --output=some.json
  python -m benchmarks.ablation --output=docs/results/ablation.json --table
"""

import dataclasses
import json
import pathlib
import statistics
from typing import Any

from absl import flags

from benchmarks import accuracy
from keras_dpvit import _files, _quiet, datasets
from keras_dpvit.errors import InputError
from trainers import _cli, train

EPSILON = 2.7

# Flags of trainers.train in place of the recipe's; the recipe itself comes first.
LEVERS: dict[str, list[str]] = {
    "recipe": [],
    "no_transformer": ["--head_blocks=features"],
    "no_wavelets": ["--head_blocks=stage_1,tokens"],
    "no_whitening": ["--whitening_rank=1"],
    "no_means": [],
    "no_mirror": [],
    "short_pretraining": [],
    "solved_head": ["--solver=feature_covariance"],
    "no_first_stage": ["--head_blocks=features,tokens"],
    "whitening_rank_55": ["--whitening_rank=55"],
    "batch_1024": ["--batch_size=1024"],
    "epochs_10": ["--epochs=10"],
    "momentum_0": ["--momentum=0"],
    "adam": ["--optimizer=adam"],
    "rate_a_third": [],
    "rate_threefold": [],
    "clip_1": ["--l2_norm_clip=1"],
    "median_clipping": ["--clipping=median_layer"],
    "rdp": ["--accountant=rdp"],
    "two_members": ["--members=2"],
}
SEVERAL = (
    "recipe",
    "no_transformer",
    "no_whitening",
    "no_means",
    "no_mirror",
    "short_pretraining",
    "solved_head",
)
# Fields of the settings that no flag changes so.
_FIELDS: dict[str, dict[str, Any]] = {"no_means": {"center_noise": None}}
_OVERRIDES = {"no_mirror": {"mirrored": False}}
_RATES = {"rate_a_third": 1 / 3, "rate_threefold": 3.0}
_SHORT = "_short"  # ends the name of a file that was trained for one epoch

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "weights",
    [],
    "Files of trainers.pretrain, a seed each; beside NAME.npz lies NAME_short.npz, the same with "
    "--epochs=1.",
    flag_values=FLAGS,
)
flags.DEFINE_list("levers", list(LEVERS), "Those to measure.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file of results.", flag_values=FLAGS)
flags.DEFINE_bool(
    "table", False, "Prints the file's table and measures nothing.", flag_values=FLAGS
)


def training(lever: str, weights: str) -> Any:
    """The training of a lever.

    Args:
        lever: a name of `LEVERS`.
        weights: a file of `trainers.pretrain`.
    """
    from keras_dpvit.privacy.plan import PrivacyPlan
    from keras_dpvit.reproduction.trainings import Training
    from keras_dpvit.runs.training import plans, rate_of

    if lever == "short_pretraining":
        path = pathlib.Path(weights)
        weights = str(path.with_name(f"{path.stem}{_SHORT}{path.suffix}"))
    preset, settings = train.recipe_settings(
        "fashion_mnist", f"--epsilon={EPSILON}", *LEVERS[lever]
    )
    settings = dataclasses.replace(settings, weights=weights, **_FIELDS.get(lever, {}))
    if lever in _RATES:
        (plan,) = plans(_records(), settings, 1)
        assert isinstance(plan, PrivacyPlan)
        rate = _RATES[lever] * rate_of(plan, settings)
        settings = dataclasses.replace(settings, learning_rate=rate)
    return Training(preset, settings, overrides=_OVERRIDES.get(lever, {}))


def _records() -> int:
    return len(datasets.load("fashion_mnist").x_train) - accuracy.VALIDATION


def measure() -> list[dict[str, Any]]:
    """Runs what is missing and writes after every run; all runs."""
    from keras_dpvit.reproduction.trainings import Bench

    output = pathlib.Path(FLAGS.output)
    found: list[dict[str, Any]] = json.loads(output.read_text()) if output.exists() else []
    to_train, to_score = accuracy.data("validation")
    for number, weights in enumerate(FLAGS.weights):
        bench = Bench(to_train, to_score, num_classes=10)
        for lever in FLAGS.levers:
            key = {"lever": lever, "seed": number}
            if (number and lever not in SEVERAL) or any(key.items() <= r.items() for r in found):
                continue
            result = bench.run(training(lever, weights))
            score, seconds = result["accuracy"][-1], result["seconds"]
            found.append(
                {**key, "accuracy": score, "epsilon": result["epsilon"], "seconds": seconds}
            )
            print(json.dumps(found[-1]), flush=True)
            _files.write_json(output, found)
    return found


def table(found: list[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table: each lever's accuracy, and its difference from the recipe's.

    Differences are taken seed by seed, the same pre-trained weights on both sides.
    """
    from keras_dpvit.reproduction.tables import interval

    by_lever = {
        lever: {run["seed"]: run["accuracy"] for run in found if run["lever"] == lever}
        for lever in LEVERS
    }
    recipe = by_lever["recipe"]
    lines = ["| lever | seeds | accuracy | points from the recipe |", "|---|---|---|---|"]
    for lever, scores in by_lever.items():
        both = sorted(scores.keys() & recipe.keys())
        if not both:
            continue
        mean = statistics.fmean(scores[seed] for seed in both)
        difference, half = interval([100 * (scores[seed] - recipe[seed]) for seed in both])
        said = "" if half is None else f" ± {half:.2f}"
        last = "" if lever == "recipe" else f"{difference:+.2f}{said}"
        lines.append(f"| `{lever}` | {len(both)} | {mean:.4f} | {last} |")
    return lines


def main() -> None:
    """Measures, or prints the table."""
    if FLAGS.output is None:
        raise InputError("output must be given, a JSON file.")
    for lever in FLAGS.levers:
        if lever not in LEVERS:
            raise InputError(f"levers must be of {', '.join(LEVERS)}, got {lever!r}.")
    if FLAGS.table:
        found = json.loads(pathlib.Path(FLAGS.output).read_text())
    else:
        _quiet.start_tensorflow()
        found = measure()
    print("\n".join(table(found)))


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
