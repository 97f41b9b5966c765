"""TFRecord shards of encrypted images."""

import functools
import os
import pathlib
import struct
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from keras_dpvit.encryption.blocks import Shape
from keras_dpvit.errors import InputError


def pack(encoded: list[bytes], names: list[str], shapes: Sequence[Shape], kid: str) -> bytes:
    """The bytes of one shard.

    Each record is a `tf.train.Example` with `image` (PNG bytes), `name`, `height`, `width`,
    `channels` and `kid`.

    Args:
        encoded: PNG bytes of each image.
        names: its path in the tree, without suffix.
        shapes: its (height, width, channels), as encrypted.
        kid: id of the key.
    """
    tf = _tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "shard")
        with tf.io.TFRecordWriter(path) as writer:
            for image, name, shape in zip(encoded, names, shapes, strict=True):
                features = {
                    "image": _bytes(tf, image),
                    "name": _bytes(tf, name.encode("utf-8", "surrogateescape")),
                    "kid": _bytes(tf, kid.encode()),
                }
                for side, value in zip(("height", "width", "channels"), shape, strict=True):
                    integers = tf.train.Int64List(value=[value])
                    features[side] = tf.train.Feature(int64_list=integers)
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString(deterministic=True))
        return pathlib.Path(path).read_bytes()


def read(path: pathlib.Path) -> list[bytes]:
    """The PNG bytes of every image in a shard.

    The checksums inside the file are not looked at: the manifest has one of the whole file.

    Raises:
        InputError: if the file is not such a shard.
    """
    try:
        return [feature["image"].bytes_list.value[0] for feature in _features(path)]
    except IndexError as error:
        raise _no_shard(path) from error


def first_kid(path: pathlib.Path) -> str | None:
    """The key's id in the first record of a shard; None if there is none.

    Raises:
        InputError: if the file is not such a shard.
    """
    for feature in _features(path):
        values = feature["kid"].bytes_list.value
        return values[0].decode() if values else None
    return None


def _features(path: pathlib.Path) -> Iterator[Any]:
    """The features of each record: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    tf = _tensorflow()
    from google.protobuf.message import DecodeError

    try:
        with open(path, "rb") as file:
            while head := file.read(12):
                (length,) = struct.unpack("<Q4x", head)
                if length > os.fstat(file.fileno()).st_size:
                    raise _no_shard(path)
                yield tf.train.Example.FromString(file.read(length)).features.feature
                file.read(4)
    except (OSError, struct.error, DecodeError) as error:
        raise _no_shard(path) from error


def _no_shard(path: pathlib.Path) -> InputError:
    return InputError(
        f"{path} must be a shard of encrypted images; it is damaged or another kind of file."
    )


def _bytes(tf: Any, value: bytes) -> Any:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


@functools.cache
def _tensorflow() -> Any:
    """TensorFlow without what its native code writes to stderr when it is loaded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
    return tensorflow
