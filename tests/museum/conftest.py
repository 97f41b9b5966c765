"""The museum's tools: a bench for one private step, records, and faulty mechanisms in NumPy.

An exhibit is one check, a function that asserts, applied twice: to this package, which passes, and
to a faulty twin, which the same check must catch. The twin is the fault written out, or this
package with the fault put into it.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_dpvit as kd
from keras_dpvit.models import provenance

CLASSES = 10


def small_network(*front):
    """Two Dense layers for the digits, the same weights every time."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    parts = [keras.Input((64,)), *front, layers.Dense(12, "relu", name="first")]
    return keras.Sequential([*parts, layers.Dense(CLASSES, name="last")])


def small_plan(num_examples, clip=1.0, **arguments):
    """Every record in every step, flat clipping, no noise; whatever is given instead."""
    defaults = {
        "batch_size": num_examples,
        "epochs": 1,
        "delta": 1e-5,
        "noise_multiplier": 0.0,
        "clipping": kd.FlatClipping(),
        "sensitivity": kd.FixedSensitivity(clip),
        "seed": 11,
    }
    return kd.PrivacyPlan(num_examples=num_examples, **{**defaults, **arguments})


class Bench:
    """One private model under a plan, whose single steps can be looked at.

    Args:
        plan: a `PrivacyPlan`.
        network: a built Keras model; None takes `small_network()`.
        rate: float, of plain SGD.
    """

    def __init__(self, plan, network=None, rate=1.0, loss=None):
        self.plan, self.rate = plan, rate
        self.model = kd.make_private(small_network() if network is None else network)
        if loss is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(kd.DPKerasSGDOptimizer(plan, rate), loss, jit_compile=False)
        self.trainer = self.model.private_trainer
        self.trainer.prepare(64)
        self.step = self.trainer.step
        self._traced = None

    def chunk_sums(self, x, y, present=None, state=None):
        """The clipped sum and the below_count of a batch, as the step finds them; traced once."""
        if self._traced is None:
            specs = [
                tf.TensorSpec((None, *x.shape[1:]), tf.float32),
                tf.TensorSpec((None, *y.shape[1:]), tf.int64),
                tf.TensorSpec((None,), tf.bool),
                tf.TensorSpec((), tf.float32),
            ]
            self._traced = tf.function(
                lambda x, y, present, state: self.step.clipped_sums(
                    x, y, tf.ones(tf.shape(present)), present, state
                )[:2],
                input_signature=specs,
                autograph=False,
            )
        present = np.ones(len(x), bool) if present is None else present
        state = float(self.plan.sensitivity.initial_state()) if state is None else state
        sums, below_count = self._traced(x.astype("float32"), y.astype("int64"), present, state)
        return sums.numpy().astype("float64"), float(below_count)

    def sums(self, x, y, present=None, state=None):
        """The clipped sum alone."""
        return self.chunk_sums(x, y, present, state)[0]

    def noise(self, step):
        """The noise of one step on the sum."""
        zeros = tf.zeros(sum(self.step._sizes))
        state = tf.constant(self.plan.sensitivity.initial_state(), tf.float32)
        key = self.trainer.keys.noise
        gradients, _ = self.step.release(zeros, 0.0, state, tf.constant(step, tf.int64), key)
        return self._flat(gradients) * self.plan.num_microbatches

    def trained(self, x, y, **arguments):
        """The sum that `fit` took off the weights, from the public side."""
        before = self._flat(self.model.trainable_variables)
        self.model.fit(x, y, verbose=0, **arguments)
        moved = before - self._flat(self.model.trainable_variables)
        return moved * self.plan.num_microbatches / self.rate

    def _flat(self, tensors):
        return np.concatenate([np.asarray(t, "float64").ravel() for t in tensors])


class LinearTwin:
    """Softmax regression clipped by hand, for faults that are a design of their own."""

    def __init__(self, clip):
        self.clip = clip

    def gradients(self, x, y):
        """One gradient a row, at weights of zero."""
        errors = np.full((len(x), CLASSES), 1 / CLASSES) - np.eye(CLASSES)[y]
        with np.errstate(invalid="ignore"):
            products = np.einsum("ni,nj->nij", x.astype("float64"), errors)
        return np.concatenate([products.reshape(len(x), -1), errors], axis=1)

    def clipped(self, gradients):
        """Rows of at most the clipping norm; a NaN stays one."""
        norms = np.linalg.norm(gradients, axis=-1, keepdims=True)
        return gradients * np.minimum(1, self.clip / np.maximum(norms, 1e-12))


class Exhibits:
    """What the tests take from here."""

    Bench = Bench
    LinearTwin = LinearTwin
    plan = staticmethod(small_plan)
    network = staticmethod(small_network)

    @staticmethod
    def caught():
        """A twin's place: the check inside must fail."""
        return pytest.raises(AssertionError)


@pytest.fixture(autouse=True)
def weights_of_other_exhibits(weights_seen_are_forgotten, monkeypatch):
    """Exhibits start from equal weights: those that a fixture has trained are not this one's."""
    monkeypatch.setattr(provenance, "_SEEN", {})


@pytest.fixture(scope="session")
def museum():
    return Exhibits


@pytest.fixture(scope="session")
def digits():
    """Forty-eight digits as vectors in [0, 1], and their labels."""
    found = load_digits()
    return found.data[:48].astype("float32") / 16, found.target[:48].astype("int64")


@pytest.fixture(scope="session")
def flat_bench():
    """The bench of most exhibits: flat clipping at 1, no noise."""
    return Bench(small_plan(48))


@pytest.fixture
def realised_divisor(monkeypatch):
    """Puts a fault into the step: it divides by the rows that came, not by the public number."""
    from keras_dpvit.training import step as steps

    sums, release = steps.CertifiedStep.clipped_sums, steps.CertifiedStep.release_all

    def counting(self, x, y, weights, present, state):
        self._realised = tf.reduce_sum(tf.cast(present, tf.float32))
        return sums(self, x, y, weights, present, state)

    def dividing(self, *arguments):
        gradients, *rest = release(self, *arguments)
        factor = self._plan.num_microbatches / self._realised
        return (steps.PrivateGradients([g * factor for g in gradients]), *rest)

    monkeypatch.setattr(steps.CertifiedStep, "clipped_sums", counting)
    monkeypatch.setattr(steps.CertifiedStep, "release_all", dividing)
