"""Attacks block-wise image encryption: recovered pictures, their SSIM, how often the key falls.

Every key is made for the trial and thrown away. The adversary knows the scheme but not the key:
  fr, fr_advanced      one ciphertext; undoes inversion, leaves edges
  correlation_jigsaw   --observed ciphertexts under one key (vit): correlations, seams, jigsaw
  known_plaintext      --observed images plain and encrypted
  chosen_plaintext     has a few images of its choice encrypted
  weight_matching      a key-transformed model (vit), and the public weights it was made from
Where the adversary had images in plain, others are scored.

Examples:
  python -m trainers.attack --scheme=vit --attack=correlation_jigsaw --images=photos
  python -m trainers.attack --scheme=le --attack=known_plaintext --images=photos --output=broken
  python -m trainers.attack --scheme=pe --attack=fr --images=photos --image_size=64,64,3 --json
"""

import json
import pathlib

import numpy as np
from absl import flags

from keras_dpvit import _validate
from keras_dpvit.errors import InputError
from trainers import _attack_output, _cli, _flags, _models

FLAGS = flags.FLAGS

# The names that are typed, and those of keras_dpvit.encryption.
SCHEMES = {"vit": "vit_block", "le": "le", "ele": "ele", "etc": "etc", "pe": "pe"}
ATTACKS = (
    "fr",
    "fr_advanced",
    "correlation_jigsaw",
    "known_plaintext",
    "chosen_plaintext",
    "weight_matching",
)
# What the papers use.
_SHAPES = {"vit": (224, 224, 3)}
_SMALL = (32, 32, 3)
# ELE has a key for each block, and each image tells one value of each place.
_OBSERVED = {"correlation_jigsaw": 2}
_OBSERVED_ELE = 8

flags.DEFINE_enum("scheme", None, list(SCHEMES), "Which cipher.")
flags.DEFINE_enum("attack", None, ATTACKS, "Which attack.")
flags.DEFINE_string("images", None, "Folder of pictures; sub-folders count.")
flags.DEFINE_list(
    "image_size", None, "height,width,channels to stretch to (default 224,224,3 for vit, 32,32,3)."
)
flags.DEFINE_integer("block_size", None, "Side of a block (default 16 for vit, 4 for the others).")
flags.DEFINE_integer("keys", 20, "How many keys are attacked.")
flags.DEFINE_integer(
    "observed",
    None,
    "Images under one key that the adversary sees (default 1; 2 for correlation_jigsaw, "
    "8 for known_plaintext on ele).",
)
flags.DEFINE_string(
    "public_model", None, "For weight_matching: .keras file of the vision transformer all know."
)
flags.DEFINE_float(
    "drift", 0.0, "For weight_matching: noise on the weights over their standard deviation."
)
flags.DEFINE_integer("seed", 0, "Of keys and of the choice of images.", lower_bound=0)
flags.DEFINE_string("output", None, "New folder for pictures and results.json.")
flags.DEFINE_bool("json", False, "Prints JSON.")


def main() -> None:
    """Attacks one key after another and prints what came of it."""
    shape = _check_flags()
    files = _attack_output.image_files(FLAGS.images)
    observed = _observed(len(files))
    output = None if FLAGS.output is None else _attack_output.checked_folder(FLAGS.output)
    weights = _public_weights(shape)
    from keras_dpvit.attacks import trials

    setting = trials.Setting(
        SCHEMES[FLAGS.scheme],
        FLAGS.attack,
        shape,
        {} if FLAGS.block_size is None else {"block_size": FLAGS.block_size},
        weights,
        FLAGS.drift,
    )

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = generator.permutation(len(files))[: observed + 1]
        batch = np.stack([_attack_output.read(files[i], shape) for i in order])
        return batch[:observed], batch[observed:]

    done = _attack_output.with_bar(trials.run(setting, draw, FLAGS.keys, FLAGS.seed), FLAGS.keys)
    summary = {"command": _command(), **trials.summarize(setting, done), "observed": observed}
    if weights is not None:
        summary["drift"] = FLAGS.drift
    if output is not None:
        _attack_output.write(output, done, summary)
    print(json.dumps(summary, indent=2) if FLAGS.json else _attack_output.text(summary))
    if output is not None and not FLAGS.json:
        print(f"pictures (plain, encrypted, recovered) and results.json: {output}")


def _check_flags() -> tuple[int, int, int]:
    """The image shape; everything that can be wrong without reading files is found here."""
    for name in ("scheme", "attack", "images"):
        if not FLAGS[name].value:
            raise InputError(f"--{name} must be given.")
    _flags.check_numbers(
        keys=_validate.positive_int,
        observed=_validate.positive_int,
        block_size=_validate.positive_int,
        drift=_validate.non_negative,
    )
    matching = FLAGS.attack == "weight_matching"
    if matching != (FLAGS.public_model is not None):
        raise InputError("--public_model goes with --attack=weight_matching, which needs it.")
    if (matching or FLAGS.attack == "correlation_jigsaw") and FLAGS.scheme != "vit":
        raise InputError(f"--attack={FLAGS.attack} is on --scheme=vit alone.")
    shape: tuple[int, int, int] = _SHAPES.get(FLAGS.scheme, _SMALL)
    if FLAGS.image_size is not None:
        shape = _flags.parse_image_size(FLAGS.image_size)
    if shape[2] not in (1, 3):
        raise InputError(f"image_size must have 1 or 3 channels, got {shape[2]}.")
    if min(shape[:2]) < 11:
        raise InputError(
            f"image_size must be at least 11,11 for SSIM's windows, got {shape[0]},{shape[1]}."
        )
    if FLAGS.scheme != "pe":
        block = FLAGS.block_size or (16 if FLAGS.scheme == "vit" else 4)
        if shape[0] % block or shape[1] % block:
            raise InputError(
                f"image_size must have sides that are multiples of the block size {block}, got "
                f"{shape[0]}x{shape[1]}."
            )
    elif FLAGS.block_size is not None:
        raise InputError("block_size must be left out for --scheme=pe, which has no blocks.")
    return shape


def _observed(available: int) -> int:
    """How many images the adversary sees."""
    count: int = FLAGS.observed or _OBSERVED.get(FLAGS.attack, 1)
    if FLAGS.observed is None and (FLAGS.scheme, FLAGS.attack) == ("ele", "known_plaintext"):
        count = min(_OBSERVED_ELE, max(available - 1, 1))
    if count > available:
        raise InputError(f"observed must be at most the {available} images found, got {count}.")
    return count


def _public_weights(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Patch kernel and position table of --public_model, found to fit the images."""
    if FLAGS.public_model is None:
        return None
    _models.check_model_file(FLAGS.public_model, "public_model")
    _cli.start_tensorflow()
    from keras_dpvit.attacks.weight_matching import embedding_weights

    with _cli.quiet_stderr():
        kernel, positions = embedding_weights(_models.load_any(FLAGS.public_model, "public_model"))
    block = FLAGS.block_size or 16
    blocks = (shape[0] // block) * (shape[1] // block)
    if kernel.shape[:3] != (block, block, shape[2]) or not 0 <= len(positions) - blocks <= 2:
        raise InputError(
            f"public_model has patches of {kernel.shape[:3]} and {len(positions)} positions, which "
            f"do not fit images of {shape} in blocks of {block}."
        )
    return kernel, positions


def _command() -> str:
    """The flags again, file names without their folders."""
    parts = ["python -m trainers.attack"]
    for name in ("scheme", "attack", "images", "image_size", "block_size", "keys", "observed"):
        value = FLAGS[name].value
        if value is not None:
            value = ",".join(value) if isinstance(value, list) else value
            parts.append(f"--{name}={pathlib.Path(value).name if name == 'images' else value}")
    return " ".join([*parts, f"--seed={FLAGS.seed}"])


if __name__ == "__main__":
    _cli.run(main)
