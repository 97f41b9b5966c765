"""Docstrings, comments and messages avoid the turns of phrase that readers stumble over."""

import ast
import io
import pathlib
import re
import tokenize

ROOT = pathlib.Path(__file__).parents[2]

OPENING = re.compile(r"(What|How|Whether|Where|Which)\b")
PHRASES = (
    "which is none",
    "must be as many as",
    "lets go of",
    "told of",
    "to be had",
    "goes on",
    "so many",
)
PHRASE = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings_of(tree):
    """(line, docstring) of a module and all classes and functions in it."""
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            yield node.body[0].lineno, ast.get_docstring(node)


def strings_of(tree):
    """(line, text) of every string, docstrings among them, with `…` for what is put in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def comments_of(source):
    """(line, text) of every comment; comments on lines that follow each other are one text."""
    texts, last = {}, None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        first = last[0] if last is not None and last[1] == line - 1 else line
        texts[first] = f"{texts.get(first, '')} {token.string.lstrip('# ')}"
        last = first, line
    return texts.items()


def faults_of(source):
    """(line, fault) of all that reads badly in a module, once each, in order of lines."""
    tree = ast.parse(source)
    found = {(n, f"opens with {m[1]}") for n, t in docstrings_of(tree) if (m := OPENING.match(t))}
    for line, text in (*strings_of(tree), *comments_of(source)):
        found |= {(line, m[1].lower()) for m in PHRASE.finditer(" ".join(text.split()))}
    return sorted(found)


def test_no_docstring_comment_or_message_has_these_turns_of_phrase():
    files = [file for name in ("keras_dpvit", "trainers") for file in (ROOT / name).rglob("*.py")]
    assert len(files) > 100
    assert [
        f"{file.relative_to(ROOT)}:{line}: {fault}"
        for file in sorted(files)
        for line, fault in faults_of(file.read_text("utf-8"))
    ] == []


FAULTY = '''"""Where things are."""

import os  # The reader is told of it, and
#            goes on.


class Part:
    """How it is done."""

    def check(self, path, count):
        """Whether the path is one of so
        many."""
        if count:
            raise ValueError(f"labels must be as many as {count} images.")
        raise ValueError(
            f"path must be a file, got {path!r}, which "
            "is none."
        )


async def close():
    """What is to be had."""


def which():
    """Which one.

    Lets go of the file.
    """
'''


def test_each_fault_is_found():
    assert faults_of(FAULTY) == [
        (1, "opens with Where"),
        (3, "goes on"),
        (3, "told of"),
        (8, "opens with How"),
        (11, "opens with Whether"),
        (11, "so many"),
        (14, "must be as many as"),
        (16, "which is none"),
        (22, "opens with What"),
        (22, "to be had"),
        (26, "lets go of"),
        (26, "opens with Which"),
    ]


def test_what_only_looks_like_a_fault_is_not_found():
    sound = '"""Whatever is told officially; howsoever many.\n\nWhat follows may open so."""\n'
    assert faults_of(sound + "number = 1  # goes one by one\n") == []
