"""Attacks block-wise image encryption: recovered pictures, their SSIM, how often the key falls.

Every key is made for the trial and thrown away. The adversary knows the scheme but not the key:
  fr, fr_advanced      one ciphertext; undoes inversion, leaves edges
  correlation_jigsaw   --observed ciphertexts under one key (vit): correlations, seams, jigsaw
  etc_jigsaw           --observed ciphertexts under one key (etc, colour): jigsaw of turned blocks
  known_plaintext      --observed images plain and encrypted
  chosen_plaintext     has a few images of its choice encrypted
  weight_matching      a key-transformed model (vit), and the public weights it was made from
Where the adversary had images in plain, others are scored.

Attacks that train a network attack one key. They need a data set with classes (--dataset, or
--images with a sub-folder for each class), which is cut into the adversary's own images, the
victim's and those that are scored, and they tell how well a classifier of plain images reads what
was recovered; so do fr and fr_advanced with --dataset:
  itn                  image translation, learned on its own images under random keys
  itn_paired           the same on its own images under the victim's key (known plaintext)
  sia_gan              GAN from the victim's ciphertexts with labels and its own, other images
  dcgan                the same without labels, in the plain DCGAN form
Give --checkpoint_dir, and a training that was killed resumes after its last whole epoch.

Examples:
  python -m trainers.attack --scheme=vit --attack=correlation_jigsaw --images=photos
  python -m trainers.attack --scheme=le --attack=known_plaintext --images=photos --output=broken
  python -m trainers.attack --scheme=pe --attack=fr --images=photos --image_size=64,64,3 --json
  python -m trainers.attack --scheme=pe --shuffle_colors=false --attack=fr --images=photos
  python -m trainers.attack --scheme=le --attack=itn_paired --dataset=fashion_mnist --output=itn
  python -m trainers.attack --scheme=le --attack=sia_gan --images=photos --checkpoint_dir=training
  python -m trainers.attack --scheme=vit --attack=dcgan --dataset=fashion_mnist --scale=full
"""

import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet, _validate, datasets
from keras_dpvit.attacks.image_translation import NETWORKS
from keras_dpvit.attacks.trained_settings import ATTACKERS as LEARNED
from keras_dpvit.attacks.trained_settings import SCALES
from keras_dpvit.datasets import picture_files
from keras_dpvit.encryption.schemes import block_size_of, full_options
from keras_dpvit.errors import InputError
from keras_dpvit.runs import model_files
from trainers import _attack_output, _cli, _flags, _scheme_flags

FLAGS = flags.FlagValues()
_scheme_flags.define_flags(FLAGS)

# The names that are typed, and those of keras_dpvit.encryption.
SCHEMES = {"vit": "vit_block", "le": "le", "ele": "ele", "etc": "etc", "pe": "pe"}
ATTACKS = (
    "fr",
    "fr_advanced",
    "correlation_jigsaw",
    "etc_jigsaw",
    "known_plaintext",
    "chosen_plaintext",
    "weight_matching",
    *LEARNED,
)
# What the papers use.
_SHAPES = {"vit": (224, 224, 3)}
_SMALL = (32, 32, 3)
# ELE has a key for each block, and each image tells one value of each place.
_OBSERVED = {"correlation_jigsaw": 2, "etc_jigsaw": 8}
_OBSERVED_ELE = 8

flags.DEFINE_enum("scheme", None, list(SCHEMES), "Which cipher.", flag_values=FLAGS)
flags.DEFINE_enum("attack", None, ATTACKS, "Which attack.", flag_values=FLAGS)
flags.DEFINE_string(
    "images",
    None,
    "Folder of pictures; sub-folders count, for trained attacks as classes.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "dataset", None, datasets.DATASETS, "A data set with classes, for --images.", flag_values=FLAGS
)
flags.DEFINE_string(
    "data_dir", None, "Folder of the data set, where it is not at home.", flag_values=FLAGS
)
flags.DEFINE_list(
    "image_size",
    None,
    "height,width,channels to stretch to (default 224,224,3 for vit, 32,32,3 for the others; with "
    "trained attacks at small scale 32,32,3 in blocks of 4 for vit too).",
    flag_values=FLAGS,
)
flags.DEFINE_integer("keys", 20, "How many keys are attacked.", flag_values=FLAGS)
flags.DEFINE_integer(
    "observed",
    None,
    "Images under one key that the adversary sees (default 1; 2 for correlation_jigsaw, 8 for "
    "etc_jigsaw, 8 for known_plaintext on ele).",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "public_model",
    None,
    "For weight_matching: .keras file of the vision transformer all know.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "drift",
    0.0,
    "For weight_matching: noise on the weights over their standard deviation.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "scale",
    None,
    SCALES,
    "For trained attacks: networks for minutes on one core (small, the default), or those of the "
    "publications (full).",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "network",
    None,
    NETWORKS,
    "For itn (default unet) and itn_paired (default stack).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "epochs", None, "For trained attacks: instead of the scale's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "own_images",
    None,
    "For attacks on a data set: plain images that the adversary has, and the classifier is "
    "trained on.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "victim_images", None, "For trained attacks: ciphertexts that it has.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "test_images", None, "For attacks on a data set: images that are scored.", flag_values=FLAGS
)
flags.DEFINE_string(
    "checkpoint_dir",
    None,
    "For trained attacks: folder of the last epoch's state, to go on from.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "seed", 0, "Of keys, networks and the choice of images.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_string("output", None, "New folder for pictures and results.json.", flag_values=FLAGS)
flags.DEFINE_bool("json", False, "Prints JSON.", flag_values=FLAGS)


def main() -> None:
    """Attacks one key after another and prints what came of it."""
    shape = _check_flags()
    if _on_dataset():
        from trainers import _attack_learned

        _attack_learned.run(FLAGS, SCHEMES[FLAGS.scheme], _options(), shape, _command())
        return
    files = _attack_output.image_files(FLAGS.images)
    observed = _observed(len(files))
    # Each, though trials draw some of them: the same folder is refused under every seed.
    picture_files.read_each(files, lambda p: _attack_output.read(p, shape).shape)
    output = None if FLAGS.output is None else _attack_output.checked_folder(FLAGS.output)
    weights = _public_weights(shape)
    from keras_dpvit.attacks import evaluation

    setting = evaluation.Setting(
        SCHEMES[FLAGS.scheme],
        FLAGS.attack,
        shape,
        _options(),
        weights,
        FLAGS.drift,
    )

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = generator.permutation(len(files))[: observed + 1]
        batch = np.stack([_attack_output.read(files[i], shape) for i in order])
        return batch[:observed], batch[observed:]

    done = _attack_output.with_bar(
        evaluation.run(setting, draw, FLAGS.keys, FLAGS.seed), FLAGS.keys
    )
    summary = {"command": _command(), **evaluation.summarize(setting, done), "observed": observed}
    if weights is not None:
        summary["drift"] = FLAGS.drift
    if output is not None:
        _attack_output.write(output, done, summary)
    print(json.dumps(summary, indent=2) if FLAGS.json else _attack_output.text(summary))
    if output is not None and not FLAGS.json:
        print(f"pictures (plain, encrypted, recovered) and results.json: {output}")


def _on_dataset() -> bool:
    """True if the attack is on images with classes, which are scored by a classifier too."""
    return FLAGS.attack in LEARNED or FLAGS.dataset is not None


def _small_vit() -> bool:
    """True if the ViT cipher is attacked in small images, because a network is trained on them."""
    small = FLAGS.scale != "full" and FLAGS.image_size is None
    return FLAGS.scheme == "vit" and _on_dataset() and small


def _options() -> dict[str, Any]:
    """Of the scheme."""
    given = _scheme_flags.scheme_options(FLAGS)
    return {"block_size": 4, **given} if _small_vit() else given


def _check_flags() -> tuple[int, int, int]:
    """The image shape; everything that can be wrong without reading files is found here."""
    for name in ("scheme", "attack"):
        if not FLAGS[name].value:
            raise InputError(f"--{name} must be given.")
    if not FLAGS.images and FLAGS.dataset is None:
        also = ", or --dataset" if FLAGS.attack in LEARNED else ""
        raise InputError(f"--images must be given{also}.")
    _flags.check_numbers(
        FLAGS,
        keys=_validate.positive_int,
        observed=_validate.positive_int,
        block_size=_validate.positive_int,
        drift=_validate.non_negative,
        epochs=_validate.positive_int,
        own_images=_validate.positive_int,
        victim_images=_validate.positive_int,
        test_images=_validate.positive_int,
    )
    _check_belonging()
    matching = FLAGS.attack == "weight_matching"
    if matching != (FLAGS.public_model is not None):
        raise InputError("--public_model goes with --attack=weight_matching, which needs it.")
    if (matching or FLAGS.attack == "correlation_jigsaw") and FLAGS.scheme != "vit":
        raise InputError(f"--attack={FLAGS.attack} is on --scheme=vit alone.")
    if FLAGS.attack == "etc_jigsaw" and FLAGS.scheme != "etc":
        raise InputError("--attack=etc_jigsaw is on --scheme=etc alone.")
    shape: tuple[int, int, int] = _SMALL if _small_vit() else _SHAPES.get(FLAGS.scheme, _SMALL)
    if FLAGS.image_size is not None:
        shape = _flags.parse_image_size(FLAGS.image_size)
    if shape[2] not in (1, 3):
        raise InputError(f"image_size must have 1 or 3 channels, got {shape[2]}.")
    if min(shape[:2]) < 11:
        raise InputError(
            f"image_size must be at least 11,11 for SSIM's windows, got {shape[0]},{shape[1]}."
        )
    if FLAGS.scheme == "pe" and FLAGS.block_size is not None:
        raise InputError("block_size must be left out for --scheme=pe, which has no blocks.")
    full_options(SCHEMES[FLAGS.scheme], _options(), shape[2])
    block = block_size_of(SCHEMES[FLAGS.scheme], _options())
    if shape[0] % block or shape[1] % block:
        raise InputError(
            f"image_size must have sides that are multiples of the block size {block}, got "
            f"{shape[0]}x{shape[1]}."
        )
    return shape


def _check_belonging() -> None:
    """Refuses flags that the attack does not look at."""
    if FLAGS.dataset is not None and FLAGS.images:
        raise InputError("--images and --dataset cannot both be given.")
    if FLAGS.dataset is not None and FLAGS.attack not in ("fr", "fr_advanced", *LEARNED):
        raise InputError(f"--attack={FLAGS.attack} takes --images, not --dataset.")
    if FLAGS.data_dir is not None and FLAGS.dataset is None:
        raise InputError("--data_dir goes with --dataset.")
    if _on_dataset() and FLAGS.mode == "grayscale":
        raise InputError(
            "mode must be color here: grayscale ciphertexts have another shape than the images."
        )
    others = ["keys", "observed"] if _on_dataset() else ["test_images", "own_images"]
    if FLAGS.attack not in ("itn", "itn_paired"):
        others.append("network")
    if FLAGS.attack not in LEARNED:
        others += ["scale", "epochs", "victim_images", "checkpoint_dir"]
    for name in others:
        if FLAGS[name].present:
            raise InputError(f"--{name} does not go with --attack={FLAGS.attack} here.")


def _observed(available: int) -> int:
    """The number of images that the adversary sees."""
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
    model_files.check_model_file(FLAGS.public_model, "public_model")
    _quiet.start_tensorflow()
    from keras_dpvit.attacks.weight_matching import embedding_weights

    with _quiet.quiet_stderr():
        kernel, positions = embedding_weights(
            model_files.load_any(FLAGS.public_model, "public_model")
        )
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
    shown = ["scheme", "attack", "images", "dataset", "image_size", *_scheme_flags.OPTIONS]
    shown += ["scale", "network", "epochs", "own_images", "victim_images", "test_images"]
    shown += [] if _on_dataset() else ["keys", "observed"]
    for name in shown:
        value = FLAGS[name].value
        if value is not None:
            value = ",".join(value) if isinstance(value, list) else value
            value = str(value).lower() if isinstance(value, bool) else value
            parts.append(f"--{name}={pathlib.Path(value).name if name == 'images' else value}")
    return " ".join([*parts, f"--seed={FLAGS.seed}"])


def run(argv: list[str] | None = None) -> None:
    """Runs the program on these flags (default: the command line's)."""
    _cli.run(main, FLAGS, __doc__, argv)


if __name__ == "__main__":
    run()
