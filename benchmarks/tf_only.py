"""Runs a SavedModel with TensorFlow alone: imports of Keras and of this package fail.

Usage: python benchmarks/tf_only.py DIRECTORY IMAGES.npy ANSWERS.npz

IMAGES are uint8. ANSWERS gets the outputs of `serving_default` by their names, and those of the
other signatures as SIGNATURE/NAME; `serving_bytes` is given the images as PNG.
"""

import sys
from typing import Any

HIDDEN = ("keras", "tf_keras", "keras_dpvit")


class Hiding:
    """An import finder without the hidden packages; TensorFlow imports Keras where it can."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As the finder's own."""
        if name.partition(".")[0] in HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)


def main(directory: str, images_file: str, answers_file: str) -> None:
    """Writes the answers of every signature."""
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    import numpy as np
    import tensorflow as tf

    signatures = tf.saved_model.load(directory).signatures
    images = np.load(images_file)
    files = [tf.io.encode_png(image).numpy() for image in images]
    given = {
        "serving_default": {"images": images.astype("float32")},
        "serving_uint8": {"images": images},
        "serving_bytes": {"image_bytes": np.array(files, object)},
        "member_probabilities": {"images": images.astype("float32")},
    }
    answers = {}
    for name in given:
        if name not in signatures:
            continue
        inputs = {key: tf.constant(value) for key, value in given[name].items()}
        for key, value in signatures[name](**inputs).items():
            array = value.numpy()
            full = key if name == "serving_default" else f"{name}/{key}"
            answers[full] = array.astype("U") if array.dtype == object else array
    classes = np.arange(answers["probabilities"].shape[1])
    names = signatures["class_names"](class_id=tf.constant(classes))["class_name"]
    answers["class_names"] = names.numpy().astype("U")
    np.savez(answers_file, **answers)
    assert not [name for name in sys.modules if name.partition(".")[0] in HIDDEN]
    print(f"{', '.join(sorted(signatures))} without {', '.join(HIDDEN)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
