"""Private inference in a process of its own, under Keras' JAX backend; see `mpc`."""

import json
import pathlib
import sys
from typing import Any

import numpy as np

from keras_dpvit._types import Array
from keras_dpvit.baselines import child_processes, mpc_runtime
from keras_dpvit.errors import InputError

# Files in the folder that parent and worker share.
IMAGES, ANSWER, ERROR = "images.npy", "answer.npz", "error.txt"

_PLAIN_BATCH = 250


def infer(settings: dict[str, Any], images: Array) -> dict[str, Any]:
    """Outputs of the private and of the plain model, time and bytes, as arrays by name."""
    mpc_runtime.libspu()  # before Keras, which would miss JAX in its own words
    import keras

    from keras_dpvit.baselines import mpc_client, mpc_local, mpc_program

    model = mpc_program.load_model(settings["model"], settings["member"])
    images = mpc_client.checked_images(images, model.input_shape[1:])
    parts = [images[i : i + _PLAIN_BATCH] for i in range(0, len(images), _PLAIN_BATCH)]
    plain = [model(part, training=False) for part in parts]
    plain = [p["probabilities"] if isinstance(p, dict) else p for p in plain]
    found = {"plain": np.concatenate([keras.ops.convert_to_numpy(p) for p in plain])}
    program = mpc_program.private_program(model, min(settings["batch_size"], len(images)))
    if not settings["processes"]:
        return found | _run(mpc_client.SimulatedModel(program, settings["protocol"]), images)
    with (
        mpc_local.LocalParties(settings["protocol"]) as started,
        mpc_client.Parties(started.addresses) as parties,
    ):
        parties.load(program)
        return found | _run(mpc_client.PrivateModel(parties), images)


def _run(private: Any, images: Array) -> dict[str, Any]:
    outputs = private.predict(images)
    about = private.about
    return {
        "outputs": outputs,
        "seconds": private.seconds,
        "sent": private.sent,
        "output": about.output,
    }


def main() -> None:
    """Reads the request that `mpc.private_inference` wrote, and writes the answer."""
    child_processes.end_with_parent(int(sys.argv[1]))
    settings, folder = json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
    try:
        answer = infer(settings, np.load(folder / IMAGES))
    except InputError as error:
        (folder / ERROR).write_text(str(error), "utf-8")
        sys.exit(2)
    np.savez(folder / ANSWER, **answer)


if __name__ == "__main__":
    main()
