"""A training killed at any moment goes on to the same end, and spends nothing off the record."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.training.checkpoint import Checkpoint

# A whole training as a user writes it; told to be slow enough to be killed in the middle.
PROGRAM = """
import sys, time
import keras, numpy as np
import keras_dpvit as kd

checkpoint_dir, output, seed = sys.argv[1], sys.argv[2], eval(sys.argv[3])
keras.utils.set_random_seed(3)
rng = np.random.default_rng(0)
x = rng.uniform(0, 255, (120, 4, 4, 1)).astype("float32")
y = rng.integers(0, 3, 120)
plan = kd.PrivacyPlan(
    num_examples=120, batch_size=20, epochs=5, delta=1e-4, noise_multiplier=1.0, seed=seed
)
layers = keras.layers
front = [keras.Input((4, 4, 1)), layers.Rescaling(1 / 255), layers.Flatten()]
model = kd.make_private(keras.Sequential([*front, layers.Dropout(0.1), layers.Dense(3)]))
model.compile(
    kd.DPKerasAdamOptimizer(plan, learning_rate=1e-2),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)


class Slow(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(0.02)


model.fit(
    x, y, epochs=5, verbose=0, callbacks=[Slow()], checkpoint_dir=checkpoint_dir, checkpoint_steps=4
)
entries = model.privacy_ledger.all_entries()
np.savez(
    output,
    *[v.numpy() for v in model.variables],
    steps=sum(entry.steps for entry in entries),
    epsilon=model.privacy_ledger.epsilon(1e-4),
)
"""


def start(checkpoint_dir, output, seed=9):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(checkpoint_dir), str(output), repr(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]


def kill_after(process, steps, delay):
    """Kills the process within or after its given step; True if it was still at work."""
    for _ in range(steps):
        if not process.stdout.readline():
            break
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def results(path):
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    finish(start(place / "checkpoints", place / "end.npz"))
    return results(place / "end.npz")


@pytest.mark.proof
def test_a_seeded_training_killed_three_times_ends_as_the_whole_one(uninterrupted, tmp_path):
    rng = np.random.default_rng(5)
    for _ in range(3):
        steps, delay = int(rng.integers(1, 12)), float(rng.uniform(0, 0.1))
        assert kill_after(start(tmp_path / "checkpoints", tmp_path / "end.npz"), steps, delay)
    finish(start(tmp_path / "checkpoints", tmp_path / "end.npz"))
    found = results(tmp_path / "end.npz")
    assert found.keys() == uninterrupted.keys()
    for name, expected in uninterrupted.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


@pytest.mark.slow
def test_without_a_seed_lost_steps_count_as_spent(tmp_path):
    assert kill_after(start(tmp_path / "checkpoints", tmp_path / "end.npz", None), 7, 0.01)
    checkpoint = Checkpoint(tmp_path / "checkpoints")
    assert checkpoint.steps_begun() >= 7
    assert checkpoint.read_meta() is not None
    checkpoint.close()
    finish(start(tmp_path / "checkpoints", tmp_path / "end.npz", None))
    found = results(tmp_path / "end.npz")
    # The plan's 30 steps and no more, the lost ones among them.
    assert found["steps"] == 30
    assert found["epsilon"] == pytest.approx(
        kd.PrivacyPlan(120, 20, 5, 1e-4, noise_multiplier=1.0).epsilon()
    )


def test_checkpoints_hold_no_key_and_no_half_written_file(tmp_path, monkeypatch):
    import tensorflow as tf

    checkpoint = Checkpoint(tmp_path)
    variable = tf.Variable([1.0, 2.0])
    checkpoint.save([variable], {"n": 1})

    def fails(*_):
        raise OSError("disk full")

    variable.assign([3.0, 4.0])
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(InputError, match="disk full"):
        checkpoint.save([variable], {"n": 2})
    monkeypatch.undo()
    assert checkpoint.load([variable]) == {"n": 1}
    np.testing.assert_array_equal(variable, [1.0, 2.0])


def test_everything_is_on_the_disk_before_it_is_built_upon(tmp_path, monkeypatch):
    """After a loss of power there is one whole checkpoint, and no step that nobody wrote down."""
    import tensorflow as tf

    done = []

    def name(descriptor):
        return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))

    fsync, replace, pwrite = os.fsync, os.replace, os.pwrite
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(f"sync {name(fd)}"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("replace"), replace(*a)))
    monkeypatch.setattr(os, "pwrite", lambda *a: (done.append("write"), pwrite(*a)))
    checkpoint = Checkpoint(tmp_path / "run")
    assert done == [f"sync {tmp_path.name}"]
    done.clear()
    checkpoint.save([tf.Variable(1.0)], {})
    written, *rest = done
    assert written.startswith("sync .part-")
    assert rest == ["replace", "sync run"]
    done.clear()
    checkpoint.begin_step(7)
    assert done == ["write", "sync steps_begun"]
    checkpoint.close()


def test_checkpoints_of_other_trainings_and_damaged_ones_are_refused(tmp_path):
    import tensorflow as tf

    checkpoint = Checkpoint(tmp_path)
    checkpoint.save([tf.Variable([1.0, 2.0])], {})
    with pytest.raises(InputError, match="another model"):
        checkpoint.load([tf.Variable([1.0])])
    path = tmp_path / "private_training.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="damaged"):
        checkpoint.read_meta()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="checkpoint_dir must be a directory"):
        Checkpoint(tmp_path / "file")


def test_another_plan_or_seed_does_not_go_on(tmp_path):
    import keras

    x = np.zeros((40, 4), "float32")
    y = np.zeros(40, int)

    def fit(seed, noise_multiplier):
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model = kd.make_private(network)
        plan = kd.PrivacyPlan(40, 20, 1, 1e-4, noise_multiplier, seed=seed)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(kd.DPKerasSGDOptimizer(plan), loss)
        model.fit(x, y, verbose=0, checkpoint_dir=tmp_path)
        return model

    done = fit(1, 1.0)
    again = fit(1, 1.0)  # nothing is left to do
    assert again.privacy_ledger.costs() == done.privacy_ledger.costs()
    np.testing.assert_array_equal(again.get_weights()[0], done.get_weights()[0])
    with pytest.raises(InputError, match="another seed"):
        fit(2, 1.0)
    with pytest.raises(InputError, match="another plan"):
        fit(1, 2.0)


def test_going_back_to_a_checkpoint_draws_no_noise_again(tmp_path):
    """In one process the key stays, so that its steps' numbers must not come twice."""
    import keras

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype("float32"), rng.integers(0, 2, 40)
    keras.utils.set_random_seed(1)
    model = kd.make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    model.compile(
        kd.DPKerasSGDOptimizer(kd.PrivacyPlan(40, 20, 4, 1e-4, 1.0)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    begun = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            begun.append(model.private_trainer.state.steps_taken)

    model.fit(x, y, verbose=0, callbacks=[Watch()], checkpoint_dir=tmp_path)
    early = model.get_weights()
    model.fit(x, y, verbose=0, callbacks=[Watch()])
    ids = [entry.release_id for entry in model.privacy_ledger.entries]
    model.fit(x, y, verbose=0, callbacks=[Watch()], checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(model.get_weights()[0], early[0])
    assert [entry.release_id for entry in model.privacy_ledger.entries] != ids
    model.fit(x, 1 - y, verbose=0, callbacks=[Watch()])
    assert begun == list(range(6))
    assert [entry.steps for entry in model.privacy_ledger.entries] == [6]
