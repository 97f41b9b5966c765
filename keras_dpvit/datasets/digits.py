"""The handwritten digits which ship inside scikit-learn."""

import numpy as np

from keras_dpvit.datasets.image_data import ImageData

TEST_ROWS = 360
_LARGEST_VALUE = 16


def load_digits() -> ImageData:
    """Loads scikit-learn's 1,797 digits of 8x8 pixels, with their values 0..16 spread over 0..255.

    The split is public and fixed: the row numbers are permuted with seed 0 and the last 360 of
    them (20 %) are the test part. The rule looks at row numbers only, never at an image or a
    label, so it is not stratified and tells nothing about the data.

    Returns:
        The digits, x_train of shape (1437, 8, 8, 1) and x_test of shape (360, 8, 8, 1).
    """
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    images = np.rint(digits.images * (255 / _LARGEST_VALUE)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    # RandomState's stream is frozen; a Generator's may change between releases of NumPy.
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[:-TEST_ROWS], order[-TEST_ROWS:]
    return ImageData(
        name="digits",
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
        class_names=tuple(str(name) for name in digits.target_names),
    )
