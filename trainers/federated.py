r"""Trains a DP-ViT by federated averaging (FedAvg) on Flower, with or without privacy.

The training images are dealt out to clients, alike or skewed by class (--alpha). --privacy=client
is DP-FedAvg: epsilon is for one client with all its images. --privacy=record lets each client train
privately, and epsilon is for one image. --runtime=network starts a SuperLink, and a SuperNode and a
process for each client, on this machine's loopback; they all end with the program.

Examples:
  python -m trainers.federated --dataset=digits --clients=10 --rounds=20
  python -m trainers.federated --dataset=digits --clients=10 --alpha=0.3 --rounds=20
  python -m trainers.federated --dataset=fashion_mnist --clients=500 --clients_per_round=50 \
      --privacy=client --epsilon=8 --delta=1e-4 --rounds=50
  python -m trainers.federated --dataset=digits --clients=5 --privacy=record --epsilon=8 \
      --delta=1e-4 --batch_size=64
  python -m trainers.federated --dataset=digits --clients=2 --rounds=3 --runtime=network
"""

import sys
from typing import Any

from absl import flags

from keras_dpvit import _files, _quiet, _validate
from keras_dpvit.baselines.federated import flower
from keras_dpvit.errors import InputError
from keras_dpvit.models.presets import preset_arguments, preset_for
from keras_dpvit.privacy import batch_sizes, statement
from keras_dpvit.privacy.accounting import auto_delta
from trainers import _cli, _flags

_STAY_HERE = ("data_dir", "output", "model_output", "seed")  # out of files that travel

PRIVACY = ("none", "client", "record")
_LEARNING_RATES = {"adam": 5e-3, "sgd": 0.5}

FLAGS = flags.FlagValues()
_flags.define_dataset_flags(FLAGS)
flags.DEFINE_string(
    "preset", None, "Size of the model (default: the one for the images' size).", flag_values=FLAGS
)
flags.DEFINE_integer("clients", 10, "Clients, who share the images.", flag_values=FLAGS)
flags.DEFINE_float(
    "alpha",
    None,
    "Skew: clients' shares of each class are drawn from a Dirichlet distribution with this "
    "parameter, the smaller the more different (default: clients are alike).",
    flag_values=FLAGS,
)
flags.DEFINE_integer("rounds", 10, "Rounds.", flag_values=FLAGS)
flags.DEFINE_integer(
    "clients_per_round",
    None,
    "Clients drawn for a round, with --privacy=client expected in it (default: all).",
    flag_values=FLAGS,
)
flags.DEFINE_float("local_epochs", 1.0, "Passes over its images that a client takes in a round.",
                   flag_values=FLAGS)  # fmt: skip
flags.DEFINE_integer("batch_size", 32, "Images in a client's step.", flag_values=FLAGS)
flags.DEFINE_enum(
    "optimizer", "adam", list(_LEARNING_RATES), "Of the clients; unused in each round.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
    "learning_rate", None, "Of the clients (default: 5e-3 for adam, 0.5 for sgd).",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
    "privacy",
    "none",
    PRIVACY,
    "none; client: DP-FedAvg, the server clips and noises updates of whole clients; record: "
    "clients clip and noise the gradients of single images.",
    flag_values=FLAGS,
)
flags.DEFINE_float("epsilon", 8.0, "The whole privacy budget; above 0.", flag_values=FLAGS)
_flags.define_delta_flag(FLAGS)
flags.DEFINE_float(
    "l2_norm_clip",
    None,
    "Bound on what is clipped (default: client follows the updates' norms by a noised count, "
    "record takes 1).",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "secure_aggregation",
    False,
    "Refused: Flower's message API, which is used here, has no SecAgg+.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "runtime",
    "simulation",
    ["simulation", "network"],
    "simulation: every client in this process. network: SuperLink, SuperNodes and clients as "
    "processes on loopback.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "timeout", 600.0, "Seconds after which a client has failed for a round.", flag_values=FLAGS
)
flags.DEFINE_string("output", None, "A .json file for the outcome.", flag_values=FLAGS)
flags.DEFINE_string("model_output", None, "A .keras file for the model.", flag_values=FLAGS)
flags.DEFINE_integer("seed", None, "Repeatable split and weights, for tests.", flag_values=FLAGS)


def _check_flags() -> None:
    """Refuses what can be refused before any data is read."""
    _flags.check_numbers(
        FLAGS,
        clients=_validate.positive_int,
        alpha=_validate.positive,
        rounds=_validate.positive_int,
        clients_per_round=_validate.positive_int,
        local_epochs=_validate.positive,
        batch_size=_validate.positive_int,
        learning_rate=_validate.positive,
        epsilon=_validate.positive,
        l2_norm_clip=_validate.clipping_norm,
        timeout=_validate.positive,
    )
    _flags.delta(FLAGS)
    if FLAGS.privacy == "none":
        for name in ("epsilon", "delta", "l2_norm_clip"):
            if FLAGS[name].present:
                raise InputError(f"{name} must be left out with --privacy=none: it has no use.")
    if (FLAGS.clients_per_round or 0) > FLAGS.clients:
        raise InputError(
            f"clients_per_round must not exceed clients={FLAGS.clients}, got "
            f"{FLAGS.clients_per_round}."
        )
    if FLAGS.preset is not None:
        preset_arguments(FLAGS.preset)
    for name, ending in (("output", ".json"), ("model_output", ".keras")):
        path = FLAGS[name].value
        if path is not None and not (path.endswith(ending) and _files.can_be_made(path)):
            raise InputError(f"{name} must be a {ending} file that can be written, got {path!r}.")
    if FLAGS.secure_aggregation:
        flower.refuse_secure_aggregation()
    flower.require()


def _privacy(num_records: int) -> dict[str, Any]:
    """The arguments of `train` that say how often, who and how privately."""
    from keras_dpvit.baselines import federated

    delta = _flags.delta(FLAGS)
    if FLAGS.privacy == "client":
        plan = federated.client_plan(
            num_clients=FLAGS.clients,
            clients_per_round=FLAGS.clients_per_round or FLAGS.clients,
            rounds=FLAGS.rounds,
            delta=auto_delta(FLAGS.clients) if delta is None else delta,
            epsilon=FLAGS.epsilon,
            l2_norm_clip=FLAGS.l2_norm_clip,
        )
        return {"client_plan": plan}
    found = {"rounds": FLAGS.rounds, "clients_per_round": FLAGS.clients_per_round}
    if FLAGS.privacy == "none":
        return found
    if delta is None:
        delta = auto_delta(batch_sizes.rounded_down(num_records))
    clip = 1.0 if FLAGS.l2_norm_clip is None else FLAGS.l2_norm_clip
    return {**found, "record_privacy": federated.RecordPrivacy(FLAGS.epsilon, delta, clip)}


def _optimizer() -> Any:
    import keras

    rate = FLAGS.learning_rate or _LEARNING_RATES[FLAGS.optimizer]
    kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    return kinds[FLAGS.optimizer](rate)


def _show(server_round: int, accuracy: float | None) -> None:
    print(f"round {server_round:4d}  accuracy on held-out images {accuracy:.4f}", flush=True)


def main() -> None:
    """Runs the training and prints what came of it."""
    _check_flags()
    data = _flags.load_dataset(FLAGS, (32, 32, 3))
    preset = FLAGS.preset or preset_for(data.image_shape)
    arguments = _privacy(len(data.x_train))
    _quiet.start_tensorflow()
    import keras

    import keras_dpvit as kd
    from keras_dpvit.baselines import federated

    if FLAGS.seed is not None:
        keras.utils.set_random_seed(FLAGS.seed)
    model = kd.DPViTClassifier.from_preset(
        preset, num_classes=len(data.class_names), image_shape=data.image_shape
    )
    rows = federated.split(data.y_train, FLAGS.clients, FLAGS.alpha, FLAGS.seed)
    print(f"{data.name}: {FLAGS.clients} clients, {preset}, privacy: {FLAGS.privacy}", flush=True)
    result = federated.train(
        model,
        [(data.x_train[own], data.y_train[own]) for own in rows],
        test_data=(data.x_test, data.y_test),
        optimizer=_optimizer(),
        batch_size=FLAGS.batch_size,
        local_epochs=FLAGS.local_epochs,
        runtime=FLAGS.runtime,
        timeout=FLAGS.timeout,
        seed=FLAGS.seed,
        progress=_show,
        **arguments,
    )
    _report(result)


def _report(result: Any) -> None:
    """Prints what came of the training, and writes it where the flags say."""
    model = result.model
    failed = [reason for reasons in result.failures for reason in reasons]
    print(f"\n{statement.headline(model.privacy_ledger, model.privacy_delta())}")
    print(
        f"{result.bytes_to_clients} bytes to clients, {result.bytes_from_clients} from them, "
        f"{result.seconds:.1f} s"
    )
    if failed:
        print(f"{len(failed)} replies of clients failed, the first: {' '.join(failed[0].split())}")
    sys.stdout.flush()
    if FLAGS.model_output is not None:
        model.save(FLAGS.model_output)
    if FLAGS.output is not None:
        _files.write_json(
            FLAGS.output,
            {
                "flags": _flags.recorded(FLAGS, _STAY_HERE),
                "accuracies": result.accuracies,
                "bytes_to_clients": result.bytes_to_clients,
                "bytes_from_clients": result.bytes_from_clients,
                "seconds": result.seconds,
                "failures": result.failures,
                **statement.to_dict(model.privacy_ledger, model.privacy_delta()),
            },
        )


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
