"""Checks of an exported SavedModel, and of TFLite and Keras files beside it, by running them."""

import dataclasses
import io
import pathlib
from typing import Any

import numpy as np

from keras_dpvit._files import CARD_NAME
from keras_dpvit.errors import InputError
from keras_dpvit.export import assets, signatures, warmup
from keras_dpvit.export.calibration import synthetic_images
from keras_dpvit.export.card import contradictions, is_ledger_of
from keras_dpvit.export.files import read_json
from keras_dpvit.export.runners import SavedModelRunner, TFLiteRunner

NUM_IMAGES = 64

# How far two ways to the same probabilities may lie apart: rounding of float32.
_TOLERANCE = 1e-5
# A picture's pixels, decoded by TensorFlow and by Pillow, differ by one gray level at most.
_PICTURE_TOLERANCE = 0.02
_TFLITE_TOLERANCE = 1e-4
# Quantised weights and activations move probabilities; where the best class leads by this much
# it has to stay the best in this share of the given pictures. Noise and made-up pictures lie
# outside the ranges that a file was calibrated for: they show a broken file, not a coarse one.
_CLEAR_LEAD = 0.1
_TOP_1_AGREEMENT = 0.97
_TOP_1_AGREEMENT_MADE_UP = 0.75


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: str.
        passed: bool, or None if it could not be made.
        detail: str, a few words.
    """

    name: str
    passed: bool | None
    detail: str


class Verification:
    """Checks of one SavedModel.

    Args:
        directory: a version directory, or a base whose newest version is taken.
        pictures: files as bytes, upright, with their pixels as the model was trained on them:
            pairs (bytes, uint8 array of the model's shape).

    Raises:
        InputError: if the directory holds no SavedModel of this package.
    """

    def __init__(self, directory: Any, pictures: list[tuple[bytes, np.ndarray]] | None = None):
        self._runner = SavedModelRunner(directory)
        self._directory = pathlib.Path(self._runner.directory)
        self._pictures = pictures or []
        shape = self._runner.image_shape
        random = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES // 2, *shape))
        given = [random.astype("uint8"), synthetic_images(shape, NUM_IMAGES // 2)]
        # Noise, made-up pictures, the given ones.
        self._images = np.concatenate(given + [pixels[None] for _, pixels in self._pictures])
        self._outputs = self._runner.predict(self._images)
        again = self._runner.predict(self._images)["probabilities"]
        self.draws_noise = bool(np.any(again != self._outputs["probabilities"]))
        self._is_fused = "weights" in self._outputs

    def all_checks(self) -> list[Check]:
        """Every check of the SavedModel itself."""
        checks = [self._signatures(), self._finite(), self._labels(), self._noise()]
        if not all(check.passed for check in checks[:1]):
            return [*checks, self._warmup(), *self._card(), self._files()]
        checks += [self._uint8(), self._bytes(), self._members()]
        if self._pictures:
            checks.append(self._given_pictures())
        return [*checks, self._warmup(), *self._card(), self._files()]

    def keras_check(self, model: Any) -> list[Check]:
        """Parity with the Keras model, whose ledger the card has to have.

        Raises:
            InputError: if the model takes or returns other shapes.
        """
        classes = self._outputs["probabilities"].shape[-1]
        if tuple(model.input_shape[1:]) != self._runner.image_shape:
            raise InputError("keras must be the model of the SavedModel: it takes other images.")
        if model.output_shape[-1] != classes:
            raise InputError("keras must be the model of the SavedModel: it has other classes.")
        checks = []
        if self.draws_noise:
            checks.append(Check("keras", None, "the export draws noise at inference"))
        else:
            found = model.predict(self._images.astype("float32"), batch_size=64, verbose=0)
            expected = found["probabilities"] if isinstance(found, dict) else _softmax(found)
            checks.append(self._parity("keras", expected))
        if hasattr(model, "privacy_ledger"):
            card = self._read_card()
            same = card is not None and is_ledger_of(card, model.privacy_ledger)
            detail = "the card's" if same else "the card has another ledger"
            checks.append(Check("keras ledger", same, detail))
        return checks

    def tflite_check(self, runner: TFLiteRunner) -> Check:
        """Agreement with a TFLite file: equal numbers if it is float32, else the same classes.

        Raises:
            InputError: if the file is for other images.
        """
        if runner.image_shape != self._runner.image_shape:
            sizes = "x".join(map(str, runner.image_shape))
            raise InputError(f"tflite must be of the same model: it takes images of {sizes}.")
        classes = range(self._outputs["probabilities"].shape[-1])
        names = self._runner.class_names(len(classes))
        if [runner.label(i) for i in classes] != names:
            return Check("tflite", False, "its class names are others")
        if self.draws_noise or runner.provenance.get("noise_at_inference"):
            return Check("tflite", None, "an export draws noise at inference")
        found = runner.predict(self._images)["probabilities"]
        if runner.provenance.get("quantize", "unknown") is None:
            return self._parity("tflite", found, tolerance=_TFLITE_TOLERANCE)
        return self._same_classes(found)

    def _same_classes(self, found: np.ndarray) -> Check:
        ours = self._outputs["probabilities"]
        if found.shape != ours.shape or not np.isfinite(found).all():
            return Check("tflite", False, f"probabilities of shape {found.shape}, or not finite")
        ranked = np.sort(ours, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > _CLEAR_LEAD
        same = ours.argmax(axis=1) == found.argmax(axis=1)
        is_given = np.arange(len(ours)) >= NUM_IMAGES
        passed, details = True, []
        for rows, what, least in (
            (clear & ~is_given, "made-up pictures", _TOP_1_AGREEMENT_MADE_UP),
            (clear & is_given, "given pictures", _TOP_1_AGREEMENT),
        ):
            number = int(rows.sum())
            passed = passed and bool(same[rows].sum() >= least * number)
            if number:
                details.append(f"{same[rows].sum()} of {number} {what}")
        words = f"same class in {', '.join(details)} with a clear lead"
        if not self._pictures:
            words += "; real ones by --images=FOLDER are a sharper test"
        return Check("tflite", passed, words)

    def _signatures(self) -> Check:
        expected = signatures.expected_signatures(self._is_fused, self._runner.image_shape[-1])
        for name, outputs in expected.items():
            problem = self._signature_problem(name, outputs)
            if problem:
                return Check("signatures", False, f"{name}: {problem}")
        return Check("signatures", True, f"{len(expected)} with the dtypes they should have")

    def _signature_problem(self, name: str, outputs: dict[str, str]) -> str | None:
        if name not in self._runner.signatures:
            return "missing"
        found = self._runner.signatures[name]
        _, inputs = found.structured_input_signature
        given = {key: spec.dtype.name for key, spec in inputs.items()}
        input_name, dtype = signatures.INPUTS[name]
        if given != {input_name: dtype}:
            return f"takes {given}"
        returned = {key: spec.dtype.name for key, spec in found.structured_outputs.items()}
        return None if returned == outputs else f"returns {returned}"

    def _finite(self) -> Check:
        probabilities = self._outputs["probabilities"]
        rows = {"probabilities": probabilities}
        if self._is_fused:
            rows["weights"] = self._outputs["weights"]
        for name, values in rows.items():
            if not np.isfinite(values).all():
                return Check("outputs", False, f"{name} are not finite")
            if values.min() < 0 or np.abs(values.sum(axis=1) - 1).max() > _TOLERANCE:
                return Check("outputs", False, f"{name} do not sum to 1 or are negative")
        if not np.array_equal(self._outputs["class_id"], probabilities.argmax(axis=1)):
            return Check("outputs", False, "class_id is not the most probable class")
        return Check("outputs", True, f"finite and normalised on {len(probabilities)} images")

    def _labels(self) -> Check:
        try:
            names = assets.read_class_names(self._directory)
        except InputError:
            return Check("labels", False, f"{assets.CLASS_NAMES_FILE} is missing")
        if names != self._runner.class_names(self._outputs["probabilities"].shape[-1]):
            return Check("labels", False, f"{assets.CLASS_NAMES_FILE} and class_names differ")
        labels = [label.decode() for label in self._outputs["label"]]
        if labels != [names[i] for i in self._outputs["class_id"]]:
            return Check("labels", False, "label is not the name of class_id")
        return Check("labels", True, f"{len(names)} class names")

    def _noise(self) -> Check:
        try:
            said = read_json(self._directory / assets.PROVENANCE_FILE)["noise_at_inference"]
        except (InputError, KeyError):
            return Check("noise", False, f"{assets.PROVENANCE_FILE} does not say")
        found = "drawn on every call" if self.draws_noise else "none at inference"
        return Check("noise", said == self.draws_noise, found)

    def _uint8(self) -> Check:
        outputs = self._runner.call(signatures.UINT8, self._images)
        return self._parity(signatures.UINT8, outputs["probabilities"])

    def _bytes(self) -> Check:
        if signatures.BYTES not in self._runner.signatures:
            return Check(signatures.BYTES, None, "no picture has as many channels")
        files = [_png(image) for image in self._images]
        outputs = self._runner.predict_files(files)
        return self._parity(signatures.BYTES, outputs["probabilities"])

    def _members(self) -> Check:
        if not self._is_fused:
            return Check(signatures.MEMBERS, None, "a single model")
        outputs = self._runner.call(signatures.MEMBERS, self._images)
        each, weights = outputs["member_probabilities"], outputs["weights"]
        variances = each.var(axis=2, dtype="float64")  # eq 14-16
        total = variances.sum(axis=1, keepdims=True)
        expected = np.where(total > 1e-12, variances / np.maximum(total, 1e-30), 1 / each.shape[1])
        if np.abs(weights - expected).max() > 1e-4:
            return Check(signatures.MEMBERS, False, "weights are not those of eq 16")
        fused = (weights[:, :, None] * each).sum(axis=1)
        return self._parity(signatures.MEMBERS, fused)

    def _given_pictures(self) -> Check:
        files = [content for content, _ in self._pictures]
        found = self._runner.predict_files(files)["probabilities"]
        ours = self._outputs["probabilities"][-len(files) :]
        return self._parity("given pictures", found, ours, _PICTURE_TOLERANCE)

    def _parity(
        self, name: str, found: np.ndarray, ours: Any = None, tolerance: float = _TOLERANCE
    ) -> Check:
        if self.draws_noise:
            return Check(name, None, "the export draws noise at inference")
        ours = self._outputs["probabilities"] if ours is None else ours
        if found.shape != ours.shape:
            return Check(name, False, f"probabilities of shape {found.shape}")
        difference = float(np.abs(found - ours).max())
        detail = f"{len(found)} images, probabilities within {difference:.1e}"
        return Check(name, bool(difference <= tolerance), detail)

    def _warmup(self) -> Check:
        path = self._directory / assets.WARMUP_FILE
        if not path.is_file():
            return Check("warm-up", None, "no requests in the export")
        if not warmup.is_available():
            return Check("warm-up", None, "tensorflow-serving-api is not installed")
        try:
            requests = warmup.read_warmup(path)
            played = {self._play(request) for request in requests}
        except InputError as error:
            return Check("warm-up", False, str(error))
        missing = sorted(set(signatures.INPUTS) & set(self._runner.signatures) - played)
        if missing:
            return Check("warm-up", False, f"no request for {', '.join(missing)}")
        return Check("warm-up", True, f"{len(requests)} requests replayed")

    def _play(self, request: Any) -> str:
        import tensorflow as tf

        name = request.model_spec.signature_name
        expected = [signatures.INPUTS[name][0]] if name in signatures.INPUTS else None
        if list(request.inputs) != expected:
            raise InputError(f"a request for {name!r} has inputs {list(request.inputs)}.")
        outputs = self._runner.call(name, tf.make_ndarray(request.inputs[expected[0]]))
        for key, values in outputs.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise InputError(f"{name} answers {key} that are not finite.")
        return str(name)

    def _card(self) -> list[Check]:
        card = self._read_card()
        if card is None:
            return [Check("privacy card", False, f"{assets.CARD_FILE} is missing or not JSON")]
        wrong = contradictions(card)
        if wrong:
            detail = f"{', '.join(wrong)}: not what the ledger gives"
            return [Check("privacy card", False, detail)]
        beside = self._directory / CARD_NAME  # as trainers.train writes it
        if beside.is_file() and beside.read_bytes() != self._card_path().read_bytes():
            return [Check("privacy card", False, f"{CARD_NAME} and {assets.CARD_FILE} differ")]
        epsilon = ", ".join(f"{name.upper()} {_short(x)}" for name, x in card["epsilon"].items())
        detail = f"epsilon {epsilon} at delta {card['delta']:g}, worked out again"
        return [Check("privacy card", True, detail if card["mechanism"] else "claims nothing")]

    def _card_path(self) -> pathlib.Path:
        return self._directory / assets.CARD_FILE

    def _read_card(self) -> dict[str, Any] | None:
        try:
            return read_json(self._card_path())
        except InputError:
            return None

    def _files(self) -> Check:
        try:
            recorded = read_json(self._directory / assets.PROVENANCE_FILE)["sha256"]
        except (InputError, KeyError):
            return Check("files", False, f"{assets.PROVENANCE_FILE} has no digests")
        found = assets.file_digests(self._directory)
        changed = sorted(name for name in recorded if found.get(name) != recorded[name])
        if changed:
            return Check("files", False, f"changed since the export: {', '.join(changed)}")
        return Check("files", True, f"{len(recorded)} unchanged since the export")


def _png(image: np.ndarray) -> bytes:
    import PIL.Image

    written = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(written, "PNG")
    return written.getvalue()


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    found: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return found


def _short(epsilon: Any) -> str:
    return str(epsilon) if isinstance(epsilon, str) else f"{epsilon:.4g}"
