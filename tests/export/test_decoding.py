"""Picture files in the graph, against the loader that training reads them with."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_dpvit.datasets.image_files import read_image
from keras_dpvit.export import decoding
from keras_dpvit.export.decoding import MAX_PIXELS, decode_and_resize

ORIENTATION = 0x0112


def photograph(width, height):
    """Smooth colours with some grain, so that both resizing and JPEG have work to do."""
    rng = np.random.default_rng(width * height)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    grainy = np.asarray(smooth).astype(int) + rng.integers(-20, 20, (height, width, 3))
    return PIL.Image.fromarray(grainy.clip(0, 255).astype(np.uint8))


def with_alpha(image):
    alpha = np.tile(np.arange(image.width) % 256, (image.height, 1)).astype(np.uint8)
    image.putalpha(PIL.Image.fromarray(alpha))
    return image


FORMS = {
    "rgb.png": lambda image: (image, {}),
    "rgb.jpg": lambda image: (image, {"quality": 90}),
    "rough.jpg": lambda image: (image, {"quality": 30, "progressive": True}),
    "444.jpg": lambda image: (image, {"subsampling": 0}),
    "gray.png": lambda image: (image.convert("L"), {}),
    "gray.jpg": lambda image: (image.convert("L"), {}),
    "rgba.png": lambda image: (with_alpha(image), {}),
    "gray_alpha.png": lambda image: (image.convert("LA"), {}),
    "palette.png": lambda image: (image.convert("P"), {}),
    "one_bit.png": lambda image: (image.convert("1"), {}),
    "16_bits.png": lambda image: (
        PIL.Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
        {},
    ),
    "cmyk.jpg": lambda image: (image.convert("CMYK"), {}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("image_shape", [(28, 28, 1), (32, 40, 3)], ids=["gray", "colour"])
def test_pixels_are_those_of_the_loader_within_one_gray_level(form, image_shape, tmp_path):
    for size in ((40, 32), (28, 28), (211, 97), (9, 17), (32, 500)):
        image, options = FORMS[form](photograph(*size))
        path = tmp_path / form
        image.save(path, **options)
        expected = read_image(path, image_shape).astype(int)
        (found,) = decode_and_resize(tf.constant([path.read_bytes()]), image_shape).numpy()
        assert found.shape == image_shape
        np.testing.assert_array_equal(found, np.rint(found))
        # Pillow weighs in fixed point; libjpeg has a formula of its own for CMYK.
        difference = np.abs(found - expected)
        assert difference.max() <= (2 if form == "cmyk.jpg" else 1), size
        assert (difference > 0).mean() < 0.25


def test_a_picture_of_the_right_size_is_not_touched(tmp_path):
    image = photograph(28, 28)
    image.save(tmp_path / "a.png")
    found = decode_and_resize(tf.constant([(tmp_path / "a.png").read_bytes()]), (28, 28, 3))
    np.testing.assert_array_equal(found[0], np.asarray(image))


def test_a_batch_is_in_order_and_may_be_empty():
    files = []
    for level in (0, 90, 200):
        written = io.BytesIO()
        PIL.Image.new("L", (5 + level, 7), level).save(written, "PNG")
        files.append(written.getvalue())
    found = decode_and_resize(tf.constant(files), (4, 4, 3)).numpy()
    assert [set(image.ravel()) for image in found] == [{0.0}, {90.0}, {200.0}]
    assert decode_and_resize(tf.zeros((0,), tf.string), (4, 4, 3)).shape == (0, 4, 4, 3)


def test_exif_orientation_is_not_followed():
    # Left half black: the loader would turn it, which the documentation says that serving does not.
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 255
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    written = io.BytesIO()
    PIL.Image.fromarray(pixels).save(written, "JPEG", exif=exif, quality=95)
    (found,) = decode_and_resize(tf.constant([written.getvalue()]), (8, 8, 1)).numpy()
    assert found[:, :3].max() < 40
    assert found[:, 5:].min() > 215


def whole_png():
    written = io.BytesIO()
    photograph(64, 64).save(written, "PNG")
    return written.getvalue()


def announced_png(width, height):
    """The beginning of a file that announces its size."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + b"\0\0\0\0"


def announced_jpeg(side):
    written = io.BytesIO()
    PIL.Image.new("L", (16, 16)).save(written, "JPEG")
    content = bytearray(written.getvalue())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = side.to_bytes(2, "big") * 2
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a whole JPEG or PNG file"),
        (b"no picture", "must be a whole JPEG or PNG file"),
        (b"GIF89a" + bytes(50), "must be a whole JPEG or PNG file"),
        (whole_png()[:20], "must be a whole JPEG or PNG file"),
        (whole_png()[:-200], None),
        (b"\xff\xd8\xff" + bytes(30), None),
        (announced_png(100_000, 100_000), f"must have at most {MAX_PIXELS} pixels"),
        (announced_png(2**31, 2**31), f"must have at most {MAX_PIXELS} pixels"),
        (announced_png(0, 10), f"must have at most {MAX_PIXELS} pixels"),
        (announced_jpeg(40_000), f"must have at most {MAX_PIXELS} pixels"),
    ],
    ids=[
        "empty",
        "text",
        "gif",
        "png header alone",
        "cut png",
        "jpeg of nothing",
        "png bomb",
        "png beyond 31 bits",
        "png without width",
        "jpeg bomb",
    ],
)
def test_what_is_no_picture_is_an_error(content, message):
    decode = tf.function(lambda x: decode_and_resize(x, (8, 8, 1)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(tf.constant([whole_png(), content]))


def test_size_is_checked_before_anything_is_decoded():
    # Both would run in any order otherwise, and the error would come after the memory is taken.
    one = tf.function(lambda x: decoding._pixels(x, (8, 8, 1)))
    graph = one.get_concrete_function(tf.TensorSpec((), tf.string)).graph
    (decode,) = (op for op in graph.get_operations() if op.type == "DecodeJpeg")
    before, found = [decode], set()
    while before:
        op = before.pop()
        if op.name not in found:
            found.add(op.name)
            before += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    checks = {op.name for op in graph.get_operations() if op.type == "Assert"}
    assert len(checks) == 2
    assert checks <= found
