"""TFLite for edge devices."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_dpvit import _files, _validate
from keras_dpvit._files import CARD_NAME
from keras_dpvit.edge.attachments import PROVENANCE, attach
from keras_dpvit.errors import InputError
from keras_dpvit.export import assets
from keras_dpvit.export.calibration import extreme_images
from keras_dpvit.export.card import privacy_card, warn_if_unprotected
from keras_dpvit.export.quantization import QUANTIZATIONS, count_ops, flatbuffer_of
from keras_dpvit.export.served_model import ServedModel
from keras_dpvit.export.tflite_metadata import Description, with_metadata
from keras_dpvit.privacy import statement

OUTPUTS = ("all", "probabilities")


def tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    quantize: str | None = None,
    calibration: Any = None,
    class_names: Sequence[str] | None = None,
    noise_at_inference: bool | None = None,
    card: dict[str, Any] | None = None,
    outputs: str = "all",
    batch_size: int | None = 1,
) -> None:
    """Writes a TFLite file, usually for one image at a time.

    Input `images`, `(batch_size, height, width, channels)`, pixels 0..255: float32, or uint8 for
    `quantize="int8"`. Outputs "probabilities" float32, "class_id" int32 and, for a fused model,
    "weights" and "member_probabilities", by signature `serving_default`. Class names, provenance
    and privacy card are attached (`edge.attachments`), and TFLite's own metadata name them. A file
    of the same name is replaced whole.

    | quantize | weights | arithmetic |
    |---|---|---|
    | None | float32, or less where that holds the same numbers (`exact_constants`) | float32 |
    | "float16" | float16 | float32 |
    | "dynamic" | int8 | float32; matrix products in int8 with ranges found at run time |
    | "int8" | int8 | int8, but for what `export.quantization` lists |

    Privacy: for "int8" the least and greatest value of every activation over the calibration
    images is written into the file. Of private images these numbers would be a release that no
    noise covers and no ledger counts. `calibration` must therefore be **public or synthetic**
    images, never records that were trained on: `export.synthetic_images` makes some. Everything
    else here is post-processing of the weights and costs nothing.

    Args:
        model: a `FusedClassifier` or a classifier that returns logits.
        path: the file.
        quantize: None, "float16", "dynamic" or "int8".
        calibration: for "int8" alone: public or synthetic images, array
            `(n, height, width, channels)`, pixels 0..255. A hundred to a few hundred will do. Four
            images half black, half white are added (`calibration.extreme_images`).
        class_names: names in the order of the classes; None numbers them.
        noise_at_inference: bool, whether the layers' noise is drawn, anew on every image. None
            leaves it to the model, which by default is silent outside training. "int8" keeps
            noise of attention alone.
        card: the privacy card; None makes one if the model has a privacy ledger.
        outputs: "all", or "probabilities" for classifier APIs, which want one output.
        batch_size: int, images that the file takes at a time, or None for any number: the first
            dimension is then dynamic, 1 until a program calls `resize_tensor_input`. Phones' and
            browsers' classifier APIs want 1.

    Raises:
        InputError: on arguments that do not fit the model or each other, or if the place cannot be
            written.
    """
    _validate.one_of(OUTPUTS, outputs=outputs)
    if batch_size is not None:
        _validate.positive_int(batch_size=batch_size)
    served = ServedModel(model, class_names, noise_at_inference)
    warn_if_unprotected(model)
    if card is None and hasattr(model, "privacy_ledger"):
        card = privacy_card(model)
    flatbuffer = convert(served, quantize, calibration, outputs, batch_size)
    flatbuffer = with_metadata(flatbuffer, _description(served, card))
    files = _attachments(model, served, quantize, card, flatbuffer)
    files[PROVENANCE]["batch_size"] = batch_size
    labels = [str(name) for name in served.class_names]
    _files.write_whole(path, attach(flatbuffer, labels, files))


def _attachments(
    model: Any,
    served: ServedModel,
    quantize: str | None,
    card: dict[str, Any] | None,
    flatbuffer: bytes,
) -> dict[str, Any]:
    """Provenance and privacy card by file name."""
    provenance = {
        **assets.provenance(model),
        "quantize": quantize,
        "noise_at_inference": served.draws_noise,
        "ops": count_ops(flatbuffer),
    }
    files: dict[str, Any] = {PROVENANCE: provenance}
    if card is not None:
        files[CARD_NAME] = _files.jsonable(card, nan_as_none=False)
    return files


def convert(
    served: ServedModel,
    quantize: str | None = None,
    calibration: Any = None,
    outputs: str = "all",
    batch_size: int | None = 1,
) -> bytes:
    """The bare flatbuffer of a served model, without metadata; see `tflite`.

    Raises:
        InputError: on arguments that do not fit the model or each other.
    """
    if quantize is not None:
        _validate.one_of(QUANTIZATIONS, quantize=quantize)
    if quantize == "int8":
        images = _checked_calibration(calibration, served.image_shape)
        if not served.noise_has_range:
            raise InputError(
                'quantize="int8" cannot keep the noise of normalisation layers at inference: it '
                "divides by a noised deviation, and one number near zero while the ranges are "
                'measured would spoil the file. Take quantize="dynamic", or '
                "noise_at_inference=False."
            )
        return flatbuffer_of(served, quantize, images, outputs, batch_size)
    if calibration is not None:
        raise InputError(f'calibration is for quantize="int8" alone, got {quantize!r}.')
    return flatbuffer_of(served, quantize, outputs=outputs, batch_size=batch_size)


def _checked_calibration(calibration: Any, image_shape: tuple[int, int, int]) -> np.ndarray:
    if calibration is None:
        raise InputError(
            'quantize="int8" needs calibration images that are public or synthetic (the ranges of '
            "activations are written into the file, and of private images that is a release "
            "outside epsilon): pass public ones or export.synthetic_images(image_shape)."
        )
    images = np.asarray(calibration)
    expected = "x".join(str(side) for side in image_shape)
    if images.ndim != 4 or images.shape[1:] != image_shape or not len(images):
        raise InputError(
            f"calibration must be images of {expected} (the model's input), at least one, got an "
            f"array of shape {images.shape}."
        )
    if not np.issubdtype(images.dtype, np.number) or not np.isfinite(images).all():
        raise InputError("calibration must have finite pixels.")
    if images.min() < 0 or images.max() > 255:
        raise InputError(
            f"calibration must have pixels in 0..255, got {images.min():g}..{images.max():g}."
        )
    return np.concatenate([extreme_images(image_shape).astype(images.dtype), images])


def _description(served: ServedModel, card: dict[str, Any] | None) -> Description:
    kind = "Fused image classifier" if served.is_fused else "Image classifier"
    text = f"{kind} of {len(served.class_names)} classes. "
    if card is None:
        text += "Privacy: no claim is made."
    else:
        bounds = ", ".join(
            f"{statement.format_epsilon(value)} by {name.upper()}"
            for name, value in _files.from_jsonable(card["epsilon"]).items()
        )
        text += (
            f"Privacy: epsilon {bounds} at delta {card['delta']:g}, {card['adjacency']}; see "
            f"{CARD_NAME} in this file."
        )
    if served.draws_noise:
        text += " Draws noise at inference: two runs on one image differ."
    return Description("keras_dpvit", text, served.image_shape)
