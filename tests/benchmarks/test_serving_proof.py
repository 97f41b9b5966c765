"""The serving benchmarks: the bars hold, and what judges them can say no."""

import json

import numpy as np
import pytest

from benchmarks import serving_latency, serving_proof, serving_requests


@pytest.mark.proof
def test_alone_and_under_32_threads_every_bar_holds():
    found = serving_proof.prove(images=1000, threads=32, requests=2000)
    assert found["bars"] == {
        "differences_at_most_1e-5": True,
        "labels_right": True,
        "every_request_judged_right": True,
    }, found
    alone, load = found["tf_only"], found["load"]
    assert alone["num_images"] == 1000
    assert alone["classes_predicted"] == 10
    assert (load["good"], load["bad"], load["lost"]) == (1500, 500, 0)
    assert min(load["kinds"].values()) >= 10
    assert len(load["kinds"]) == 34


class Model:
    """Says the same of every image."""

    def predict(self, images, **_):
        return {"probabilities": np.tile([0.25, 0.75], (len(images), 1))}


@pytest.fixture(scope="module")
def mixed():
    images = np.zeros((5, 8, 8, 1), np.uint8)
    return serving_requests.mixed_requests(Model(), ["a", "b"], images, 200)


def right_answer(request):
    rows = [
        {"probabilities": p.tolist(), "label": label}
        for p, label in zip(request.probabilities, request.labels, strict=True)
    ]
    if request.expected == "rows":
        return {"predictions": rows}
    return {"outputs": {name: [row[name] for row in rows] for name in rows[0]}}


def test_right_answers_are_judged_right(mixed):
    for request in mixed:
        if request.is_good:
            assert request.judge(200, json.dumps(right_answer(request)).encode()) == ""
        else:
            assert request.judge(400, b'{"error": "no"}') == ""


def test_every_other_answer_is_judged_wrong(mixed):
    good = next(r for r in mixed if r.expected == "rows")
    answer = right_answer(good)
    assert good.judge(400, b'{"error": "no"}')
    assert good.judge(200, b"{}")
    assert good.judge(200, b"nonsense")
    answer["predictions"][0]["label"] = "a"
    assert good.judge(200, json.dumps(answer).encode())
    answer = right_answer(good)
    answer["predictions"][0]["probabilities"] = [0.2501, 0.7499]
    assert "off by" in good.judge(200, json.dumps(answer).encode())
    answer["predictions"] = []
    assert good.judge(200, json.dumps(answer).encode())
    bad = next(r for r in mixed if not r.is_good)
    assert bad.judge(200, b'{"predictions": []}')
    assert bad.judge(500, b'{"error": "broken"}')
    assert bad.judge(400, b"{}")
    assert bad.judge(400, b'{"error": ""}')


def test_latency_is_compared_in_turns():
    calls = []
    sides = [lambda _, name=name: calls.append(name) for name in ("fused", "a", "b")]
    found = serving_latency.compare(sides[0], sides[1:], None, rounds=4)
    assert set(found) == {"fused_ms", "members_ms", "ratio"}
    assert calls.count("fused") == calls.count("a") == calls.count("b") == 24
    assert calls[:6] == ["a", "b", "fused", "fused", "a", "b"]
