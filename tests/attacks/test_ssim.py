"""SSIM against scikit-image's."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from benchmarks import photographs
from keras_dpvit.attacks.ssim import ssim
from keras_dpvit.errors import InputError


@pytest.fixture(scope="module")
def pairs():
    generator = np.random.default_rng(0)
    plain = photographs.crops(photographs.load(), 3, generator, resized=40)[:, :, :33]
    noise = generator.normal(0, [[[[5]]], [[[40]]], [[[120]]]], plain.shape)
    return plain, np.clip(plain + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ("uniform7", {}),
        (
            "gaussian11",
            {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
        ),
    ],
)
def test_equals_scikit_image(pairs, window, options):
    expected = [
        structural_similarity(a, b, channel_axis=-1, data_range=255, **options)
        for a, b in zip(*pairs, strict=True)
    ]
    assert min(expected) < 0.3
    assert max(expected) > 0.8
    np.testing.assert_allclose(ssim(*pairs, window), expected, atol=1e-12)


def test_gaussian_window_equals_tensorflow(pairs):
    import tensorflow as tf

    expected = tf.image.ssim(*pairs, max_val=255).numpy()
    np.testing.assert_allclose(ssim(*pairs, "gaussian11"), expected, atol=1e-5)


def test_equal_images_score_one(pairs):
    np.testing.assert_array_equal(ssim(pairs[0], pairs[0]), [1, 1, 1])


def test_bad_input():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match=r"^images must be at least 11x11"):
        ssim(image, image, "gaussian11")
    with pytest.raises(InputError, match=r"of one shape"):
        ssim(image, image[:, 1:])
    with pytest.raises(InputError, match=r"^window must be one of"):
        ssim(image, image, "box")
