r"""Times one training step, private and plain, here and in other libraries, in one run.

All sides take turns, round after round, so that a drift of the machine meets all alike. Run it on
an idle machine. benchmarks/README.md says what is measured and how to read it.

Examples:
  python -m benchmarks.dp_step
  python -m benchmarks.dp_step --rounds=2 --steps=3 --only=vit,small
  python -m benchmarks.dp_step --json --output=dp_step.json
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import summary
from benchmarks.reports import checked_output, machine
from benchmarks.sides import Side, Worker, WorkerError, chosen_sides, tell, without_absent
from keras_dpvit import _validate
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_bool("json", False, "Prints one JSON object and no table.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 10, "How often each side has its turn.", flag_values=FLAGS)
flags.DEFINE_integer(
    "steps",
    10,
    "Timed steps in a turn of the ViT; the small network takes four times as many, TF Privacy's "
    "private side a tenth.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "only", None, "Names of sides, or of groups of them, to measure alone.", flag_values=FLAGS
)
flags.DEFINE_string(
    "output", None, "File for the JSON object, besides what is printed.", flag_values=FLAGS
)


def measure(sides: Sequence[Side], rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Starts a worker for each side and gives them turns.

    Args:
        sides: what to measure.
        rounds: int, turns of each side.
        steps: int, see `Side.steps`.

    Returns:
        side name to `summary.side_summary`, with "settings", "group", "parameters" and "versions".

    Raises:
        WorkerError: if a worker ends early.
    """
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        first: dict[str, list[float]] = {}
        for number, side in enumerate(sides, 1):
            tell(f"first steps of {side.name} ({number} of {len(sides)})")
            worker = Worker(side)
            stack.callback(worker.close)
            workers.append(worker)
            first[side.name] = worker.run(0, side.first_steps)["warm_up"]
        turns: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}")
            # There and back again: over two rounds nobody comes earlier than another.
            for worker in workers if number % 2 == 0 else reversed(workers):
                side = worker.side
                turns[side.name].append(worker.run(side.steps(steps), side.warm_up))
        return {
            worker.side.name: {
                "group": worker.side.group,
                "settings": dict(worker.side.settings),
                **worker.facts,
                **summary.side_summary(
                    [turn["seconds"] for turn in turns[worker.side.name]],
                    [turn["records"] for turn in turns[worker.side.name]],
                    first[worker.side.name],
                    worker.memory(),
                ),
            }
            for worker in workers
        }


def _print_tables(report: dict[str, Any]) -> None:
    facts = report["machine"]
    print(
        f"{facts['cores']} x {facts['cpu_model']}, load at start "
        f"{facts['load_average_at_start']}; {report['rounds']} rounds of {report['steps']} steps\n"
    )
    print("\n".join(summary.side_table(report["sides"])), end="\n\n")
    print("\n".join(summary.bar_table(report["bars"])))
    if report["absent"]:
        print(f"\nabsent: {', '.join(report['absent'])}")


def main() -> None:
    """Measures, prints, writes."""
    _validate.positive_int(rounds=FLAGS.rounds)
    _validate.positive_int(steps=FLAGS.steps)
    output = checked_output(FLAGS.output)
    sides, absent = without_absent(chosen_sides(FLAGS.only))
    facts = machine()
    try:
        measured = measure(sides, FLAGS.rounds, FLAGS.steps)
    except WorkerError as error:
        tell(f"error: {error}")
        sys.exit(1)
    report = {
        "benchmark": "dp_step",
        "machine": facts,
        "rounds": FLAGS.rounds,
        "steps": FLAGS.steps,
        "sides": measured,
        "bars": summary.judge(measured),
        "absent": absent,
    }
    text = json.dumps(report, indent=2)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if FLAGS.json:
        print(text)
    else:
        _print_tables(report)


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
