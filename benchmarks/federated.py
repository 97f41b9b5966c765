r"""Federated averaging on the digits beside central training of the same DP-ViT.

Central training takes as many passes over the images as all rounds together; the optimizer, its
rate and the batch are the same. Nothing was chosen by these results. Runs that the output file
holds are passed by, so the same command resumes.

Examples:
  python -m benchmarks.federated --seeds=3 --output=federated_digits.json
"""

import json
import pathlib
import time
from typing import Any

from absl import flags

from keras_dpvit import _files, _quiet, datasets
from keras_dpvit.errors import InputError
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_integer("seeds", 3, "Runs of each kind without privacy.", flag_values=FLAGS)
flags.DEFINE_string("output", None, "JSON file of results.", flag_values=FLAGS)

_ROUNDS, _BATCH, _RATE = 20, 32, 5e-3
_DELTA = 1e-4
# Name, arguments of `_federated`, and whether there are several seeds.
_KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "FedAvg, 10 clients, alike": ({"clients": 10}, True),
    "FedAvg, 10 clients, alpha 0.3": ({"clients": 10, "alpha": 0.3}, True),
    "FedAvg, 2 clients, 3 rounds": ({"clients": 2, "rounds": 3}, False),
    "FedAvg, 2 clients, 3 rounds, network": (
        {"clients": 2, "rounds": 3, "runtime": "network"},
        False,
    ),
    "DP-FedAvg, 200 clients, epsilon 8": ({"clients": 200, "privacy": "client"}, False),
    "records private, 5 clients, epsilon 8": ({"clients": 5, "privacy": "record"}, False),
}


def _model() -> Any:
    import keras_dpvit as kd

    return kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)


def _central(data: datasets.ImageData) -> dict[str, Any]:
    import keras

    begin, model = time.monotonic(), _model()
    model.compile(
        keras.optimizers.Adam(_RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=_BATCH,
        epochs=_ROUNDS,
        verbose=0,
        public_data=True,
    )
    logits = model.predict(data.x_test, batch_size=500, verbose=0)
    accuracy = float((logits.argmax(axis=1) == data.y_test).mean())
    return {"accuracy": accuracy, "seconds": round(time.monotonic() - begin, 1)}


def _federated(
    data: datasets.ImageData,
    clients: int,
    alpha: float | None = None,
    rounds: int = _ROUNDS,
    privacy: str = "none",
    **arguments: Any,
) -> dict[str, Any]:
    import keras

    from keras_dpvit.baselines import federated

    batch_size = _BATCH
    if privacy == "client":
        arguments["client_plan"] = federated.client_plan(
            num_clients=clients,
            clients_per_round=clients // 2,
            rounds=rounds,
            delta=_DELTA,
            epsilon=8.0,
        )
    else:
        arguments["rounds"] = rounds
    if privacy == "record":
        arguments["record_privacy"] = federated.RecordPrivacy(8.0, _DELTA)
        batch_size = 2 * _BATCH
    rows = federated.split(data.y_train, clients, alpha)
    model = _model()
    result = federated.train(
        model,
        [(data.x_train[own], data.y_train[own]) for own in rows],
        test_data=(data.x_test, data.y_test),
        optimizer=keras.optimizers.Adam(_RATE),
        batch_size=batch_size,
        **arguments,
    )
    cost = {}
    if privacy != "none":
        cost = {"epsilon_rdp": model.privacy_ledger.epsilon(_DELTA), "delta": _DELTA}
    return {
        "accuracy": result.accuracies[-1],
        "accuracies": result.accuracies,
        "bytes_to_clients": result.bytes_to_clients,
        "bytes_from_clients": result.bytes_from_clients,
        "failures": sum(map(len, result.failures)),
        "seconds": round(result.seconds, 1),
        **cost,
    }


def _runs(data: datasets.ImageData) -> Any:
    """Name, seed and function of each run."""
    for seed in range(FLAGS.seeds):
        yield "central", seed, lambda: _central(data)
    for name, (arguments, several) in _KINDS.items():
        for seed in range(FLAGS.seeds if several else 1):
            yield name, seed, lambda arguments=arguments: _federated(data, **arguments)


def main() -> None:
    """Runs what is missing and writes after every run."""
    if FLAGS.output is None:
        raise InputError("output must be given, a JSON file.")
    _quiet.start_tensorflow()
    import keras

    output = pathlib.Path(FLAGS.output)
    found = json.loads(output.read_text()) if output.exists() else []
    for name, seed, run_once in _runs(datasets.load("digits")):
        if any((r["name"], r["seed"]) == (name, seed) for r in found):
            continue
        keras.utils.set_random_seed(seed)
        found.append({"name": name, "seed": seed, **run_once()})
        print(json.dumps({k: v for k, v in found[-1].items() if k != "accuracies"}), flush=True)
        _files.write_json(output, found)


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
