"""trainers.attack on images with classes: attacks that train networks, scored by a classifier."""

import json
import pathlib
from typing import Any

import numpy as np
from absl import flags

from keras_dpvit import _quiet, datasets
from keras_dpvit.attacks import trained_settings
from keras_dpvit.attacks.trained_steps import EpochStore
from keras_dpvit.errors import InputError
from trainers import _attack_output

# Of each scale: the adversary's images, the victim's ciphertexts, scored images.
_SMALL = (4000, 4000, 1000)
_PICTURES = 20


def run(
    flag_values: flags.FlagValues,
    scheme: str,
    options: dict[str, Any],
    image_shape: tuple[int, int, int],
    command: str,
) -> None:
    """Attacks one key and prints what came of it.

    Args:
        flag_values: those of trainers.attack.
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        options: of the scheme.
        image_shape: (height, width, channels).
        command: for the results.
    """
    settings = None
    if flag_values.attack in trained_settings.ATTACKERS:
        changes: dict[str, Any] = {"seed": flag_values.seed}
        if flag_values.epochs is not None:
            changes["epochs"] = flag_values.epochs
        scale = flag_values.scale or "small"
        settings = trained_settings.settings_for(
            flag_values.attack, scheme, options, scale, flag_values.network, **changes
        )
    output = (
        None if flag_values.output is None else _attack_output.checked_folder(flag_values.output)
    )
    data = _load(flag_values, image_shape)
    from keras_dpvit.attacks import trained_attacks

    own, victim, test = _amounts(flag_values, data)
    parts = trained_attacks.make_parts(data, image_shape, own, victim, test, flag_values.seed)
    if flag_values.checkpoint_dir is not None:
        EpochStore(flag_values.checkpoint_dir)  # before any time is spent
    _quiet.start_tensorflow()
    bar = _EpochBar(settings.epochs if settings else 0)
    with _quiet.quiet_stderr() if settings is None else bar:
        judge = trained_attacks.train_judge(
            parts.own, parts.own_labels, data.num_classes, flag_values.seed
        )
        outcome = trained_attacks.attack_test_images(
            flag_values.attack,
            scheme,
            options,
            parts,
            judge,
            settings,
            flag_values.seed,
            flag_values.checkpoint_dir,
            bar.after_epoch,
        )
    summary = {"command": command, "dataset": data.name, **outcome.summary}
    if output is not None:
        _attack_output.write(output, [_Shown(outcome)], summary)
    print(json.dumps(summary, indent=2) if flag_values.json else text(summary))
    if output is not None and not flag_values.json:
        print(f"pictures (plain, encrypted, recovered) and results.json: {output}")


def text(summary: dict[str, Any]) -> str:
    """The summary in a few lines."""
    accuracy = summary["accuracy"]
    lines = [
        f"{summary['attack']} ({summary['attacker']}) on {summary['scheme']}: "
        f"{summary['images_used']} images seen under the key, "
        f"{summary['images_scored_per_key']} others scored, {summary['seconds']:.0f} s",
        *_attack_output.ssim_lines(summary),
        "  for comparison      mean image, median "
        f"{summary['ssim_uniform7_mean_image']['median']:.3f}; recovered against another image, "
        f"median {summary['ssim_uniform7_other_image']['median']:.3f} (7x7)",
        f"  classifier          {accuracy['recovered']:.1%} right on recovered images, "
        f"{accuracy['plain']:.1%} on plain ones, {accuracy['ciphertext']:.1%} on ciphertexts",
        "  verdict             " + ("broken" if summary["broken"] else "not broken by it"),
    ]
    return "\n".join(lines)


def _load(flag_values: flags.FlagValues, image_shape: tuple[int, int, int]) -> Any:
    if flag_values.dataset is None:
        if not pathlib.Path(flag_values.images).is_dir():
            raise InputError(f"images must be a folder, got {flag_values.images!r}.")
        return datasets.load("image_folder", flag_values.images, image_shape=image_shape)
    shape = image_shape if flag_values.dataset == "image_folder" else None
    return datasets.load(flag_values.dataset, flag_values.data_dir, image_shape=shape)


def _amounts(flag_values: flags.FlagValues, data: Any) -> list[int]:
    """Numbers of images of each kind; half of the training part for each side, or fewer."""
    half, test = len(data.x_train) // 2, len(data.x_test)
    counts = [half, half, test]
    if flag_values.scale != "full":
        counts = [min(pair) for pair in zip(counts, _SMALL, strict=True)]
    given = (flag_values.own_images, flag_values.victim_images, flag_values.test_images)
    return [count if value is None else value for count, value in zip(counts, given, strict=True)]


class _Shown:
    """The first pictures of an outcome, as `_attack_output.write` takes them."""

    def __init__(self, outcome: Any) -> None:
        self.plain: np.ndarray = outcome.plain[:_PICTURES]
        self.encrypted: np.ndarray = outcome.encrypted[:_PICTURES]
        self.recovered: np.ndarray = outcome.recovered[:_PICTURES]
        self.scores = {
            name: outcome.summary[f"ssim_{name}"]["mean"] for name in ("uniform7", "gaussian11")
        }


class _EpochBar:
    """A bar over epochs on a terminal, with the last losses."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._bar: Any = None

    def __enter__(self) -> "_EpochBar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def after_epoch(self, epoch: int, losses: dict[str, float]) -> None:
        """Moves on."""
        import tqdm

        if self._bar is None:
            self._bar = tqdm.tqdm(
                total=self._epochs, initial=epoch - 1, desc="training", unit="epoch", disable=None
            )
        self._bar.set_postfix({name: f"{value:.4f}" for name, value in losses.items()})
        self._bar.update(1)
