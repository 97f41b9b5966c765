"""Charts: points where they belong, words that do not overlap, nothing infinite drawn."""

import itertools
import math
import re
import xml.etree.ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_dpvit.report.charts import HEIGHT, WIDTH, Axes, Curve, line_chart, ticks
from keras_dpvit.report.reliability import reliability_diagram


def draw(*curves, **options):
    made = line_chart("c", "Title", "Words", curves, ("steps", "value"), **options)
    return xml.etree.ElementTree.fromstring(made)


def polyline(root, number=0):
    points = list(root.iter("polyline"))[number].get("points").split()
    return [tuple(float(part) for part in point.split(",")) for point in points]


def words(root):
    return {text.text: (float(text.get("x")), float(text.get("y"))) for text in root.iter("text")}


@given(st.floats(0, 1000), st.floats(1e-6, 1e6), st.sampled_from([0.0, 1.0]))
def test_ticks_are_few_and_hold_the_range(start, extent, least_step):
    least = start * extent
    found = ticks(least, least + extent, least_step)
    step = found[1] - found[0]
    slack = 1e-6 * step
    assert 2 <= len(found) <= 8
    assert found[0] <= least + slack
    assert found[-1] >= least + extent - slack
    assert step >= least_step
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5)


def test_points_are_in_proportion():
    root = draw(Curve("a", [(0, 0), (5, 1), (10, 4)], 0))
    (x0, y0), (x1, y1), (x2, y2) = polyline(root)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert y0 - y1 == pytest.approx((y0 - y2) / 4, abs=0.1)
    assert y2 < y1 < y0
    assert 0 < x0 < x2 < WIDTH
    assert 0 < y2 < y0 < HEIGHT


def test_what_is_not_finite_is_left_out():
    root = draw(
        Curve("a", [(1, 1.0), (2, math.nan), (3, 2.0)], 0), Curve("b", [(1, math.inf)] * 2, 1)
    )
    assert len(list(root.iter("polyline"))) == 1
    assert len(polyline(root)) == 2
    assert "b" not in words(root)


def test_one_point_is_a_dot():
    root = draw(Curve("a", [(1, 1.0)], 0))
    assert not list(root.iter("polyline"))
    assert len(list(root.iter("circle"))) == 1


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_names_at_the_end_do_not_overlap(ends):
    names = [f"line {i}" for i in range(len(ends))]
    root = draw(*(Curve(names[i], [(0, 0), (9, y)], i) for i, y in enumerate(ends)))
    heights = sorted(words(root)[name][1] for name in names)
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(heights))
    assert heights[0] > 0
    assert heights[-1] <= HEIGHT


def test_a_line_that_ends_early_has_its_name_there():
    root = draw(Curve("short", [(0, 0), (5, 5)], 0), Curve("long", [(0, 0), (10, 9)], "ink"))
    assert words(root)["short"][0] < polyline(root, 1)[-1][0] < words(root)["long"][0]


def test_limit_lies_at_its_height_with_room_above():
    root = draw(Curve("a", [(0, 0), (10, 8)], 0), limit=(8.0, "budget 8"))
    limit = next(line for line in root.iter("line") if line.get("class") == "limit")
    assert float(limit.get("y1")) == pytest.approx(polyline(root)[-1][1], abs=0.1)
    assert 20 < words(root)["budget 8"][1] < float(limit.get("y1"))


def test_epochs_are_counted_in_whole_numbers():
    root = draw(Curve("a", [(1, 1.0), (2, 2.0)], 0))
    numbers = [w for w, (_, y) in words(root).items() if y > HEIGHT - 30 and w != "steps"]
    assert numbers == ["1", "2"]


def test_a_chart_says_what_it_shows_in_words_too():
    root = draw(Curve("<a>", [(0, 0), (1, 1)], 0))
    assert root.get("role") == "img"
    assert [root.find("title").text, root.find("desc").text] == ["Title", "Words"]
    named = root.get("aria-labelledby").split()
    assert named == [root.find("title").get("id"), root.find("desc").get("id")]
    assert "<a>" in words(root)


def test_reliability_dots_lie_at_confidence_and_accuracy():
    parts = [
        {"low": 0.4, "high": 0.5, "images": 10, "confidence": 0.45, "accuracy": 0.2},
        {"low": 0.5, "high": 0.6, "images": 0, "confidence": None, "accuracy": None},
        {"low": 0.8, "high": 0.9, "images": 90, "confidence": 0.85, "accuracy": 0.9},
    ]
    made = reliability_diagram("r", {"expected_error": 0.07, "bins": parts})
    root = xml.etree.ElementTree.fromstring(made)
    low, high = ([float(c.get(k)) for k in ("cx", "cy", "r")] for c in root.iter("circle"))
    axes = Axes((0.0, 1.0), (0.0, 1.0), WIDTH - 16)
    assert low[:2] == pytest.approx(axes.at((0.45, 0.2)), abs=0.1)
    assert high[:2] == pytest.approx(axes.at((0.85, 0.9)), abs=0.1)
    assert high[2] > low[2]
    assert re.search("90 images sure by 0.8 to 0.9: 0.90 are right", root.find("desc").text)
