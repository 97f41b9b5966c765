"""The serving benchmarks: the bars hold, and what judges them can say no."""

import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

from benchmarks import serving_latency, serving_proof, serving_requests
from benchmarks.fused_pair import fused_pair
from keras_dpvit.errors import InputError


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
    assert load["kinds_right"] == load["kinds"]
    assert "weights" not in alone["largest_difference"]


@pytest.mark.proof
def test_a_fused_pair_holds_every_bar_too():
    found = serving_proof.prove(200, threads=8, requests=200, model=fused_pair())
    assert all(found["bars"].values()), found
    compared = found["tf_only"]["largest_difference"]
    assert {"weights", "member_probabilities/member_probabilities"} <= set(compared)


class Served:
    """A server that gives the next of these (status, body) to each request, and then the last."""

    def __init__(self, *answers):
        answers = list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/models/fmnist"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def status_of(*states):
    versions = [{"version": str(n), "state": state} for n, state in enumerate(states, 1)]
    return json.dumps({"model_version_status": versions}).encode()


def test_a_server_is_waited_for_until_it_has_the_model():
    loading, ready = status_of("LOADING"), status_of("END", "AVAILABLE")
    server = Served((404, b"{}"), (200, b"nonsense"), (200, loading), (200, ready))
    assert serving_proof.wait_for(server.url, 30) == "2"
    server.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, b"{}"), "status 404"),
        ((200, b"[]"), "its status has another form"),
        ((200, status_of("LOADING")), "no version is AVAILABLE"),
    ],
)
def test_a_server_that_never_has_it_is_an_error(answer, reason):
    server = Served(answer)
    with pytest.raises(InputError, match=f"url must be of a model that is served: .*{reason}"):
        serving_proof.wait_for(server.url, 0.5)
    server.close()
    with pytest.raises(InputError, match=r"url must be of a model that is served: .*refused"):
        serving_proof.wait_for(server.url, 0)


def run(*flags):
    from trainers import _cli

    _cli.run(serving_proof.main, serving_proof.FLAGS, serving_proof.__doc__, flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--url=http://localhost:1/v1/models/a"], "Give --url and --saved_model together"),
        (["--saved_model=x"], "Give --url and --saved_model together"),
        (["--url=grpc://a/b", "--saved_model=x"], "url must be http://HOST:PORT/v1/models/NAME"),
        (["--url=http://a", "--saved_model=nowhere"], "saved_model must be a version directory"),
    ],
)
def test_bad_flags(capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        run(*flags)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("holds", [True, False])
def test_the_status_is_that_of_the_bars(monkeypatch, capsys, holds):
    counts = {"good": 3, "bad": 1, "threads": 2, "judged_right": 3, "judged_wrong": 1, "lost": 0}
    kinds = {"kinds": {"uint8": 4}, "kinds_right": {"uint8": 3}, "first_wrong": ["uint8: no"]}
    found = {"tf_only": {"largest_difference": {}}, "load": {**counts, **kinds}}
    monkeypatch.setattr(serving_proof, "prove", lambda *_: {**found, "bars": {"a bar": holds}})
    with pytest.raises(SystemExit) if not holds else contextlib.nullcontext() as end:
        run("--images=1")
    assert holds or end.value.code == 1
    said = capsys.readouterr().out
    assert "3 of     4 right" in said
    assert "wrong: uint8: no" in said
    assert f"{'holds' if holds else 'does not hold'}\n" in said


class Model:
    """Says the same of every image."""

    def predict(self, images, **_):
        return {"probabilities": np.tile([0.25, 0.75], (len(images), 1))}


def test_logits_become_probabilities():
    class Logits:
        def predict(self, images, **_):
            return np.tile([1000.0, 1000.0 + np.log(3)], (len(images), 1))

    found = serving_requests.answers(Logits(), np.zeros((2, 8, 8, 1), np.uint8))
    np.testing.assert_allclose(found["probabilities"], [[0.25, 0.75]] * 2)


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
