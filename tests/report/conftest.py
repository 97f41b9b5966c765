"""Headless Chromium, driven over its debugging pipe; and a run to report about."""

import base64
import contextlib
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import time
import xml.etree.ElementTree

import numpy as np
import PIL.Image
import pytest

import keras_dpvit as kd
from keras_dpvit import export
from keras_dpvit.report import run_files
from keras_dpvit.report.page import html_page
from keras_dpvit.report.predictions import predict

_PATIENCE = 60.0  # seconds, for one answer of the browser


class Browser:
    """Chromium without a window. Names resolve to nothing: a page has what it brings along."""

    def __init__(self, profile):
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        assert program, "Headless Chromium is needed: apt-get install chromium"
        to_browser, self._commands = os.pipe()
        self._answers, from_browser = os.pipe()
        # The browser reads commands from its descriptor 3 and writes answers to 4.
        places = f'exec {program} "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", places, "bash", "--headless=new", "--no-sandbox"),
                *("--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"),
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={profile}",
            ],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events = []

    def call(self, method, session=None, **parameters):
        """Sends a command and waits for its answer; events that come before it are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            answer = self._next_message()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)
        raise AssertionError(f"no answer to {method}")

    def wait_for(self, method):
        """Waits until an event has come since the last `open`."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next_message())

    def _next_message(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, path, width=1280, height=900, scheme="light"):
        """Opens a file in a new tab of some width under a colour scheme."""
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.call("Emulation.setEmulatedMedia", features=[feature])
        page.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("Page.loadEventFired")
        return page

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self._commands)
        self._process.terminate()
        self._process.wait(_PATIENCE)
        os.close(self._answers)


class Page:
    """One tab."""

    def __init__(self, browser, session):
        self._browser, self._session = browser, session

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression):
        """The value of a JavaScript expression, as JSON carries it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self):
        """What is seen, as an array of pixels."""
        answer = self.call("Page.captureScreenshot")
        return np.asarray(
            PIL.Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB")
        )

    def events(self, *methods):
        """What the browser has told of these kinds."""
        return [event for event in self._browser.events if event.get("method") in methods]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    chromium = Browser(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


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
