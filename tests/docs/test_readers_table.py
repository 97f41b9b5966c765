"""From each sentence of the README's "What epsilon means" to code and tests that exist."""

import ast
import dataclasses
import pathlib
import re

import keras_dpvit as kd
from keras_dpvit.layers import DPLayerNormalization, SelfAttention
from keras_dpvit.privacy.ledger_entries import LedgerEntry

ROOT = pathlib.Path(__file__).parents[2]


def plain(text):
    """Text on one line, links replaced by their words."""
    return " ".join(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).split())


def section(page, title):
    """The text under a heading of the second level."""
    return re.split(r"^## ", page.split(f"\n## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def sentences(text):
    """The sentences of bullets and paragraphs."""
    blocks = re.split(r"\n\s*\n|^\* ", text, flags=re.MULTILINE)
    found = (plain(block) for block in blocks)
    return [s for block in found if block for s in re.split(r"(?<=\.) (?=[A-Z`])", block)]


def rows(page):
    """The table's rows: sentence, names in code, names of tests."""
    table = section(page, "From each sentence to the code and the test")
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "sentence":
            yield plain(cells[0]), *(re.findall(r"`([^`]+)`", cell) for cell in cells[1:3])


def exists(name):
    """True if `file::Class.method` or `file::function` is defined where it says."""
    file, _, path = name.partition("::")
    if not (ROOT / file).is_file():
        return False
    body = ast.parse((ROOT / file).read_text("utf-8")).body
    kinds = (ast.ClassDef, ast.FunctionDef)
    for part in path.split("."):
        inside = [node for node in body if isinstance(node, kinds) and node.name == part]
        if not inside:
            return False
        body = inside[0].body
    return True


PAGE = (ROOT / "docs" / "privacy.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


def test_every_sentence_of_the_readme_is_in_the_table():
    expected = sentences(section(README, "What epsilon means"))
    assert len(expected) >= 14
    assert [sentence for sentence, _, _ in rows(PAGE)] == expected


def test_every_function_and_every_test_exists():
    table = list(rows(PAGE))
    assert [name for _, code, tests in table for name in (*code, *tests) if not exists(name)] == []
    for sentence, code, tests in table:
        assert tests, sentence
        assert all(name.partition("::")[2].split(".")[-1].startswith("test_") for name in tests)
        assert code or sentence.startswith("docs/"), sentence


def test_names_that_do_not_exist_are_seen():
    assert exists("keras_dpvit/privacy/plan.py::PrivacyPlan.as_published")
    assert not exists("keras_dpvit/privacy/plan.py::PrivacyPlan.as_printed")
    assert not exists("keras_dpvit/privacy/planning.py::PrivacyPlan")


def test_pitfalls_name_tests_that_exist():
    page = (ROOT / "docs" / "pitfalls.md").read_text("utf-8")
    names = set(re.findall(r"`(tests/[\w/.]+)`", page))
    assert len(names) > 15
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_noise_in_layers_is_off_and_enters_no_cost():
    assert SelfAttention(num_heads=2).attention_noise_stddev == 0
    assert DPLayerNormalization().noise_stddev == 0
    for kind in (kd.PrivacyPlan, LedgerEntry):
        names = {field.name for field in dataclasses.fields(kind)}
        assert not {name for name in names if "attention" in name or "norm_noise" in name}
