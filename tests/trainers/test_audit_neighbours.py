"""The audit program on a model file's own loss and plan."""

import json
import subprocess
import sys

import keras
import pytest

import keras_dpvit as kd


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "trainers.audit", "--attack=neighbours", *arguments],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "model.keras"
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=10)
    plan = kd.PrivacyPlan(1437, 256, 1, 1e-5, 1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kd.DPKerasAdamOptimizer(plan, 1e-3), loss)
    model.save(path)
    return path


def test_a_model_file_is_tried_and_nothing_is_found(model_file, tmp_path):
    output = tmp_path / "found.json"
    done = run("--dataset=digits", f"--model={model_file}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(
        "No record moved the step by more than the declared sensitivity."
    )
    found = json.loads(output.read_text())
    assert found["holds"]
    assert max(found["ratios"].values()) <= 1.001


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset=digits", "--model=vit"], "must be a .keras file"),
        (["--dataset=digits", "--model=missing.keras", "--canaries=10"], "canaries must be left"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
