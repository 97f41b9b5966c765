"""Callbacks that act on values without noise are named; those that do not are left alone."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.training import steering
from keras_dpvit.training.checkpoint import Checkpoint
from keras_dpvit.training.watched_logs import WatchedLogs

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CALLBACKS = keras.callbacks


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:200].astype("float32"), y[:200]


def compiled(epochs=3, **changes):
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    model = kd.make_private(network)
    arguments = {
        "num_examples": 200, "batch_size": 100, "epochs": epochs, "delta": 1e-4,
        "noise_multiplier": 1.0, "seed": 3, "sensitivity": kd.FixedSensitivity(1.0),
    }  # fmt: skip
    plan = kd.PrivacyPlan(**{**arguments, **changes})
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.01), LOSS, metrics=["accuracy"])
    return model


def lines(model):
    """What the ledger says of the run: invalidations, and what is not covered."""
    (entry,) = model.privacy_ledger.all_entries()
    usual = ("Training loss and metrics as shown by fit.", "Validation metrics as shown by fit.")
    return list(entry.invalidated_by), [x for x in entry.not_covered if x not in usual]


def fitted(digits, callbacks, validation=False, **arguments):
    model = compiled()
    if validation:
        arguments["validation_data"] = (digits[0][:20].copy(), digits[1][:20])
    model.fit(*digits, epochs=3, verbose=0, callbacks=callbacks, **arguments)
    return model


class Custom(keras.callbacks.Callback):
    """Does something with the logs of an epoch's end."""

    def __init__(self, act, **attributes):
        super().__init__()
        self.act = act
        vars(self).update(attributes)

    def on_epoch_end(self, epoch, logs=None):
        self.act(logs)


class OwnEarlyStopping(CALLBACKS.EarlyStopping):
    pass


class Later(keras.callbacks.Callback):
    """Keeps the logs, and reads them when training is over."""

    def on_train_batch_end(self, batch, logs=None):
        self.kept = logs

    def on_train_end(self, logs=None):
        self.seen = self.kept["loss"]


class InTest(keras.callbacks.Callback):
    """Reads logs where Keras validates."""

    def on_test_end(self, logs=None):
        self.seen = logs["loss"]


def lowers_rate(logs):
    return logs["loss"] > 1.0


def named(name, act, **attributes):
    """A custom callback of a class of its own."""
    return type(name, (Custom,), {})(act, **attributes)


def with_hook(callback):
    callback.on_train_batch_end = lambda batch, logs=None: logs["loss"]
    return callback


def test_acting_on_a_value_without_noise_is_named_first_in_the_statement(digits, tmp_path):
    model = fitted(
        digits,
        [
            CALLBACKS.EarlyStopping("loss"),
            CALLBACKS.EarlyStopping("accuracy", restore_best_weights=True),
            CALLBACKS.ReduceLROnPlateau("loss"),
            CALLBACKS.ModelCheckpoint(tmp_path / "m.keras", "loss", save_best_only=True),
            CALLBACKS.TerminateOnNaN(),
            CALLBACKS.LambdaCallback(
                on_epoch_end=lambda epoch, logs: logs["accuracy"],
                on_train_batch_end=lambda batch, logs: logs["loss"],
            ),
            OwnEarlyStopping("loss"),
            named("Item", lowers_rate),
            named("Get", lambda logs: logs.get("loss")),
            named("Items", lambda logs: list(logs.items())),
            named("Values", lambda logs: max(logs.values())),
            named("Json", json.dumps),
            Later(),
            with_hook(CALLBACKS.CSVLogger(tmp_path / "log.csv")),
        ],
    )
    invalid, _ = lines(model)
    text = " ".join(model.privacy_statement().split())
    assert text.startswith("Not covered by the epsilon below: ")
    assert "not the final model" in text
    for expected in (
        "EarlyStopping acted on loss, which is computed from the records without noise.",
        "EarlyStopping acted on accuracy, ",
        "ReduceLROnPlateau acted on loss, ",
        "ModelCheckpoint acted on loss, ",
        "TerminateOnNaN acted on loss, ",
        "LambdaCallback read accuracy, ",
        "LambdaCallback read loss, ",
        "OwnEarlyStopping read loss, ",
        *(f"{name} read loss, " for name in ("Item", "Get", "Items", "Values", "Json", "Later")),
        "CSVLogger read loss, ",
    ):
        assert any(line.startswith(expected) for line in invalid), expected
        assert expected in text.split("Example-level")[0]


def test_what_acts_on_no_value_is_not_named(digits, tmp_path):
    model = fitted(
        digits,
        [
            CALLBACKS.History(),
            CALLBACKS.LearningRateScheduler(lambda epoch: 0.01),
            CALLBACKS.ModelCheckpoint(tmp_path / "m.keras", "loss"),
            CALLBACKS.EarlyStopping("epsilon", mode="max"),
            kd.PrivacyBudget(epsilon=1000.0),
            named("Epsilon", lambda logs: logs["epsilon"] + logs.get("epsilon")),
            named("Rate", lambda logs: logs["learning_rate"]),
            named("Names", lambda logs: [*logs, *logs.keys(), len(logs), bool(logs)]),
            named("Missing", lambda logs: logs.get("f1", 0.0)),
            named("Writes", lambda logs: logs.update(seconds=1.0)),
            named("Nothing", lambda logs: None),
        ],
    )
    assert lines(model) == ([], [])
    assert model.privacy_ledger.all_entries()[0].steps == 6
    assert "What is protected: the final model" in " ".join(model.privacy_statement().split())


def test_disclosures_leave_the_model_covered(digits, tmp_path):
    model = fitted(
        digits,
        [
            CALLBACKS.CSVLogger(tmp_path / "log.csv"),
            CALLBACKS.ModelCheckpoint(str(tmp_path / "{loss:.2f}.keras"), "loss"),
            CALLBACKS.EarlyStopping("val_loss"),
            named("Validates", lambda logs: logs["val_accuracy"]),
            named("Displays", lambda logs: str(logs), displays_only=True),
            InTest(),
        ],
        validation=True,
    )
    invalid, uncovered = lines(model)
    assert invalid == []
    for expected in (
        "in what CSVLogger wrote",
        "in the names of the files that ModelCheckpoint wrote",
        "EarlyStopping acted on val_loss, which is computed from the validation records.",
        "Validates read val_accuracy, which is computed from the validation records.",
        "Displays read loss, which is computed from the records without noise; it says",
        "InTest read loss, which is computed from the validation records.",
    ):
        assert any(expected in line for line in uncovered), expected
    assert "What is protected: the final model" in " ".join(model.privacy_statement().split())


def test_displays_only_must_be_true_itself(digits):
    model = fitted(digits, Custom(lambda logs: logs["loss"], displays_only="no"))
    assert lines(model)[0]


def test_validation_on_the_training_records_is_training(digits):
    model = compiled()
    stop = CALLBACKS.EarlyStopping("val_loss")
    model.fit(*digits, epochs=2, verbose=0, callbacks=stop, validation_data=digits)
    assert (
        "EarlyStopping acted on val_loss, which is computed from the records" in lines(model)[0][0]
    )


def test_a_metric_by_a_public_name_is_still_the_records_own(digits):
    model = compiled()
    metric = keras.metrics.SparseCategoricalAccuracy(name="private_accuracy")
    model.compile(model.optimizer, LOSS, metrics=[metric])
    model.fit(*digits, epochs=2, verbose=0, callbacks=CALLBACKS.EarlyStopping("private_accuracy"))
    assert "EarlyStopping acted on private_accuracy" in lines(model)[0][0]


def test_callbacks_come_in_any_form_that_keras_takes(digits):
    custom = Custom(lowers_rate)
    listed = CALLBACKS.CallbackList([custom], add_history=True)
    for given in (custom, [custom], (custom,), [(custom,)], {"a": custom}):
        assert steering.flattened(given) == [custom]
    assert steering.flattened(None) == steering.flattened([]) == []
    assert steering.flattened([listed])[0] is custom
    model = compiled()
    history = model.fit(*digits, epochs=3, verbose=0, callbacks=listed)
    assert len(lines(model)[0]) == 1
    assert len(history.history["loss"]) == len(history.history["epsilon"]) == 3


def test_callbacks_see_each_others_additions_and_keras_sees_them_last(digits):
    seen = []

    def add(logs):
        logs["extra"] = 7.0
        logs.setdefault("more", 8.0)
        logs |= {"third": 9.0}
        del logs["accuracy"]

    callbacks = [Custom(add, displays_only=True), Custom(lambda logs: seen.append(logs["extra"]))]
    model = compiled()
    history = model.fit(*digits, epochs=3, verbose=0, callbacks=callbacks).history
    assert seen == [7.0] * 3
    assert history["extra"] == [7.0] * 3
    assert history["more"] == [8.0] * 3
    assert history["third"] == [9.0] * 3
    assert "accuracy" not in history
    assert lines(model)[0]  # a value of unknown origin may be computed from the records


def test_hooks_come_back_and_the_line_stays_when_fit_fails(digits):
    def fail(logs):
        raise RuntimeError(str(logs["loss"]))

    def own(epoch, logs):
        return None

    custom, simple = Custom(fail), CALLBACKS.LambdaCallback(on_epoch_end=own)
    model = compiled()
    with pytest.raises(RuntimeError):
        model.fit(*digits, epochs=3, verbose=0, callbacks=[simple, custom, custom])
    assert lines(model)[0] == [
        "Custom read loss, which is computed from the records without noise, and may have acted "
        "on it."
    ]
    assert "on_epoch_end" not in vars(custom)
    assert simple.on_epoch_end is own


def test_stopping_keeps_the_line(digits):
    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = logs["loss"] > -1

    model = fitted(digits, [Stops()])
    assert model.privacy_ledger.all_entries()[0].steps == 2
    assert "Stops read loss" in lines(model)[0][0]


def test_lines_survive_a_saved_model(digits, tmp_path):
    model = fitted(digits, CALLBACKS.EarlyStopping("loss"))
    model.save(tmp_path / "m.keras")
    loaded = kd.load_model(tmp_path / "m.keras")
    assert loaded.privacy_ledger.all_entries()[0].invalidated_by == tuple(lines(model)[0])


@pytest.mark.parametrize("journal", [True, False])
def test_lines_survive_a_resumed_run(digits, tmp_path, monkeypatch, journal):
    """What was read after the last checkpoint is in its journal; without one it would be lost."""
    if not journal:
        monkeypatch.setattr(Checkpoint, "note", lambda *_: None)

    def fail(logs):
        raise RuntimeError(str(logs["loss"]))

    with pytest.raises(RuntimeError):
        compiled().fit(
            *digits, epochs=3, verbose=0, callbacks=[Custom(fail)], checkpoint_dir=tmp_path
        )
    model = compiled()
    model.fit(*digits, epochs=3, verbose=0, checkpoint_dir=tmp_path)
    assert bool(lines(model)[0]) == journal


def test_backup_is_refused(digits, tmp_path):
    with pytest.raises(InputError, match="use checkpoint_dir"):
        fitted(digits, CALLBACKS.BackupAndRestore(tmp_path / "b.weights.h5"))


def test_faulty_twin_logs_that_note_nothing_are_caught(digits, monkeypatch):
    monkeypatch.setattr(steering, "WatchedLogs", lambda logs, note: logs)
    assert lines(fitted(digits, Custom(lowers_rate))) == ([], [])  # as it was before


def test_what_a_neighbour_changes_through_early_stopping_is_named(digits):
    """The case that the lines are for: one record decides the number of steps."""
    x, y = digits
    steps = []
    for image in (x[0], np.full(64, 1e7, "float32")):
        changed = x.copy()
        changed[0] = image
        model = compiled(sampling="shuffled", epochs=3)
        stop = CALLBACKS.EarlyStopping("loss", min_delta=1e9, patience=2, baseline=1e9 + 1000)
        model.fit(changed, y, epochs=3, verbose=0, callbacks=[stop])
        steps.append(model.privacy_ledger.all_entries()[0].steps)
        assert "EarlyStopping acted on loss" in lines(model)[0][0]
    assert steps == [6, 4]


# The logs by themselves.

READS = {
    "item": lambda logs: logs["loss"],
    "get": lambda logs: logs.get("loss"),
    "in": lambda logs: "loss" in logs,
    "items": lambda logs: logs.items(),
    "values": lambda logs: logs.values(),
    "copy": lambda logs: logs.copy(),
    "copy module": copy.copy,
    "deep copy": copy.deepcopy,
    "dict": dict,
    "new display": lambda logs: {**logs},
    "call": lambda logs: (lambda **all_of_it: all_of_it)(**logs),
    "comprehension": lambda logs: [logs[key] for key in logs],
    "pop": lambda logs: logs.pop("loss"),
    "popitem": lambda logs: [logs.popitem() for _ in range(2)],
    "setdefault": lambda logs: logs.setdefault("loss", 0.0),
    "repr": repr,
    "str": str,
    "format": lambda logs: f"{logs}",
    "format map": lambda logs: "{loss}".format_map(logs),
    "percent": lambda logs: "%(loss)s" % logs,  # noqa: UP031
    "json": json.dumps,
    "json in lines": lambda logs: json.dumps(logs, indent=1),
    "pickle": pickle.dumps,
    "equal": lambda logs: logs == {"loss": 2.5},
    "unequal": lambda logs: logs != {"loss": 2.5},
    "or": lambda logs: logs | {},
    "from the right": lambda logs: {} | logs,
    "update of another": lambda logs: {}.update(logs),
    "match": lambda logs: matched(logs),
}


def matched(logs):
    match logs:
        case {"loss": value}:
            return value


def watched(note):
    return WatchedLogs({"loss": 2.5, "accuracy": 0.5}, note)


@pytest.mark.parametrize("name", READS)
def test_every_way_to_read_is_noted(name):
    seen, plain = [], {"loss": 2.5, "accuracy": 0.5}
    result = READS[name](watched(seen.append))
    assert "loss" in seen
    expected = READS[name](plain)
    if name == "pickle":
        result, expected = pickle.loads(result), pickle.loads(expected)
    assert str(result) == str(expected)


@pytest.mark.parametrize(
    "harmless",
    [list, len, bool, sorted, lambda logs: logs.keys(), lambda logs: list(reversed(logs))],
)
def test_names_are_no_reads(harmless):
    seen, plain = [], {"loss": 2.5, "accuracy": 0.5}
    assert harmless(watched(seen.append)) == harmless(plain)
    assert seen == []


def test_writes_go_to_the_logs_of_keras():
    logs, plain = {"loss": 2.5}, {"loss": 2.5}
    view = WatchedLogs(logs, lambda key: None)
    for target in (view, plain):
        target["a"] = 1
        target.update({"b": 2}, c=3)
        target.update([("d", 4)])
        target.setdefault("e", 5)
        target.pop("a")
        del target["b"]
        assert target.pop("missing", None) is None
        with pytest.raises(KeyError):
            target.pop("missing")
    assert logs == plain == dict(view)
    logs["by another"] = 6
    assert view["by another"] == 6
    view.clear()
    assert logs == {}
