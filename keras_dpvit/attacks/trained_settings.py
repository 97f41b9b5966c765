"""Networks and training of each learned attack on each scheme, as published and for one core.

What the adversary has:

* itn: the algorithm, and its own images.
* itn_paired: ciphertexts of its own images under the victim's key.
* sia_gan: the victim's ciphertexts with their labels, and its own images.
* dcgan: the victim's ciphertexts, and its own images.
"""

import dataclasses
from typing import Any

from keras_dpvit._validate import one_of
from keras_dpvit.attacks import generative, image_translation
from keras_dpvit.attacks.generative import GanSettings
from keras_dpvit.attacks.image_translation import TranslationSettings
from keras_dpvit.encryption import SCHEMES
from keras_dpvit.encryption.schemes import block_size_of
from keras_dpvit.errors import InputError

# Every learned attack, and what kind of adversary it is.
ATTACKERS = {
    "itn": "ciphertext only",
    "itn_paired": "known plaintext",
    "sia_gan": "ciphertext only",
    "dcgan": "ciphertext only",
}
SCALES = ("small", "full")

# What each scheme's blocks have in common decides how an adversary that knows it reads them.
_ADAPTATIONS = {
    "le": "shared",
    "pe": "per_block",
    "vit_block": "mixed",
    "ele": "per_block_mixed",
    "etc": "per_block_mixed",
}

Settings = TranslationSettings | GanSettings


def settings_for(
    attack: str,
    scheme: str,
    options: dict[str, Any],
    scale: str = "small",
    network: str | None = None,
    **changes: Any,
) -> Settings:
    """Networks and training of a learned attack.

    At full scale they are the published ones, but for the adaptation to blocks where the scheme
    has more in common between blocks than the publication uses, or permutes them. At small scale
    networks are narrow and the optimizer of ITN is Adam, so that one processor core is enough.

    Args:
        attack: a name of `ATTACKERS`.
        scheme: a name of `keras_dpvit.encryption.SCHEMES`.
        options: of the scheme.
        scale: "small" or "full".
        network: of ITN, "unet" or "stack"; None takes the U-Net for itn and the block stack, which
            can have weights for each place, for itn_paired.
        **changes: fields that are to be others.

    Raises:
        InputError: if a name is not known, or a network is named for a GAN.
    """
    one_of(ATTACKERS, attack=attack)
    one_of(SCHEMES, scheme=scheme)
    one_of(SCALES, scale=scale)
    block, small = block_size_of(scheme, options), scale == "small"
    found: Settings
    if attack in ("sia_gan", "dcgan"):
        if network is not None:
            raise InputError(f"network must be left out for attack {attack!r}, which has its own.")
        found = (_sia_gan if attack == "sia_gan" else _dcgan)(small, block)
    else:
        network = network or ("unet" if attack == "itn" else "stack")
        found = (_unet if network == "unet" else _stack)(small, block)
        found = dataclasses.replace(found, network=network)  # which checks its name
    if attack in ("itn_paired", "sia_gan"):
        found = dataclasses.replace(found, adaptation=_ADAPTATIONS[scheme])
    return dataclasses.replace(found, block_size=block, **changes)


def _unet(small: bool, block: int) -> TranslationSettings:
    if not small:
        return TranslationSettings()
    return TranslationSettings(
        widths=(8, 16, 32, 64),
        epochs=12,
        batch_size=32,
        optimizer="adam",
        learning_rate=2e-3,
        drops=(9,),
        weight_decay=0.0,
        mirrored=False,
    )


def _stack(small: bool, block: int) -> TranslationSettings:
    widths = _stack_widths(small, block)
    if not small:
        return dataclasses.replace(image_translation.STACK, widths=widths)
    return dataclasses.replace(
        image_translation.STACK,
        widths=widths,
        epochs=30,
        batch_size=32,
        optimizer="adam",
        learning_rate=2e-3,
        drops=(22,),
        weight_decay=0.0,
    )


def _sia_gan(small: bool, block: int) -> GanSettings:
    if not small:
        return GanSettings()
    return GanSettings(
        generator_widths=(16, 1),
        discriminator_widths=(16, 32, 64, 128),
        classifier="small",
        epochs=6,
        batch_size=32,
        learning_rates=(5e-4, 2e-3),
    )


def _dcgan(small: bool, block: int) -> GanSettings:
    widths = _stack_widths(small, block)
    if not small:
        return dataclasses.replace(generative.DCGAN, generator_widths=widths)
    return dataclasses.replace(
        generative.DCGAN,
        generator_widths=widths,
        discriminator_widths=(32, 64),
        epochs=15,
        batch_size=32,
        learning_rates=(5e-4, 5e-4),
    )


def _stack_widths(small: bool, block: int) -> tuple[int, ...]:
    """Widths of the block stack; its last layer must fill a block."""
    if block == 1:
        return (16, 32, 32) if small else (64, 128, 256)
    last = 16 if small else 32
    return (48, 48, last * block**2)
