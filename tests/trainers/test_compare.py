"""`trainers.compare` as a user types it."""

import json

import pytest

from keras_dpvit.reproduction.compared_systems import SYSTEMS


@pytest.mark.proof
def test_the_smoke_comparison_fills_every_row(run_by_itself, tmp_path):
    flags = ["--scale=smoke", "--epsilon=8"]
    done = run_by_itself("compare", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = tmp_path / "compared" / "smoke"
    content = json.loads((place / "comparison_smoke.json").read_text("utf-8"))
    cells = {cell["system"]: cell["result"] for cell in content["cells"]}
    assert list(cells) == list(SYSTEMS)
    # Noise is not seeded. The heads had 0.98 or more: of 360 images, 36 wrong where 9 are expected
    # have a chance below 1e-10. The small network had 0.78 to 0.81. Chance moves an AUC over 360
    # and 360 records by a deviation of sqrt(721 / (12 * 360 * 360)) = 0.02; 0.2 is nine of them.
    least = {"mpc": 0.5, "ppgan": 0.0}  # 1,437 digits are too few for a private GAN
    for name, result in cells.items():
        assert result["accuracy"][-1] > least.get(name, 0.9), name
        assert 0 < result["epsilon"]["pld"] <= 8
        assert 0.3 < result["membership"]["auc"] < 0.7
        assert result["training_bytes"]
        assert result["answer_bytes"]
    assert cells["mpc"]["agreement_with_plain"] >= 0.95
    assert cells["fedavg"]["failures"] == 0
    assert (place / "comparison_smoke.png").stat().st_size > 10_000
    again = run_by_itself("compare", *flags, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Computing the features" not in again.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--systems=dpvit,gan"], "systems must be of dpvit, fused, fedavg, ppgan, mpc, got 'gan'"),
        (["--epsilon=2,x"], "epsilon must be numbers above 0, as 2,8, got 'x'"),
        (["--epsilon=-1"], "epsilon must be a finite number above 0, got -1"),
        (["--seeds=0"], "seeds must be a whole number above 0, got 0"),
        (["--output=taken/a"], "output must be a folder that can be written, got 'taken/a'"),
        (["--cells_dir=taken"], "cells_dir must be a folder that can be written, got 'taken'"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, flags, message):
    (tmp_path / "taken").write_text("a file")
    result = run("compare", *flags, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
