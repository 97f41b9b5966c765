"""The page in headless Chromium: on a telephone and on a desk, in light and in dark."""

import re

import numpy as np
import pytest

pytestmark = pytest.mark.slow

VIEWS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]

# Words whose contrast to the nearest ground is below 4.5 (WCAG AA), as [words, contrast]; and the
# number of words looked at.
CONTRASTS = """
(() => {
  const channels = colour => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    const [r, g, b, a] = numbers;
    return colour.startsWith('color(') ? [255 * r, 255 * g, 255 * b, a ?? 1] : [r, g, b, a ?? 1];
  };
  const luminance = colour => {
    const [r, g, b] = colour.slice(0, 3).map(c => c / 255).map(
      c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const bad = [];
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const words = walker.currentNode.textContent.trim();
    if (!words || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = channels(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    seen += 1;
    if (contrast < 4.5) bad.push([words, contrast]);
  }
  return {bad, seen};
})()
"""

# Elements that stick out of the window, but for what lies in a frame that scrolls.
STICKING_OUT = """
[...document.body.querySelectorAll('*')].filter(e => !e.closest('.scroll') || e.matches('.scroll'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.tagName + '.' + e.getAttribute('class'))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory, fused_page):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(fused_page, "utf-8")
    return path


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def view(request, browser, file):
    width, scheme = request.param
    return browser.open(file, width=width, scheme=scheme), width, scheme


def test_page_is_as_wide_as_its_window(view):
    page, width, _ = view
    inner, scrolled = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    assert inner == width
    assert scrolled <= width
    assert page.evaluate(STICKING_OUT) == []


def test_page_is_drawn_in_the_scheme_asked_for(view):
    page, _, scheme = view
    pixels = page.screenshot()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert pixels.std() > 15
    brightness = np.median(pixels)
    assert brightness > 220 if scheme == "light" else brightness < 50


def test_words_stand_out_from_their_ground(view):
    page, *_ = view
    found = page.evaluate(CONTRASTS)
    assert found["seen"] > 400
    assert found["bad"] == []


def test_charts_are_drawn_and_their_words_lie_inside(view):
    page, *_ = view
    charts = page.evaluate(
        """[...document.querySelectorAll('svg.chart')].map(chart => {
          const frame = chart.getBoundingClientRect();
          const outside = [...chart.querySelectorAll('text')].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1;
          }).map(text => text.textContent);
          const size = parseFloat(getComputedStyle(chart).fontSize) * frame.width / 360;
          return {width: frame.width, size, outside};
        })"""
    )
    assert len(charts) == 5
    for chart in charts:
        assert chart["outside"] == []
        assert chart["width"] > 280
        assert chart["size"] > 9  # pixels


def test_images_are_decoded(view):
    page, *_ = view
    sizes = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 10
    assert all(sizes)


def test_nothing_is_asked_of_the_network_and_nothing_complains(browser, file):
    page = browser.open(file)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    asked = [e["params"]["request"]["url"] for e in page.events("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.events("Log.entryAdded", "Runtime.exceptionThrown") == []
    assert page.events("Runtime.consoleAPICalled", "Network.loadingFailed") == []


def test_browser_tells_of_requests_and_complaints(browser, file, tmp_path):
    """Else the test above could not fail."""
    content = file.read_text("utf-8")
    content = re.sub(r"<meta http-equiv[^>]*/>", "", content)
    other = tmp_path / "other.html"
    other.write_text(content.replace("<main>", '<main><img src="http://example.invalid/a.png"/>'))
    page = browser.open(other)
    asked = [e["params"]["request"]["url"] for e in page.events("Network.requestWillBeSent")]
    assert "http://example.invalid/a.png" in asked
    assert page.events("Network.loadingFailed")
