"""Warnings of plans that promise little."""

import dataclasses

import pytest

import keras_dpvit as kd
from keras_dpvit.training.fit_arguments import warn_of_weak_promises

PLAN = kd.PrivacyPlan(1000, 100, 1, 1e-5, noise_multiplier=1.0, target_epsilon=3.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"delta": 9.9e-4}, []),
        ({"delta": 1e-3}, ["delta=0.001 is not below 1/num_examples (0.001)"]),
        ({"target_epsilon": 20.0}, []),
        ({"target_epsilon": None}, []),
        ({"target_epsilon": 100.0}, ["epsilon=100 promises little"]),
    ],
)
def test_a_weak_promise_is_named(changes, told, caplog):
    warn_of_weak_promises(dataclasses.replace(PLAN, **changes))
    assert [line[: len(start)] for line, start in zip(caplog.messages, told, strict=True)] == told
