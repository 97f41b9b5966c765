"""Vision transformers that work on images of one key: the key is taken into the weights.

The patch projection undoes the shuffling within blocks and the position table the permutation of
blocks, so that `model'(encrypt(x)) = model(x)`. Source: Kiya, Iijima, MaungMaung, Kinoshita, IEICE
E106-D(1) 2023, arXiv 2207.05366.
"""

import warnings
from typing import Any

from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.encryption.key_file import KeyFile
from keras_dpvit.encryption.keys import SecretKey
from keras_dpvit.encryption.patch_moves import patch_moves
from keras_dpvit.encryption.vit_block import ViTBlockCipher
from keras_dpvit.errors import InputError

Key = SecretKey | bytes | KeyFile | ViTBlockCipher

PUBLIC_BASE_WARNING = (
    "whoever has the original weights can match them to the transformed ones and read the key off; "
    "weights that started from a public checkpoint give the key away."
)


def cipher_for(key: Key, image_shape: Shape, patch_size: int) -> ViTBlockCipher:
    """The cipher that a model of these patches goes with.

    Args:
        key: a `ViTBlockCipher` as it is; a `KeyFile` with its own options; a `SecretKey` or 32
            bytes with blocks of the patch size and the paper's options.
        image_shape: (height, width, channels).
        patch_size: int.

    Raises:
        InputError: if the key is for another scheme or other images.
    """
    if isinstance(key, KeyFile):
        if key.scheme != ViTBlockCipher.scheme:
            raise InputError(
                f"key must be for the scheme {ViTBlockCipher.scheme!r}, got {key.scheme!r}: no "
                "other one can be taken into the weights of a vision transformer."
            )
        cipher: Any = key.cipher(image_shape)
    elif isinstance(key, ViTBlockCipher):
        cipher = key
    else:
        cipher = ViTBlockCipher.from_key(key, image_shape, patch_size)
    cipher.check_image_shape(image_shape)
    return cipher


def transform_model(model: Any, key: Key, *, public_base: bool | None = None) -> Any:
    """A new model that sees images encrypted by `ViTBlockCipher` as `model` sees plain ones.

    Exact but for the order in which floats are summed. What stands in the way is refused: see
    `docs/keyed_models.md` for what can be transformed. The new model is not compiled; training it
    on encrypted images is training `model` on plain ones. The privacy ledger goes with it: a
    transformation that looks at no record is post-processing.

    Guarantee: none in the cryptographic sense. Without the key accuracy falls far, though not all
    the way to chance; whoever has the original weights, or anything close to them, reads the key
    off; so may whoever has encrypted images (see `ViTBlockCipher`). The permutations are in no
    attribute, config or file, only applied to weights; `encryption_kid` names the key.

    Args:
        model: `DPViTClassifier`, `FusedClassifier` of such, KerasHub's `ViTImageClassifier`, or
            either one made private. Not changed.
        key: see `cipher_for`.
        public_base: bool, whether the weights started from public ones, which is worth a warning.
            None takes it of KerasHub's models, which mostly start from a preset, and of models
            whose privacy notes tell of initial weights.

    Returns:
        A model of the same class.

    Raises:
        InputError: if the model's output depends on places by more than its position table, it is
            under a key already, or the key does not fit.
    """
    from keras_dpvit.encryption.keyed_layers import kid_of

    kid = kid_of(model)
    if kid is not None:
        raise InputError(f"model is under key {kid} already: use rotate to put it under another.")
    _warn_of_public_base(model, public_base)
    return _moved(model, [(key, False)])


def rotate(model: Any, old_key: Key, new_key: Key, *, public_base: bool | None = None) -> Any:
    """A new model under another key, without training: `transform_model` of the plain one.

    Args:
        model: as `transform_model` returned it, trained on or not. Not changed.
        old_key: the key that it is under.
        new_key: the key for the new model.
        public_base: see `transform_model`.

    Raises:
        InputError: see `transform_model`; and if the model names another key than `old_key`.
    """
    _check_kid(model, old_key, "old_key")
    _warn_of_public_base(model, public_base)
    return _moved(model, [(old_key, True), (new_key, False)])


def restore(model: Any, key: Key) -> Any:
    """The model for plain images again: `transform_model` undone.

    Args:
        model: as `transform_model` returned it, trained on or not. Not changed.
        key: the key that it is under.

    Raises:
        InputError: see `rotate`.
    """
    _check_kid(model, key, "key")
    return _moved(model, [(key, True)])


def _moved(model: Any, steps: list[tuple[Key, bool]]) -> Any:
    """A copy with the moves of several keys applied, each of them forwards or undone."""
    from keras_dpvit.encryption import keyed_layers
    from keras_dpvit.models import provenance

    new = keyed_layers.copy_of(model)
    for part in keyed_layers.parts_of(new):
        for key, undo in steps:
            cipher = cipher_for(key, part.image_shape, part.patch_size)
            part.check_cipher(cipher)
            moves = patch_moves(cipher, part.image_shape, part.patch_size)
            part.apply(moves.inverse() if undo else moves)
    key, undo = steps[-1]
    for holder in keyed_layers.holders_of(new):
        holder.encryption_kid = None if undo else _kid(key)
        if hasattr(holder, "privacy_ledger"):
            provenance.settle(holder)
    return new


def _kid(key: Key) -> str | None:
    if isinstance(key, ViTBlockCipher):
        return key.kid
    if isinstance(key, bytes):
        return SecretKey(key).kid
    return key.key.kid if isinstance(key, KeyFile) else key.kid


def _check_kid(model: Any, key: Key, argument: str) -> None:
    from keras_dpvit.encryption.keyed_layers import kid_of

    found, given = kid_of(model), _kid(key)
    if found is not None and given is not None and found != given:
        raise InputError(f"{argument} is {given}, but the model is under key {found}.")


def _warn_of_public_base(model: Any, public_base: bool | None) -> None:
    if public_base is None:
        from keras_dpvit.encryption.keyed_layers import started_from_outside

        public_base = started_from_outside(model)
    if public_base:
        # The caller of transform_model or rotate.
        warnings.warn(PUBLIC_BASE_WARNING, stacklevel=3)
