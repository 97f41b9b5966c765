"""`trainers.ppgan`: a run whose files a fresh process reads, and bad input in one line."""

import json
import re
import subprocess
import sys

import pytest

QUICK = ("--dataset=digits", "--delta=1e-4", "--steps=2", "--num_images=40")
PLACES = ("--output_dir=made", "--checkpoint_dir=kept")

READ = """
import json, numpy as np, keras_dpvit as kd
records = kd.datasets.ArrayRecords("made/1/images")
image, label = records[13]
generator, model = (kd.load_model(f"made/1/{n}.keras") for n in ("generator", "model"))
epsilons = [m.privacy_ledger.epsilon(1e-4) for m in (generator, model)]
logits = model.predict(image[None], verbose=0)
print(json.dumps([len(records), image.shape, image.dtype.name, int(label), epsilons, logits.shape]))
"""


def test_a_run_is_read_in_a_fresh_process(run, environment, tmp_path):
    result = run("ppgan", *QUICK, *PLACES, "--validation=30", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "digits: 2 steps of the generator, 8 of the discriminator" in result.stdout
    assert "accuracy on real held-out images, trained on generated ones: 0." in result.stdout
    assert re.search(r"Epsilon (7\.99\d|8\.000) by RDP, \d\.\d+ by PLD", result.stdout)
    read = subprocess.run(
        [sys.executable, "-c", READ], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert read.returncode == 0, read.stderr
    count, shape, dtype, label, epsilons, logits = json.loads(read.stdout)
    assert (count, shape, dtype, label, logits) == (40, [8, 8, 1], "uint8", 3, [1, 10])
    version = tmp_path / "made" / "1"
    card = json.loads((version / "privacy_card.json").read_text())
    assert epsilons == [card["epsilon"]["rdp"]] * 2
    assert 7.9 < epsilons[0] <= 8
    assert any("neighbours.json" in line for line in card["not_covered"])
    assert card["statement"].startswith("Example-level differential privacy")
    assert card["dataset"]["num_training_examples"] == 1400
    written = json.loads((version / "run.json").read_text())
    assert written["steps_of_the_discriminator"] == 8
    assert "seed" not in written["flags"]
    assert json.loads((version / "neighbours.json").read_text())["copies"] == 0
    assert (version / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps=0"], "steps must be a whole number above 0, got 0."),
        (["--epsilon=-1"], "epsilon must be a finite number above 0, got -1.0."),
        (["--delta=2"], "delta must lie strictly between 0 and 1, got 2.0."),
        (["--num_images=0"], "num_images must be a whole number above 0, got 0."),
        (["--output_dir=/dev/null/x"], "output_dir must be a directory that can be written"),
        (["--dataset=cats"], "value should be one of"),
        (["--batch_size=99999", *QUICK], "batch_size"),
        (["--validation=2000", *QUICK], "validation must leave images to train on, got 2000."),
    ],
)
def test_bad_flags_are_one_line(run, tmp_path, flags, message):
    result = run("ppgan", *flags, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_has_examples(run, tmp_path):
    result = run("ppgan", "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "python -m trainers.ppgan --dataset=fashion_mnist" in result.stdout
    for flag in ("epsilon", "delta", "steps", "seed", "output_dir", "checkpoint_dir"):
        assert f"  --{flag}:" in result.stdout
