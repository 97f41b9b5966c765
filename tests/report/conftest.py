"""A run to report about."""

import json
import xml.etree.ElementTree

import pytest

import keras_dpvit as kd
from keras_dpvit import export
from keras_dpvit.report import run_files
from keras_dpvit.report.page import html_page
from keras_dpvit.report.predictions import predict


@pytest.fixture(scope="session")
def write_run():
    """Writes what trainers.train writes of a model, as far as a report reads it."""

    def write(directory, model, names, histories=(), **flags):
        directory.mkdir(parents=True)
        model.save(directory / "model.keras")
        dataset = {"name": "digits", "num_training_examples": 1437, "num_test_examples": 360}
        card = export.privacy_card(model, dataset={**dataset, "class_names": list(names)})
        export.write_privacy_card(card, directory)
        record = {"flags": {"dataset": "digits", **flags}, "histories": list(histories)}
        (directory / "run.json").write_text(json.dumps(record))
        return directory

    return write


@pytest.fixture(scope="session")
def fused_run(tmp_path_factory, write_run, trained_fusion, digit_images):
    """The two trained members as a run, loaded again."""
    curves = {"loss": [2.3, 1.9, 1.2, 1.1], "accuracy": [0.1, 0.3, 0.5, 0.6]}
    histories = [
        {**curves, "epsilon": [1.0, 1.4, 1.7, 2.0]},
        {**curves, "epsilon": [0.8, 1.1, 1.3, 1.5], "loss": [2.4, 2.0, float("nan"), 1.0]},
    ]
    directory = write_run(
        tmp_path_factory.mktemp("fused") / "1",
        trained_fusion,
        digit_images.class_names,
        histories,
        epsilon=9.0,
        delta=1e-4,
        accountant="rdp",
    )
    return run_files.load(run_files.read_files(directory))


@pytest.fixture(scope="session")
def fused_predictions(fused_run, digit_images):
    return predict(fused_run, digit_images)


@pytest.fixture(scope="session")
def fused_page(fused_run, fused_predictions):
    return html_page(fused_run, fused_predictions)


@pytest.fixture(scope="session")
def published_run(tmp_path_factory, write_run, digit_images):
    """One model whose ledger says that it was trained by the formulas as printed."""
    plan = kd.PrivacyPlan.as_published(
        num_examples=1437, batch_size=256, epochs=3, delta=1e-4, noise_multiplier=1.0
    )
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    model.start_from(kd.PrivacyLedger(plan.entries(plan.steps)))
    history = {"loss": [2.0, 1.0], "epsilon": [float("inf")] * 2}
    directory = write_run(
        tmp_path_factory.mktemp("published") / "1",
        model,
        digit_images.class_names,
        [history],
        epsilon=3.0,
        delta=1e-4,
    )
    return run_files.load(run_files.read_files(directory))


@pytest.fixture(scope="session")
def parse():
    """A page as a tree of elements. It is XML too, so that a stray sign cannot hide."""

    def parse_page(page):
        return xml.etree.ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))

    return parse_page
