"""The documentation site builds without a warning, and every public name has a page."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

from keras_dpvit.version import __version__

ROOT = pathlib.Path(__file__).parents[2]


def test_the_site_builds_and_links_nowhere_wrong(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    assert (tmp_path / "site" / "first_classifier" / "index.html").is_file()


def test_every_public_name_is_in_the_reference():
    stub = (ROOT / "keras_dpvit" / "__init__.pyi").read_text("utf-8")
    names = re.findall(r"^from \.[\w.]+ import (\w+) as \1$", stub, re.MULTILINE)
    assert len(names) > 25
    pages = "\n".join(p.read_text("utf-8") for p in (ROOT / "docs" / "reference").glob("*.md"))
    described = re.findall(r"^::: keras_dpvit[\w.]*\.(\w+)$", pages, re.MULTILINE)
    assert sorted(set(names) - set(described)) == []


def test_every_page_is_in_the_readers_way():
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = (p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md"))
    assert [str(page) for page in pages if f": {page.as_posix()}\n" not in config] == []


def test_citation_names_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_measured_tables_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("measured", ROOT / "docs" / "measure_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads((ROOT / "docs" / "results" / "digits_settings.json").read_text("utf-8"))
    page = (ROOT / "docs" / "data_and_accuracy.md").read_text("utf-8")
    for table in module.tables(results):
        assert table in page
