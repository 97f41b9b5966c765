"""Scores against scikit-learn, intervals against a closed form, and what tables show."""

import io

import numpy as np
import PIL.Image
import pytest
from sklearn import metrics

from keras_dpvit.models.description import PUBLISHED
from keras_dpvit.reproduction import drawing, tables
from keras_dpvit.reproduction import paper_figures as paper
from keras_dpvit.reproduction.artifacts import ARTIFACTS
from keras_dpvit.reproduction.scales import scale_named
from keras_dpvit.reproduction.scores import METRICS, scores, softmax
from keras_dpvit.runs.settings import RunSettings

RECIPE = RunSettings(weights="synthetic", trainable="head", center_noise=20.0, epochs=40.0)
SCALE = scale_named("small", "dpvit_scatter_28", RECIPE)


@pytest.fixture(scope="module")
def said():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    logits = rng.normal(size=(500, 10)) + 2 * np.eye(10)[labels]
    return softmax(logits), labels


def test_scores_are_those_of_scikit_learn(said):
    probabilities, labels = said
    found, guess = scores(probabilities, labels), probabilities.argmax(axis=1)
    expected = {
        "loss": metrics.log_loss(labels, probabilities),
        "accuracy": metrics.accuracy_score(labels, guess),
        "top_5": metrics.top_k_accuracy_score(labels, probabilities, k=5),
        "precision": metrics.precision_score(labels, guess, average="macro"),
        "recall": metrics.recall_score(labels, guess, average="macro"),
        "confidence": np.mean([max(row) for row in probabilities]),
    }
    assert tuple(found) == METRICS
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_class_that_is_never_said_has_precision_0():
    found = scores(np.tile([0.9, 0.1], (4, 1)), np.array([0, 0, 1, 1]))
    assert found["precision"] == pytest.approx(0.25)
    assert found["recall"] == pytest.approx(0.5)


def test_the_interval_is_student_s():
    # Three values 1 apart: deviation 1, t of 2 degrees of freedom at 97.5 % is 4.3027.
    mean, half = tables.interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.302653 / 3**0.5, rel=1e-6))
    assert tables.interval([5.0]) == (5.0, None)


def a_row(**changes):
    training = {
        "steps": [10, 20],
        **{name: [0.25, 0.5] for name in METRICS},
        "parameters": 1234,
        "macs": 5_600_000,
        "epsilon": {"rdp": 9.0, "pld": 8.0},
        "members_accuracy": [0.4, 0.6],
    }
    row = {"name": "one", "panel": "", "x": None, "paper": {}, "trainings": [training]}
    return {**row, **changes}


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("accuracy", "50.0"),
        ("accuracy_1", "25.0"),
        ("accuracy_3", "-"),
        ("loss", "0.500"),
        ("parameters", "1.23 k"),
        ("macs", "5.6 M"),
        ("epsilon", "8.00"),
        ("members_accuracy", "50.0"),
        ("mean_accuracy", "-"),
        ("x", "-"),
    ],
)
def test_cells(what, shown):
    assert tables.cell(a_row(), what) == shown


def test_cells_of_several_trainings_have_an_interval():
    row = a_row()
    other = {**row["trainings"][0], "accuracy": [0.2, 0.6]}
    # 50 and 60: deviation 7.07, over the root of 2 is 5, times 12.706.
    assert (
        tables.cell({**row, "trainings": [*row["trainings"], other]}, "accuracy") == "55.0 ± 63.5"
    )


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_artifact_has_rows_a_table_and_a_picture(name):
    artifact = ARTIFACTS[name]
    rows = artifact.rows(SCALE)
    keys = [repr(t.key()) for row in rows for t in row.trainings]
    assert len(set(keys)) == len(keys), "a training stands in two rows"
    content = {
        "artifact": name,
        "scale": "small",
        "images": {"dataset": "fashion_mnist"},
        "rows": [
            a_row(
                name=row.name,
                panel=row.panel,
                x=row.x,
                paper=dict(row.paper),
                counted_parameters=1,
                counted_macs=1,
                trainings=a_row()["trainings"] * len(row.trainings),
            )
            for row in rows
        ],
    }
    page = tables.page(name, content, "picture.png")
    assert page.count("\n|") == len(rows) + 2
    for row in rows:
        assert row.name in page
    written = drawing.picture(artifact, content)
    with PIL.Image.open(io.BytesIO(written)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def test_what_the_paper_printed_twice_agrees():
    ours = PUBLISHED["dpvit_paper_h6"]
    proposed = paper.SYSTEMS["proposed"]
    assert proposed["macs"] == ours["macs"] / 1e9
    assert proposed["parameters"] == ours["parameters"] / 1e6


def test_a_new_setting_changes_no_key_and_a_changed_one_does():
    (row, *_) = ARTIFACTS["figure_5"].rows(SCALE)
    one, two, *_ = row.trainings
    assert "loss" not in one.key()  # as it always is
    assert one.key()["epsilon"] == 2.0
    assert one.key() != two.key()
