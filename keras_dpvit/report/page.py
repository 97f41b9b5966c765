"""The report: one HTML page that needs nothing else."""

import json
import math
import os
from typing import Any

from keras_dpvit import _files
from keras_dpvit.privacy.statement import format_epsilon
from keras_dpvit.report.facts import facts as facts_of
from keras_dpvit.report.markup import Content, Markup, join, scrolling, section, table, tag
from keras_dpvit.report.predictions import HeldOut, choose_samples
from keras_dpvit.report.privacy_sections import (
    epsilon_section,
    mechanism_section,
    statement_section,
)
from keras_dpvit.report.run_files import Run
from keras_dpvit.report.sample_sections import (
    attention_section,
    samples_section,
)
from keras_dpvit.report.score_sections import percent, scores_section
from keras_dpvit.report.style import STYLE
from keras_dpvit.report.training_section import training_section

DATA_ID = "report-data"

# The browser itself refuses whatever the page would load.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
_ABOUT_DATA = f"The figures are in this page once more as JSON, in the element {DATA_ID}."


def html_page(run: Run, held_out: HeldOut, sample_images: int = 8) -> str:
    """The report of a run as one HTML page, without scripts and without requests.

    The figures stand in it once more as JSON, in the element with the id `report-data`; infinite
    numbers are "infinite" there.

    Args:
        run: with its model, see `run_files.load`.
        held_out: what the model says about held-out images, see `predictions.predict`.
        sample_images: int, images shown; 0 shows none, nor attention maps.

    Returns:
        The page.
    """
    facts = facts_of(run, held_out)
    rows = choose_samples(held_out, sample_images)
    sections = [
        epsilon_section(facts["privacy"]),
        statement_section(facts["privacy"]),
        mechanism_section(facts["privacy"]),
        training_section(facts["histories"]),
        scores_section(facts),
    ]
    links = [
        ("epsilon", "Epsilon"),
        ("statement", "Statement"),
        ("mechanism", "Mechanism"),
        ("training", "Training"),
        ("held-out", "Held-out images"),
    ]
    if len(rows):
        sections += [samples_section(held_out, rows, run.member_names)]
        sections += [attention_section(run, held_out, rows)]
        links += [("samples", "Samples"), ("attention", "Attention")]
    sections.append(_provenance_section(facts["provenance"]))
    links.append(("provenance", "Provenance"))
    contents = [tag("li", tag("a", words, href=f"#{name}")) for name, words in links]
    body = tag(
        "body",
        _header(facts, len(rows)),
        tag("main", tag("nav", tag("ul", contents), aria_label="Contents"), sections),
        tag("footer", tag("p", f"Written by {facts['package']}. {_ABOUT_DATA}")),
        _data_block(facts),
    )
    return f"<!DOCTYPE html>\n{tag('html', _head(facts), body, lang='en')}\n"


def write_page(page: str, path: str | os.PathLike[str]) -> None:
    """Writes a page into a file; an older file is replaced whole or stays.

    Raises:
        InputError: if the place cannot be written.
    """
    _files.write_whole(path, page)


def _head(facts: dict[str, Any]) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{_model_words(facts)} on {facts['data']['name']}: report"),
        tag("style", Markup(STYLE)),
    )


def _model_words(facts: dict[str, Any]) -> str:
    model = facts["model"]
    count = len(model["members"])
    return f"{count} × {model['preset']}, fused" if count > 1 else str(model["preset"])


_TRAINED = {
    "all": "all weights trained",
    "head": "the head alone trained",
    "bias": "biases and the head alone trained",
}


def _header(facts: dict[str, Any], num_samples: int) -> Markup:
    model, data, privacy = facts["model"], facts["data"], facts["privacy"]
    details = [
        f"{model['parameters']:,} parameters",
        f"images {'×'.join(str(side) for side in model['image_shape'])}",
        f"{len(data['class_names'])} classes",
    ]
    if model["trainable"] is not None:
        details.append(_TRAINED[model["trainable"]])
    if model["members_data"]:
        details.append(f"members on {model['members_data']} records")
    if facts["provenance"]["trained_at"]:
        details.append(f"trained {facts['provenance']['trained_at']}")
    if data["num_training_examples"]:
        details.append(f"{data['num_training_examples']:,} training records")
    return tag(
        "header",
        tag("h1", f"{data['name']}: {_model_words(facts)}"),
        tag("p", " · ".join(details), class_="faint"),
        tag("dl", _tiles(facts), class_="tiles"),
        _alerts(data, privacy),
        tag("div", tag("p", _caution(num_samples)), class_="note", role="note"),
    )


def _caution(num_samples: int) -> str:
    """A caution that the page itself may be private."""
    printed = f"prints {num_samples} held-out images" if num_samples else "prints no images"
    return (
        f"This page {printed}, and shows figures computed from held-out images and from training "
        "records. Epsilon protects the training records against whoever has the model; it does "
        "not protect what is shown here. Where the data are private, so is the page."
    )


def _tiles(facts: dict[str, Any]) -> list[Markup]:
    privacy, score = facts["privacy"], facts["accuracy"][-1]
    tiles = [
        (
            f"accuracy, {score['name']}" if len(facts["accuracy"]) > 1 else "accuracy",
            f"{percent(score['accuracy'])} %",
            f"95 %: {percent(score['low'])}–{percent(score['high'])}, "
            f"{facts['data']['num_scored']:,} held-out images",
        )
    ]
    tiles += [
        (
            f"epsilon by {name.upper()}",
            format_epsilon(value),
            f"at delta {privacy['delta']:g}, {privacy['adjacency']}",
        )
        for name, value in privacy["epsilon"].items()
    ]
    error = facts["calibration"]["expected_error"]
    tiles.append(("calibration error", f"{100 * error:.1f}", "points, expected; 0 is best"))
    return [
        tag(
            "div",
            tag("dt", name),
            tag("dd", value, class_="value"),
            tag("dd", words),
            class_="tile",
        )
        for name, value, words in tiles
    ]


def _alerts(data: dict[str, Any], privacy: dict[str, Any]) -> Markup:
    """Warnings that a reader must see before any figure."""
    words = []
    if not all(math.isfinite(value) for value in privacy["epsilon"].values()):
        words.append(
            "Epsilon is infinite: nothing is promised to the people behind the training records. "
            "The privacy statement says why."
        )
    if not privacy["ledger"].get("entries", True):
        words.append(
            "No private training is on record: epsilon 0 stands for a model that "
            "has not been trained."
        )
    if data["num_held_out_in_training"] not in (None, data["num_held_out"]):
        words.append(
            f"The run held out {data['num_held_out_in_training']:,} images, the data set read for "
            f"this page holds out {data['num_held_out']:,}: it is not the same, and images shown "
            "or scored here may have been trained on."
        )
    return join([tag("div", tag("p", line), class_="note alert", role="note") for line in words])


def _provenance_section(provenance: dict[str, Any]) -> Markup:
    flags = [[f"--{name}", _flag_words(value)] for name, value in provenance["flags"].items()]
    made = [
        [name.replace("_", " "), str(value)]
        for name, value in provenance.items()
        if isinstance(value, str)
    ]
    files = [
        [file["name"], f"{file['bytes']:,}", tag("code", file["sha256"])]
        for file in provenance["files"]
    ]
    return section(
        "provenance",
        "Provenance",
        tag(
            "div",
            table("What made the run", ["what", "value"], made, class_="words"),
            table("Flags of the training", ["flag", "value"], flags, class_="words"),
            class_="sides",
        ),
        tag(
            "details",
            tag("summary", "Files"),
            scrolling(
                table("Files of the run", ["file", "bytes", "SHA-256"], files), "Files of the run"
            ),
        ),
    )


def _flag_words(value: Any) -> Content:
    if value is None:
        return tag("span", "default", class_="faint")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _data_block(facts: dict[str, Any]) -> Markup:
    text = json.dumps(_files.jsonable(facts), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("&", "\\u0026")  # so nothing in it is markup
    return tag("script", Markup(text), type="application/json", id=DATA_ID)
