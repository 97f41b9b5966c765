"""Random models, losses and adversarial records through the public `fit`: no ratio above 1.001.

Each draw is one line of a JSON-lines file; a run that is started again continues after the last.

    python -m benchmarks.neighbours --draws=500 --output=docs/results/neighbours.jsonl
"""

import json
import math
import pathlib
import time
from typing import Any

import numpy as np
import tqdm
from absl import flags

from benchmarks import model_grammar
from keras_dpvit.errors import InputError
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_integer("draws", 500, "Models to draw.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("first", 0, "Number of the first draw.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer(
    "records", 6, "Adversarial records to try on each model.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_string(
    "output", "docs/results/neighbours.jsonl", "File that the draws go to.", flag_values=FLAGS
)

_RECORDS = 12  # in both data sets


def one_draw(number: int, tried: int) -> dict[str, Any]:
    """Draws a model, a loss and records, and tries them.

    Args:
        number: int, of the draw; the same number draws the same.
        tried: int, adversarial records to try, drawn from all.

    Returns:
        names of what was drawn, and the ratios or the reason of the refusal.
    """
    import keras

    import keras_dpvit as kd
    from keras_dpvit.auditing import adversarial_records, neighbours

    keras.backend.clear_session()
    rng = np.random.default_rng(number)
    keras.utils.set_random_seed(number)
    loss_name = str(rng.choice(list(model_grammar.LOSSES)))
    loss, kind, activation = model_grammar.LOSSES[loss_name]
    outputs = 1 if kind == "number" else model_grammar.NUM_CLASSES
    scale = float(rng.choice([1.0, 255.0, 1e4, 1e8]))
    x = (scale * rng.uniform(size=(_RECORDS, *model_grammar.IMAGE_SHAPE))).astype("float32")
    y = model_grammar.draw_labels(rng, kind, _RECORDS)
    clippings = [kd.FlatClipping(), kd.MedianLayerClipping(), kd.AutomaticClipping()]
    clipping = clippings[rng.integers(len(clippings))]
    cap = float(rng.choice([0.01, 1.0, 100.0]))
    found: dict[str, Any] = {
        "draw": number,
        "loss": loss_name,
        "clipping": clipping.name,
        "sensitivity": cap,
        "scale": scale,
    }
    start = time.perf_counter()
    try:
        network, found["layers"] = model_grammar.draw_model(rng, activation, outputs)
        plan = kd.PrivacyPlan(
            num_examples=_RECORDS,
            batch_size=_RECORDS,
            epochs=1,
            delta=1e-5,
            noise_multiplier=1.0,
            clipping=clipping,
            sensitivity=kd.FixedSensitivity(cap),
        )
        every = adversarial_records(x, y)
        chosen = rng.permutation(list(every))[:tried]
        result = neighbours(
            kd.make_private(network), loss, x, y, plan, {name: every[name] for name in chosen}
        )
        found |= {"ratios": result.ratios, "learned": result.learned}
    except InputError as error:
        found["refused"] = str(error)
    found["seconds"] = round(time.perf_counter() - start, 2)
    return found


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and the largest ratio of all draws."""
    ratios = [
        (ratio, f"draw {draw['draw']}, {name}")
        for draw in draws
        for name, ratio in draw.get("ratios", {}).items()
    ]
    worst = max(ratios, default=(0.0, "none"), key=lambda r: math.inf if math.isnan(r[0]) else r[0])
    return {
        "draws": len(draws),
        "trained": sum("ratios" in draw for draw in draws),
        "learned": sum(draw.get("learned", False) for draw in draws),
        "refused": sum("refused" in draw for draw in draws),
        "refusals of several lines": sum("\n" in draw.get("refused", "") for draw in draws),
        "records tried": len(ratios),
        "ratios above 1.001": sum(not ratio <= 1.001 for ratio, _ in ratios),
        "largest ratio": worst[0],
        "of": worst[1],
    }


def main() -> None:
    """Draws what is missing and prints the summary."""
    path = pathlib.Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {draw["draw"] for draw in draws}
    missing = [n for n in range(FLAGS.first, FLAGS.first + FLAGS.draws) if n not in done]
    with open(path, "a", encoding="utf-8") as file:
        for number in tqdm.tqdm(missing, disable=None):
            draws.append(one_draw(number, FLAGS.records))
            file.write(json.dumps(draws[-1]) + "\n")
            file.flush()
    print(json.dumps(summary(draws), indent=1))


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
