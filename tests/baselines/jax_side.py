"""Computes in one process, with Keras on JAX, what `test_mpc_program.py` looks at; prints JSON."""

import json
import sys

import numpy as np

from keras_dpvit.baselines import mpc

if __name__ == "__main__":
    mpc.use_jax()

import keras

from benchmarks.mpc import function_errors
from keras_dpvit.baselines import mpc_program, mpc_trace
from keras_dpvit.baselines.mpc_client import SimulatedModel
from keras_dpvit.baselines.mpc_images import image_function
from keras_dpvit.errors import InputError
from keras_dpvit.models.classifier import DPViTClassifier


def compared(model, program, protocol, images):
    """Private and plain outputs, and bytes sent by each party."""
    private = SimulatedModel(program, protocol)
    found, plain = private.predict(images), model(images)
    plain = plain["probabilities"] if isinstance(plain, dict) else plain
    return {"private": found.tolist(), "plain": np.asarray(plain).tolist(), "sent": private.sent}


def models_by_protocol(path, images):
    fused, member = mpc_program.load_model(path), mpc_program.load_model(path, member=1)
    program = mpc_program.private_program(member, batch_size=4)
    alone = mpc_program.private_program(member, batch_size=1)
    return {
        "about": [*program.about.image_shape, program.about.output],
        "aby3": compared(member, program, "aby3", images),
        "semi2k": compared(member, program, "semi2k", images[:4]),
        "cheetah": compared(member, alone, "cheetah", images[:1]),
        "fused": compared(fused, mpc_program.private_program(fused, 4), "aby3", images[:4]),
    }


def what_others_see(path):
    """Equal public parts for other weights; and of a model whose weights are not its variables."""
    model = mpc_program.load_model(path, member=1)
    function, values = mpc_program.stateless(model)
    programs = []
    for step in (0.0, 1.0):  # a loop, because traces note the line that they were made at
        for variable in model.trainable_variables:
            variable.assign(variable + step)
        programs.append(mpc_program.private_program(model, 2))
    before, after = programs
    images = np.zeros((2, 8, 8, 1), "float32")
    leaky = [
        mpc_trace.cut(lambda own, x, v=v: function(v, x) + own[0].sum(), values[:1], images)
        for v in (values, [value + 1 for value in values])
    ]
    return {
        "image_part": before.image_part == after.image_part,
        "executable": before.executable == after.executable,
        "leaky_image_part": leaky[0][0] == leaky[1][0],
        "shared_of_images": [list(x.shape) for x in image_function(before.image_part)(images)],
        "pixels_standardised": float(
            np.mean(image_function(before.image_part)(np.arange(128.0).reshape(2, 8, 8, 1))[0])
        ),
    }


def whitened_errors():
    """Of a head with strengths too small for fixed point; with them in the directions, and not."""
    model = DPViTClassifier.from_preset("dpvit_tiny_8", 3, head="whitened", whitening_rank=8)
    generator = np.random.default_rng(0)
    (layer,) = [x for x in model.layers if x.name.startswith("whitened")]
    width = layer.mean.shape[0]
    directions = np.linalg.qr(generator.normal(size=(width, 8)))[0]
    scales = np.abs(directions).max(axis=0) / 127
    layer.take(
        np.zeros(width), np.round(directions / scales).astype("int8"), scales, 10.0 ** -np.arange(8)
    )
    model.get_layer("logits").kernel.assign(
        generator.normal(size=model.get_layer("logits").kernel.shape) * 5
    )
    images = generator.uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    found = [compared(model, mpc_program.private_program(model, 2), "aby3", images)]
    stand_in, mpc_program._taken_away = mpc_program._taken_away, type(layer).taken_away
    found.append(compared(model, mpc_program.private_program(model, 2), "aby3", images))
    mpc_program._taken_away = stand_in
    return [np.abs(np.subtract(x["private"], x["plain"])).max() for x in found]


def refusals(path, folder):
    foreign = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    foreign.save(f"{folder}/foreign.keras")
    with open(f"{folder}/broken.keras", "w") as file:
        file.write("no archive")
    noisy = DPViTClassifier.from_preset(
        "dpvit_tiny_8", 3, attention_noise_stddev=0.1, noise_at_inference=True
    )
    member = mpc_program.load_model(path, member=1)
    jobs = {
        "foreign": lambda: mpc_program.load_model(f"{folder}/foreign.keras"),
        "broken": lambda: mpc_program.load_model(f"{folder}/broken.keras"),
        "absent": lambda: mpc_program.load_model(f"{folder}/absent.keras"),
        "member": lambda: mpc_program.load_model(path, member=3),
        "noisy": lambda: mpc_program.private_program(noisy, 1),
        "names": lambda: mpc_program.private_program(member, 1, ["one", "two"]),
    }
    found = {}
    for name, job in jobs.items():
        try:
            job()
            found[name] = "nothing was refused"
        except InputError as error:
            found[name] = str(error)
    return found


if __name__ == "__main__":
    path, images, folder = sys.argv[1], np.load(sys.argv[2]), sys.argv[3]
    print(
        json.dumps(
            {
                "protocols": models_by_protocol(path, images),
                "public": what_others_see(path),
                "whitened": list(map(float, whitened_errors())),
                "refusals": refusals(path, folder),
                "functions": function_errors("aby3", 20),
                "coarse_functions": function_errors("aby3", 8),
            }
        )
    )
