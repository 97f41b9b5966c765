"""Flags that several programs have, and what they stand for.

Every function takes the `FlagValues` of the program first.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags

from keras_dpvit import _files, _validate, datasets
from keras_dpvit.datasets import ImageData
from keras_dpvit.datasets.image_files import TRANSPARENCIES, Reading
from keras_dpvit.errors import InputError
from keras_dpvit.privacy.accounting import ACCOUNTANTS

AUTO = "auto"

flags.disclaim_key_flags()  # what is defined here belongs to the program


class AutoFloatParser(flags.FloatParser):
    """Reads a number, or AUTO."""

    def parse(self, argument: Any) -> Any:
        return AUTO if argument == AUTO else super().parse(argument)


def delta(flag_values: flags.FlagValues) -> float | None:
    """The value of --delta, checked; None for auto.

    Raises:
        InputError: if it is out of range.
    """
    value = flag_values.delta
    return None if value == AUTO else _validate.open_unit_interval(delta=value)


def define_privacy_flags(flag_values: flags.FlagValues) -> None:
    """Defines --epsilon --delta --batch_size --epochs --accountant."""
    flags.DEFINE_float(
        "epsilon", 3.0, "The whole privacy budget; above 0.", flag_values=flag_values
    )
    define_delta_flag(flag_values)
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Expected examples in a step (Poisson sampling).",
        flag_values=flag_values,
    )
    flags.DEFINE_float("epochs", 10.0, "Expected passes over the data.", flag_values=flag_values)
    flags.DEFINE_enum(
        "accountant",
        "rdp",
        ACCOUNTANTS,
        "Whose epsilon is kept within the budget; pld is tighter.",
        flag_values=flag_values,
    )


def define_delta_flag(flag_values: flags.FlagValues) -> None:
    """Defines --delta."""
    flags.DEFINE(
        AutoFloatParser(),
        "delta",
        1e-5,
        "Between 0 and 1, well below 1 over the number of examples; or auto: the largest power of "
        "ten that is at most a tenth of that.",
        flag_values=flag_values,
    )


def define_dataset_flags(flag_values: flags.FlagValues) -> None:
    """Defines --dataset --data_dir --image_size --classes, and those of reading."""
    define_reading_flags(flag_values)
    flags.DEFINE_enum(
        "dataset", "digits", datasets.DATASETS, "Which images.", flag_values=flag_values
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the data: IDX files, or class sub-folders of pictures.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "image_size",
        None,
        "height,width,channels to which --dataset=image_folder is resized (default: the size of "
        "the preset or export).",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "classes",
        None,
        "Names of the sub-folders of --dataset=image_folder that are its classes, in order "
        "(default: read from the folder; then they ship with the model though they are private).",
        flag_values=flag_values,
    )


def define_reading_flags(flag_values: flags.FlagValues) -> None:
    """Defines --transparency --bit_depth."""
    flags.DEFINE_enum(
        "transparency",
        "drop",
        TRANSPARENCIES,
        "The ground that transparent pictures are laid on; drop takes their colours as stored. As "
        "in training.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "bit_depth",
        None,
        "Bits in use, 9 to 16, of pictures that have 16 (default: all 16). As in training.",
        flag_values=flag_values,
    )


def reading(flag_values: flags.FlagValues) -> Reading:
    """The ways in which pictures are read, by the flags.

    Raises:
        InputError: if one is out of range.
    """
    return Reading(flag_values.transparency, flag_values.bit_depth)


def check_numbers(flag_values: flags.FlagValues, **demands: Callable[..., object]) -> None:
    """Checks number flags by name, each by the rule of `keras_dpvit._validate` given for it.

    A flag that was not given and has no default passes, and so does AUTO.

    Raises:
        InputError: on the first that breaks its rule.
    """
    for name, demand in demands.items():
        if flag_values[name].value not in (None, AUTO):
            demand(**{name: flag_values[name].value})


def output_dir(flag_values: flags.FlagValues, default: str | None = None) -> pathlib.Path:
    """Checks the directory for versions before any time is spent; makes nothing.

    Args:
        flag_values: the program's flags.
        default: where versions are if --output_dir does not say; None for savedmodels/DATASET.

    Raises:
        InputError: if it is a file, lies below one, or may not be written.
    """
    default = default or f"savedmodels/{flag_values.dataset}"
    base = pathlib.Path(flag_values.output_dir or default)
    if not _files.can_be_made(base / "1"):
        raise InputError(f"output_dir must be a directory that can be written, got {str(base)!r}.")
    return base


def load_dataset(
    flag_values: flags.FlagValues, image_shape: tuple[int, int, int] | None = None
) -> ImageData:
    """The data set that the flags name.

    Args:
        flag_values: the program's flags.
        image_shape: what an image folder is resized to where --image_size does not say.
    """
    if flag_values.image_size is not None:
        image_shape = parse_image_size(flag_values.image_size)
    if flag_values.dataset != "image_folder" and flag_values.image_size is None:
        image_shape = None
    return datasets.load(
        flag_values.dataset,
        flag_values.data_dir,
        image_shape=image_shape,
        class_names=flag_values.classes,
        reading=reading(flag_values),
    )


def parse_image_size(values: list[str]) -> tuple[int, int, int]:
    """(height, width, channels) from the flag's parts.

    Raises:
        InputError: if they are not three whole numbers above 0.
    """
    try:
        height, width, channels = (int(value) for value in values)
    except ValueError:
        height = width = channels = 0
    if min(height, width, channels) <= 0:
        raise InputError(f"image_size must be height,width,channels, got {','.join(values)!r}.")
    return height, width, channels


def settings(flag_values: flags.FlagValues, kind: Any) -> Any:
    """A dataclass of settings, each field the flag of its name."""
    return kind(**{field.name: flag_values[field.name].value for field in dataclasses.fields(kind)})


def recorded(flag_values: flags.FlagValues, left_out: tuple[str, ...]) -> dict[str, Any]:
    """The program's flags and their values, for a file that travels.

    Args:
        flag_values: the program's flags.
        left_out: names of flags that stay here.
    """
    return {name: flag_values[name].value for name in flag_values if name not in left_out}
