"""Describing models from the command line."""

import json
import subprocess
import sys

import PIL.Image
import pytest

import keras_dpvit as kd
from keras_dpvit.models.presets import PRESETS


@pytest.fixture(scope="module")
def small(run, tmp_path_factory):
    place = tmp_path_factory.mktemp("describe")
    flags = ("--preset=dpvit_small_28", "--num_classes=3", "--picture=network.png", "--json")
    result = run("describe", *flags, cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return place, result


def test_json_is_one_object_and_nothing_else(small):
    facts = json.loads(small[1].stdout)
    assert facts["preset"] == "dpvit_small_28"
    assert facts["image_shape"] == [28, 28, 1]
    assert facts["num_classes"] == 3
    # By hand: the preset's 72,234 parameters, less seven classes of 64 weights and a bias.
    assert facts["parameters"] == facts["trainable_parameters"] == 72_234 - 7 * 65
    assert facts["macs"] == 882_048 - 7 * 64
    assert [stage["tokens"] for stage in facts["stages"]] == [16, 8]
    assert facts["published"] is None


def test_picture_is_drawn_beside_json(small):
    place, _ = small
    with PIL.Image.open(place / "network.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 1000
    assert [path.name for path in place.iterdir()] == ["network.png"]


@pytest.mark.slow
def test_paper_size_beside_what_the_paper_prints(run, tmp_path):
    result = run("describe", "--preset=dpvit_paper_h4", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["parameters", "10,007,848", "9.87", "M", "+1.40", "%"] in lines
    assert ["MACs", "724,755,888", "0.712", "G", "+1.79", "%"] in lines
    assert ["2", "63", "256", "3", "2,384,656", "154,779,660"] in lines
    block = next(line for line in result.stdout.splitlines() if line.startswith("stage_1_block_1"))
    assert "threshold attention, 4 heads, MLP 1024  127x256" in block
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_saved_models_and_members(run, trained_members, trained_fusion, tmp_path):
    trained_fusion.save(tmp_path / "fused.keras")
    flags = ("--model=fused.keras", "--member=2", "--json")
    result = run("describe", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    facts = json.loads(result.stdout)
    expected = kd.describe(trained_members[1])
    assert facts == {"preset": None, **expected, "published": None}


def test_list_does_not_load_tensorflow(tmp_path):
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('trainers.describe', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'PIL'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--list"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    for name, preset in PRESETS.items():
        assert name in result.stdout
        assert preset["description"] in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded: []"


BAD = [
    ([], "Give one of --preset=NAME and --model=FILE.keras"),
    (["--preset=dpvit_tiny_8", "--model=a.keras"], "Give one of --preset=NAME and --model="),
    (["--preset=dpvit_huge"], "preset must be one of dpvit_paper_h12, dpvit_paper_h4"),
    (["--preset=dpvit_tiny_8", "--num_classes=1"], "num_classes must be at least 2, got 1"),
    (["--preset=dpvit_tiny_8", "--num_classes=ten"], "flag --num_classes=ten"),
    (["--model=a.keras", "--num_classes=3"], "num_classes must be left out with --model"),
    (["--preset=dpvit_tiny_8", "--picture=a.jpg"], "picture must be a file ending in .png"),
    (["--preset=dpvit_tiny_8", "--picture=no/a.png"], "picture must be a file ending in .png"),
    (["--preset=dpvit_tiny_8", "--picture=folder.png"], "directory that can be written, got 'fol"),
    (["--model=nowhere.keras"], "model must be a .keras file, got 'nowhere.keras': it does"),
    (["--model=damaged.keras"], "'damaged.keras' cannot be loaded"),
    (["tiny"], "unknown argument 'tiny'"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_bad_input_is_one_line_and_status_2(run, flags, message, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "damaged.keras").write_bytes(b"no archive")
    result = run("describe", *flags, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"folder.png", "damaged.keras"}
