"""The floors of CONTRIBUTING are those that import-linter checks, and no room is left out."""

import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).parents[2]


def contract_floors():
    """Rooms by floor, the highest first, as the contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = next(c["layers"] for c in settings["contracts"] if c["type"] == "layers")
    return [
        sorted(room.strip().removeprefix("keras_dpvit.") for room in floor.split("|"))
        for floor in floors
    ]


def test_the_table_of_rooms_is_the_contract():
    rows = re.findall(
        r"^\| (\d) \| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    packages = {path.parent.name for path in (ROOT / "keras_dpvit").glob("*/__init__.py")}
    assert {room for _, room in rows} == packages | {"trainers"}
    numbers = sorted({int(number) for number, _ in rows}, reverse=True)
    table = [sorted(room for n, room in rows if int(n) == number) for number in numbers]
    floors = [[room for room in floor if room != "loading"] for floor in contract_floors()]
    assert table == floors


def test_no_import_goes_upwards_or_in_a_circle():
    command = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports())"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
