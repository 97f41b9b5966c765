"""Every public name has an example, and every example runs."""

import ast
import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest

import keras_dpvit as kd

STUB = pathlib.Path(kd.__file__).with_suffix(".pyi")
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE


def public_names():
    """Module and name of everything that `import keras_dpvit as kd` offers beside the rooms."""
    imports = [n for n in ast.parse(STUB.read_text()).body if isinstance(n, ast.ImportFrom)]
    return [(n.module, alias.name) for n in imports if n.module for alias in n.names]


def failures(text, name):
    """The number of examples in a docstring, and of those that fail."""
    names = {"kd": kd, "keras": keras, "np": np}
    examples = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    return len(examples.examples), doctest.DocTestRunner(optionflags=OPTIONS).run(examples).failed


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *public_names(),
        ("auditing.membership", "lira"),
        ("auditing.membership", "loss_threshold"),
        ("auditing.membership", "membership_scores"),
        ("auditing.membership", "rmia"),
        ("auditing.membership_rates", "attack_result"),
        ("auditing.membership_rates", "largest_auc"),
        ("auditing.membership_rates", "most_true_positives"),
        ("auditing.membership_training", "attack_training"),
        ("auditing.neighbouring_records", "neighbours"),
        ("baselines.federated.partition", "split"),
        ("baselines.federated.plans", "RecordPrivacy"),
        ("baselines.federated.plans", "client_plan"),
        ("baselines.federated.training", "train"),
        ("baselines.mpc", "private_inference"),
        ("baselines.ppgan", "PPGAN"),
        ("baselines.ppgan", "gan_plan"),
        ("datasets.array_records", "ArrayRecords"),
        ("datasets.array_records", "to_array_record"),
        ("gradients.clipped_sum", "clipped_sum"),
        ("gradients.rules", "register_rule"),
    ],
)
def test_the_example_of_a_public_name_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = getattr(importlib.import_module(f"keras_dpvit.{module}"), name)
    examples, failed = failures(found.__doc__, name)
    assert examples > 0
    assert failed == 0


def test_an_example_that_is_wrong_is_found():
    assert failures(">>> 1 + 1\n3\n", "twin") == (1, 1)
