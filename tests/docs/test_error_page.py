"""docs/errors.md quotes messages that the code has."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")


def texts_of(source):
    """Every text in a module, with `…` for what is put in when it runs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w+\}|%s", "…", node.value)


def is_quoted(message, texts):
    """True if a text says all that the message says, in order."""
    parts = [re.escape(part) for part in message.split("…")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def all_texts():
    folders = (ROOT / "keras_dpvit", ROOT / "trainers")
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return {text for file in files for text in texts_of(file.read_text("utf-8"))}


def test_every_message_on_the_page_is_in_the_code():
    messages = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
    assert len(messages) > 25
    texts = all_texts()
    assert [message for message in messages if not is_quoted(message, texts)] == []


def test_a_message_that_is_not_there_is_seen():
    assert not is_quoted("delta must be a prime number", all_texts())
    assert is_quoted("a … c", {"x a b c"})
