"""Runs TFLite files and SavedModels in OpenVINO; runs in the engines' environment.

Usage: python benchmarks/side_openvino.py FILES IMAGES.npy ANSWERS.npz CLASSES

FILES is a JSON object, name to path. IMAGES are uint8 `(n, height, width, channels)`. ANSWERS gets
the probabilities `(n, CLASSES)` of each, by name.
"""

import json
import sys
from typing import Any

import numpy as np
import openvino

# By default OpenVINO computes in half precision where the processor can, and rounds to int8 what
# meets a constant kept as int8; each moves probabilities by a hundredth.
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def probabilities(core: Any, path: str, images: np.ndarray, classes: int) -> np.ndarray:
    """The answers of one model, float32 `(n, classes)`."""
    compiled = core.compile_model(core.read_model(path), "CPU", CONFIG)
    given = compiled.inputs[0]
    # OpenVINO gives the outputs of a TFLite file names of their tensors, which say nothing.
    fit = [
        output
        for output in compiled.outputs
        if output.get_element_type() == openvino.Type.f32
        and len(output.partial_shape) == 2
        and output.partial_shape[1] == classes
    ]
    assert len(fit) == 1, compiled.outputs
    pixels = images.astype(given.get_element_type().to_dtype())
    step = len(images) if given.partial_shape[0].is_dynamic else 1
    parts = [compiled(pixels[i : i + step])[fit[0]] for i in range(0, len(images), step)]
    return np.concatenate(parts)


def main(files: str, images_file: str, answers_file: str, classes: str) -> None:
    """Writes the answers, and prints the version as JSON."""
    core, images = openvino.Core(), np.load(images_file)
    answers = {
        name: probabilities(core, path, images, int(classes))
        for name, path in json.loads(files).items()
    }
    np.savez(answers_file, **answers)
    print(json.dumps({"openvino": openvino.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
