"""What several rooms' tests share; the TensorFlow work in it is done once a session."""

import gc
import hashlib
import os
import pathlib
import random
import sys
import zlib

import hypothesis
import numpy as np
import pytest

# `benchmarks` is not installed: it is imported from where it lies.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

# The same examples in every run: what fails, fails for everybody.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Before anything imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


# Traces of TensorFlow make millions of objects that are not garbage: Python's own pace of looking
# through them took a fifth of the time.
gc.set_threshold(100_000, 20, 20)
_GROWTH = 150 << 20  # bytes after which a file of tests is cleaned up behind
_size_when_cleaned = 0


def pytest_collection_finish(session):
    """Half a million objects of imported modules are nothing to look through again and again."""
    gc.collect()
    gc.freeze()


def _memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget_custom_gradients():
    """TensorFlow never does: plain Keras registers one a `fit`, which reaches the fit's graphs."""
    registered = sys.modules.get("tensorflow.python.framework.ops")
    if registered is not None:
        gradients = registered.gradient_registry._registry
        for name in [name for name in gradients if name.startswith("CustomGradient-")]:
            del gradients[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Cleans up behind a file of tests, if it left much."""
    global _size_when_cleaned
    result = yield
    if nextitem is None or nextitem.path != item.path:
        _forget_custom_gradients()
        if _memory() - _size_when_cleaned > _GROWTH:
            gc.collect()
            _size_when_cleaned = _memory()
    return result


def _seed_from(name):
    """Starts all generators that have no seed of their own from a name's."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)  # seeds what Keras starts without one
    np.random.seed(seed)
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "utils"):
        keras.utils.set_random_seed(seed)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """A fixture is the same in every run, whichever test asks for it first."""
    _seed_from(f"{fixturedef.baseid}:{fixturedef.argname}")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test is the same in every run, alone or among others."""
    _seed_from(item.nodeid)
    return (yield)


@pytest.fixture(autouse=True)
def trainings_may_repeat_noise():
    """Most tests compare trainings under one seed; tests/training/test_seeds.py forbids it."""
    from keras_dpvit.privacy import randomness

    with randomness.repeatable():
        yield


@pytest.fixture(autouse=True)
def weights_seen_are_forgotten(monkeypatch):
    """Tests start from equal seeds: what one says of their weights is not said of the next's."""
    provenance = sys.modules.get("keras_dpvit.models.provenance")
    if provenance is not None:
        monkeypatch.setattr(provenance, "_SEEN", dict(provenance._SEEN))
        monkeypatch.setattr(provenance, "_INITIAL", set(provenance._INITIAL))


@pytest.fixture
def without_kernels(monkeypatch):
    """As on a machine where no kernels can be compiled."""
    from keras_dpvit import native

    monkeypatch.setattr(native, "library", lambda: None)


@pytest.fixture(scope="session")
def file_digests():
    """Every file below a directory by its relative path, with a digest of its bytes."""

    def digests(directory):
        return {
            str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in directory.rglob("*")
            if path.is_file()
        }

    return digests


@pytest.fixture(scope="session")
def digit_images():
    """scikit-learn's digits, 1437 to train on and 360 held out."""
    from keras_dpvit import datasets

    return datasets.load("digits")


@pytest.fixture(scope="session")
def trained_members(digit_images):
    """Two small classifiers, each trained on the digits for a few private steps.

    They have layers' noise while training, so that tests see whether it stays behind.
    """
    import keras

    import keras_dpvit as kd

    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        plan = kd.PrivacyPlan(
            num_examples=len(digit_images.x_train),
            batch_size=256,
            epochs=4,
            delta=1e-4,
            noise_multiplier=1.5 + 0.5 * seed,
            seed=seed,
        )
        model = kd.DPViTClassifier.from_preset(
            "dpvit_tiny_8", num_classes=10, attention_noise_stddev=0.01, norm_noise_stddev=0.01
        )
        model.compile(
            kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.fit(digit_images.x_train, digit_images.y_train, epochs=4, verbose=0)
        members.append(model)
    return members


@pytest.fixture(scope="session")
def trained_fusion(trained_members):
    """The two members fused, as trained on the same records."""
    import keras_dpvit as kd

    return kd.FusedClassifier(trained_members, members_data="shared")


@pytest.fixture(scope="session")
def described_presets():
    """Every named size: what it is made of, and its drawing. The largest takes seconds to build."""
    from keras_dpvit.models.classifier import DPViTClassifier
    from keras_dpvit.models.description import describe
    from keras_dpvit.models.presets import PRESETS
    from keras_dpvit.plots import architecture_figure

    described = {}
    for name, preset in PRESETS.items():
        model = DPViTClassifier.from_preset(name, num_classes=preset["num_classes"])
        assert model.count_params() == describe(model)["parameters"]
        described[name] = describe(model), architecture_figure(model)
    return described


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from benchmarks.chromium import Browser

    chromium = Browser(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()
