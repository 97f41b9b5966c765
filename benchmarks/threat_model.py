r"""Measures attacks on the image ciphers, and writes docs/threat_model.md from what was measured.

Each group of measurements goes to a file of its own, docs/results/attack_GROUP.json; the page is
written from those files alone. The group "learned" trains networks, for about an hour on one core;
it goes on where it was interrupted, and to measure all of it again its file has to be deleted.

Examples:
  python -m benchmarks.threat_model                            # the page, from the files
  python -m benchmarks.threat_model --measure=photographs      # one group again, then the page
  python -m benchmarks.threat_model --measure=all --keys=20
  python -m benchmarks.threat_model --measure=learned          # the rows that are missing
  python -m benchmarks.threat_model --picture                  # its picture again, then the page
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks import photographs, threat_model_learned, threat_model_page
from benchmarks.reports import machine
from keras_dpvit import _files
from keras_dpvit._validate import one_of, positive_int
from keras_dpvit.attacks import evaluation
from keras_dpvit.errors import InputError
from trainers import _attack_output, _cli

FLAGS = flags.FlagValues()
flags.DEFINE_list(
    "measure",
    [],
    "Groups to measure again, or all; see the page for what they are.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("keys", 20, "Keys in each measurement.", flag_values=FLAGS)
flags.DEFINE_bool("picture", False, "Makes figures/attack.png again.", flag_values=FLAGS)
flags.DEFINE_string(
    "work_dir",
    "build/attack_learned",
    "Folder of the trainings of group learned and of what they recovered, to go on from.",
    flag_values=FLAGS,
)
flags.DEFINE_string("docs", "docs", "Folder of the page and of results/.", flag_values=FLAGS)

_LARGE, _SMALL = (224, 224, 3), (32, 32, 3)
_SEED = 2026
_FRESH = 2

# (scheme, attack, images the adversary sees, further settings)
_Row = tuple[str, str, int, dict[str, Any]]

_PHOTOGRAPHS: list[_Row] = [
    ("vit_block", "fr", 2, {}),
    ("vit_block", "fr_advanced", 2, {}),
    ("vit_block", "correlation_jigsaw", 1, {}),
    ("vit_block", "correlation_jigsaw", 2, {}),
    ("vit_block", "correlation_jigsaw", 4, {}),
    ("vit_block", "known_plaintext", 1, {}),
    ("vit_block", "chosen_plaintext", 1, {}),
]
_CLOTHES: list[_Row] = [
    ("vit_block", "correlation_jigsaw", 2, {}),
    ("vit_block", "correlation_jigsaw", 16, {}),
    ("vit_block", "known_plaintext", 1, {}),
    ("vit_block", "known_plaintext", 16, {}),
]
_PIECES: list[_Row] = [
    *(
        (scheme, attack, images, {})
        for scheme in ("le", "ele", "etc", "pe")
        for attack, images in (
            ("fr", 4),
            ("fr_advanced", 4),
            ("known_plaintext", 1),
            ("known_plaintext", 8),
            ("chosen_plaintext", 1),
        )
    ),
    ("ele", "known_plaintext", 64, {}),
    ("pe", "fr", 4, {"options": {"shuffle_colors": False}}),
    *(("etc", "etc_jigsaw", images, {}) for images in (1, 4, 8)),
]
_WEIGHTS: list[_Row] = [
    ("vit_block", "weight_matching", 1, {"drift": drift}) for drift in (0.0, 0.5, 1.0, 2.0)
]
GROUPS = {
    "photographs": _PHOTOGRAPHS,
    "fashion_mnist": _CLOTHES,
    "small_photographs": _PIECES,
    "weights": _WEIGHTS,
}
# Trainings, each on one key.
LEARNED = "learned"


def main() -> None:
    """Measures what is asked for, then writes the page."""
    positive_int(keys=FLAGS.keys)
    docs = pathlib.Path(FLAGS.docs)
    if not (docs / "results").is_dir():
        raise InputError(f"docs must be a folder with results/ in it, got {FLAGS.docs!r}.")
    known = [*GROUPS, LEARNED]
    names = known if FLAGS.measure == ["all"] else FLAGS.measure
    for name in names:
        one_of(known, measure=name)
    for name in names:
        if name == LEARNED:
            work = pathlib.Path(FLAGS.work_dir)
            threat_model_learned.measure(_file(docs, name), work)
            threat_model_learned.picture(docs / "figures" / "attack_learned.png", work)
            continue
        measured = measure(name, FLAGS.keys)
        _files.write_json(_file(docs, name), measured, indent=2)
    if FLAGS.picture:
        picture(docs / "figures" / "attack.png")
    groups = {}
    for name in known:
        if not _file(docs, name).is_file():
            raise InputError(f"{_file(docs, name)} is missing: measure it with --measure={name}.")
        groups[name] = json.loads(_file(docs, name).read_text("utf-8"))
    _files.write_whole(docs / "threat_model.md", threat_model_page.page(groups))
    print(f"wrote {docs / 'threat_model.md'}")


def measure(name: str, keys: int) -> dict[str, Any]:
    """All measurements of one group."""
    import tqdm

    rows = []
    for scheme, attack, observed, more in tqdm.tqdm(GROUPS[name], desc=name, disable=None):
        shape = (*_LARGE[:2], 1) if name == "fashion_mnist" else _LARGE
        setting = evaluation.Setting(
            scheme,
            attack,
            _SMALL if name == "small_photographs" else shape,
            public_weights=_public_weights() if attack == "weight_matching" else None,
            **more,
        )
        done = list(evaluation.run(setting, _source(name, observed), keys, _SEED))
        row = {**evaluation.summarize(setting, done), "observed": observed}
        if "drift" in more:
            row["drift"] = more["drift"]
        rows.append(row)
    return {
        "command": f"python -m benchmarks.threat_model --measure={name} --keys={keys}",
        "machine": machine(),
        "photographs": [*photographs.NAMES, "china.jpg", "flower.jpg"],
        "rows": rows,
    }


def picture(path: pathlib.Path) -> None:
    """A photograph plain, encrypted, and recovered from its ciphertext and that of another one."""
    import PIL.Image

    pieces = photographs.load()
    # Both are free of rights: an astronaut by NASA, and a cat.
    plain = np.stack([pieces[0][:224, 100:324], pieces[2][40:264, 100:324]])
    setting = evaluation.Setting("vit_block", "correlation_jigsaw", _LARGE)
    (trial,) = evaluation.run(setting, lambda generator: (plain, plain[:0]), 1, _SEED)
    parts = [images[0] for images in (trial.plain, trial.encrypted, trial.recovered)]
    sheet = PIL.Image.fromarray(_attack_output.side_by_side(parts))
    work = path.with_name(f".part-{path.name}")
    sheet.quantize(128).save(work, "PNG", optimize=True)
    work.replace(path)


def _source(name: str, observed: int) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Gives, for each key, images that the adversary sees and others."""
    if name == "fashion_mnist":
        images = _fashion_mnist()

        def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            chosen = generator.choice(len(images), observed + _FRESH, replace=False)
            batch = np.stack([_stretched(images[i]) for i in chosen])
            return batch[:observed], batch[observed:]

        return draw
    loaded = photographs.load()
    resized = _SMALL[0] if name == "small_photographs" else None

    def crop(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        batch = photographs.crops(loaded, observed + _FRESH, generator, resized=resized)
        return batch[:observed], batch[observed:]

    return crop


def _fashion_mnist() -> np.ndarray:
    from keras_dpvit import datasets

    return datasets.load("fashion_mnist").x_test


def _stretched(image: np.ndarray) -> np.ndarray:
    import PIL.Image

    pixels = PIL.Image.fromarray(np.asarray(image, np.uint8).reshape(image.shape[:2]))
    large = pixels.resize(_LARGE[:2], PIL.Image.Resampling.BILINEAR)
    return np.asarray(large)[..., None]


def _public_weights() -> tuple[np.ndarray, np.ndarray]:
    """Gaussian weights of the shapes of ViT-Tiny/16: no checkpoint is shipped here."""
    generator = np.random.default_rng(_SEED)
    return generator.normal(size=(16, 16, 3, 192)), generator.normal(size=(197, 192))


def _file(docs: pathlib.Path, name: str) -> pathlib.Path:
    return docs / "results" / f"attack_{name}.json"


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
