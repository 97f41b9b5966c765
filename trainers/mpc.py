r"""Private inference: parties compute on shares of images and weights, by SecretFlow SPU.

No party sees an image, a weight or an answer, as long as all of them follow the protocol; under
aby3, of three parties no two may pool what they have. What the model has learned about its training
data is another matter. See docs/mpc.md. Needs Linux and `pip install 'keras_dpvit[mpc]'`.

Commands (each has its own --help):
  serve    starts parties, or one of them, and deals a model to them
  predict  has pictures classified by parties, or by a simulation of them

Examples:
  python -m trainers.mpc serve --model=savedmodels/fashion_mnist/1/model.keras
  python -m trainers.mpc predict --image=docs/figures/trouser.png
  python -m trainers.mpc predict --model=model.keras --image=photos --protocol=cheetah
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet, _validate
from keras_dpvit.baselines import mpc, mpc_addresses
from keras_dpvit.baselines.mpc_runtime import PROTOCOLS
from keras_dpvit.datasets import image_files, picture_files
from keras_dpvit.errors import InputError
from trainers import _cli, _flags

PARTIES = ("127.0.0.1:9401", "127.0.0.1:9403", "127.0.0.1:9405")

SERVE = flags.FlagValues()
SERVE_TEXT = r"""
Starts the parties, deals a model to them, and serves until Ctrl-C.

All parties run here unless told otherwise. --party starts one alone, in this process; it waits for
a model. --model with --deal gives one to parties that run already, once in their life, and ends.

Examples:
  python -m trainers.mpc serve --model=savedmodels/fashion_mnist/1/model.keras
  python -m trainers.mpc serve --model=model.keras --protocol=cheetah --batch_size=1
  python -m trainers.mpc serve --party=0 --parties=127.0.0.1:9401,127.0.0.1:9403,127.0.0.1:9405
  python -m trainers.mpc serve --deal --model=model.keras
"""

PREDICT = flags.FlagValues()
PREDICT_TEXT = r"""
Has pictures classified by parties, which see shares of them, and prints the top classes of each.

What the model standardises in an image is done here, in the clear; so is putting the answer's
shares together. With --model no party is asked: they are simulated in this process.

Examples:
  python -m trainers.mpc predict --image=docs/figures/trouser.png
  python -m trainers.mpc predict --parties=127.0.0.1:9401,127.0.0.1:9403 --image=photos --json
  python -m trainers.mpc predict --model=model.keras --protocol=aby3 --image=shirt.png
"""

for _values, _batch in ((SERVE, 8), (PREDICT, 1)):
    flags.DEFINE_string(
        "model",
        None,
        "A .keras file of a DPViTClassifier or FusedClassifier; names of classes are taken from "
        "assets/class_names.txt beside it.",
        flag_values=_values,
    )
    flags.DEFINE_integer(
        "member", None, "One member of a fused model (default: all of it).", flag_values=_values
    )
    flags.DEFINE_enum(
        "protocol",
        "aby3",
        list(PROTOCOLS),
        "aby3 has three parties, cheetah and semi2k two; under semi2k the first one sees all.",
        flag_values=_values,
    )
    flags.DEFINE_integer(
        "batch_size",
        _batch,
        "Images that are computed at a time; missing ones are filled up with black.",
        flag_values=_values,
    )
    flags.DEFINE_list(
        "parties",
        None,
        "host:port of each party, in order, on this machine; each has the next port too (default: "
        f"as many of {','.join(PARTIES)} as the protocol needs).",
        flag_values=_values,
    )
flags.DEFINE_integer(
    "party", None, "Runs this party alone, from 0, in this process.", flag_values=SERVE
)
flags.DEFINE_bool(
    "deal", False, "Deals --model to parties that run already, and ends.", flag_values=SERVE
)
flags.DEFINE_multi_string("image", [], "A picture file, or a folder of them.", flag_values=PREDICT)
_flags.define_reading_flags(PREDICT)
flags.DEFINE_integer(
    "top", 3, "How many classes are printed for each picture.", flag_values=PREDICT
)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=PREDICT)


def serve() -> None:
    """Runs one party, deals a model, or does all of it here."""
    _flags.check_numbers(
        SERVE,
        batch_size=_validate.positive_int,
        member=_validate.positive_int,
        party=_validate.non_negative_int,
    )
    addresses = _addresses(SERVE)
    if SERVE.party is not None:
        _serve_one_party(addresses)
        return
    if SERVE.model is None:
        raise InputError("--model must be given, or --party for one party that waits for a model.")
    program = _program(SERVE)
    from keras_dpvit.baselines import mpc_client, mpc_local

    if SERVE.deal:
        with mpc_client.Parties(addresses) as parties:
            _check_protocol(parties.protocol)
            parties.load(program)
        print(f"The parties at {_shown(addresses)} hold the model.")
        return
    with mpc_local.LocalParties(SERVE.protocol, addresses) as started:
        with mpc_client.Parties(addresses) as parties:
            parties.load(program)
        print(f"{SERVE.protocol}: {PROTOCOLS[SERVE.protocol].protects}")
        print(f"The parties at {_shown(addresses)} hold the model (Ctrl-C ends)", flush=True)
        started.wait()


def _serve_one_party(addresses: list[mpc_addresses.Address]) -> None:
    rank = SERVE.party
    if SERVE.model is not None or SERVE.deal:
        raise InputError("--party takes no --model: its owner deals it with serve --deal.")
    if rank >= len(addresses):
        raise InputError(f"party must be 0..{len(addresses) - 1} for this protocol, got {rank}.")
    from keras_dpvit.baselines import mpc_party

    place = mpc_addresses.shown(addresses[rank])

    def listening() -> None:
        print(f"{SERVE.protocol}: {PROTOCOLS[SERVE.protocol].protects}")
        print(f"Party {rank} listens at {place} (Ctrl-C ends)", flush=True)

    try:
        mpc_party.Party(SERVE.protocol, addresses, rank).serve(listening)
    except OSError as error:
        raise InputError(f"party {rank} cannot listen at {place}: {error.strerror}.") from error


def _check_protocol(running: str) -> None:
    if running != SERVE.protocol:
        raise InputError(f"protocol must be {running}, the parties', got {SERVE.protocol!r}.")


def predict() -> None:
    """Reads the pictures, has them classified, prints."""
    if not PREDICT.image:
        raise InputError("--image must be given: a picture file, or a folder of them.")
    if PREDICT.model is not None and PREDICT.parties is not None:
        raise InputError("--parties must be left out with --model, which simulates them.")
    _flags.check_numbers(
        PREDICT,
        top=_validate.positive_int,
        batch_size=_validate.positive_int,
        member=_validate.positive_int,
    )
    paths = picture_files.picture_files(PREDICT.image, "image")
    addresses = _addresses(PREDICT)
    if PREDICT.model is not None:
        program = _program(PREDICT)
        from keras_dpvit.baselines import mpc_client

        _answer(mpc_client.SimulatedModel(program, PREDICT.protocol), PREDICT.protocol, paths)
        return
    mpc.use_jax()
    from keras_dpvit.baselines import mpc_client

    with mpc_client.Parties(addresses) as parties:
        _answer(mpc_client.PrivateModel(parties), parties.protocol, paths)


def _answer(model: Any, protocol: str, paths: list[pathlib.Path]) -> None:
    reading, about = _flags.reading(PREDICT), model.about
    images = picture_files.read_each(
        paths, lambda path: image_files.read_image(path, about.image_shape, reading=reading)
    )
    found = about.probabilities(model.predict(np.stack(images)))
    predictions: list[dict[str, Any]] = []
    for path, probabilities in zip(paths, found, strict=True):
        best = np.argsort(-probabilities, kind="stable")[: PREDICT.top]
        top = [
            {
                "class_id": int(i),
                "label": about.class_names[i],
                "probability": float(probabilities[i]),
            }
            for i in best
        ]
        predictions.append({"image": image_files.shown(path), "top": top})
    seconds = model.seconds / len(images)
    sent = [count / len(images) for count in model.sent]
    if PREDICT.json:
        costs = {"protocol": protocol, "seconds_per_image": seconds, "bytes_per_image": sent}
        print(json.dumps({"predictions": predictions, **costs}, indent=2))
        return
    width = max(len(prediction["image"]) for prediction in predictions)
    for prediction in predictions:
        ranked = ", ".join(f"{c['label']} {c['probability']:.4f}" for c in prediction["top"])
        print(f"{prediction['image']:{width}}  {ranked}")
    print(f"{protocol}: {seconds:.2f} seconds and {max(sent) / 1e6:.1f} MB from one party an image")


def _addresses(values: flags.FlagValues) -> list[mpc_addresses.Address]:
    """Of the parties, by the flags; `predict` learns the protocol from the parties themselves."""
    count = PROTOCOLS[values.protocol].num_parties
    if values.parties is None:
        return mpc_addresses.parsed(PARTIES[:count])
    return mpc_addresses.parsed(values.parties, None if values is PREDICT else count)


def _program(values: flags.FlagValues) -> Any:
    """The model of --model, cut and compiled."""
    if not pathlib.Path(values.model).is_file():
        raise InputError(f"model must be a .keras file that exists, got {values.model!r}.")
    mpc.use_jax()
    with _quiet.quiet_stderr():
        from keras_dpvit.baselines import mpc_program

        model = mpc_program.load_model(values.model, values.member)
        names = _class_names(pathlib.Path(values.model))
        return mpc_program.private_program(model, values.batch_size, names)


def _class_names(model: pathlib.Path) -> list[str] | None:
    file = model.with_name("assets") / "class_names.txt"
    return file.read_text("utf-8").splitlines() if file.is_file() else None


def _shown(addresses: list[mpc_addresses.Address]) -> str:
    return ",".join(map(mpc_addresses.shown, addresses))


COMMANDS = {
    "serve": (serve, SERVE, SERVE_TEXT),
    "predict": (predict, PREDICT, PREDICT_TEXT),
}


def run(argv: list[str] | None = None) -> None:
    """Runs the command that the first argument names (default: the command line's arguments)."""
    _cli.run_command(COMMANDS, __doc__, argv)


if __name__ == "__main__":
    run()
