"""Public checkpoint: a key-transformed vision transformer gives its key away to who has the base.

The transform moves rows of the patch kernel by K2 and rows of the position table by K1. Whoever
has the weights from which the model was made matches the rows.
"""

from typing import Any

import numpy as np

from keras_dpvit.encryption import ViTBlockCipher
from keras_dpvit.errors import InputError


def recover_pixel_permutation(public: np.ndarray, transformed: np.ndarray) -> np.ndarray:
    """K2 from patch kernels, by the assignment with the least squared difference.

    Args:
        public: `(block, block, channels, width)`, of the known checkpoint.
        transformed: the same of the model at hand, fine-tuned or not.

    Returns:
        int64 permutation `((block / 2)^2,)`.

    Raises:
        InputError: if shapes differ or the block is odd.
    """
    if public.shape != transformed.shape or public.ndim != 4 or public.shape[0] != public.shape[1]:
        raise InputError(
            "public and transformed must be kernels (block, block, channels, width) of one shape, "
            f"got {public.shape} and {transformed.shape}."
        )
    if public.shape[0] % 2:
        raise InputError(f"public must have an even block, got {public.shape[0]}.")
    return _assign(_by_pixel(public), _by_pixel(transformed))


def recover_block_permutation(
    public: np.ndarray, transformed: np.ndarray, class_tokens: int = 1
) -> np.ndarray:
    """K1 from position tables.

    Args:
        public: `(class_tokens + blocks, width)`, of the known checkpoint.
        transformed: the same of the model at hand.
        class_tokens: int, rows at the beginning that belong to no block.

    Returns:
        int64 permutation `(blocks,)`.

    Raises:
        InputError: if shapes differ.
    """
    if public.shape != transformed.shape or public.ndim != 2 or len(public) <= class_tokens:
        raise InputError(
            "public and transformed must be position tables (tokens, width) of one shape, got "
            f"{public.shape} and {transformed.shape}."
        )
    return _assign(public[class_tokens:], transformed[class_tokens:])


def recover(
    public_kernel: np.ndarray,
    public_positions: np.ndarray,
    kernel: np.ndarray,
    positions: np.ndarray,
    class_tokens: int = 1,
) -> ViTBlockCipher:
    """Both permutations, as the cipher under which the model's images are encrypted.

    Args:
        public_kernel: `(block, block, channels, width)`.
        public_positions: `(class_tokens + blocks, width)`.
        kernel: of the model at hand.
        positions: of the model at hand.
        class_tokens: int.

    Raises:
        InputError: if shapes do not fit.
    """
    return ViTBlockCipher.from_permutations(
        public_kernel.shape[0],
        recover_block_permutation(public_positions, positions, class_tokens),
        recover_pixel_permutation(public_kernel, kernel),
    )


def recover_from_models(public_model: Any, model: Any) -> ViTBlockCipher:
    """Both permutations from two Keras models of one architecture.

    See `embedding_weights` for where they are looked for.

    Args:
        public_model: with the weights that everybody has.
        model: with the transformed ones.

    Raises:
        InputError: if a model has no such variables.
    """
    public_kernel, public_positions = embedding_weights(public_model)
    kernel, positions = embedding_weights(model)
    return recover(public_kernel, public_positions, kernel, positions, _class_tokens(positions))


def embedding_weights(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The patch kernel `(block, block, channels, width)` and position table of a Keras ViT.

    Those of a model that `transform_model` knows are where it finds them; of another, the first
    square 4-D kernel and the first 2-D variable whose path names positions are taken.

    Raises:
        InputError: if there are none.
    """
    from keras_dpvit.encryption import keyed_layers

    try:
        part = keyed_layers.parts_of(model)[0]
    except InputError as error:
        found = _found_by_shape(model)
        if found is None:
            raise InputError(
                "model must have a patch kernel and a table of absolute positions."
            ) from error
        return found
    if not part.positions:
        raise InputError("model must have a table of absolute positions, got none.")
    side, depth = part.patch_size, part.image_shape[2]
    kernel = np.asarray(part.projection).reshape(side, side, depth, -1)
    return kernel, np.asarray(part.positions[0])


def _found_by_shape(model: Any) -> tuple[np.ndarray, np.ndarray] | None:
    kernel = positions = None
    for variable in model.weights:
        shape = tuple(variable.shape)
        if kernel is None and len(shape) == 4 and shape[0] == shape[1] > 1:
            kernel = np.asarray(variable)
        if positions is None and "position" in variable.path and len(_squeezed(shape)) == 2:
            positions = np.asarray(variable).reshape(_squeezed(shape))
    return None if kernel is None or positions is None else (kernel, positions)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def _class_tokens(positions: np.ndarray) -> int:
    """Square images have a square number of blocks; what is beyond belongs to no block."""
    side = int(np.sqrt(len(positions)))
    return len(positions) - side * side


def _by_pixel(kernel: np.ndarray) -> np.ndarray:
    """One row for each pixel of a quadrant: its weights in all quadrants, channels, filters."""
    half = kernel.shape[0] // 2
    cut = kernel.reshape(2, half, 2, half, *kernel.shape[2:])
    return cut.transpose(1, 3, 0, 2, 4, 5).reshape(half * half, -1)


def _assign(public: np.ndarray, transformed: np.ndarray) -> np.ndarray:
    """Assigns to each row of `transformed` the row of `public` it was."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(transformed.astype(np.float64), public.astype(np.float64), "sqeuclidean")
    return np.asarray(linear_sum_assignment(cost)[1], np.int64)
