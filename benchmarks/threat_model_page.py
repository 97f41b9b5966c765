"""The words of docs/threat_model.md, around figures that benchmarks.threat_model measured."""

from typing import Any

from keras_dpvit.attacks.evaluation import BROKEN_SSIM

Groups = dict[str, dict[str, Any]]

_NAMES = {
    "vit_block": "`ViTBlockCipher`",
    "le": "`LearnableEncryption`",
    "ele": "`ExtendedLearnableEncryption`",
    "etc": "`EncryptionThenCompression`",
    "pe": "`PixelEncryption`",
}
_TITLES = {
    "photographs": "Photographs at 224x224, blocks of 16",
    "fashion_mnist": "Fashion-MNIST's test images, stretched to 224x224, blocks of 16",
    "small_photographs": "Photographs at 32x32, blocks of 4",
    "weights": "Weights",
}
LEARNED = "learned"
_TRAINED = {"itn": "ITN", "itn_paired": "paired ITN", "sia_gan": "SIA-GAN", "dcgan": "DCGAN"}
_ATTACKERS = ("ciphertext only", "known plaintext", "chosen plaintext", "model holder")

_HEAD = """# Threat model of the image ciphers

<!-- `python -m benchmarks.threat_model` writes this from docs/results/attack_*.json. -->

**These ciphers are visual obfuscation, not confidentiality.** They hide images from somebody who
looks at them. They do not hide them from somebody who attacks them: below, keys are recovered from
ciphertexts alone, from known images and from chosen ones. Do not use them to meet a legal or
contractual duty of confidentiality. What is made for that: trusted execution environments,
homomorphic encryption, secure multi-party computation.

Whatever the attack, the ciphers never hide labels, the number of images, which images are equal,
and file names unless they are hashed. They do not protect against changes to the images either.

![A photograph, its ciphertext, and what two ciphertexts gave back](figures/attack.png)

*The ViT cipher: a photograph, its ciphertext, and what correlation and jigsaw made of this and one
more ciphertext under the same key, without the key. Photograph: NASA.*

## Who can do what

"Exact" counts keys that were recovered without one error, out of all that were tried. A scheme
counts as **broken** by an attack if the median SSIM of what was recovered is above
{bar} or most keys were exact; nobody has set such a threshold before, so judge by the figures. "Not
broken" means by these attacks of ours and nothing more. SSIM is that of a 7x7 window.

Trained attacks (ITN, SIA-GAN, DCGAN) were made on Fashion-MNIST, all others in this table on
photographs. For them "broken" also asks that the median is above that of the adversary's mean
image, and above that of what was recovered against other images: a picture that could be any shirt
recovers nothing.
"""

_LEGEND = """
* *Casual viewer*: looks at the ciphertexts; the figure is their own SSIM with the plain images.
* *Ciphertext only*: feature reconstruction (FR) on any scheme, correlation and jigsaw on the ViT
  cipher, a jigsaw of turned, inverted and recoloured blocks on EtC, each with the number of
  ciphertexts that it saw under one key. EtC's key is found but for a turn, an inversion and an
  order of colours of the whole image: that leaves 96 views, of which whoever looks at them picks
  the right one; the closest is scored. An image translation
  network (ITN) is trained on the adversary's own images under random keys and sees no ciphertext of
  the victim's before it is used. GANs are trained on {victim} of the victim's ciphertexts, for
  SIA-GAN with their labels, and on {own} images of the adversary's that are none of these.
* *Known plaintext*: has some images both plain and encrypted; paired ITN is trained on {own} such
  pairs. *Chosen plaintext*: has images of its choice encrypted, one to four here. Both are scored
  on images that they did not have.
* *Model holder*: has a model whose weights the key was taken into (see
  [keyed_models.md](keyed_models.md)), and the weights from which it was made.

## What was not measured

{missing}* Trained attacks in the published sizes (`--scale=full`), in colour, on other images than
  Fashion-MNIST, and on more than one key: what is here was trained for minutes on one core, on gray
  images in three equal channels, which helps an adversary against the ciphers that treat channels
  apart. A larger network or more images may break what these did not.
* Jigsaw solvers on `EncryptionThenCompression` in its mode `grayscale`, which the literature
  reports to fall to them too.
* Ciphertexts that went through lossy compression, and the ViT cipher's options `unit="patch"` and
  `channels="independent"` against correlation and jigsaw.
* Fine-tuned checkpoints: drift is Gaussian noise on Gaussian weights in the shapes of ViT-Tiny/16.
"""

_LEARNED = """### Trained attacks: Fashion-MNIST at 32x32 in three equal channels, blocks of 4

`{command}`

One key for each row, {test} test images under it, {own} images of the adversary's own, {victim} of
the victim's; no image is in two of these. *Right* is the accuracy of a classifier that was trained
on the adversary's plain images: on the plain test images it is {plain:.1%}. *Other image* is the
SSIM of what was recovered with another test image; it takes no attack, and neither does the
adversary's mean image, with {mean:.3f}. Networks and training were tried out in simulated attacks
on the adversary's own images under keys of its own, not on the victim's. ITN's epoch is the best on
a tenth of its own pairs; GANs have a fixed number of epochs. Seconds are processor seconds of
training and recovery.
"""

_PICTURE = """
![Two test images for each scheme as every attack recovers them](figures/attack_learned.png)

*From top to bottom two test images, the same ones, under each of {schemes}. From left to right:
plain, ciphertext, FR, advanced FR, ITN, paired ITN, DCGAN, SIA-GAN.*

A network that cannot undo a permutation of the blocks paints a typical image that the values in the
ciphertext suggest: it looks like clothes and is not the image in hand. GANs end where their fixed
number of epochs ends, and their results swing from epoch to epoch and from run to run.
"""

_SHORTENED = """\
To save time, epochs of {attack} were cut from {before} to {after} after this run over {before} was
scored, so this choice was not blind: on `{scheme}` it ended at a median SSIM of {median:.3f},
{verdict}.
"""

_CAVEATS = """\
* The jigsaw's border cost was chosen among nine on 24 other random pairs of pieces of these same
  photographs, so other photographs may do a little worse.
* Ten photographs are few: from ten pieces on, several pieces, other ones, are of one photograph.
* Nothing tells equal blocks apart. Fashion-MNIST has many black ones, which is why keys are seldom
  exact there although the images come back.
"""


def page(groups: Groups) -> str:
    """The whole page.

    Args:
        groups: what `benchmarks.threat_model.measure` returned, by name.
    """
    legend = _LEGEND.format(missing=_missing(groups[LEARNED]["rows"]), **groups[LEARNED]["images"])
    parts = [_HEAD.format(bar=BROKEN_SSIM), _matrix(groups), legend, "\n## All measurements\n"]
    for name, title in _TITLES.items():
        parts.append(_section(title, groups[name]))
    parts.append(_trained(groups[LEARNED]))
    names = ", ".join(groups["photographs"]["photographs"])
    parts.append(
        "\nPhotographs come with scikit-image and scikit-learn: "
        f"{names}. Each key has random pieces of different ones; 32x32 ones are 224x224 pieces "
        "shrunk by averaging. All keys are fresh.\n\n" + _CAVEATS
    )
    return "\n".join(parts)


def _matrix(groups: Groups) -> str:
    heads = ["scheme", "casual viewer", *_ATTACKERS]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for scheme, name in _NAMES.items():
        home = groups["photographs" if scheme == "vit_block" else "small_photographs"]["rows"]
        rows = [r for r in home if r["scheme"] == scheme]
        if scheme == "vit_block":
            rows = rows + groups["weights"]["rows"]
        # FR stands there already, on photographs.
        trained = groups[LEARNED]["rows"]
        rows = rows + [r for r in trained if r["scheme"] == scheme and "settings" in r]
        seen = next(r for r in rows if "ssim_uniform7_ciphertext" in r)
        cells = [name, f"SSIM {seen['ssim_uniform7_ciphertext']['median']:.2f}"]
        for attacker in _ATTACKERS:
            cells.append(_cell([r for r in rows if r["attacker"] == attacker]))
        lines.append(_row(cells))
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    """The verdict and the figures of an attacker's every attack."""
    if not rows:
        return "does not apply"
    # Options that weaken a scheme are told, but do not decide over its usual form.
    broken = any(row["broken"] for row in rows if "settings" in row or not row["options"])
    verdict = "**broken**" if broken else "not broken"
    return f"{verdict}: " + "; ".join(_told(row) for row in rows)


def _told(row: dict[str, Any]) -> str:
    if "drift" in row:
        return f"drift {row['drift']:g}: exact {_exact(row)}"
    told = f"SSIM {row['ssim_uniform7']['median']:.2f}"
    if "settings" in row:
        return f"{_TRAINED[row['attack']]}: {told}"
    used = f"{row['images_used']:g}"
    images = f"{used} image" if used == "1" else f"{used} images"
    words = {"fr": "FR", "fr_advanced": "advanced FR"}
    words |= dict.fromkeys(("correlation_jigsaw", "etc_jigsaw"), "jigsaw")
    if "exact_keys" in row:
        told = f"exact {_exact(row)}, {told}"
    name = words.get(row["attack"])
    options = "".join(f" with `{k}={v}`" for k, v in row["options"].items())
    if options and row["broken"]:
        told += ", **broken**"
    return f"{name}{options}, {images}: {told}" if name else f"{images}{options}: {told}"


def _exact(row: dict[str, Any]) -> str:
    return f"{round(row['exact_keys'] * row['keys'])}/{row['keys']}"


def _section(title: str, group: dict[str, Any]) -> str:
    heads = ["scheme", "attack", "images", "exact keys", "key right", "SSIM 7x7 median (mean)"]
    heads += ["SSIM 11x11 median", "ciphertext 7x7 / 11x11", "s/key"]
    lines = [f"### {title}\n", f"`{group['command']}`\n", _row(heads), _row(["---"] * len(heads))]
    for row in group["rows"]:
        options = "".join(f", {k}={v}" for k, v in row["options"].items())
        drift = f", drift {row['drift']:g}" if "drift" in row else ""
        ciphertext = [row[f"ssim_{w}_ciphertext"]["median"] for w in ("uniform7", "gaussian11")]
        lines.append(
            _row(
                [
                    row["scheme"] + options,
                    row["attack"] + drift,
                    f"{row['images_used']:g}",
                    _exact(row) if "exact_keys" in row else "",
                    _share(row),
                    f"{row['ssim_uniform7']['median']:.3f} ({row['ssim_uniform7']['mean']:.3f})",
                    f"{row['ssim_gaussian11']['median']:.3f}",
                    " / ".join(f"{value:.3f}" for value in ciphertext),
                    f"{row['seconds']:.2f}",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _missing(rows: list[dict[str, Any]]) -> str:
    """What an interrupted measurement of trained attacks has left out, as an entry of a list."""
    done = {(row["scheme"], row["attack"]) for row in rows}
    parts = []
    for attack, words in _TRAINED.items():
        schemes = [f"`{scheme}`" for scheme in _NAMES if (scheme, attack) not in done]
        if schemes:
            parts.append(f"{words} on {', '.join(schemes)}")
    return f"* {'; '.join(parts)}.\n" if parts else ""


def _trained(group: dict[str, Any]) -> str:
    rows = group["rows"]
    heads = ["scheme", "attack", "SSIM 7x7 median (mean, 95th percentile)", "11x11 median"]
    heads += ["other image 7x7", "ciphertext 7x7 / 11x11", "right", "right on ciphertexts"]
    heads += ["broken", "s"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for row in rows:
        scores = row["ssim_uniform7"]
        ciphertext = [row[f"ssim_{w}_ciphertext"]["median"] for w in ("uniform7", "gaussian11")]
        lines.append(
            _row(
                [
                    row["scheme"],
                    row["attack"],
                    f"{scores['median']:.3f} ({scores['mean']:.3f}, {scores['percentile_95']:.3f})",
                    f"{row['ssim_gaussian11']['median']:.3f}",
                    f"{row['ssim_uniform7_other_image']['median']:.3f}",
                    " / ".join(f"{value:.3f}" for value in ciphertext),
                    f"{row['accuracy']['recovered']:.1%}",
                    f"{row['accuracy']['ciphertext']:.1%}",
                    "**broken**" if row["broken"] else "not broken",
                    f"{row['seconds']:.0f}",
                ]
            )
        )
    about = _LEARNED.format(
        command=group["command"],
        plain=rows[0]["accuracy"]["plain"],
        mean=rows[0]["ssim_uniform7_mean_image"]["median"],
        **group["images"],
    )
    schemes = ", ".join(dict.fromkeys(row["scheme"] for row in rows))
    parts = [about, *lines, _PICTURE.format(schemes=schemes)]
    parts += [_shortened(row, rows) for row in group.get("earlier_runs", [])]
    return "\n".join(parts)


def _shortened(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """An earlier run of a row with more epochs."""
    names = row["scheme"], row["attack"]
    now = next(r for r in rows if (r["scheme"], r["attack"]) == names)
    return _SHORTENED.format(
        attack=_TRAINED[row["attack"]],
        scheme=row["scheme"],
        before=row["settings"]["epochs"],
        after=now["settings"]["epochs"],
        median=row["ssim_uniform7"]["median"],
        verdict="broken" if row["broken"] else "not broken",
    )


def _share(row: dict[str, Any]) -> str:
    """Mean share of the key that was recovered: blocks and pixels, or places of the map."""
    if "map_right" in row:
        return f"{row['map_right']['mean']:.1%}"
    if "blocks_right" not in row:
        return ""
    return f"K1 {row['blocks_right']['mean']:.1%}, K2 {row['pixels_right']['mean']:.1%}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
