"""Exporting a trained model, loading the exports again, and the table that compares them."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dpvit import _quiet, export
from keras_dpvit._files import CARD_NAME, KERAS_NAME, RUN_NAME, TFLITE_NAME, new_directory
from keras_dpvit._types import Array
from keras_dpvit.datasets import ImageData
from keras_dpvit.export import warmup
from keras_dpvit.export.files import next_version
from keras_dpvit.export.runners import SavedModelRunner, TFLiteRunner
from keras_dpvit.export.saved_model import write_saved_model
from keras_dpvit.export.served_model import ServedModel
from keras_dpvit.models.fused import FusedClassifier
from keras_dpvit.privacy import statement
from keras_dpvit.runs.model_files import save_compressed


@dataclasses.dataclass
class Result:
    """The results of a run.

    Attributes:
        directory: the version directory.
        accuracies: name to accuracy on the held-out images.
        card: the privacy card.
        headline: the privacy statement in short.
    """

    directory: pathlib.Path
    accuracies: dict[str, float]
    card: dict[str, Any]
    headline: str

    def table(self) -> str:
        """Accuracies, epsilon and where the files are."""
        rows = [(f"accuracy, {name}", f"{value:.4f}") for name, value in self.accuracies.items()]
        rows += [
            (
                f"epsilon at delta {self.card['delta']:g}, {name.upper()}",
                statement.format_epsilon(value),
            )
            for name, value in self.card["epsilon"].items()
        ]
        rows += [
            ("SavedModel", str(self.directory)),
            ("TFLite", str(self.directory / TFLITE_NAME)),
            ("privacy card", str(self.directory / CARD_NAME)),
            ("Keras model", str(self.directory / KERAS_NAME)),
        ]
        width = max(len(name) for name, _ in rows)
        line = "-" * (width + 2 + max(len(value) for _, value in rows))
        return "\n".join([line, *(f"{name:{width}}  {value}" for name, value in rows), line])


def export_and_score(
    members: list[Any],
    data: ImageData,
    histories: list[dict[str, list[float]]],
    output_dir: pathlib.Path,
    members_data: str,
    flags: dict[str, Any],
    num_examples: int,
    encryption: dict[str, Any] | None = None,
) -> Result:
    """Writes one version directory, loads its files again and scores everything.

    Args:
        members: the trained models.
        data: what they were trained and are scored on.
        histories: what `fit` showed of each.
        output_dir: where versions are.
        members_data: "shared" or "disjoint", see `FusedClassifier`.
        flags: JSON-able, how the run was started, without what must stay where it is.
        num_examples: the public number of records, for the card.
        encryption: what the card says of encrypted images.
    """
    model = members[0]
    if len(members) > 1:
        model = FusedClassifier(members, members_data=members_data)
    names = [f"member {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i % 26]}" for i in range(len(members))]
    outputs = model.predict(data.x_test, batch_size=500, verbose=0)
    each = outputs["member_probabilities"] if len(members) > 1 else outputs[:, None]
    accuracies = {
        name: accuracy(np.argmax(each[:, i], axis=1), data) for i, name in enumerate(names)
    }
    if len(members) > 1:
        accuracies["fused"] = accuracy(np.argmax(outputs["probabilities"], axis=1), data)
    directory = output_dir / str(next_version(output_dir))
    print(f"\nExporting to {directory}", flush=True)
    if not warmup.is_available():
        print(f"{warmup.MISSING}.", flush=True)
    with new_directory(directory) as work, _quiet.quiet_stderr():
        card = _write(model, data, work, num_examples, encryption)
        saved = SavedModelRunner(work).predict(data.x_test)["class_id"]
        accuracies["SavedModel"] = accuracy(saved, data)
        light = TFLiteRunner(work / TFLITE_NAME).predict(data.x_test)["class_id"]
        accuracies["TFLite"] = accuracy(light, data)
        run = {
            "flags": flags,
            "accuracy_on_held_out_images": accuracies,
            "histories": histories,
        }
        (work / RUN_NAME).write_text(json.dumps(run, indent=2, default=str) + "\n")
    headline = statement.headline(model.privacy_ledger, card["delta"])
    return Result(directory, accuracies, card, headline)


def _write(
    model: Any,
    data: ImageData,
    work: pathlib.Path,
    num_examples: int,
    encryption: dict[str, Any] | None,
) -> dict[str, Any]:
    # The number of training records is private; the one that the training was planned for is not.
    dataset = {**data.summary(), "num_training_examples": num_examples}
    card = export.privacy_card(model, dataset=dataset)
    if encryption is not None:
        card["encryption"] = encryption
    served = ServedModel(model, data.class_names)
    with_warmup = warmup.is_available()
    write_saved_model(model, served, work, card=card, warmup_requests=with_warmup)
    export.tflite(model, work / TFLITE_NAME, class_names=data.class_names, card=card)
    save_compressed(model, work / KERAS_NAME)
    export.write_privacy_card(card, work)
    return card


def accuracy(class_ids: Array, data: ImageData) -> float:
    """The share of held-out images whose class is right."""
    return float(np.mean(class_ids == data.y_test))


tf.get_logger().setLevel("ERROR")
