"""Compiled kernels for what a private step does beside a plain one, and the way to them.

All that is here can be done without them: see `gradients.ghost_norm` and `training.noise_addition`.
"""

import dataclasses
from typing import Any

import tensorflow as tf

from keras_dpvit.native.compiling import library as library


@dataclasses.dataclass(frozen=True)
class RecordProducts:
    """Every record's gradients in a matrix and a bias.

    Attributes:
        products: `(records, in, out)`, `sum_t x_t g_t^T`.
        sums: `(records, out)`, `sum_t g_t`.
        product_norms, sum_norms: float64 `(records,)`, their squared L2 norms.
    """

    products: Any
    sums: Any
    product_norms: Any
    sum_norms: Any


def takes(*tensors: Any) -> bool:
    """True if there are kernels for these tensors."""
    return all(tensor.dtype == tf.float32 for tensor in tensors) and library() is not None


def record_products(inputs: Any, gradients: Any) -> RecordProducts:
    """The gradients of a matrix that every token of a record is multiplied with, and of its bias.

    Args:
        inputs: float32 `(records, tokens, in)`.
        gradients: float32 `(records, tokens, out)`, of the output.
    """
    kernels = library()
    assert kernels is not None
    return RecordProducts(*kernels.keras_dpvit_record_products(inputs=inputs, gradients=gradients))


@dataclasses.dataclass(frozen=True)
class Places:
    """The places of a convolution's kernel over an image, of height and width each.

    Attributes:
        sizes: of the kernel.
        strides, rates: the kernel's steps, and those inside it.
        before: zeros above and to the left of the image.
        number: places.
    """

    sizes: tuple[int, int]
    strides: tuple[int, int]
    rates: tuple[int, int]
    before: tuple[int, int]
    number: tuple[int, int]


def record_convolutions(images: Any, gradients: Any, places: Places) -> RecordProducts:
    """The gradients of a convolution's kernel and of its bias.

    As `record_products` of what the kernel sees, which is never written out for all records.

    Args:
        images: float32 `(records, height, width, channels)`.
        gradients: float32 `(records, places, out)`, of the output.
        places: where the kernel is laid.
    """
    kernels = library()
    assert kernels is not None
    found = kernels.keras_dpvit_record_convolutions(
        images=images,
        gradients=gradients,
        sizes=list(places.sizes),
        strides=list(places.strides),
        rates=list(places.rates),
        before=list(places.before),
        places=list(places.number),
    )
    return RecordProducts(*found)


def gram_norms(inputs: Any, gradients: Any) -> Any:
    """Upper bounds of the `product_norms`, from products of every two tokens; for few tokens.

    The bound on what rounding takes away is worked out in `sums.h`.
    """
    kernels = library()
    assert kernels is not None
    return kernels.keras_dpvit_gram_norms(inputs=inputs, gradients=gradients)


def squared_norms(rows: Any) -> Any:
    """Squared L2 norms, float64 `(records,)`, of float32 `(records, numbers)`."""
    kernels = library()
    assert kernels is not None
    return kernels.keras_dpvit_squared_norms(rows=rows)


def standard_normals(count: int, seed: Any) -> Any:
    """The numbers that `training.noise_addition.standard_normals` makes without these kernels.

    Args:
        count: int.
        seed: int64 tensor of 2.

    Returns:
        float32 `(count,)`.
    """
    kernels = library()
    assert kernels is not None
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    pairs = (count + 1) // 2
    return kernels.keras_dpvit_standard_normals(key=key, counter=counter, pairs=pairs)[:count]
