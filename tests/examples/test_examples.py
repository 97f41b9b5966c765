"""Every example runs as it is, in a fresh process, and the notebooks are built from the scripts."""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# For each script, arguments that make it short, and lines that it must print.
RUNS = {
    "fine_tune_kerashub_vit": (
        ["--public_epochs=1", "--epochs=2"],
        [
            r"^718 private pictures; 165 of 18,053 numbers trained$",
            r"^digits 5 to 9, private: accuracy 0\.\d+$",
            r"^Example-level differential privacy, .* delta 0\.0001",
            r"^    epsilon by RDP: (3\.000|2\.9\d+)$",
            r"^What is protected: the final model,",
        ],
    ),
    "train_on_a_folder": (
        ["--epochs=2"],
        [
            r"^1432 pictures to train on, 365 held out$",
            r"^accuracy on held-out pictures 0\.\d+, epsilon (3\.000|2\.9\d+)$",
            r"^exported: assets assets\.extra .*saved_model\.pb",
        ],
    ),
    "audit_a_training": (
        ["--canaries=200", "--guesses=40", "--epochs=2"],
        [
            r"^1237 other records, \d+ of 200 canaries are in$",
            r"^right guesses +\d+ of 40$",
            r"^The claim is not contradicted\.$",
            r"^17 records tried: the sensitivity holds\.$",
        ],
    ),
    "hide_images": (
        ["--epochs=2"],
        [
            r"^key [0-9a-f]{16}: the owner gets every pixel back: True$",
            r"^similarity to the photographs \(SSIM\), hidden: 0\.[0-4]\d$",
            r"^Hidden images are obfuscated and not confidential\.$",
        ],
    ),
    "camera": (
        ["--epochs=2", "--limit=10"],
        [
            r"^digits\.tflite: [\d,]+ bytes, images \(8, 8, 1\)$",
            r"^frame_09_shows_\d\.png +\d +0\.",
        ],
    ),
    "serve": (
        ["--epochs=2"],
        [
            r"^signatures: .*serving_bytes",
            r"^a picture of 7: answer \d, probability 0\.\d+$",
            r"^privacy card in it: epsilon (8\.000|7\.9\d+) at delta 5e-05$",
        ],
    ),
    "plan_a_budget": (
        [],
        [
            r"^1400 training pictures, delta 7e-05$",
            r"^233 +361 +4\.41",
            r"^5 +7\.\d+ +4\.\d+$",
        ],
    ),
}


def run(name, folder):
    """Runs a script from an empty folder, which is also where it puts what it writes."""
    home = folder / name
    home.mkdir()
    options = ["-X", "importtime"] if name == "plan_a_budget" else []
    return subprocess.run(
        [sys.executable, *options, EXAMPLES / f"{name}.py", *RUNS[name][0]],
        cwd=home,
        env={**os.environ, "TMPDIR": str(home), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every script's run; two at a time, because half of each is starting TensorFlow."""
    folder = tmp_path_factory.mktemp("examples")
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        yield {name: pool.submit(run, name, folder) for name in RUNS}


@pytest.mark.proof
@pytest.mark.parametrize("name", RUNS)
def test_a_script_runs_and_prints_what_it_found(name, runs):
    done = runs[name].result()
    assert done.returncode == 0, done.stderr[-3000:]
    for line in RUNS[name][1]:
        assert re.search(line, done.stdout, re.MULTILINE), (line, done.stdout)


def test_every_script_is_tried_and_short_and_in_the_table():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"build_notebooks"}
    assert scripts == set(RUNS)
    table = (EXAMPLES / "README.md").read_text("utf-8")
    for name in scripts:
        assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < 80, name
        assert f"| [{name}.py]({name}.py)" in table


def test_a_plan_needs_no_tensorflow(runs):
    imported = runs["plan_a_budget"].result().stderr
    assert "dp_accounting" in imported
    assert not re.search(r"\| +(tensorflow|keras)$", imported, re.MULTILINE)


def code_cells(script):
    """The code cells of a script in percent format."""
    cells = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)
    pairs = zip(cells[1::2], cells[2::2], strict=True)
    return [source.strip() for marker, source in pairs if "[markdown]" not in marker]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_and_shows_what_it_printed(path):
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]) for cell in cells] == code_cells(
        path.with_suffix(".py").read_text("utf-8")
    )
    printed = "".join("".join(output["text"]) for cell in cells for output in cell["outputs"])
    assert all(cell["execution_count"] for cell in cells)
    for line in RUNS[path.stem][1][-1:]:
        assert re.search(line, printed, re.MULTILINE), line
    assert not re.search(
        r"/tmp|/home|/work|site-packages|INFO:|^[IWE]\d{4} ", printed, re.MULTILINE
    )
    assert path.stat().st_size < 50_000


def test_the_first_three_have_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "audit_a_training",
        "fine_tune_kerashub_vit",
        "train_on_a_folder",
    ]
