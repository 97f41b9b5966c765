"""Builds and executes the notebooks of three examples: `python examples/build_notebooks.py`.

Needs jupytext, nbclient and ipykernel. Cells come from the scripts, which are the ones to edit.
"""

import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

import jupytext
import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent
NAMES = ("train_on_a_folder", "fine_tune_kerashub_vit", "audit_a_training")
# What libraries say of the machine, of files they write and of widgets that are not installed.
_LOG = re.compile(
    r"[IWEF]\d{4} |\d{4}-\d\d-\d\d |\s*\[\[|To enable the following|WARNING: All log"
    r"|INFO:tensorflow|.*TqdmWarning|.*notebook_tqdm"
)
_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebook_of(script: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook of a script in percent format, its docstring as the heading, not executed."""
    notebook = jupytext.read(script, fmt="py:percent")
    heading = notebook.cells[0]
    title, _, rest = heading.source.strip('"\n ').partition("\n")
    heading.source = f"# {title.rstrip('.')}\n{rest}"
    notebook.metadata = nbformat.from_dict({"kernelspec": _KERNEL})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{script.stem}-{number}"
        cell.metadata = nbformat.from_dict({})
    return notebook


def execute(notebook: nbformat.NotebookNode) -> None:
    """Runs every cell from a temporary folder, and keeps what the scripts print."""
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": _KERNEL})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})  # the time it ran
        if cell.cell_type == "code":
            cell.outputs = list(_printed(cell.outputs))


def _printed(outputs: list[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """The outputs in one piece for each stream, without other libraries' log."""
    for name in ("stderr", "stdout"):
        text = "".join(output.text for output in outputs if output.name == name)
        lines = [line for line in text.splitlines(keepends=True) if not _LOG.match(line)]
        if "".join(lines).strip():
            yield nbformat.v4.new_output("stream", name=name, text="".join(lines))


def main() -> None:
    """Writes the notebooks beside the scripts."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in NAMES:
        notebook = notebook_of(HERE / f"{name}.py")
        execute(notebook)
        path = HERE / f"{name}.ipynb"
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
