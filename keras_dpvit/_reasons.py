"""The part of another library's error that says what is wrong, in one line.

TensorFlow's errors begin with "Graph execution error:" and the lines of code that made the op,
Keras' with the layer that was called, Pillow's name an object in memory, OpenCV's a file of its own
sources. The reason stands behind.
"""

import re
from collections.abc import Iterator

_LONGEST = 300

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Parts of lines that name places in TensorFlow's graph and in memory.
_PLACES = re.compile(
    r"\{\{function_node [^}]*\}\}\s*|\s*\[Op:[^\]]*\](?:\s*name:.*)?|\s*<[\w.]+ object at 0x\w+>"
)
_LEADS = re.compile(
    r"^(?:Error in user-defined function passed to \S+ transformation with iterator: [\w:]+: "
    r"|\(\d+\)\s+[A-Z_]+: |OpenCV\([^)]*\) .*?: error: )"
)
# Whole lines that say where and not what.
_AROUND = re.compile(
    r"Graph execution error:|Detected at node .* defined at \(most recent call last\):"
    r"|Detected (?:unsupported operations|at node) .*:|<stack traces unavailable>"
    r"|Traceback \(most recent call last\):|in user code:|Node: .*|\d+ root error\(s\) found\."
    r"|Exception encountered when calling .*|\[\[.*\]\].*|Function call stack:|[\^~ ]+|>"
)
_CODE_OF = re.compile(r'\s*File ".*", line \d+')
_ASSERTION = re.compile(r"assertion failed: \[(.*)\]$")
_OPENCV = re.compile(r"\(-?\d+:([^)]*)\) (.*?)(?: in function .*)?$")


def reason(error: BaseException | str) -> str:
    """The first line of an error that says what is wrong.

    Args:
        error: of any library, or its text.

    Returns:
        One line of at most 300 characters without a full stop; the error's type where it says
        nothing.
    """
    telling = telling_lines(str(error))
    line = next(telling, "")
    if line.endswith(":"):
        line = f"{line} {next(telling, '')}"
    line = " ".join(line.split())
    if isinstance(error, KeyError) or (line in ("", ":") and isinstance(error, BaseException)):
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return shortened(line.rstrip("."))


def shortened(line: str) -> str:
    """The line, cut to 300 characters where it is longer."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def telling_lines(text: str) -> Iterator[str]:
    """The lines of an error's text without those that name places, in order."""
    inside: int | None = None  # indentation of the line of code that a traceback names
    for whole in _PLACES.sub("", _COLOURS.sub("", text)).splitlines():
        line = whole.strip()
        depth = len(whole) - len(whole.lstrip())
        if _CODE_OF.match(whole):
            inside = depth
            continue
        if not line:
            inside = None
        elif inside is not None and depth > inside:
            continue  # the line of code itself
        elif not _AROUND.fullmatch(line):
            inside = None
            yield _plain(line)


def _plain(line: str) -> str:
    line = _LEADS.sub("", line)
    asserted = _ASSERTION.fullmatch(line)
    if asserted:
        return asserted[1].replace("] [", " ")
    opencv = _OPENCV.fullmatch(line)
    return f"{opencv[1]}: {opencv[2]}".rstrip(": ") if opencv else line
