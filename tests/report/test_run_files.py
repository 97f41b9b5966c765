"""Reading a run: which version, and what is refused."""

import json
import shutil

import pytest

from keras_dpvit._files import CARD_NAME
from keras_dpvit.errors import InputError
from keras_dpvit.report.run_files import Run, load, read_files


@pytest.fixture
def copy(fused_run, tmp_path):
    """The run once more, to be spoiled, as version 2 of a base directory."""
    shutil.copytree(fused_run.directory, tmp_path / "base" / "2")
    return tmp_path / "base" / "2"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_newest_version_is_taken(copy):
    for name in ("1", "10", "notes"):
        (copy.parent / name).mkdir()
    shutil.copy(copy / "run.json", copy.parent / "1" / "run.json")  # 10 holds no run
    assert read_files(copy.parent).directory == copy
    assert read_files(copy).directory == copy


def test_members_have_names(fused_run, published_run):
    assert fused_run.member_names == ["member A", "member B"]
    assert published_run.member_names == ["model"]
    assert len(published_run.members) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "does not exist"),
        (lambda run: (run / "run.json").unlink(), "must hold run.json"),
        (lambda run: (run / "model.keras").unlink(), "must hold model.keras"),
        (lambda run: (run / CARD_NAME).unlink(), "must hold privacy_card.json"),
        (lambda run: (run / "run.json").write_text("{"), "cannot be read as JSON"),
        (lambda run: (run / "run.json").write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
        (lambda run: (run / "run.json").write_text("[" * 100_000), "cannot be read as JSON"),
        (lambda run: (run / "run.json").write_text("[]"), "must hold a JSON object, got a list"),
        (
            lambda run: edit(run / "run.json", lambda r: r.update(histories=[{"loss": ["1"]}])),
            "histories as lists of numbers",
        ),
        (lambda run: edit(run / "run.json", lambda r: r.pop("flags")), "must hold flags"),
        (lambda run: edit(run / CARD_NAME, lambda c: c.pop("ledger")), "is damaged"),
        (lambda run: edit(run / CARD_NAME, lambda c: c.update(ledger=3)), "is damaged"),
        (lambda run: edit(run / CARD_NAME, lambda c: c.update(delta=2)), "is damaged"),
        (
            lambda run: edit(run / CARD_NAME, lambda c: c["dataset"].update(class_names=[1])),
            "is damaged",
        ),
    ],
)
def test_damaged_files(copy, spoil, message):
    spoil(copy)
    with pytest.raises(InputError, match=message) as caught:
        read_files(copy)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory"):
        read_files(tmp_path / "file")


def test_card_of_another_run(copy):
    """A report must not print one model's epsilon beside another's accuracy."""

    def change(card):
        card["ledger"]["entries"][0]["steps"] += 1

    edit(copy / CARD_NAME, change)
    with pytest.raises(InputError, match="disagree on what the training cost"):
        load(read_files(copy))


def test_card_of_other_classes(copy):
    edit(copy / CARD_NAME, lambda card: card["dataset"]["class_names"].pop())
    with pytest.raises(InputError, match="disagree on the number of classes"):
        load(read_files(copy))


def test_model_that_cannot_be_loaded(copy):
    (copy / "model.keras").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"model\.keras cannot be loaded"):
        load(read_files(copy))


def test_loaded_run_is_the_files_and_the_model(fused_run, trained_fusion):
    assert isinstance(fused_run, Run)
    assert fused_run.ledger == trained_fusion.privacy_ledger
    assert fused_run.delta == 1e-4
    assert fused_run.flags["epsilon"] == 9.0
