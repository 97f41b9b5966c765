"""Private programs: answers, what is public of them, and what is refused."""

import numpy as np
import pytest


@pytest.mark.parametrize("run", ["aby3", "semi2k", "cheetah", "fused"])
def test_private_answers_are_the_plain_models(jax_side, run):
    found = jax_side["protocols"][run]
    private, plain = np.array(found["private"]), np.array(found["plain"])
    assert private.shape == plain.shape
    assert np.abs(private - plain).max() < 0.01
    assert (private.argmax(axis=1) == plain.argmax(axis=1)).all()
    assert np.ptp(plain) > 0.15  # the trained model says something
    assert len(found["sent"]) == (3 if run in ("aby3", "fused") else 2)
    assert min(found["sent"]) > 10_000


def test_a_last_batch_that_is_not_full_is_cut_again(jax_side):
    assert len(jax_side["protocols"]["aby3"]["private"]) == 6
    assert jax_side["protocols"]["about"] == [8, 8, 1, "logits"]


def test_fused_answers_are_probabilities(jax_side):
    sums = np.sum(jax_side["protocols"]["fused"]["private"], axis=1)
    np.testing.assert_allclose(sums, 1, atol=1e-3)


def test_public_parts_hold_no_weights(jax_side):
    public = jax_side["public"]
    assert public["image_part"]  # equal for other weights
    assert public["executable"]
    # The faulty twin has its weights as constants, which whoever has an image then gets.
    assert not public["leaky_image_part"]


def test_images_are_standardised_by_their_owner(jax_side):
    assert jax_side["public"]["shared_of_images"] == [[2, 16, 4]]  # patches
    assert abs(jax_side["public"]["pixels_standardised"]) < 1e-6


def test_strengths_that_fixed_point_has_not_go_into_the_directions(jax_side):
    ours, twin = jax_side["whitened"]
    assert ours < 0.01
    assert twin > 0.1


def test_functions_err_little_and_coarse_ones_much(jax_side):
    assert set(jax_side["functions"]) == {"gelu", "softmax", "division"}
    assert max(jax_side["functions"].values()) < 2e-4
    assert min(jax_side["coarse_functions"].values()) > 2e-3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "foreign",
            "model must be a DPViTClassifier or a FusedClassifier of them, got Sequential.",
        ),
        ("broken", "model must be a .keras file of a DPViTClassifier or a FusedClassifier of them"),
        ("absent", "model must be a .keras file that exists, got "),
        ("member", "member must be the number of one of 2, got 3."),
        ("noisy", "model must be silent outside training: noise_at_inference"),
        ("names", "class_names must be 10 names, got 2."),
    ],
)
def test_bad_models_are_refused_in_one_line(jax_side, case, message):
    found = jax_side["refusals"][case]
    assert found.startswith(message)
    assert "\n" not in found
