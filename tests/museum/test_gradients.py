"""Faults of gradients: norms that miss a part, clips that bound nothing, records that mix."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.errors import InputError
from keras_dpvit.gradients import layer_rules
from keras_dpvit.gradients.dense import DenseRule
from keras_dpvit.gradients.ghost_norm import LinearRule
from keras_dpvit.gradients.per_example import PerExampleGradients
from keras_dpvit.gradients.rules import Measured
from keras_dpvit.training import batch_selection, private_wrapper, record_losses
from keras_dpvit.training.labels import ClassNumbers
from keras_dpvit.training.sources import ArraySource
from keras_dpvit.training.step import CertifiedStep

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def one_by_one(bench, x, y):
    """Each record's gradient in what the model trains, by the tape, `(records, parameters)`."""
    variables = [v.value for v in bench.model.trainable_variables]
    rows = []
    for image, label in zip(x, y, strict=True):
        with tf.GradientTape() as tape:
            loss = SPARSE(label[None], bench.model(image[None], training=True))
        found = tape.gradient(loss, variables, unconnected_gradients="zero")
        rows.append(np.concatenate([g.numpy().ravel() for g in found]))
    return np.array(rows, "float64")


def check_norms(bench, digits):
    """The norms that clipping looks at are those of the whole gradient."""
    x, y = digits[0][:6], digits[1][:6]
    x = x * np.array([0, 1e-3, 0.1, 1, 1, 10], "float32")[:, None]  # of a blank one, biases alone
    of_one = record_losses.per_example_loss(SPARSE)

    def forward():
        outputs = bench.model(x, training=True)
        return of_one(y, outputs), outputs

    found = PerExampleGradients(bench.step._rules, forward).layer_norms().numpy()
    expected = np.linalg.norm(one_by_one(bench, x, y), axis=1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), expected, rtol=1e-4)


def test_ghost_norm_without_biases(museum, digits, flat_bench, monkeypatch):
    """A ghost norm of the kernel alone: a blank image has none, and its biases' gradient passes.

    Seen: ghost norms written for kernels, biases added later.
    """
    check_norms(flat_bench, digits)
    measured = LinearRule.measured

    def without_biases(self, layer, factors):
        found = measured(self, layer, factors)
        bias = tf.cast(found.kept[-1], tf.float64)
        return Measured(found.squared_norms - tf.reduce_sum(bias**2, -1), found.kept)

    monkeypatch.setattr(LinearRule, "measured", without_biases)
    with museum.caught():
        check_norms(flat_bench, digits)


def check_one_record(sums, digits, declared, kinds=("ordinary", "large", "nan")):
    """A record more moves the sum by at most what is declared, and the sum is one."""
    x, y = digits
    alike = y == y[0]  # gradients that point one way: an average of many is as long as each
    x, y = x[alike], y[alike]
    less = sums(x, y)
    assert np.linalg.norm(less) > 2 * declared
    others = {
        "ordinary": (x[:1], y[0]),
        "large": (1e3 * x[:1], (y[0] + 1) % 10),
        "nan": (np.full_like(x[:1], np.nan), y[0]),
    }
    for kind in kinds:
        image, label = others[kind]
        more = sums(np.concatenate([x, image]), np.append(y, label))
        assert np.linalg.norm(more - less) <= declared * (1 + 1e-4), kind


def test_clipping_after_averaging(museum, digits, flat_bench):
    """The mean gradient is clipped, and every record in it moves all of it.

    Seen: `clipnorm` of ordinary optimizers taken for DP; TF Privacy #620 for groups of records.
    """
    check_one_record(flat_bench.sums, digits, 1.0)
    twin = museum.LinearTwin(1.0)

    def averaged_first(x, y):
        mean = twin.gradients(x, y).mean(axis=0, keepdims=True)
        return 10 * twin.clipped(mean)[0]

    with museum.caught():
        check_one_record(averaged_first, digits, 1.0, ["large"])


def test_nan_to_num_after_summation(museum, digits, flat_bench):
    """NaN made 0 once the sum is there: one NaN record takes everybody's gradient away.

    Seen: fastDP (its ZeRO path); Opacus lets NaN through its clip factor.
    """
    check_one_record(flat_bench.sums, digits, 1.0, ["nan"])
    twin = museum.LinearTwin(1.0)

    def cleaned_late(x, y):
        return np.nan_to_num(twin.clipped(twin.gradients(x, y)).sum(axis=0))

    check_one_record(cleaned_late, digits, 1.0, ["ordinary"])
    with museum.caught():
        check_one_record(cleaned_late, digits, 1.0, ["nan"])


def check_microbatches(bench, digits):
    """A record that turns its microbatch around moves the sum by no more than is accounted."""
    x = digits[0][0]
    # The second's gradient is opposite to the first's, and longer.
    source = ArraySource(np.stack([x, 30 * x]), np.array([0, 1]))
    moved = []
    for step in range(8):  # of each, half the draws put the two into one microbatch
        alone, both = (
            bench.sums(found.x, found.y, found.present)
            for rows in (np.array([0]), np.array([0, 1]))
            for found in [batch_selection.microbatches(bench.plan, source, rows, bytes(32), step)]
        )
        moved.append(np.linalg.norm(both - alone))
    clip, mechanism = bench.plan.sensitivity.l2_norm_clip, bench.plan.mechanism()
    assert max(moved) > 1.7 * clip
    assert max(moved) <= mechanism.sensitivity(clip) * (1 + 1e-4)
    # The noise on the sum, over what a record moves: what the event must say, or less.
    assert mechanism.noise_stddev(clip) >= mechanism.event_noise_multiplier * max(moved)


def test_microbatches_with_the_sensitivity_of_records(museum, digits, monkeypatch):
    """The clipped mean of a microbatch turns from one value to another: twice the norm.

    Seen: TF Privacy #620 and its older epsilon functions; Opacus #25, #655.
    """
    plan = museum.plan(
        4, 0.1, batch_size=4, microbatch_size=2, noise_multiplier=1.0, sampling="poisson"
    )
    network = museum.network()
    last = network.get_layer("last")
    last.set_weights([np.zeros((12, 10)), np.where(np.arange(10) < 2, 0, -30)])  # two classes
    bench = museum.Bench(plan, network)
    check_microbatches(bench, digits)
    monkeypatch.setattr("keras_dpvit.privacy.mechanism.StepMechanism.units_moved", 1)
    with museum.caught():
        check_microbatches(bench, digits)


def check_layers(bench, digits):
    """No layer's part of a record's gradient is longer than the layer's own norm."""
    x, y = digits
    clip, sizes = bench.plan.clipping.l2_norm_clips, []
    for unit in bench.step._rules:
        sizes.append(sum(int(np.prod(v.shape)) for v in unit.variables))
    whole = one_by_one(bench, x[:1], y[:1])
    assert np.linalg.norm(whole) > 4 * clip
    parts = np.split(bench.sums(x[:1], y[:1]), np.cumsum(sizes)[:-1])
    norms = [np.linalg.norm(part) for part in parts]
    assert max(norms) <= clip * (1 + 1e-4)
    assert min(norms) == pytest.approx(clip, rel=1e-3)


def test_per_layer_clipping_that_is_flat(museum, digits, monkeypatch):
    """A clipping mode that is declared, accepted, and falls through to the flat one.

    Seen: private-transformers (`per_layer`, `per_layer_percentile`).
    """
    plan = museum.plan(48, 0.2, clipping=kd.FixedLayerClipping(0.1))
    check_layers(museum.Bench(plan), digits)
    monkeypatch.setattr(kd.FixedLayerClipping, "factors", kd.FlatClipping.factors)
    with museum.caught():
        check_layers(museum.Bench(plan), digits)


def check_clip(sums, digits):
    """A record's part of the sum has the clipping norm that was asked for."""
    x, y = digits[0][:1], digits[1][:1]
    for clip in (0.01, 0.1):
        assert np.linalg.norm(sums(x, y, state=clip)) == pytest.approx(clip, rel=1e-3)


def test_clip_norm_without_effect(museum, digits, flat_bench):
    """A clipping norm that is taken and not used.

    Seen: fastDP #46 (automatic clipping by default).
    """
    check_clip(flat_bench.sums, digits)
    with museum.caught():
        check_clip(lambda x, y, state: flat_bench.sums(x, y, state=1.0), digits)


def check_divisor(bench, digits):
    """Records that count as zero change nothing, not even through their number."""
    x, y = digits
    few = bench.trained(x, y)
    bench.model.set_weights(bench.start)
    blank = np.full((16, 64), np.nan, "float32")
    more = bench.trained(np.concatenate([x, blank]), np.append(y, np.zeros(16, int)))
    np.testing.assert_allclose(more, few, rtol=1e-3, atol=1e-4)
    assert np.linalg.norm(few) > 1


@pytest.fixture
def two_steps(museum):
    """A bench whose plan pays for two equal steps."""

    def build():
        bench = museum.Bench(museum.plan(48, epochs=2))
        bench.start = bench.model.get_weights()
        return bench

    return build


def test_divisor_from_the_batch(museum, digits, two_steps, realised_divisor, monkeypatch):
    """A mean over the records that came: its divisor tells of their number.

    Seen: Opacus #571 and #819, TF Privacy's `DPModel` (read, not run).
    """
    with museum.caught():
        check_divisor(two_steps(), digits)
    monkeypatch.undo()
    check_divisor(two_steps(), digits)


def check_ignored(values, digits):
    """A record's loss does not depend on how many others have an ignored label."""
    outputs = np.random.default_rng(0).normal(size=(6, 10)).astype("float32")
    y = digits[1][:6]
    ignored = np.where(np.arange(6) % 2, 9, y)
    clear, masked = (np.asarray(values(labels, outputs)) for labels in (y, ignored))
    assert np.isfinite(masked).all()
    np.testing.assert_allclose(masked[::2], clear[::2], rtol=1e-5)
    np.testing.assert_array_equal(masked[1::2], 0)
    assert np.isfinite(values(np.full(6, 9), outputs)).all()


def test_ignored_class(museum, digits):
    """A loss with an ignored class divides by the rows that are left: by the others' labels.

    Seen: `ignore_index` of PyTorch's cross entropy, `ignore_class` of Keras', with reduction.
    """
    ignoring = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=9)
    check_ignored(record_losses.per_example_loss(ignoring), digits)

    def over_the_kept(y, outputs):
        each = keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True).numpy()
        kept = y != 9
        with np.errstate(invalid="ignore"):
            return np.where(kept, each, 0) * len(y) / np.float64(kept.sum())

    with museum.caught():
        check_ignored(over_the_kept, digits)


def test_label_of_no_class(museum, digits, flat_bench):
    """A label -1 that marks "ignored" is a record that counts as zero, not class 9 from the end.

    Seen: labels clamped or wrapped around where they index a table.
    """
    x, y = digits

    def check(take):
        spoiled = np.append(y[:8], -1)
        images, labels, present = take(x[:9], spoiled)
        found = flat_bench.sums(images, labels, present)
        np.testing.assert_allclose(found, flat_bench.sums(x[:8], y[:8]), rtol=1e-4, atol=1e-6)

    def ours(images, labels):
        source = ArraySource(images, labels)
        source.numbers = [ClassNumbers(10)]
        found = source.take(np.arange(len(labels)))
        return found.x, found.y, found.present

    check(ours)
    with museum.caught():
        check(lambda images, labels: (images, labels % 10, np.ones(len(labels), bool)))


def check_trained(build, digits):
    """What can be trained is, by its true gradient, and nothing else; or the model is refused."""
    try:
        bench = build()
    except InputError:
        return
    x, y = digits[0][:5], digits[1][:5]
    ours, wanted = bench.step._variables, bench.model.trainable_variables
    assert sorted(v.path for v in ours) == sorted(v.path for v in wanted)
    order = [[v is w for v in wanted].index(True) for w in ours]
    places = np.split(np.arange(sum(map(_size, wanted))), np.cumsum(list(map(_size, wanted)))[:-1])
    expected = one_by_one(bench, x, y).sum(axis=0)[np.concatenate([places[i] for i in order])]
    np.testing.assert_allclose(bench.sums(x, y), expected, rtol=1e-3, atol=1e-4)


def _size(variable):
    return int(np.prod(variable.shape))


def test_frozen_and_forgotten_parameters(museum, digits, monkeypatch):
    """Parameters without a rule are dropped with a print, or left out of the norms.

    Seen: fastDP ("not requiring gradient nor updated"), Opacus #239 and #672.
    """

    def build():
        network = museum.network()
        network.get_layer("first").bias.trainable = False
        return museum.Bench(museum.plan(48, 1e3), network)

    def unfrozen_later(prepared):
        bench = build()
        bench.model.network.get_layer("first").bias.trainable = True
        if prepared:  # as fit does
            bench.trainer.prepare(64)
        bench.step, bench._traced = bench.trainer.step, None
        return bench

    check_trained(build, digits)
    check_trained(lambda: unfrozen_later(True), digits)
    with museum.caught():
        check_trained(lambda: unfrozen_later(False), digits)
    monkeypatch.setattr(
        "keras_dpvit.training.trainer.layer_rules",
        lambda model, **options: layer_rules.layer_rules(model, **options)[:1],
    )
    with museum.caught():
        check_trained(build, digits)


def test_lora_that_is_not_counted(museum, digits, monkeypatch):
    """The rule of a plain Dense layer on one with LoRA: its two factors stay out of the norms.

    Seen: adapters added to layers whose hooks know the kernel and the bias alone.
    """

    def build():
        network = museum.network()
        network.get_layer("first").enable_lora(2)
        for v in network.get_layer("first").trainable_variables:
            v.assign(np.random.default_rng(1).normal(size=v.shape) / 4)
        return museum.Bench(museum.plan(48, 1e3), network)

    check_trained(build, digits)
    bench = build()
    assert sum("lora" in v.path for v in bench.step._variables) == 2  # counted, not refused
    monkeypatch.setattr(
        layer_rules, "rule_for", lambda x: DenseRule() if type(x) is keras.layers.Dense else None
    )
    monkeypatch.setattr(layer_rules, "_check_cover", lambda *_: None)
    with museum.caught():
        check_trained(build, digits)


def check_independent(build, digits):
    """A model that is accepted gives a row the same output in any company."""
    network = build()
    try:
        model = kd.make_private(network)
    except InputError:
        return
    x = digits[0]
    alone, other = x[:8], np.concatenate([x[:1], 5 * x[9:16]])
    first, second = (np.asarray(model(rows, training=True))[0] for rows in (alone, other))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


def test_batch_normalization_without_variables(museum, digits, monkeypatch):
    """A BatchNormalization without scale and shift trains nothing, and still mixes a batch.

    Seen: Opacus' validator, whose tests call it valid; jax_privacy has no check.
    """

    def free():
        return museum.network(keras.layers.BatchNormalization(center=False, scale=False))

    def frozen():  # Keras runs it by its stored statistics: this one mixes nothing
        network = museum.network(keras.layers.BatchNormalization(name="norm"))
        network.get_layer("norm").trainable = False
        return network

    check_independent(frozen, digits)
    check_independent(free, digits)
    with pytest.raises(InputError, match="mixes examples"):
        kd.make_private(free())
    monkeypatch.setattr(private_wrapper, "check_examples_independent", lambda *_: None)
    with museum.caught():
        check_independent(free, digits)


def check_masks(outputs):
    """Equal rows meet different masks in a step, and others in the next."""
    first, second = outputs(0), outputs(1)
    assert len(np.unique(first.round(5), axis=0)) == len(first)
    assert not any(np.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_shared_dropout_masks(museum, digits, monkeypatch):
    """One dropout mask for all records, or the same in each step.

    Seen: jax_privacy's Keras step, which hands back the generators' states as it found them (read,
    not run).
    """
    rows = np.repeat(digits[0][:1], 6, axis=0)

    def outputs_of(**dropout):
        bench = museum.Bench(museum.plan(48), museum.network(keras.layers.Dropout(0.5, **dropout)))

        def outputs(step):
            randomness = bench.trainer._layer_randomness
            before = randomness.enter(tf.constant(step, tf.int64))
            found = np.asarray(bench.model(rows, training=True))
            randomness.leave(before)
            return found

        return outputs

    ours = outputs_of(seed=1)
    check_masks(ours)
    with museum.caught():
        check_masks(outputs_of(seed=1, noise_shape=(1, 64)))
    with museum.caught():
        check_masks(lambda step: ours(0))


def check_added(network, museum):
    """A loss that is no record's own is refused: its gradient would pass the noise by."""
    with pytest.raises(InputError, match="add_loss and activity regularizers"):
        museum.Bench(museum.plan(48), network)


def check_penalty(penalised):
    """Of blank images a kernel has no gradient: a step moves it by its penalty's alone."""
    network = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))]
    )
    start = network.layers[0].kernel.numpy()
    model = kd.make_private(network)
    plan = kd.PrivacyPlan(48, 48, 1, 1e-3, noise_multiplier=0.0)
    model.compile(kd.DPKerasSGDOptimizer(plan, 0.5), SPARSE)
    penalised(lambda: model.fit(np.zeros((48, 64), "float32"), np.zeros(48, int), verbose=0))
    np.testing.assert_allclose(network.layers[0].kernel, start * (1 - 0.5 * 2 * 0.1), rtol=1e-5)


def test_added_losses(museum, monkeypatch):
    """A loss beside the records' own goes past the noise, or is left out without a word.

    A penalty of weights looks at no record and is added after the noise; any other is refused.

    Seen: TF Privacy (`add_loss`, a warning in a docstring).
    """
    penalised = keras.layers.ActivityRegularization(l2=0.1)
    check_added(museum.network(penalised), museum)
    check_penalty(lambda fit: fit())

    def left_out(fit):
        with monkeypatch.context() as patched:
            nothing = tf.zeros([])
            patched.setattr(CertifiedStep, "with_penalties", lambda self, g: (g, nothing))
            fit()

    with museum.caught():
        check_penalty(left_out)
    monkeypatch.setattr(private_wrapper.DPModel, "losses", [])
    with pytest.raises(pytest.fail.Exception):
        check_added(museum.network(penalised), museum)
