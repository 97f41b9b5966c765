"""What stands on the page, read as a browser's tree of elements."""

import dataclasses
import errno
import itertools
import json
import os
import re

import numpy as np
import pytest

from keras_dpvit import _files
from keras_dpvit.errors import InputError
from keras_dpvit.report.facts import facts
from keras_dpvit.report.page import html_page, write_page
from keras_dpvit.report.predictions import predict
from keras_dpvit.report.privacy_sections import epsilon_section
from keras_dpvit.report.score_sections import scores_section

SECTIONS = (
    "epsilon",
    "statement",
    "mechanism",
    "training",
    "held-out",
    "samples",
    "attention",
    "provenance",
)


@pytest.fixture(scope="module")
def tree(fused_page, parse):
    return parse(fused_page)


@pytest.fixture(scope="module")
def published(published_run, digit_images):
    return html_page(published_run, predict(published_run, digit_images, 40), sample_images=2)


def section_of(tree, name):
    return next(part for part in tree.iter("section") if part.get("id") == name)


def text_of(element):
    return " ".join(" ".join(element.itertext()).split())


def by_class(element, name):
    return [part for part in element.iter() if name in part.get("class", "").split()]


def cells(table):
    return [[text_of(cell) for cell in row] for row in table.iter("tr")]


def test_sections_and_the_links_to_them(tree):
    assert [part.get("id") for part in tree.iter("section")] == list(SECTIONS)
    assert [a.get("href") for a in tree.iter("a")] == [f"#{name}" for name in SECTIONS]
    badged = [part.get("id") for part in tree.iter("section") if by_class(part, "badge")]
    assert badged == ["training", "held-out", "samples", "attention"]


def test_page_asks_for_nothing(fused_page, tree):
    policy = next(m for m in tree.iter("meta") if m.get("http-equiv"))
    assert policy.get("content").startswith("default-src 'none';")
    assert not [s for s in tree.iter("script") if s.get("type") != "application/json"]
    assert not list(tree.iter("link"))
    assert all(image.get("src").startswith("data:image/png;base64,") for image in tree.iter("img"))
    assert not re.search(r"https?:|url\(|@import|\son\w+=", fused_page)
    assert len(fused_page.encode()) < 3_000_000


def test_page_can_be_used_without_seeing_it(tree):
    assert tree.get("lang") == "en"
    assert all(image.get("alt") for image in tree.iter("img"))
    assert all(chart.get("role") == "img" for chart in tree.iter("svg"))
    for table in tree.iter("table"):
        assert text_of(table.find("caption"))
        heads = list(table.iter("th"))
        assert heads
        assert {th.get("scope") for th in heads} <= {"row", "col"}
    identities = [part.get("id") for part in tree.iter() if part.get("id")]
    assert len(identities) == len(set(identities))
    pointed = [name for p in tree.iter() for name in p.get("aria-labelledby", "").split()]
    assert set(pointed) <= set(identities)
    levels = [int(part.tag[1]) for part in tree.iter() if re.fullmatch(r"h\d", part.tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_whole_statement_stands_on_the_page(tree, fused_run):
    words = text_of(section_of(tree, "statement")).removeprefix("Privacy statement").split()
    expected = [w for w in fused_run.model.privacy_statement().split() if w != "*"]
    assert words == expected


def test_tiles_say_what_json_says(tree, fused_page):
    read = json.loads(next(s for s in tree.iter("script") if s.get("id") == "report-data").text)
    tiles = [text_of(part) for part in by_class(tree, "value")]
    accuracy = read["accuracy"][-1]["accuracy"]
    epsilons = [read["privacy"]["epsilon"][name] for name in ("rdp", "pld")]
    assert tiles[0] == f"{100 * accuracy:.1f} %"
    for tile, epsilon in zip(tiles[1:3], epsilons, strict=True):
        assert epsilon <= float(tile) < epsilon + 0.001  # a bound stays one when rounded
    assert "delta 0.0001, ADD_OR_REMOVE_ONE" in text_of(next(tree.iter("header")))


def test_json_is_all_the_figures(tree, fused_run, fused_predictions):
    read = json.loads(next(tree.iter("script")).text)
    assert read == json.loads(json.dumps(_files.jsonable(facts(fused_run, fused_predictions))))
    assert read["histories"][1]["loss"] == [2.4, 2.0, None, 1.0]


def test_confusion_matrix_is_a_table_of_counts(tree, fused_run, fused_predictions):
    (table,) = by_class(tree, "confusion")
    head, *rows = cells(table)
    names = list(fused_predictions.class_names)
    assert head == ["", *names]
    counts = [[int(c.replace("·", "0")) for c in row[1:]] for row in rows]
    assert counts == facts(fused_run, fused_predictions)["confusion"]
    assert [row[0] for row in rows] == names


def test_mechanism_names_noise_sampling_clipping_and_sensitivity(tree, fused_run):
    head, *rows = cells(next(section_of(tree, "mechanism").iter("table")))
    found = {row[0]: row[1:] for row in rows}
    assert head == ["", "member A", "member B"]
    entries = fused_run.ledger.all_entries()
    noises = [f"{entry.noise_multiplier:.6g}" for entry in entries]
    assert found["noise multiplier of a step"] == noises
    assert "Poisson, each record with probability 0.178149" in found["sampling"]
    assert found["clipping"][0].startswith("median layer")
    assert found["sensitivity"][0].startswith("dynamic floor 0.001")
    assert found["seed of the noise"] == ["fixed: privacy rests on its secrecy"] * 2


def test_samples_show_members_weights_and_fusion(tree, fused_predictions):
    samples = list(section_of(tree, "samples").find("ul"))
    assert len(samples) == 8
    assert [text_of(by_class(s, "verdict")[0]) for s in samples] == ["wrong"] * 4 + ["right"] * 4
    weights = {tuple(f"{w:.2f}" for w in row) for row in fused_predictions.weights}
    for sample in samples:
        head, *rows = cells(next(sample.iter("table")))
        assert head == ["class", "A", "B", "fused"]
        assert rows[-1][0] == "weight"
        assert tuple(rows[-1][1:3]) in weights
        (truth,) = by_class(sample, "truth")
        assert f"is {text_of(truth)} model" in text_of(sample)
        assert [int(row[3]) for row in rows[:-1]] == sorted(
            (int(row[3]) for row in rows[:-1]), reverse=True
        )


def test_each_member_has_attention_maps(tree):
    sheets = list(section_of(tree, "attention").iter("details"))
    assert [text_of(next(sheet.iter("summary"))) for sheet in sheets] == ["Member A", "Member B"]
    assert all(int(next(sheet.iter("img")).get("width")) > 600 for sheet in sheets)


def test_images_are_left_out_when_asked(fused_run, fused_predictions, fused_page, parse):
    tree = parse(html_page(fused_run, fused_predictions, sample_images=0))
    assert not list(tree.iter("img"))
    assert [part.get("id") for part in tree.iter("section")] == [
        name for name in SECTIONS if name not in ("samples", "attention")
    ]
    assert "prints no images" in text_of(next(tree.iter("header")))
    assert "prints 8 held-out images" in text_of(next(parse(fused_page).iter("header")))


def test_an_infinite_epsilon_is_said_first(published, parse):
    tree = parse(published)
    header = text_of(next(tree.iter("header")))
    assert "Epsilon is infinite: nothing is promised" in header
    assert [text_of(part) for part in by_class(tree, "value")][1:3] == ["infinite", "infinite"]
    epsilon = section_of(tree, "epsilon")
    assert not list(epsilon.iter("svg"))
    assert "there is no curve to draw" in text_of(epsilon)
    assert "nominal, not a guarantee" in text_of(section_of(tree, "statement"))
    assert "no: epsilon is infinite" in text_of(section_of(tree, "mechanism"))
    assert "No epsilon to draw: it is infinite" in text_of(section_of(tree, "training"))


def test_a_single_model_has_no_fusion_on_its_page(published, parse):
    tree = parse(published)
    head, *_ = cells(next(section_of(tree, "samples").iter("table")))
    assert head == ["class", "model"]
    assert "weight" not in text_of(section_of(tree, "samples"))
    assert "fused" not in text_of(next(tree.iter("main")))


def test_half_infinite_epsilon_is_drawn_as_far_as_it_goes(fused_run, fused_predictions, parse):
    privacy = facts(fused_run, fused_predictions)["privacy"]
    for curve in privacy["curves"][1:]:
        middle = len(curve["points"]) // 2
        curve["points"][middle:] = [[step, float("inf")] for step, _ in curve["points"][middle:]]
    words = text_of(parse(epsilon_section(privacy)))
    assert "Epsilon of member B is infinite from step" in words
    assert "Epsilon of all together is infinite from step" in words
    assert "Epsilon of member A" not in words


def test_a_total_above_the_budget_is_explained(fused_run, fused_predictions, parse):
    privacy = facts(fused_run, fused_predictions)["privacy"]
    assert "above the budget" not in text_of(parse(epsilon_section(privacy)))
    privacy["budget"]["epsilon"] = 0.1
    assert "is above the budget" in text_of(parse(epsilon_section(privacy)))


def test_other_held_out_images_are_told(fused_run, fused_predictions, parse):
    other = dataclasses.replace(fused_predictions, total=100)
    header = text_of(next(parse(html_page(fused_run, other, 0)).iter("header")))
    assert "The run held out 360 images, the data set read for this page holds out 100" in header


def test_names_are_never_markup(fused_run, fused_predictions, parse):
    names = ("</script><b>&", '"<i>', *map(str, range(8)))
    other = dataclasses.replace(fused_predictions, class_names=names)
    tree = parse(html_page(fused_run, other, 2))
    assert not list(tree.iter("b"))
    assert json.loads(next(tree.iter("script")).text)["data"]["class_names"] == list(names)
    assert cells(by_class(tree, "confusion")[0])[0][1:] == list(names)


def test_of_many_classes_the_worst_confusions_are_listed(fused_run, fused_predictions, parse):
    """A matrix of a hundred classes could not be read."""
    found = facts(fused_run, fused_predictions)
    count = 40
    confusion = np.diag(np.full(count, 5))
    confusion[3, 7], confusion[8, 1] = 4, 5
    found["data"]["class_names"] = [f"class {i}" for i in range(count)]
    found["confusion"] = confusion.tolist()
    tree = parse(scores_section(found))
    assert not by_class(tree, "confusion")
    table = next(t for t in tree.iter("table") if "frequent" in text_of(t.find("caption")))
    assert cells(table)[1:] == [
        ["class 8", "class 1", "5", "50.0"],
        ["class 3", "class 7", "4", "44.4"],
    ]


def test_a_page_replaces_an_older_one_whole_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    write_page("older \udcff", path)  # a file name that is no UTF-8 may be a class
    assert path.read_text("utf-8") == "older ?"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_page("newer", path)
    assert [file.read_text("utf-8") for file in tmp_path.iterdir()] == ["older ?"]
