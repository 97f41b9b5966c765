"""Input and output of trainers.attack: folders of pictures, side by side, a summary in words."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_dpvit import _files
from keras_dpvit.datasets.image_files import read_image, shown
from keras_dpvit.datasets.picture_files import picture_files
from keras_dpvit.errors import InputError

_GAP = 4
_PICTURES = 20


def image_files(folder: str) -> list[pathlib.Path]:
    """Every picture below a folder, in the order of their names.

    Raises:
        InputError: if there is no such folder, or no picture in it.
    """
    if not pathlib.Path(folder).is_dir():
        raise InputError(f"images must be a folder, got {shown(folder)!r}.")
    return picture_files([folder], "images")


def read(path: pathlib.Path, shape: tuple[int, int, int]) -> np.ndarray:
    """One picture, stretched to a shape."""
    return read_image(path, shape)


def checked_folder(output: str) -> pathlib.Path:
    """Checks the folder for results before any time is spent; makes nothing.

    Raises:
        InputError: if it exists, or cannot be made.
    """
    path = pathlib.Path(output)
    if path.exists() or path.is_symlink():
        raise InputError(f"output must be a new folder, {output!r} exists.")
    parent = path.absolute().parent
    if not _files.is_writable(parent):
        raise InputError(f"output must be in a folder that can be written, got {output!r}.")
    return path


def with_bar(trials: Iterator[Any], total: int) -> list[Any]:
    """All of them, with a bar on a terminal."""
    import tqdm

    # tqdm looks whether stderr is a terminal.
    return list(tqdm.tqdm(trials, total=total, desc="attacking", unit="key", disable=None))


def write(output: pathlib.Path, trials: list[Any], summary: dict[str, Any]) -> None:
    """Pictures of the first trials and results.json; the folder appears whole or not at all."""
    import PIL.Image

    with _files.new_directory(output) as work:
        for i, trial in enumerate(trials[:_PICTURES]):
            for j, parts in enumerate(
                zip(trial.plain, trial.encrypted, trial.recovered, strict=True)
            ):
                sheet = side_by_side(parts)
                PIL.Image.fromarray(sheet).save(work / f"key{i:02d}_image{j}.png")
        keys = [trial.scores for trial in trials]
        text = json.dumps({**summary, "by_key": keys}, indent=2) + "\n"
        (work / "results.json").write_text(text, "utf-8")


def side_by_side(parts: Any) -> np.ndarray:
    """Pictures of one height in a row, in colour, with white between them."""
    rgb = [np.repeat(p, 3, axis=-1) if p.shape[-1] == 1 else p for p in parts]
    gap = np.full((len(rgb[0]), _GAP, 3), 255, np.uint8)
    row = [piece for part in rgb for piece in (part, gap)][:-1]
    return np.concatenate(row, axis=1)


def text(summary: dict[str, Any]) -> str:
    """The summary in a few lines."""
    lines = [
        f"{summary['attack']} ({summary['attacker']}) on {summary['scheme']}: {summary['keys']} "
        f"keys, {summary['images_used']:g} images seen under each, "
        f"{summary['seconds']:.2f} s a key"
    ]
    if "exact_keys" in summary:
        lines.append(f"  exact key           {summary['exact_keys']:.0%} of keys")
    for name, words in (
        ("blocks_right", "blocks in place"),
        ("neighbours_right", "right neighbours"),
        ("pixels_right", "pixel permutation"),
        ("map_right", "key, as a map"),
    ):
        if name in summary:
            lines.append(f"  {words:19} {summary[name]['mean']:.1%} on average")
    lines += ssim_lines(summary)
    lines.append("  verdict             " + ("broken" if summary["broken"] else "not broken by it"))
    return "\n".join(lines)


def ssim_lines(summary: dict[str, Any]) -> list[str]:
    """SSIM in both windows, a line for each."""
    lines = []
    for window, words in (("uniform7", "SSIM 7x7 uniform"), ("gaussian11", "SSIM 11x11 Gauss")):
        values = summary[f"ssim_{window}"]
        line = (
            f"  {words:19} mean {values['mean']:.3f}, median {values['median']:.3f}, 95th "
            f"percentile {values['percentile_95']:.3f}"
        )
        untouched = summary.get(f"ssim_{window}_ciphertext")
        if untouched is not None:
            line += f"; ciphertext, median {untouched['median']:.3f}"
        lines.append(line)
    return lines
