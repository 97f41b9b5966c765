"""Pictures in JPEG and PNG files to a model's pixels, as TensorFlow ops.

It follows what `datasets.load_image_folder` does with Pillow, so that a model is served what it was
trained on: the accurate DCT, ITU-R 601 luma, an antialiased bilinear resize in two passes (across,
then down) with a rounding to whole pixel values after each. Two things differ: JPEG files with
EXIF orientation are taken as they lie (no op reads it), and JPEG files in CMYK are converted by
libjpeg's formula.
"""

from typing import Any

import tensorflow as tf

# Larger ones are refused before they are decoded: a PNG of a few kilobytes may hold any number
# of pixels. Phones make up to 108 million.
MAX_PIXELS = 2**27

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 24  # signature, then the first chunk up to width and height
# Bounds the memory: each takes up to MAX_PIXELS times 3 bytes, and 4 more bytes for gray.
_AT_ONCE = 2


def decode_and_resize(image_bytes: Any, image_shape: tuple[int, int, int]) -> Any:
    """Decodes and resizes a batch of files.

    Args:
        image_bytes: string tensor `(batch,)`, each a whole JPEG or PNG file.
        image_shape: (height, width, channels) with 1 or 3 channels. Transparency is dropped, 16
            bits become the upper 8.

    Returns:
        float32 `(batch, height, width, channels)`, whole numbers 0..255. In the graph, anything
        that is not a whole JPEG or PNG image or has over `MAX_PIXELS` is an InvalidArgument error.
    """
    return tf.map_fn(
        lambda one: _pixels(one, image_shape),
        image_bytes,
        parallel_iterations=_AT_ONCE,
        fn_output_signature=tf.TensorSpec(image_shape, tf.float32),
    )


def _pixels(contents: Any, image_shape: tuple[int, int, int]) -> Any:
    height, width, channels = image_shape
    is_png = tf.logical_and(
        tf.strings.substr(contents, 0, len(_PNG)) == _PNG,
        tf.strings.length(contents) >= _PNG_HEADER,
    )
    is_jpeg = tf.strings.substr(contents, 0, len(_JPEG)) == _JPEG
    check = tf.debugging.Assert(
        tf.logical_or(is_png, is_jpeg), ["image_bytes must be a whole JPEG or PNG file."]
    )
    with tf.control_dependencies([check]):
        contents = tf.identity(contents)
    sides = tf.cond(is_png, lambda: _png_sides(contents), lambda: _jpeg_sides(contents))
    fits = tf.logical_and(
        tf.reduce_min(sides) > 0, tf.reduce_prod(tf.cast(sides, tf.int64)) <= MAX_PIXELS
    )
    check = tf.debugging.Assert(
        fits, [f"image_bytes must have at most {MAX_PIXELS} pixels; height and width:", sides]
    )
    with tf.control_dependencies([check]):
        contents = tf.identity(contents)
    # This op reads PNG too. The default DCT is the fast one, several gray levels off.
    image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    if channels == 1:
        image = _luma(image)
    image = _resize(image, tf.shape(image)[0], width)
    image = _resize(image, height, width)
    return tf.ensure_shape(tf.cast(image, tf.float32), image_shape)


def _png_sides(contents: Any) -> Any:
    """Height and width, int32 `(2,)`."""
    width_height = tf.strings.substr(contents, _PNG_HEADER - 8, 8)
    return tf.io.decode_raw(width_height, tf.int32, little_endian=False)[::-1]


def _jpeg_sides(contents: Any) -> Any:
    return tf.image.extract_jpeg_shape(contents)[:2]


def _luma(image: Any) -> Any:
    """Gray by ITU-R 601-2 in 16-bit fixed point: 0.299 R + 0.587 G + 0.114 B."""
    red, green, blue = tf.split(tf.cast(image, tf.int32), 3, axis=-1)
    level = (red * 19595 + green * 38470 + blue * 7471 + 2**15) // 2**16
    return tf.cast(level, tf.uint8)


def _resize(image: Any, height: Any, width: Any) -> Any:
    resized = tf.image.resize(image, (height, width), method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.floor(resized + 0.5), 0, 255), tf.uint8)
