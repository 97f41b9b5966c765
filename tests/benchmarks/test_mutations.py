"""The list of faults fits the present sources, and the program tells killed from survived."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import mutations
from benchmarks.mutation_list import MUTATIONS

ROOT = pathlib.Path(__file__).parents[2]
# It forks, which must not be done to a process in which TensorFlow has run.
OUTCOME = """
import json, pathlib, sys
from benchmarks import mutations
from benchmarks.mutation_list import Mutation
mutations.ROOT = pathlib.Path(sys.argv[1])
print(json.dumps(mutations.outcome(mutations.ROOT / "copy", Mutation(*json.loads(sys.argv[2])))))
"""


def outcome(root, *mutation):
    """Tries one fault in a package below `root`, whose copy is `root / "copy"`."""
    command = [sys.executable, "-c", OUTCOME, str(root), json.dumps(mutation)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.key)
def test_each_fault_has_one_place_in_the_present_sources(mutation):
    text = (ROOT / "keras_dpvit" / mutation.file).read_text()
    assert text.count(mutation.old) == 1, mutation.name
    compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    assert mutation.tests
    for test in mutation.tests:
        file, _, name = test.partition("::")
        if name:
            function = name.partition("[")[0]
            assert re.search(rf"def {function}\(", (ROOT / "tests" / file).read_text()), test
        assert (ROOT / "tests" / file).is_file()


def test_the_list_is_long_and_goes_everywhere():
    assert len(MUTATIONS) >= 60
    assert len({m.key for m in MUTATIONS}) == len(MUTATIONS)
    files = {m.file for m in MUTATIONS}
    for room in ("privacy", "gradients"):
        sources = (ROOT / "keras_dpvit" / room).glob("*.py")
        assert {f"{room}/{p.name}" for p in sources if p.name != "__init__.py"} <= files
    assert "training/step.py" in files
    first = mutations.interleaved(MUTATIONS)[: len(files)]
    assert {m.file for m in first} == files


def a_copy(tmp_path):
    """Two numbers as a package, and a test of one of them."""
    copy = tmp_path / "copy"
    (copy / "keras_dpvit").mkdir(parents=True)
    (copy / "tests").mkdir()
    (copy / "keras_dpvit" / "numbers.py").write_text("TESTED = 1\nUNTESTED = 1\n")
    test = (
        "import pathlib\n\n\ndef test_one():\n"
        "    assert 'TESTED = 1\\nUN' in pathlib.Path('keras_dpvit/numbers.py').read_text()\n"
    )
    (copy / "tests" / "test_numbers.py").write_text(test)
    return copy


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("\nUNTESTED = 1", "\nUNTESTED = 2", "survived"),
        ("TESTED = 1\nUN", "TESTED = 2\nUN", "killed"),
        ("TESTED = 1", "TESTED = 2", "not applicable"),  # it has two places
        ("ABSENT", "", "not applicable"),
    ],
)
def test_outcomes(old, new, expected, tmp_path):
    copy = a_copy(tmp_path)
    before = (copy / "keras_dpvit" / "numbers.py").read_text()
    (tmp_path / "keras_dpvit").mkdir()
    (tmp_path / "keras_dpvit" / "numbers.py").write_text(before)
    found = outcome(tmp_path, "numbers.py", old, new, ["test_numbers.py"])
    assert found["outcome"] == expected, found
    assert (copy / "keras_dpvit" / "numbers.py").read_text() == before


def test_a_test_that_cannot_begin_proves_nothing(tmp_path):
    copy = a_copy(tmp_path)
    shared = tmp_path / "keras_dpvit"
    shared.mkdir()
    (shared / "numbers.py").write_text((copy / "keras_dpvit" / "numbers.py").read_text())
    found = outcome(tmp_path, "numbers.py", "\nUN", "\n\nUN", ["test_none.py"])
    assert found["outcome"] == "not run"


def test_outcomes_are_read_again_and_what_was_not_run_is_tried_again(tmp_path):
    path = tmp_path / "mutations.json"
    assert mutations.read(path) == {}
    names = ("killed", "survived", "not run")
    results = {m.key: {"outcome": o} for m, o in zip(MUTATIONS, names, strict=False)}
    mutations.write(path, {**results, "of a list before": {"outcome": "killed"}})
    assert mutations.read(path) == dict(list(results.items())[:2])
    found = mutations.summary(mutations.read(path), MUTATIONS)
    assert (found["killed"], found["survived"]) == (1, 1)
    assert found["not tried yet"] == len(MUTATIONS) - 2
    assert found["survivors"] == [MUTATIONS[1].name]
