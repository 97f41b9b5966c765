"""What a training keeps of itself: progress that a checkpoint can hold, and keys that it cannot."""

import json

import numpy as np

import keras_dpvit as kd
from keras_dpvit.training.state import TrainingKeys, TrainingState

PLAN = kd.PrivacyPlan(100, 10, 1, 1e-5, noise_multiplier=1.0)


def test_a_state_comes_back_from_json_as_it_was():
    state = TrainingState(PLAN)
    state.steps.assign(7)
    state.passes = 3
    state.enter()
    state.steps.assign(9)
    state.passes = 4
    assert state.note("not_covered", "Shown.")
    assert not state.note("not_covered", "Shown.")
    assert state.note("invalidated_by", "Loaded.")
    back = TrainingState(PLAN)
    back.restore(json.loads(json.dumps(state.meta())))
    for variable, value in zip(back.variables(), state.variables(), strict=True):
        variable.assign(value)
    assert (back.steps_taken, back.steps_done, back.passes_done) == (9, 2, 1)
    assert list(back.disclosures) == ["Shown."]
    assert list(back.invalidated_by) == ["Loaded."]
    assert back.meta() == state.meta()


def keys_of(seed, weights):
    keys = TrainingKeys(seed)
    keys.renew(weights)
    variables = [keys.noise, keys.augmentation, keys.layers]
    return [keys.sampling[:16], *(np.asarray(v).tobytes() for v in variables)], keys.tag()


def test_a_seed_gives_the_same_keys_for_the_same_weights_and_no_others():
    once, tag = keys_of(5, "these")
    again, same_tag = keys_of(5, "these")
    assert once == again
    assert tag == same_tag
    assert len(set(once)) == 4  # one for each purpose
    for other in ((6, "these"), (5, "those")):
        found, other_tag = keys_of(*other)
        assert not set(found) & set(once)
        assert other_tag != tag


def test_without_a_seed_keys_are_nobodys():
    once, tag = keys_of(None, "these")
    again, _ = keys_of(None, "these")
    assert not set(once) & set(again)
    assert tag is None


def test_a_tag_gives_no_key_away():
    keys, tag = keys_of(5, "these")
    assert all(key.hex() not in tag for key in keys)
