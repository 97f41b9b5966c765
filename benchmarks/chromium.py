"""Headless Chromium, driven over its debugging pipe; folders served to this machine."""

import base64
import contextlib
import functools
import http.server
import io
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

_PATIENCE = 60.0  # seconds, for one answer of the browser


class Browser:
    """Chromium without a window. Names resolve to nothing: a page has what it brings along.

    Args:
        profile: a folder of its own.
    """

    def __init__(self, profile: str | os.PathLike[str]) -> None:
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
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={os.fspath(profile)}",
            ],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer; events that come before it are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._send(json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            answer = self._next_message()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise AssertionError(f"no answer to {method}")

    def wait_for(self, method: str) -> None:
        """Waits until an event has come since the last `open`."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next_message())

    def _send(self, data: bytes) -> None:
        while data:  # a pipe takes a long command in parts
            data = data[os.write(self._commands, data) :]

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def open(
        self,
        path: str | pathlib.Path,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
    ) -> "Page":
        """Opens a file, or an address, in a new tab of some width under a colour scheme."""
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
        url = path if isinstance(path, str) else path.absolute().as_uri()
        page.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")
        return page

    def close(self) -> None:
        """Ends the browser."""
        with contextlib.suppress(OSError):
            os.close(self._commands)
        self._process.terminate()
        self._process.wait(_PATIENCE)
        os.close(self._answers)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """As `Browser.call`, of this tab."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON carries it."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self) -> np.ndarray:
        """The tab as an array of pixels."""
        answer = self.call("Page.captureScreenshot")
        return np.asarray(
            PIL.Image.open(io.BytesIO(base64.b64decode(answer["data"]))).convert("RGB")
        )

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """The browser's events of these kinds."""
        return [event for event in self._browser.events if event.get("method") in methods]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Serves a folder to this machine while the context is entered; gives its address."""
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def open_model_page(browser: Browser, address: str, **view: Any) -> Page:
    """A page that `export.web_page` wrote, its model loaded; `view` goes to `Browser.open`."""
    page = browser.open(address, **view)
    end = time.monotonic() + _PATIENCE
    while page.evaluate("typeof globalThis.page") != "object":
        assert time.monotonic() < end, page.evaluate("document.body.innerText")
        time.sleep(0.02)
    page.evaluate("page.ready")
    return page


def probabilities(page: Page, images: np.ndarray) -> np.ndarray:
    """The answers of a model's page, float64 `(n, classes)`, to images of its own size.

    Args:
        page: as from `open_model_page`.
        images: uint8 `(n, height, width, channels)`.
    """
    found = []
    for start in range(0, len(images), 100):  # one command for many images
        part = np.ascontiguousarray(images[start : start + 100])
        text = base64.b64encode(part.tobytes()).decode()
        found += page.evaluate(
            "(async () => {"
            f"const bytes = Uint8Array.from(atob('{text}'), (c) => c.charCodeAt(0));"
            f"const size = bytes.length / {len(part)}, answers = [];"
            "for (let at = 0; at < bytes.length; at += size)"
            "  answers.push((await page.run(bytes.slice(at, at + size))).probabilities);"
            "return answers; })()"
        )
    return np.array(found)
