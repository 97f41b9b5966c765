"""The IDX parser, on files written here and on the real Fashion-MNIST."""

import gzip
import hashlib
import struct
import tracemalloc

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import strategies as st

from keras_dpvit.datasets import idx, load
from keras_dpvit.errors import InputError

ARRAYS = hypothesis.extra.numpy.arrays(
    np.uint8, hypothesis.extra.numpy.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)
)
# Each example overwrites the one file, so sharing the folder between examples is harmless.
SHARED_FOLDER = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None
)


def encode(array, code=0x08):
    """Writes an array in the IDX format."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def write(folder, name, content):
    """Writes bytes, through gzip when the name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return path


@pytest.fixture
def four(tmp_path):
    """A folder of four IDX files in mixed spellings, and the arrays in them."""
    random = np.random.default_rng(3)
    x_train, x_test = (random.integers(0, 256, (n, 3, 2), np.uint8) for n in (5, 4))
    y_train, y_test = np.array([0, 1, 2, 0, 1], np.uint8), np.array([2, 1, 0, 0], np.uint8)
    write(tmp_path, "train-images-idx3-ubyte", encode(x_train))
    write(tmp_path, "train-labels.idx1-ubyte", encode(y_train))
    write(tmp_path, "t10k-images.idx3-ubyte.gz", encode(x_test))
    write(tmp_path, "t10k-labels-idx1-ubyte.gz", encode(y_test))
    return tmp_path, (x_train, y_train, x_test, y_test)


@SHARED_FOLDER
@hypothesis.given(array=ARRAYS, name=st.sampled_from(["a-ubyte", "a-ubyte.gz"]))
def test_what_was_written_is_read(tmp_path, array, name):
    read = idx.read_idx(write(tmp_path, name, encode(array)), array.ndim)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array, strict=True)


@SHARED_FOLDER
@hypothesis.given(array=ARRAYS, name=st.sampled_from(["a-ubyte", "a-ubyte.gz"]), data=st.data())
def test_a_file_cut_at_any_byte_is_refused_by_name(tmp_path, array, name, data):
    path = write(tmp_path, name, encode(array))
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError, match=name) as caught:
        idx.read_idx(path, array.ndim)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
def test_every_single_cut_of_one_file_is_refused(tmp_path, name):
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    path = write(tmp_path, name, encode(array))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=name):
            idx.read_idx(path, 3)


@SHARED_FOLDER
@hypothesis.given(data=st.data(), name=st.sampled_from(["a-ubyte", "a-ubyte.gz"]))
def test_a_damaged_byte_is_read_as_data_or_refused(tmp_path, data, name):
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    path = write(tmp_path, name, encode(array))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        read = idx.read_idx(path, 3)
    except InputError:
        read = None
    # A plain body has no checksum; in gzip only bytes of no use in its header may change, and the
    # bits that fill the last byte before its trailer.
    if name.endswith(".gz"):
        of_no_use = place < 10 or place == len(content) - 9
        assert read is None or (of_no_use and (read == array).all())
    elif place < 16:
        assert read is None
    else:
        assert np.count_nonzero(read != array) == 1


@SHARED_FOLDER
@hypothesis.given(content=st.binary(max_size=64), name=st.sampled_from(["a-ubyte", "a-ubyte.gz"]))
def test_random_bytes_are_refused(tmp_path, content, name):
    hypothesis.assume(content[:3] not in (b"\x00\x00\x08", b"\x1f\x8b\x08"))
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        idx.read_idx(path, 3)


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
@pytest.mark.parametrize(
    ("shape", "found"), [((60000, 65535, 65535), 10), ((2, 2, 2), 24 << 20)], ids=str
)
def test_neither_a_false_header_nor_bytes_too_many_take_memory(tmp_path, name, shape, found):
    content = struct.pack(">BBBB3I", 0, 0, 8, 3, *shape) + bytes(found)
    path = write(tmp_path, name, content)
    claim = shape[0] * shape[1] * shape[2]
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"must hold {claim} bytes .*, found {found} bytes"):
            idx.read_idx(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_sizes_whose_product_is_zero_but_which_numpy_cannot_hold(tmp_path):
    largest = 2**32 - 1
    path = write(tmp_path, "a", struct.pack(">BBBB3I", 0, 0, 8, 3, largest, largest, 0))
    with pytest.raises(InputError, match=r"shape which fits in memory, found 4294967295 x"):
        idx.read_idx(path, 3)


@pytest.mark.parametrize("code", [0x09, 0x0B, 0x0C, 0x0D, 0x0E])
def test_types_other_than_unsigned_bytes_are_refused(tmp_path, code):
    path = write(tmp_path, "a", encode(np.zeros((2, 2), np.uint8), code))
    with pytest.raises(InputError, match=f"00 00 08 02 .* found 00 00 {code:02x} 02"):
        idx.read_idx(path, 2)


def test_another_number_of_dimensions_is_refused(tmp_path):
    path = write(tmp_path, "a", encode(np.zeros((4, 4, 4), np.uint8)))
    with pytest.raises(InputError, match=r"1 dimensions.*found 00 00 08 03"):
        idx.read_idx(path, 1)


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
def test_bytes_too_many_are_counted(tmp_path, name):
    path = write(tmp_path, name, encode(np.zeros(5, np.uint8)) + b"abc")
    with pytest.raises(InputError, match=r"must hold 5 bytes .* found 8 bytes"):
        idx.read_idx(path, 1)


def test_a_name_in_gz_of_a_plain_file_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(encode(np.zeros(5, np.uint8)))
    with pytest.raises(InputError, match=r"must be readable to its end: Not a gzipped file"):
        idx.read_idx(path, 1)


@pytest.mark.parametrize("name", ["absent", "."])
def test_what_is_not_a_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"must be a file"):
        idx.read_idx(tmp_path / name, 1)


def test_four_files_in_any_spelling_make_a_data_set(four):
    folder, (x_train, y_train, x_test, y_test) = four
    data = load("idx", folder, image_shape=(3, 2, 1))
    np.testing.assert_array_equal(data.x_train[..., 0], x_train)
    np.testing.assert_array_equal(data.y_train, y_train)
    np.testing.assert_array_equal(data.x_test[..., 0], x_test)
    np.testing.assert_array_equal(data.y_test, y_test)
    assert data.class_names == ("0", "1", "2")


def test_the_uncompressed_file_goes_first(four):
    folder, (x_train, *_) = four
    write(folder, "train-images-idx3-ubyte.gz", encode(255 - x_train))
    np.testing.assert_array_equal(load("idx", folder).x_train[..., 0], x_train)


def test_a_home_relative_folder_is_found(four, monkeypatch):
    folder, (x_train, *_) = four
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load("idx", f"~/{folder.name}").x_train.shape == (*x_train.shape, 1)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("train-images-idx3-ubyte", "train-images-idx3-ubyte"),
        ("train-labels.idx1-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images.idx3-ubyte.gz", "t10k-images-idx3-ubyte"),
        ("t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte"),
    ],
)
def test_a_missing_file_is_named(four, missing, named):
    folder, _ = four
    (folder / missing).unlink()
    with pytest.raises(InputError, match=rf"has no {named}\[\.gz\]"):
        load("idx", folder)


def test_images_and_labels_must_agree_in_number(four):
    folder, _ = four
    write(folder, "train-labels.idx1-ubyte", encode(np.array([0, 1, 2, 0], np.uint8)))
    with pytest.raises(InputError, match=r"train-labels.idx1-ubyte.*expected 5, found 4"):
        load("idx", folder)


def test_an_empty_part_is_refused(four):
    folder, _ = four
    write(folder, "t10k-images.idx3-ubyte.gz", encode(np.zeros((0, 3, 2), np.uint8)))
    write(folder, "t10k-labels-idx1-ubyte.gz", encode(np.zeros(0, np.uint8)))
    with pytest.raises(InputError, match=r"x_test must hold at least one image"):
        load("idx", folder)


def test_two_parts_without_rows_are_refused(four):
    folder, _ = four
    for path in folder.iterdir():
        shape = (0, 3, 2) if "images" in path.name else (0,)
        write(folder, path.name, encode(np.zeros(shape, np.uint8)))
    with pytest.raises(InputError, match=r"at least 2 different names"):
        load("idx", folder)


def test_labels_beyond_the_given_names_are_refused(four):
    folder, _ = four
    with pytest.raises(InputError, match=r"y_train must hold class numbers from 0 to 1, got 2"):
        idx.load_idx(folder, class_names=("a", "b"))


@pytest.mark.parametrize("name", ["absent", "file", "", "x" * 5000])
def test_data_dir_must_be_a_folder(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"^data_dir must be a folder with the four IDX files"):
        load("idx", f"{tmp_path}/{name}" if name else "")


def test_the_real_fashion_mnist():
    data = load("fashion_mnist", "/usr/share/datasets/fashion-mnist")
    assert data.x_train.shape == (60000, 28, 28, 1)
    assert data.x_test.shape == (10000, 28, 28, 1)
    assert np.bincount(data.y_train).tolist() == [6000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.class_names[:3] == ("T-shirt/top", "Trouser", "Pullover")
    assert [data.class_names[label] for label in data.y_train[:4]] == [
        "Ankle boot",
        "T-shirt/top",
        "T-shirt/top",
        "Dress",
    ]
    # Of the uncompressed files without their 16 bytes of header, taken by zcat, tail and sha256sum.
    assert hashlib.sha256(data.x_train.tobytes()).hexdigest() == (
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
    )
    assert hashlib.sha256(data.x_test.tobytes()).hexdigest() == (
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"
    )
