"""One function which loads any of the known data sets by name."""

import os
from collections.abc import Sequence
from pathlib import Path

from keras_dpvit._validate import one_of, open_unit_interval
from keras_dpvit.datasets import digits, idx, image_folder, tfds_source
from keras_dpvit.datasets.image_data import ImageData, existing_folder
from keras_dpvit.datasets.image_files import Reading
from keras_dpvit.errors import InputError

DATASETS = ("digits", "fashion_mnist", "mnist", "cifar10", "cifar100", "idx", "image_folder")

# Where Debian's package dataset-fashion-mnist puts the four IDX files.
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR_10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR_100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
    cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
    lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CLASSES = {
    "fashion_mnist": _FASHION_CLASSES,
    "mnist": tuple(str(digit) for digit in range(10)),
    "cifar10": tuple(_CIFAR_10_CLASSES.split()),
    "cifar100": tuple(_CIFAR_100_CLASSES.split()),
}
_ALSO_IDX = ("fashion_mnist", "mnist")  # also published as IDX files


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    test_fraction: float = 0.2,
    class_names: Sequence[str] | None = None,
    reading: Reading | None = None,
) -> ImageData:
    """Loads a data set by its name.

    `digits` comes with scikit-learn. `idx` reads the four IDX files in `data_dir`, and
    `image_folder` one sub-folder of images for each class. `fashion_mnist` and `mnist` take the
    first of: `data_dir` (four IDX files, or a data set prepared by tensorflow-datasets); one so
    prepared in the folder which the environment variable `TFDS_DATA_DIR` names; for
    `fashion_mnist`, the files of Debian's package dataset-fashion-mnist; a download by
    tensorflow-datasets. `cifar10` and `cifar100` (its 100 fine classes) come from
    tensorflow-datasets alone.

    Args:
        name: one of `DATASETS`.
        data_dir: the folder to read; `idx` and `image_folder` need one, `digits` takes none.
        image_shape: (height, width, channels). `image_folder` resizes to it; every other data
            set only checks that its images have it.
        test_fraction: the share of files which `image_folder` keeps for the test part when the
            folder has no separate parts; the other data sets have theirs.
        class_names: the sub-folders of an `image_folder` that are its classes; None reads them
            from the folder.
        reading: transparency and bit depth of an `image_folder`'s files; None for the usual ones.

    Returns:
        The data: uint8 images of shape (rows, height, width, channels), int64 labels.

    Raises:
        InputError: if an argument is not allowed or the files it names are missing or damaged.
    """
    one_of(DATASETS, name=name)
    open_unit_interval(test_fraction=test_fraction)
    if image_shape is not None:
        image_shape = image_folder.check_image_shape(image_shape)
    if name == "image_folder":
        return image_folder.load_image_folder(
            _needed(name, data_dir),
            image_shape=image_shape,
            test_fraction=test_fraction,
            class_names=class_names,
            reading=reading,
        )
    if reading not in (None, Reading()):
        raise InputError(
            f"transparency and bit_depth must be left out for the data set {name!r}: they are for "
            "picture files."
        )
    if class_names is not None:
        raise InputError(f"classes must be left out for the data set {name!r}, which has its own.")
    data = _load_fixed(name, data_dir)
    if image_shape not in (None, data.image_shape):
        raise InputError(
            f"image_shape must be {data.image_shape} or left out for the data set {name!r}, whose "
            f"images are not resized, got {image_shape}."
        )
    return data


def _load_fixed(name: str, data_dir: str | os.PathLike[str] | None) -> ImageData:
    """Loads a data set whose images come as they are."""
    if name == "digits":
        if data_dir is not None:
            raise InputError("data_dir must be left out for the data set 'digits'.")
        return digits.load_digits()
    if name == "idx":
        return idx.load_idx(_needed(name, data_dir))
    if data_dir is not None:
        return _load_published_from(name, data_dir)
    return _load_published(name)


def _needed(name: str, data_dir: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    if data_dir is None:
        raise InputError(f"data_dir must name the folder to read for the data set {name!r}.")
    return data_dir


def _load_published_from(name: str, data_dir: str | os.PathLike[str]) -> ImageData:
    """Loads a published data set from a folder of the user's."""
    has_idx = name in _ALSO_IDX
    contents = f"the four IDX files {idx.EXPECTED_FILES}, or " if has_idx else ""
    contents += f"{name} as prepared by tensorflow-datasets"
    folder = existing_folder(data_dir, contents)
    if has_idx and idx.holds_idx(folder):
        return idx.load_idx(folder, name=name, class_names=_CLASSES[name])
    prepared = tfds_source.find_prepared(name, folder)
    if prepared is not None:
        return tfds_source.load_prepared(name, prepared, _CLASSES[name])
    state = "has neither" if has_idx else "has none"
    raise InputError(f"data_dir must hold {contents}; {str(folder)!r} {state}.")


def _load_published(name: str) -> ImageData:
    """Loads a published data set from the first of its usual places."""
    classes = _CLASSES[name]
    tfds_dir = os.environ.get("TFDS_DATA_DIR") or None
    if tfds_dir is not None:
        prepared = tfds_source.find_prepared(name, tfds_dir)
        if prepared is not None:
            return tfds_source.load_prepared(name, prepared, classes)
    files = "the four IDX files" if name in _ALSO_IDX else "what tensorflow-datasets prepared"
    advice = f"give --data_dir with {files}"
    if name == "fashion_mnist":
        if DEBIAN_FASHION_MNIST.is_dir():
            return idx.load_idx(DEBIAN_FASHION_MNIST, name=name, class_names=classes)
        advice += ", or install Debian's dataset-fashion-mnist"
    return tfds_source.load_downloaded(name, tfds_dir, classes, advice)
