"""Starting from the weights of another training."""

import zipfile

import keras
import numpy as np
import pytest

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.models import provenance
from keras_dpvit.privacy.ledger import PrivacyLedger, compose

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PLAN = kd.PrivacyPlan(num_examples=60, batch_size=20, epochs=2, delta=1e-4, noise_multiplier=1.0)
COST = PrivacyLedger(PLAN.entries(6))


def same_weights(model, other):
    return [
        np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(model.weights, other.weights, strict=True)
    ]


@pytest.mark.parametrize("kind", ["own", "wrapped"])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("num_classes", [3, 4])
def test_initial_weights(kind, suffix, num_classes, tmp_path, classifier, network):
    source, model = (
        classifier(n) if kind == "own" else kd.make_private(network(n)) for n in (3, num_classes)
    )
    path = tmp_path / f"source{suffix}"
    (source.save if suffix == ".keras" else source.save_weights)(path)
    head = model.weights[-2].numpy()
    taken = kd.load_initial_weights(model, path)
    same = num_classes == 3
    assert taken.has_head == same
    assert same_weights(model, source)[:-2] == [True] * (len(model.weights) - 2)
    assert np.array_equal(model.weights[-2].numpy(), source.weights[-2].numpy()) == same
    assert np.array_equal(model.weights[-2].numpy(), head) != same
    assert model.privacy_ledger.all_entries() == ()


@pytest.mark.parametrize("compiled", [False, True])
def test_weights_of_a_backbone_and_of_the_network_inside(
    compiled, small_records, tmp_path, classifier, network
):
    source, model = classifier(), classifier()
    if compiled:  # what an optimizer and metrics add to a file is left alone
        source.compile("adam", LOSS, metrics=["accuracy"])
        source.fit(*small_records, verbose=0, public_data=True)
        source.save_weights(tmp_path / "all.weights.h5")
        kd.load_initial_weights(model, tmp_path / "all.weights.h5")
        assert all(same_weights(model, source))
    source.backbone.save_weights(tmp_path / "backbone.weights.h5")
    model = classifier()
    assert not kd.load_initial_weights(model, tmp_path / "backbone.weights.h5").has_head
    assert all(same_weights(model.backbone, source.backbone))
    wrapped, inside = kd.make_private(network()), network()
    inside.save_weights(tmp_path / "inside.weights.h5")
    assert kd.load_initial_weights(wrapped, tmp_path / "inside.weights.h5").has_head
    assert all(same_weights(wrapped, inside))


def test_layers_noise_needs_no_place_in_the_file(tmp_path, classifier):
    classifier().save_weights(tmp_path / "quiet.weights.h5")
    noisy = kd.DPViTBackbone(
        (4, 4, 1), 2, 8, 2, stage_depths=(1,), attention_noise_stddev=0.1, norm_noise_stddev=0.1
    )
    assert kd.load_initial_weights(
        kd.DPViTClassifier(noisy, 3), tmp_path / "quiet.weights.h5"
    ).has_head


def test_what_the_weights_have_cost_is_composed(small_records, tmp_path, classifier):
    source = classifier()
    source.start_from(COST)
    source.save(tmp_path / "source.keras")
    model = classifier()
    assert kd.load_initial_weights(model, tmp_path / "source.keras").ledger == COST
    model.compile(kd.DPKerasAdamOptimizer(PLAN, 1e-2), LOSS)
    model.fit(*small_records, epochs=2, verbose=0)
    expected = compose([COST, COST], "shared").epsilon(1e-4)
    assert model.privacy_ledger.epsilon(1e-4) == pytest.approx(expected)
    assert expected > COST.epsilon(1e-4)
    assert "composition of 2 trainings" in model.privacy_statement()


def in_another_process(monkeypatch):
    """Forgets the weights that this process has seen, which would bring their ledger, too."""
    monkeypatch.setattr(provenance, "_SEEN", {})


def test_a_file_of_weights_alone_brings_its_ledger(tmp_path, classifier, monkeypatch):
    source = classifier()
    source.start_from(COST, ("Said of them.",))
    source.save_weights(tmp_path / "source.weights.h5")
    in_another_process(monkeypatch)
    model = classifier()
    found = kd.load_initial_weights(model, tmp_path / "source.weights.h5")
    assert found.has_ledger
    assert found.ledger == model.privacy_ledger == COST
    assert "Said of them." in model.privacy_notes
    # The faulty twin: the same weights without what the file knows of them.
    keras.saving.save_weights(source, tmp_path / "bare.weights.h5")
    in_another_process(monkeypatch)
    bare = classifier()
    assert not kd.load_initial_weights(bare, tmp_path / "bare.weights.h5").has_ledger
    assert bare.privacy_ledger.epsilon(1e-4) == 0


def test_a_damaged_ledger_in_a_file_of_weights_is_refused(tmp_path, classifier):
    path = tmp_path / "source.weights.h5"
    classifier().save_weights(path)
    provenance.write_ledger(path, '{"entries": 3}')
    with pytest.raises(InputError, match="init_weights must be a file that can be loaded"):
        kd.load_initial_weights(classifier(), path)


def test_weights_trained_without_privacy_make_epsilon_infinite(small_records, tmp_path, classifier):
    source = classifier()
    source.compile("sgd", LOSS)
    source.fit(*small_records, verbose=0)
    source.save(tmp_path / "open.keras")
    model = classifier()
    kd.load_initial_weights(model, tmp_path / "open.keras")
    assert model.privacy_ledger.epsilon(1e-4) == float("inf")


def test_weights_without_a_ledger_are_said_to_be_taken_as_public(
    small_records, tmp_path, classifier
):
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "start.weights.h5"
    keras.saving.save_weights(classifier(), path)  # Keras' own function knows no ledger
    model = classifier()
    kd.load_initial_weights(model, path)
    model.save(tmp_path / "untrained.keras")  # the note goes with the weights
    model = classifier()
    kd.load_initial_weights(model, tmp_path / "untrained.keras")
    model.compile(kd.DPKerasAdamOptimizer(PLAN, 1e-2), LOSS)
    model.fit(*small_records, verbose=0)
    text = " ".join(model.privacy_statement().split())
    assert (
        "Initial weights from start.weights.h5: the records behind them are taken as public."
    ) in text
    assert str(tmp_path) not in text
    model.save(tmp_path / "trained.keras")
    loaded = kd.load_model(tmp_path / "trained.keras")
    assert loaded.privacy_ledger == model.privacy_ledger


def missing(folder, classifier, network):
    return folder / "nowhere.keras", "init_weights must be a .keras or .weights.h5 file that exists"


def other_suffix(folder, classifier, network):
    (folder / "weights.h5").write_text("")
    return folder / "weights.h5", "init_weights must be a .keras or .weights.h5 file that exists"


def no_archive(folder, classifier, network):
    (folder / "text.keras").write_text("no archive")
    return folder / "text.keras", "it is cut short or not a .keras file"


def cut_model(folder, classifier, network):
    classifier().save(folder / "cut.keras")
    content = (folder / "cut.keras").read_bytes()
    (folder / "cut.keras").write_bytes(content[: len(content) // 2])
    return folder / "cut.keras", "it is cut short or not a .keras file"


def no_weights(folder, classifier, network):
    (folder / "text.weights.h5").write_text("no weights")
    return folder / "text.weights.h5", "init_weights must be a file that can be loaded"


def cut_weights(folder, classifier, network):
    classifier().save_weights(folder / "cut.weights.h5")
    content = (folder / "cut.weights.h5").read_bytes()
    (folder / "cut.weights.h5").write_bytes(content[: len(content) // 2])
    return folder / "cut.weights.h5", "truncated file"


def somebody_elses(folder, classifier, network):
    network().save(folder / "other.keras")
    return folder / "other.keras", "must hold a DPViTClassifier or a make_private model"


def narrow_model(folder, classifier, network):
    classifier(hidden_dim=4).save(folder / "narrow.keras")
    return folder / "narrow.keras", r"same architecture, .* is \(4, 4\) in .* and \(4, 8\) in the"


def narrow_weights(folder, classifier, network):
    classifier(hidden_dim=4).save_weights(folder / "narrow.weights.h5")
    return folder / "narrow.weights.h5", r"same architecture, .* is \(4, 4\) in .* and \(4, 8\)"


def deeper_weights(folder, classifier, network):
    classifier(stage_depths=(2,)).save_weights(folder / "deep.weights.h5")
    return folder / "deep.weights.h5", r"same architecture, .* and missing in the model"


def not_finite(folder, classifier, network):
    model = classifier()
    model.weights[0].assign(model.weights[0].numpy() * np.nan)
    model.save_weights(folder / "nan.weights.h5")
    return folder / "nan.weights.h5", "init_weights must be finite"


def damaged_ledger(folder, classifier, network):
    classifier().save(folder / "whole.keras")
    with (
        zipfile.ZipFile(folder / "whole.keras") as whole,
        zipfile.ZipFile(folder / "odd.keras", "w") as odd,
    ):
        for name in whole.namelist():
            content = b"{}" if name.endswith("privacy_ledger.json") else whole.read(name)
            odd.writestr(name, content)
    return folder / "odd.keras", "init_weights must be a file that can be loaded"


@pytest.mark.parametrize(
    "make",
    [
        missing,
        other_suffix,
        no_archive,
        cut_model,
        no_weights,
        cut_weights,
        somebody_elses,
        narrow_model,
        narrow_weights,
        deeper_weights,
        not_finite,
        damaged_ledger,
    ],
    ids=lambda make: make.__name__,
)
def test_files_that_do_not_fit_are_refused_and_change_nothing(make, tmp_path, classifier, network):
    path, message = make(tmp_path, classifier, network)
    model = classifier()
    before = [v.numpy() for v in model.weights]
    with pytest.raises(InputError, match=message) as error:
        kd.load_initial_weights(model, path)
    assert "\n" not in str(error.value)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert model.privacy_ledger.all_entries() == ()


def test_models_that_cannot_start_from_weights_are_refused(tmp_path, classifier, network):
    path = tmp_path / "source.keras"
    classifier().save(path)
    with pytest.raises(InputError, match="model must be a DPViTClassifier or a make_private model"):
        kd.load_initial_weights(network(), path)
    model = classifier()
    model.compile(kd.DPKerasAdamOptimizer(PLAN), LOSS)
    before = model.weights[0].numpy()
    with pytest.raises(InputError, match="before it is compiled with a private optimizer"):
        kd.load_initial_weights(model, path)
    np.testing.assert_array_equal(model.weights[0].numpy(), before)


def test_the_file_that_weights_are_read_from_stays_as_it_was(tmp_path, classifier):
    path = tmp_path / "source.weights.h5"
    classifier().save_weights(path)
    before = path.read_bytes()
    kd.load_initial_weights(classifier(4), path)
    assert path.read_bytes() == before
