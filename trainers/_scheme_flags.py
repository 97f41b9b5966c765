"""The options of the image ciphers as flags."""

from typing import Any

from absl import flags

FLAGS = flags.FLAGS
OPTIONS = (
    "block_size",
    "channels",
    "unit",
    "variant",
    "mode",
    "color_transform",
    "shuffle_colors",
)

flags.DEFINE_integer("block_size", None, "Side of a block (default: the scheme's published one).")
flags.DEFINE_enum(
    "channels", None, ["joint", "independent"], "vit_block: pixels move whole, or value by value."
)
flags.DEFINE_enum("unit", None, ["quadrant", "patch"], "vit_block: what is shuffled within.")
flags.DEFINE_enum("variant", None, ["tanaka", "paper"], "le, ele: the code's form or the paper's.")
flags.DEFINE_enum("mode", None, ["color", "grayscale"], "etc: which form.")
flags.DEFINE_enum(
    "color_transform", None, ["reversible", "ycbcr"], "etc, grayscale: exact, or the published one."
)
flags.DEFINE_bool("shuffle_colors", None, "pe: exchange colour channels too.")


def scheme_options() -> dict[str, Any]:
    """The options that were given, as `from_key` of a scheme takes them."""
    return {name: FLAGS[name].value for name in OPTIONS if FLAGS[name].value is not None}
