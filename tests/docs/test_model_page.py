"""docs/model.md says what the code says."""

import importlib.util
import pathlib
import re

import dp_accounting
import PIL.Image
import pytest

from keras_dpvit.errors import InputError
from keras_dpvit.layers import ThresholdAttention

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page():
    return (DOCS / "model.md").read_text("utf-8")


def test_tables_are_what_make_docs_writes_now(build, page, described_presets):
    facts = {name: found for name, (found, _) in described_presets.items()}
    assert build.with_tables(page, build.model_tables(facts)) == page
    assert "| 10,007,848 | 724,755,888 |" in page


def test_changed_table_is_put_right(build, page, described_presets):
    facts = {name: found for name, (found, _) in described_presets.items()}
    wrong = page.replace("10,007,848", "10,007,849")
    assert wrong != page
    assert build.with_tables(wrong, build.model_tables(facts)) == page
    with pytest.raises(InputError, match="must have the markers"):
        build.with_tables(page.replace("<!-- end of paper -->", ""), build.model_tables(facts))


def test_the_page_on_the_paper_has_the_kept_figures(build):
    page = build.REPRODUCTION.read_text("utf-8")
    assert build.with_tables(page, build.reproduction_tables()) == page
    for target in re.findall(r"\]\(([^)#]+)", page):
        assert (DOCS / target).is_file(), target


def test_links_and_pictures_are_there(page):
    targets = re.findall(r"\]\(([^)#]+)", page)
    assert "figures/architecture.png" in targets
    for target in targets:
        assert (DOCS / target).is_file(), target
    for name in ("architecture", "attention"):
        with PIL.Image.open(DOCS / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 1000
    assert "(docs/model.md)" in (DOCS.parent / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("stddev", "words"), [(0.05, "epsilon of 28,272 at"), (5.0, "still 12.5.")]
)
def test_cost_of_publishing_maps_is_as_quoted(page, stddev, words):
    layer = ThresholdAttention(4, attention_noise_stddev=stddev)
    layer.build((None, 16, 64))
    accountant = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    epsilon = accountant.compose(layer.release_event()).get_epsilon(1e-5)
    quoted = float(re.search(r"[\d,]+(\.\d)?", words)[0].replace(",", "").rstrip("."))
    assert epsilon == pytest.approx(quoted, rel=2e-3)
    assert words in " ".join(page.split())
