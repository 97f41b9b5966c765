"""The signatures of a SavedModel: what a server answers, and to what input."""

from typing import Any

import tensorflow as tf

from keras_dpvit.export.decoding import decode_and_resize
from keras_dpvit.export.served_model import ServedModel

DEFAULT = "serving_default"
UINT8 = "serving_uint8"
BYTES = "serving_bytes"
MEMBERS = "member_probabilities"
CLASS_NAMES = "class_names"

# Input name and dtype of each; `class_names` aside, the first dimension is the batch.
INPUTS = {
    DEFAULT: ("images", "float32"),
    UINT8: ("images", "uint8"),
    BYTES: ("image_bytes", "string"),
    MEMBERS: ("images", "float32"),
    CLASS_NAMES: ("class_id", "int64"),
}
_ANSWER = {"probabilities": "float32", "class_id": "int64", "label": "string"}


def expected_signatures(is_fused: bool, channels: int) -> dict[str, dict[str, str]]:
    """Output names and dtypes of each signature that an export has.

    Args:
        is_fused: bool; a single model has neither weights nor `member_probabilities`.
        channels: int; picture files are gray or RGB, so other models have no `serving_bytes`.
    """
    answer = {**_ANSWER, "weights": "float32"} if is_fused else _ANSWER
    found = {DEFAULT: answer, UINT8: answer, CLASS_NAMES: {"class_name": "string"}}
    if channels in (1, 3):
        found[BYTES] = answer
    if is_fused:
        found[MEMBERS] = {"member_probabilities": "float32", "weights": "float32"}
    return found


def make_signatures(served: ServedModel) -> dict[str, Any]:
    """Concrete functions by signature name.

    All run one traced function, so that the network is in the file once:

    * `serving_default`: "images" float32 `(batch, height, width, channels)`, 0..255, to
      "probabilities", "class_id", "label" and, for a fused model, "weights" of eq 16.
    * `serving_uint8`: the same of uint8 images, a quarter of the bytes.
    * `serving_bytes`: the same of "image_bytes" `(batch,)`, JPEG or PNG files.
    * `member_probabilities`: of "images" as in `serving_default`, "member_probabilities"
      `(batch, members, classes)` and "weights".
    * `class_names`: "class_name" of "class_id" `(n,)`.
    """
    shape = served.image_shape
    everything = served.predict_function(batch_size=None)
    expected = expected_signatures(served.is_fused, shape[-1])

    def answer(images: Any, name: str) -> dict[str, Any]:
        outputs = everything(images)
        return {key: outputs[key] for key in expected[name]}

    batch = (None, *shape)
    functions: dict[str, tuple[Any, tuple[Any, ...], Any]] = {
        DEFAULT: (lambda images: answer(images, DEFAULT), batch, tf.float32),
        UINT8: (lambda images: answer(tf.cast(images, tf.float32), UINT8), batch, tf.uint8),
        BYTES: (
            lambda image_bytes: answer(decode_and_resize(image_bytes, shape), BYTES),
            (None,),
            tf.string,
        ),
        MEMBERS: (lambda images: answer(images, MEMBERS), batch, tf.float32),
        CLASS_NAMES: (
            lambda class_id: {"class_name": tf.gather(tf.constant(served.class_names), class_id)},
            (None,),
            tf.int64,
        ),
    }
    traced = {}
    for name in expected:
        function, spec, dtype = functions[name]
        given = tf.TensorSpec(spec, dtype, name=INPUTS[name][0])
        traced[name] = tf.function(function, autograph=False).get_concrete_function(given)
    return traced
