"""Faults of what is kept: seeds that travel, counters and ledgers that do not."""

import io
import shutil
import zipfile

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.models import provenance
from keras_dpvit.privacy import randomness
from keras_dpvit.privacy.ledger import PrivacyLedger
from keras_dpvit.training.kept_training import KeptTraining
from keras_dpvit.training.private_wrapper import DPModel

SEED = 918273645546372819


def contents(data):
    """The bytes of a file, and of all that is packed in it."""
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            for name in packed.namelist():
                yield from contents(packed.read(name))


@pytest.fixture(scope="module")
def past():
    """What the weights have cost before."""
    plan = kd.PrivacyPlan(1000, 50, 1, 1e-5, 1.0)
    return PrivacyLedger(plan.entries(plan.steps))


@pytest.fixture(scope="module")
def run(museum, digits, past, tmp_path_factory):
    """A seeded training of an epoch out of two, its checkpoints and its saved model."""
    place = tmp_path_factory.mktemp("run")

    def build():
        plan = museum.plan(48, batch_size=24, epochs=2, noise_multiplier=1.0, seed=SEED)
        network = museum.network(keras.layers.Dropout(0.1, seed=5))
        model = kd.make_private(network)
        model.start_from(past)
        model.compile(
            kd.DPKerasSGDOptimizer(plan, 1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    model = build()
    model.fit(*digits, epochs=1, verbose=0, checkpoint_dir=place / "checkpoints")
    model.save(place / "model.keras")
    return model, build, place


def check_no_seed(paths, trainer):
    """No file holds the seed, or a key that was made from it."""
    secrets = [str(SEED).encode(), SEED.to_bytes(8, "little"), trainer.keys.sampling]
    keys = (trainer.keys.noise, trainer.keys.augmentation, trainer._layer_randomness._key)
    for key in keys:
        numbers = key.numpy()
        secrets += [numbers.tobytes(), str(numbers[0]).encode(), numbers[:1].tobytes()]
    for path in paths:
        for data in contents(path.read_bytes()):
            for secret in secrets:
                assert secret not in data, path.name


def test_seeds_in_files(museum, run, monkeypatch):
    """The seed of noise and sampling in a config, a checkpoint or a model file.

    Seen: generators' states saved with everything else; configs that hold all arguments.
    """
    model, _, place = run
    files = [place / "model.keras", *(p for p in (place / "checkpoints").rglob("*") if p.is_file())]
    assert len(files) >= 3
    check_no_seed(files, model.private_trainer)
    get_config = kd.PrivacyPlan.get_config
    monkeypatch.setattr(
        kd.PrivacyPlan, "get_config", lambda plan: {**get_config(plan), "seed": plan.seed}
    )
    model.save(place / "twin.keras")
    with museum.caught():
        check_no_seed([place / "twin.keras"], model.private_trainer)


def check_resumed(build, first, digits, checkpoints):
    """A run that goes on knows what was spent: before it, and in it."""
    model = build()
    model.fit(*digits, epochs=1, verbose=0, checkpoint_dir=checkpoints)
    assert model.private_trainer.state.steps_taken == first.private_trainer.state.steps_taken == 2
    found, expected = (m.privacy_ledger.epsilon(1e-5) for m in (model, first))
    assert found == pytest.approx(expected)
    for now, then in zip(model.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("lost", ["steps", "past"])
def test_accountant_lost_in_a_checkpoint(museum, run, digits, tmp_path, monkeypatch, lost):
    """Weights are restored, the accountant starts again.

    Seen: TF Privacy, fastDP (no accountant in checkpoints), Opacus before #373.
    """
    first, build, place = run
    copies = [shutil.copytree(place / "checkpoints", tmp_path / name) for name in ("ours", "twin")]
    check_resumed(build, first, digits, copies[0])
    restore = KeptTraining.restore

    def forgetting(self):
        progress = restore(self)
        if lost == "steps":
            self._trainer.state.steps.assign(0)
        else:
            self._trainer.model.past_ledger = PrivacyLedger()
        return progress

    monkeypatch.setattr(KeptTraining, "restore", forgetting)
    with museum.caught():
        check_resumed(build, first, digits, copies[1])


def check_loaded(path, saved, museum):
    """A model from a file has cost what the saved one has, compiled anew or not."""
    loaded = keras.saving.load_model(path)
    expected = saved.privacy_ledger.epsilon(1e-5)
    assert loaded.privacy_ledger.epsilon(1e-5) == pytest.approx(expected)
    loaded.compile(kd.DPKerasSGDOptimizer(museum.plan(48, noise_multiplier=1.0), 1.0), "mse")
    assert loaded.privacy_ledger.epsilon(1e-5) == pytest.approx(expected)


def test_ledger_that_forgets_a_load(museum, run, monkeypatch):
    """A model that is loaded and trained on, with the epsilon of the second training alone.

    Seen: TF Privacy #559 and #161 (models that cannot be saved whole).
    """
    model, _, place = run
    check_loaded(place / "model.keras", model, museum)
    monkeypatch.setattr(DPModel, "load_assets", lambda self, path: None)
    monkeypatch.setattr(provenance, "_SEEN", {})  # another process has seen no such weights
    with museum.caught():
        check_loaded(place / "model.keras", model, museum)


def check_fresh_noise(benches):
    """A second training under the seed of the first has other noise, and other samples."""
    noises = [bench.noise(0) for bench in benches]
    assert abs(np.corrcoef(*noises)[0, 1]) < 0.2
    assert benches[0].trainer.keys.sampling != benches[1].trainer.keys.sampling


def test_noise_again_after_a_load(museum, past, monkeypatch):
    """A model trained on under the same seed: the noise of step 0 is subtracted from itself.

    Seen: jax_privacy's `test_noise_unique` is there for it; others seed afresh.
    """

    def benches():
        plan = museum.plan(48, noise_multiplier=1.0, seed=SEED)
        monkeypatch.setattr(provenance, "_SEEN", {})  # other tests give such weights a past
        fresh, first = museum.Bench(plan), museum.Bench(plan)
        first.model.past_ledger = past
        first.model.compile(kd.DPKerasSGDOptimizer(plan, 1.0), "mse")
        second = museum.Bench(plan)
        second.trainer.keys.noise = first.model.private_trainer.keys.noise
        second.trainer.keys.sampling = first.model.private_trainer.keys.sampling
        return fresh, second

    check_fresh_noise(benches())
    new_key = randomness.new_key
    monkeypatch.setattr(
        randomness, "new_key", lambda seed, purpose: new_key(seed, purpose.split(" after")[0])
    )
    with museum.caught():
        check_fresh_noise(benches())
