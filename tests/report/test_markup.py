"""Markup escapes whatever is not markup."""

import html
import xml.etree.ElementTree

from hypothesis import given
from hypothesis import strategies as st

from keras_dpvit.report.markup import Markup, join, scrolling, section, table, tag

# Without characters that XML, by which these tests read, has none of.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"))


@given(texts, texts)
def test_any_text_comes_out_as_it_went_in(inside, value):
    element = xml.etree.ElementTree.fromstring(tag("p", inside, title=value))
    assert (element.text or "") == inside
    assert element.get("title") == value


def test_markup_is_not_escaped_again_however_it_is_nested():
    inner = tag("b", "1 < 2")
    assert inner == "<b>1 &lt; 2</b>"
    assert join("a&b", [inner, ["<i>"]]) == "a&amp;b<b>1 &lt; 2</b>&lt;i&gt;"
    assert isinstance(join("x"), Markup)


def test_attributes():
    made = tag("a", class_="x", aria_label='"', name="n", open=None)
    assert made == '<a class="x" aria-label="&quot;" name="n"></a>'
    assert tag("br") == "<br/>"


def test_tables_name_their_rows_and_columns():
    made = table("What", ["", "a<b"], [["first", "1"], ["second", "2"]])
    root = xml.etree.ElementTree.fromstring(made)
    assert root.find("caption").text == "What"
    assert [(th.get("scope"), th.text) for th in root.iter("th")] == [
        ("col", None),
        ("col", "a<b"),
        ("row", "first"),
        ("row", "second"),
    ]
    assert [td.text for td in root.iter("td")] == ["1", "2"]


def test_what_scrolls_can_be_reached_by_keyboard():
    frame = xml.etree.ElementTree.fromstring(scrolling(tag("p"), "Wide & long"))
    assert (frame.get("tabindex"), frame.get("role")) == ("0", "region")
    assert frame.get("aria-label") == "Wide & long"


def test_sections_say_when_epsilon_does_not_cover_them():
    inside, outside = section("a", "A", "x"), section("a", "A", "x", covered=False)
    assert "not covered by epsilon" not in inside
    assert "not covered by epsilon" in html.unescape(outside)
