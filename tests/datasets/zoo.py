"""Small picture files of sixty kinds, as cameras, scanners and programs write them."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

ORIENTATION = 0x0112
LEVEL = 200  # of most pictures, which are of one value
SIDES = (12, 16)  # height, width


def _gray(level=LEVEL, mode="L"):
    return PIL.Image.new(mode, SIDES[::-1], level)


def _colour(level=LEVEL):
    return PIL.Image.new("RGB", SIDES[::-1], (level,) * 3)


def _saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned(orientation, kind="JPEG"):
    """A picture whose upper left quarter is bright once it is upright."""
    upright = np.full(SIDES, 30, np.uint8)
    upright[: SIDES[0] // 2, : SIDES[1] // 2] = LEVEL
    turn = PIL.Image.Transpose
    back = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    image = PIL.Image.fromarray(upright)
    number = int(orientation)
    image = image.transpose(back[number]) if number in back else image
    kind_and_value = (
        (3, struct.pack("<I", orientation))
        if number == orientation
        else (2, f"{number}\0".encode())
    )
    entry = struct.pack("<HHI4s", ORIENTATION, kind_and_value[0], len(kind_and_value[1]) // 4 or 2,
                        kind_and_value[1])  # fmt: skip
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return _saved(image, kind, exif=exif, **({"quality": 98} if kind == "JPEG" else {}))


def _floats(values):
    return _saved(PIL.Image.fromarray(np.full(SIDES, values, np.float32)), "TIFF")


def _deep(value, kind="PNG"):
    return _saved(PIL.Image.fromarray(np.full(SIDES, value, np.uint16)), kind)


def _with_spoiled_float(value):
    pixels = np.full(SIDES, 0.5, np.float32)
    pixels[0, 0] = value
    return _saved(PIL.Image.fromarray(pixels), "TIFF")


def _claims(width, height):
    """A PNG whose header claims a size that its content has not."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def _rgb16():
    """A PNG of 16 bits in each colour, which Pillow does not write."""
    rows = b"".join(b"\0" + struct.pack(">3H", *(LEVEL * 256 + 17,) * 3) * SIDES[1]
                    for _ in range(SIDES[0]))  # fmt: skip

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">2I5B", SIDES[1], SIDES[0], 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def _heic():
    import pillow_heif

    stream = io.BytesIO()
    pillow_heif.from_pillow(_colour().resize((64, 64))).save(stream, quality=100)
    return stream.getvalue()


def _dicom(value, bits=12, photometric="MONOCHROME2", frames=1):
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    colours = 3 if photometric == "RGB" else 1
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["zoo"])
    made.Rows, made.Columns = SIDES
    made.SamplesPerPixel, made.PhotometricInterpretation = colours, photometric
    made.BitsStored, made.BitsAllocated = bits, 8 if bits <= 8 else 16
    made.HighBit, made.PixelRepresentation = bits - 1, 0
    if colours == 3:
        made.PlanarConfiguration = 0
    if frames > 1:
        made.NumberOfFrames = frames
    shape = (frames, *SIDES, colours)
    made.PixelData = np.full(shape, value, np.uint8 if bits <= 8 else np.uint16).tobytes()
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _frames(kind, **options):
    rest = [_colour(10), _colour(90)]
    return _saved(_colour(), kind, save_all=True, append_images=rest, **options)


def _half_clear(mode):
    return PIL.Image.new(mode, SIDES[::-1], (LEVEL, 0) if mode == "LA" else (LEVEL,) * 3 + (0,))


JPEG, PNG = _saved(_colour(), "JPEG", quality=98), _saved(_colour(), "PNG")

# Each by its file's name. A level of all pixels within one, TURNED, or a part of the refusal.
TURNED = "turned"
FILES = {
    "gray.png": (_saved(_gray(), "PNG"), LEVEL),
    "colour.png": (PNG, LEVEL),
    "bits.png": (_saved(_gray(1, "1"), "PNG"), 255),
    "palette.png": (_saved(_colour().quantize(8), "PNG"), LEVEL),
    "palette_clear.png": (_saved(_colour().quantize(8), "PNG", transparency=0), LEVEL),
    "clear.png": (_saved(_half_clear("RGBA"), "PNG"), LEVEL),
    "gray_clear.png": (_saved(_half_clear("LA"), "PNG"), LEVEL),
    "sixteen.png": (_deep(LEVEL * 256 + 99), LEVEL),
    "sixteen_colour.png": (_rgb16(), LEVEL),
    "turned.png": (_turned(6, "PNG"), TURNED),
    "animated.png": (_frames("PNG"), LEVEL),
    "named_png.jpg": (PNG, LEVEL),
    "upper.PNG": (PNG, LEVEL),
    "one_pixel.png": (_saved(PIL.Image.new("L", (1, 1), LEVEL), "PNG"), LEVEL),
    "thin.png": (_saved(PIL.Image.new("L", (300, 1), LEVEL), "PNG"), LEVEL),
    "colour.jpg": (JPEG, LEVEL),
    "gray.jpeg": (_saved(_gray(), "JPEG"), LEVEL),
    "progressive.jpg": (_saved(_colour(), "JPEG", progressive=True), LEVEL),
    "print.jpg": (_saved(PIL.Image.new("CMYK", SIDES[::-1], (0, 0, 0, 55)), "JPEG"), LEVEL),
    **{f"turned_{n}.jpg": (_turned(n), TURNED) for n in range(1, 9)},
    "turned_as_text.jpg": (_turned("6"), TURNED),
    "turned_nowhere.jpg": (_turned(99), TURNED),
    "phone.jpg": (_saved(_colour(), "MPO", save_all=True, append_images=[_colour(9)]), LEVEL),
    "phone.mpo": (_saved(_colour(), "MPO", save_all=True, append_images=[_colour(9)]), LEVEL),
    "named_jpg.png": (JPEG, LEVEL),
    "lossy.webp": (_saved(_colour(), "WEBP", quality=95), LEVEL),
    "lossless.webp": (_saved(_colour(), "WEBP", lossless=True), LEVEL),
    "clear.webp": (_saved(_half_clear("RGBA"), "WEBP", lossless=True, exact=True), LEVEL),
    "animated.webp": (_frames("WEBP", lossless=True), LEVEL),
    "colour.bmp": (_saved(_colour(), "BMP"), LEVEL),
    "gray.bmp": (_saved(_gray(), "BMP"), LEVEL),
    "bits.bmp": (_saved(_gray(1, "1"), "BMP"), 255),
    "gray.tif": (_saved(_gray(), "TIFF"), LEVEL),
    "colour.tiff": (_saved(_colour(), "TIFF", compression="tiff_lzw"), LEVEL),
    "in_jpeg.tiff": (_saved(_colour(), "TIFF", compression="jpeg"), LEVEL),
    "sixteen.tif": (_deep(LEVEL * 256 + 99, "TIFF"), LEVEL),
    "to_one.tif": (_floats(LEVEL / 255), LEVEL),
    "to_255.tif": (_floats(float(LEVEL)), LEVEL),
    "below.tif": (_with_spoiled_float(-1.0), "from 0 to 1"),
    "none.tif": (_with_spoiled_float(np.nan), "from 0 to 1"),
    "pages.tif": (_frames("TIFF"), "several pictures"),
    "still.gif": (_saved(_gray(), "GIF"), LEVEL),
    "moving.gif": (_frames("GIF"), LEVEL),
    "phone.heic": (_heic(), LEVEL),
    "scan.dcm": (_dicom(LEVEL * 16 + 7), LEVEL),
    "negative.dcm": (_dicom((255 - LEVEL) * 16 + 7, photometric="MONOCHROME1"), LEVEL),
    "colour.dcm": (_dicom(LEVEL, 8, "RGB"), LEVEL),
    "film.dcm": (_dicom(9, frames=3), "several pictures"),
    "cut.png": (PNG[:-30], "one whole picture"),
    "cut.jpg": (JPEG[:-200], "one whole picture"),
    "cut.gif": (_frames("GIF")[:60], "one whole picture"),
    "cut.webp": (_saved(_colour(), "WEBP", lossless=True)[:-20], "one whole picture"),
    "cut.tif": (_saved(_gray(), "TIFF")[:60], "one whole picture"),
    "empty.png": (b"", "none of the formats"),
    "text.jpg": (b"not a picture\n", "none of the formats"),
    "other.png": (_saved(_colour(), "PPM"), "none of the formats"),
    "huge.png": (_claims(20_000, 20_000), "134217728 pixels that are allowed"),
    "claims.png": (_claims(40, 40), "one whole picture"),
    "noise.dcm": (b"\0" * 200, "one whole picture"),
}


def write(folder):
    """Writes all of them into a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def names(readable):
    """The names of the files that can be read, or of the others."""
    return [name for name, (_, result) in FILES.items()
            if (result == TURNED or not isinstance(result, str)) == readable]  # fmt: skip


def is_right(name, pixels):
    """True if pixels `(height, width, channels)` are those of the file."""
    expected = FILES[name][1]
    if expected != TURNED:
        return bool(np.abs(pixels.astype(int) - expected).max() <= 1)
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    bright = pixels[: height - 1, : width - 1].min() > LEVEL - 20
    dark = max(pixels[height + 1 :].max(), pixels[:, width + 1 :].max()) < 60
    return bool(bright and dark)
