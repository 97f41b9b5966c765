"""Draws of the neighbours benchmark: each trains within the sensitivity or is refused in a line."""

import json

import pytest

from benchmarks import model_grammar, neighbours


@pytest.mark.parametrize(
    "number", [4, pytest.param(25, marks=pytest.mark.proof)], ids=["four", "twenty_five"]
)
def test_draws_hold_or_are_refused(number):
    draws = [neighbours.one_draw(draw, 1) for draw in range(number)]
    found = neighbours.summary(draws)
    assert found["draws"] == found["trained"] + found["refused"] == number
    assert number == 4 or found["refused"] > 0
    assert found["learned"] > number // 3
    assert found["refusals of several lines"] == 0
    assert found["ratios above 1.001"] == 0, found


def test_the_summary_finds_a_violation_and_a_ratio_that_is_no_number():
    draws = [
        {"draw": 1, "ratios": {"a": 0.5, "b": 1.5}, "learned": True},
        {"draw": 2, "ratios": {"c": float("nan")}, "learned": True},
        {"draw": 3, "refused": "one\ntwo"},
    ]
    found = neighbours.summary(draws)
    assert found["ratios above 1.001"] == 2
    assert found["of"] == "draw 2, c"
    assert found["refusals of several lines"] == 1


def test_the_grammar_has_thirty_layers_and_twelve_losses():
    layers = [
        *model_grammar.IMAGE_LAYERS,
        *model_grammar.TOKEN_LAYERS,
        *model_grammar.ANY_LAYERS,
    ]
    assert len(layers) >= 30
    assert len(model_grammar.LOSSES) == 12
    json.dumps(layers)
