"""The options of the image ciphers as flags."""

from typing import Any

from absl import flags

OPTIONS = (
    "block_size",
    "channels",
    "unit",
    "variant",
    "mode",
    "color_transform",
    "shuffle_colors",
)

flags.disclaim_key_flags()  # what is defined here belongs to the program


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines a flag for each of `OPTIONS`."""
    flags.DEFINE_integer(
        "block_size",
        None,
        "Side of a block (default: the scheme's published one).",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "channels",
        None,
        ["joint", "independent"],
        "vit_block: pixels move whole, or value by value.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "unit",
        None,
        ["quadrant", "patch"],
        "vit_block: what is shuffled within.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "variant",
        None,
        ["tanaka", "paper"],
        "le, ele: the code's form or the paper's.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "mode", None, ["color", "grayscale"], "etc: which form.", flag_values=flag_values
    )
    flags.DEFINE_enum(
        "color_transform",
        None,
        ["reversible", "ycbcr"],
        "etc, grayscale: exact, or the published one.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "shuffle_colors", None, "pe: exchange colour channels too.", flag_values=flag_values
    )


def scheme_options(flag_values: flags.FlagValues) -> dict[str, Any]:
    """The options that were given, as `from_key` of a scheme takes them."""
    return {
        name: flag_values[name].value for name in OPTIONS if flag_values[name].value is not None
    }
