"""The best of a random number of trained models: its ledger, its file, and what follows."""

import shutil

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.privacy.ledger import PrivacyLedger, SelectionEntry
from keras_dpvit.privacy.private_selection import RandomTrials, TrialCount

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PLAN = kd.PrivacyPlan(60, 20, 1, 1e-4, noise_multiplier=2.0)
RUN = PrivacyLedger(PLAN.entries(3))


class Three(TrialCount):
    def draw(self):
        return 3


def a_network():
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(4), layers.Dense(3)]
    )


def compiled(model, plan=PLAN, learning_rate=0.1):
    model.compile(kd.DPKerasSGDOptimizer(plan, learning_rate), LOSS, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def chosen():
    """The best of three, by its accuracy on held-out images."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4, 4, 1)).astype("uint8"), rng.integers(0, 3, 60)
    trials, scores, models = RandomTrials(Three(4.0)), [], []
    for trial in trials:
        model = compiled(kd.make_private(a_network()), learning_rate=10.0**-trial)
        model.fit(x, y, verbose=0)
        scores.append(model.evaluate(x[:20] / 2, y[:20], verbose=0)[1])
        models.append(model)
        trials.offer(model, scores[-1])
    best = trials.best()
    assert best is models[scores.index(max(scores))]
    for other in models:
        if other is not best:
            assert other.privacy_ledger.costs() == RUN.costs()
    return best, (x, y)


def test_the_ledger_counts_the_choice(chosen):
    model, _ = chosen
    (entry,) = model.privacy_ledger.entries
    assert isinstance(entry, SelectionEntry)
    assert entry.cost == RUN.compose_selection(4.0).entries[0].cost
    assert model.privacy_ledger.epsilon(1e-4) == RUN.compose_selection(4.0).epsilon(1e-4)
    assert "best of a random number of runs" in " ".join(model.privacy_statement().split())


def test_file_card_and_fusion_keep_the_choice(chosen, tmp_path):
    model, records = chosen
    model.save(tmp_path / "model.keras")
    again = kd.load_model(tmp_path / "model.keras")
    assert again.privacy_ledger.to_dict() == model.privacy_ledger.to_dict()
    card = kd.export.privacy_card(again)
    assert card["epsilon"] == {"rdp": model.privacy_ledger.epsilon(1e-4)}
    other = compiled(kd.make_private(a_network()))
    other.fit(*records, verbose=0)
    fused = kd.FusedClassifier([again, other], members_data="shared")
    by_hand = PrivacyLedger((*RUN.compose_selection(4.0).entries, *RUN.entries))
    assert fused.privacy_ledger.epsilon(1e-4) == by_hand.epsilon(1e-4)
    assert "Training 1 was chosen" in " ".join(fused.privacy_statement(1e-4).split())


def test_what_is_trained_afterwards_is_added(chosen, tmp_path):
    model, records = chosen
    model.save(tmp_path / "model.keras")
    again = kd.load_model(tmp_path / "model.keras")
    compiled(again).fit(*records, verbose=0)
    expected = PrivacyLedger((*RUN.compose_selection(4.0).entries, *RUN.entries))
    assert again.privacy_ledger.costs() == expected.costs()


def test_a_choice_in_the_midst_of_a_plan_covers_the_steps_before_it(small_records):
    plan = kd.PrivacyPlan(60, 20, 2, 1e-4, noise_multiplier=2.0)
    going_on = compiled(kd.make_private(a_network()), plan)
    going_on.fit(*small_records, epochs=1, verbose=0)
    going_on.count_selection(2.0)
    going_on.fit(*small_records, epochs=1, verbose=0)
    first = PrivacyLedger(plan.entries(3)).compose_selection(2.0)
    assert going_on.privacy_ledger.costs() == (*first.costs(), *RUN.costs())
    budget = 0.5 * (first.epsilon(1e-4) + going_on.privacy_ledger.epsilon(1e-4))
    assert first.epsilon(1e-4) < budget < going_on.privacy_ledger.epsilon(1e-4)


def test_members_that_start_from_one_file_count_its_cost_once(small_records, tmp_path):
    start = compiled(kd.make_private(a_network()))
    start.fit(*small_records, verbose=0)
    start.save(tmp_path / "start.keras")
    members = []
    for _ in range(2):
        member = kd.make_private(a_network())
        kd.load_initial_weights(member, tmp_path / "start.keras")
        compiled(member).fit(*small_records, verbose=0)
        assert len(member.privacy_ledger.entries) == 2
        members.append(member)
    fused = kd.FusedClassifier(members, members_data="shared")
    assert fused.privacy_ledger.costs() == RUN.costs() * 3
    fused.save(tmp_path / "fused.keras")
    assert kd.load_model(tmp_path / "fused.keras").privacy_ledger.costs() == RUN.costs() * 3
    # Two copies of one model that go on are two trainings.
    plan = kd.PrivacyPlan(60, 20, 2, 1e-4, noise_multiplier=2.0)
    half = compiled(kd.make_private(a_network()), plan)
    half.fit(*small_records, epochs=1, verbose=0)
    half.save(tmp_path / "half.keras")
    copies = [half, *(kd.load_model(tmp_path / "half.keras") for _ in range(2))]
    for copy in copies[1:]:
        copy.fit(*small_records, epochs=1, verbose=0)
    fused = kd.FusedClassifier(copies, members_data="shared")
    assert fused.privacy_ledger.costs() == RUN.costs() * 3


def test_copies_of_one_checkpoint_that_go_on_are_two_trainings(small_records, tmp_path):
    plan = kd.PrivacyPlan(60, 20, 2, 1e-4, noise_multiplier=2.0)

    def fit(epochs, place):
        model = compiled(kd.make_private(a_network()), plan)
        model.fit(*small_records, epochs=epochs, verbose=0, checkpoint_dir=tmp_path / place)
        return model

    class Crash(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = compiled(kd.make_private(a_network()), plan)
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            *small_records, epochs=2, verbose=0, checkpoint_dir=tmp_path / "a", callbacks=[Crash()]
        )
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    models = [fit(2, "a"), fit(2, "b")]
    assert [m.privacy_ledger.entries[0].steps for m in models] == [6, 6]
    fused = kd.FusedClassifier(models, members_data="shared")
    assert [entry.steps for entry in fused.privacy_ledger.entries] == [6, 6]
