r"""Measures what a model under a key sees of plain images, over many keys, with chance beside it.

A model under a key sees a plain image as the plain model sees that image decrypted, so the plain
model alone is trained and asked. Beside it stands a linear classifier that is given nothing but
how often each of some gray values occurs, which no permutation of pixels changes.

Examples:
  python -m benchmarks.keyed_model
  python -m benchmarks.keyed_model --keys=5 --output=keyed_model.json
"""

import json
from typing import Any

import numpy as np
from absl import flags

from benchmarks.reports import checked_output, machine
from keras_dpvit import _files, _quiet
from trainers import _cli

FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    "keys",
    20,
    "Keys for each unit of the cipher.",
    lower_bound=1,
    upper_bound=256,
    flag_values=FLAGS,
)
flags.DEFINE_string("output", None, "JSON file to write.", flag_values=FLAGS)

# data set, side that images are stretched to, patch, training images, epochs
_CASES = [
    ("fashion_mnist", 28, 4, 8000, 4),
    ("fashion_mnist", 112, 16, 8000, 4),
    ("digits", 56, 8, 1437, 40),
]
_TEST = 1000
_GRAYS = (2, 32)


def main() -> None:
    """Measures all cases and prints them."""
    path = checked_output(FLAGS.output)
    _quiet.start_tensorflow()
    rows = [measure(*case, FLAGS.keys) for case in _CASES]
    report = {"command": "python -m benchmarks.keyed_model", "machine": machine(), "rows": rows}
    if path is not None:
        _files.write_json(path, report, indent=2)


def measure(
    dataset: str, side: int, patch: int, examples: int, epochs: int, keys: int
) -> dict[str, Any]:
    """One model, and its accuracy on images that other keys took apart.

    Args:
        dataset: a name of `keras_dpvit.datasets`.
        side: int, to which images are stretched.
        patch: int.
        examples: int, training images.
        epochs: int.
        keys: int.
    """
    from keras_dpvit import datasets
    from keras_dpvit.encryption import SecretKey, ViTBlockCipher

    data = datasets.load(dataset)
    train, labels = _stretched(data.x_train[:examples], side), data.y_train[:examples]
    test, truth = _stretched(data.x_test[:_TEST], side), data.y_test[:_TEST]
    model = _trained(train, labels, patch, epochs)

    def accuracy(images: np.ndarray) -> float:
        logits = model.predict(images.astype("float32"), batch_size=500, verbose=0)
        return float(np.mean(logits.argmax(-1) == truth))

    row: dict[str, Any] = {
        "dataset": dataset,
        "side": side,
        "patch_size": patch,
        "test_images": len(truth),
        "plain": accuracy(test),
        "largest_class": float(np.bincount(truth).max() / len(truth)),
        "histogram": {
            str(grays): _from_histograms(train, labels, test, truth, grays) for grays in _GRAYS
        },
    }
    for unit in ("quadrant", "patch"):
        scores = []
        for number in range(keys):
            key = SecretKey(bytes([number]) * 32)
            cipher = ViTBlockCipher.from_key(key, (side, side, 1), patch, unit=unit)
            scores.append((accuracy(cipher.decrypt(test)), accuracy(cipher.encrypt(test))))
        seen = np.array(scores)
        row[unit] = {
            "keyed_on_plain": {"mean": seen[:, 0].mean(), "largest": seen[:, 0].max()},
            "plain_on_encrypted": {"mean": seen[:, 1].mean(), "largest": seen[:, 1].max()},
        }
    print(json.dumps(row), flush=True)
    return row


def _stretched(images: np.ndarray, side: int) -> np.ndarray:
    import PIL.Image

    pixels = np.asarray(images, np.uint8)
    if pixels.shape[1] == side:
        return pixels
    how = PIL.Image.Resampling.BILINEAR
    return np.stack(
        [np.asarray(PIL.Image.fromarray(p[..., 0]).resize((side, side), how)) for p in pixels]
    )[..., None]


def _trained(images: np.ndarray, labels: np.ndarray, patch: int, epochs: int) -> Any:
    """A small transformer of the kind that can be transformed, trained without privacy."""
    import keras

    import keras_dpvit as kd

    keras.utils.set_random_seed(3)
    backbone = kd.DPViTBackbone(
        images.shape[1:],
        patch,
        hidden_dim=32,
        num_heads=4,
        position_stddev=0.7,
        first_attention="self",
        stage_depths=(2,),
    )
    model = kd.DPViTClassifier(backbone, 10)
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(
        images.astype("float32"), labels, batch_size=100, epochs=epochs, verbose=0, public_data=True
    )
    return model


def _from_histograms(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, grays: int
) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def counted(images: np.ndarray) -> np.ndarray:
        values = images.reshape(len(images), -1).astype(np.int64) * grays // 256
        return np.stack([np.bincount(v, minlength=grays) for v in values])

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return float(classifier.fit(counted(train), labels).score(counted(test), truth))


if __name__ == "__main__":
    _cli.run(main, FLAGS, __doc__)
