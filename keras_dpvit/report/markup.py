"""HTML as strings that know whether they are markup: what is not is escaped on its way in."""

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | Iterable["Content"]

_WITHOUT_END = frozenset(("br", "img", "meta", "line", "path", "rect", "circle", "polyline"))


def join(*content: Content) -> Markup:
    """Content after each other; plain strings are escaped."""
    parts = []
    for item in content:
        if isinstance(item, Markup):
            parts.append(str(item))
        elif isinstance(item, str):
            parts.append(html.escape(item))
        else:
            parts.append(str(join(*item)))
    return Markup("".join(parts))


def tag(element: str, /, *content: Content, **attributes: object) -> Markup:
    """An element; `class_` stands for class, other underscores for hyphens.

    An attribute that is None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if element in _WITHOUT_END:
        return Markup(f"<{element}{written}/>")
    return Markup(f"<{element}{written}>{join(*content)}</{element}>")


def table(
    caption: str,
    head: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    class_: str = "figures",
) -> Markup:
    """A table whose first column names its rows.

    Args:
        caption: what it holds, for those who hear it read too.
        head: contents of the header row.
        rows: contents of each row, as many as in `head`.
        class_: "figures" sets all but the first column as numbers, "words" as text.
    """
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]])
        for row in rows
    ]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head])),
        tag("tbody", body),
        class_=class_,
    )


def scrolling(content: Markup, label: str) -> Markup:
    """A frame in which something wide scrolls sideways, by keyboard too, and the page does not."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def section(name: str, title: str, *content: Content, covered: bool = True) -> Markup:
    """A part of the page under a heading.

    Args:
        name: what links call it.
        title: the heading.
        *content: what stands in it.
        covered: False marks the part as outside of what epsilon covers.
    """
    badge = "" if covered else tag("span", "not covered by epsilon", class_="badge")
    heading = tag("h2", title, id=f"{name}-title")
    return tag(
        "section",
        tag("div", heading, badge, class_="heading"),
        *content,
        id=name,
        aria_labelledby=f"{name}-title",
    )
