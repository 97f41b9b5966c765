"""One cell of the comparison: a system trained within a budget, scored and attacked."""

import time
from typing import Any

import numpy as np

from keras_dpvit.reproduction.compared_systems import SYSTEMS, Images, Outcome, Scale
from keras_dpvit.reproduction.trainings import Bench

_ATTACKED = 5000  # records of each kind


def run(
    name: str, scale: Scale, images: Images, bench: Bench, epsilon: float, seed: int
) -> dict[str, Any]:
    """Trains a system and scores it.

    Args:
        name: of `SYSTEMS`.
        scale: what it is trained with.
        images: to train on and to score.
        bench: of the same images.
        epsilon: float, the whole budget, at the recipe's delta.
        seed: int, tells repeated trainings apart.

    Returns:
        figures that JSON can hold.
    """
    from keras_dpvit.models.description import describe

    begin = time.perf_counter()
    outcome = SYSTEMS[name].train(scale, images, bench, epsilon, seed)
    seconds = time.perf_counter() - begin
    about, delta = describe(outcome.model), scale.recipe.delta or 1e-5
    return {
        "steps": outcome.steps,
        "accuracy": [round(value, 4) for value in outcome.accuracies],
        "epsilon": {
            accountant: round(outcome.ledger.epsilon(delta, accountant), 4)
            for accountant in ("rdp", "pld")
        },
        "delta": delta,
        "unit": "training image",
        "parameters": about["parameters"],
        "trained_parameters": outcome.trained_parameters,
        "macs": about["macs"],
        "seconds": round(seconds, 1),
        "training_bytes": outcome.training_bytes,
        "answer_bytes": outcome.answer_bytes,
        "answer_seconds": outcome.answer_seconds,
        "membership": membership(outcome, images),
        **outcome.notes,
    }


def membership(outcome: Outcome, images: Images) -> dict[str, Any]:
    """The success of the loss threshold against a system, with intervals.

    The attack asks the finished model about images that were trained on and test images.
    Stronger attacks train reference models: `trainers.membership`.
    """
    from keras_dpvit.auditing.membership import loss_threshold
    from keras_dpvit.auditing.membership_rates import attack_result

    count = min(_ATTACKED, len(images.train[1]), len(images.test[1]))
    confidences = []
    for pictures, labels in (images.train, images.test):
        said = outcome.predict(pictures[:count])
        confidences.append(said[np.arange(count), labels[:count]])
    scores = loss_threshold(np.clip(np.concatenate(confidences), 0.0, 1.0))
    found = attack_result(scores, np.arange(2 * count) < count, (0.01,))
    return {
        "attack": "loss threshold",
        "records": 2 * count,
        "auc": found.auc,
        "auc_interval": found.auc_interval,
        "tpr_at_1_percent": found.rates[0].true_positive_rate,
        "tpr_interval": found.rates[0].interval(),
    }
