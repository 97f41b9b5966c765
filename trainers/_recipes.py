"""Recipes: flags of `trainers.train` that were found to work well together, as plain files."""

import importlib.resources
from collections.abc import Sequence

from absl import flags

from keras_dpvit.errors import InputError
from trainers import _flags

AUTO, NONE = "auto", "none"

# A command line that names one of these knows what it wants.
_OWN_CHOICES = (
    "preset",
    "weights",
    "backbone",
    "init_weights",
    "trainable",
    "encryption_key",
)
_FOLDER_SIZES = {(side, side, 3): f"image_folder_{side}" for side in (32, 64, 96, 128, 224)}
# Images of another size are resized inside: to 32x32 up to this height or width, else to 64x64.
_LARGEST_SMALL_SIDE = 48
_SUFFIX = ".cfg"


def names() -> list[str]:
    """The recipes that there are."""
    files = importlib.resources.files(__package__).joinpath("recipes").iterdir()
    return sorted(x.name.removesuffix(_SUFFIX) for x in files if x.name.endswith(_SUFFIX))


def define_flag(flag_values: flags.FlagValues) -> None:
    """Defines --recipe."""
    flags.DEFINE_string(
        "recipe",
        AUTO,
        f"Settings found to work well together: one of {', '.join(names())}; auto, the one for the "
        "data set and size, unless the command names a preset, weights or what is trained; none. "
        "Flags that are given count more.",
        flag_values=flag_values,
    )


def expanded(typed: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
    """The flags as typed, behind those of the recipe that they name or that fits.

    Args:
        typed: the flags.
        flag_values: the program's flags; parsed on the way.

    Raises:
        InputError: if there is no such recipe; the message lists them.
    """
    for name in flag_values:
        flag_values[name].unparse()
    try:
        flag_values(["", *typed])
    except flags.Error:  # reported when the program parses them
        return list(typed)
    name = flag_values.recipe
    if name == AUTO:
        name = _fitting(flag_values)
    if name == NONE:
        return [*typed, f"--recipe={NONE}"]
    if name not in names():
        raise InputError(
            f"recipe must be {AUTO}, {NONE} or one of {', '.join(names())}, got {name!r}."
        )
    return [*lines(name), *typed, f"--recipe={name}"]


def lines(name: str) -> list[str]:
    """A recipe's flags."""
    file = importlib.resources.files(__package__).joinpath("recipes", name + _SUFFIX)
    found = (line.strip() for line in file.read_text("utf-8").splitlines())
    return [line for line in found if line and not line.startswith("#")]


def _fitting(flag_values: flags.FlagValues) -> str:
    """The recipe for a data set, by what is public: its name and the size of its images."""
    if any(flag_values[name].present for name in _OWN_CHOICES):
        return NONE
    if flag_values.dataset != "image_folder":
        return flag_values.dataset if flag_values.dataset in names() else NONE
    shape = _flags.parse_image_size(flag_values.image_size or ["32", "32", "3"])
    small = max(shape[:2]) <= _LARGEST_SMALL_SIDE
    return _FOLDER_SIZES.get(shape, "image_folder_32" if small else "image_folder_64")
