"""Trains the rows of the encryption table."""

import hashlib
import math
import pathlib
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dpvit import datasets
from keras_dpvit.datasets import ImageData, tfds_source
from keras_dpvit.encryption import (
    ImageCipher,
    SecretKey,
    ViTBlockCipher,
    encrypt_map,
    make_cipher,
    transform_model,
)
from keras_dpvit.models import networks
from keras_dpvit.reproduction import encryption_results as results
from keras_dpvit.reproduction.encryption_rows import ROWS, Row, Settings, Training

_CIFAR = {"cifar10": 10, "cifar100": 100}


def run(rows: list[str], settings: Settings, output: pathlib.Path, data_dir: str | None) -> None:
    """Trains the rows that are not in the folder yet; each is stored when it is done.

    Args:
        rows: names of `ROWS`.
        settings: of the scale.
        output: folder of the results.
        data_dir: of the data sets, or None.
    """
    done = results.finished(output, rows, settings)
    parts: dict[str, Parts] = {}
    for name in rows:
        if name in done:
            print(f"{name}: there already", flush=True)
            continue
        start = time.monotonic()
        found: dict[str, Any] = {"accuracy": {}}
        for dataset in settings.datasets:
            if dataset not in parts:
                parts[dataset] = Parts(_load(dataset, data_dir), settings)
            scores, facts = _train(ROWS[name], parts[dataset], settings)
            found["accuracy"][dataset] = scores
            found.update(facts)
        found["seconds"] = round(time.monotonic() - start, 1)
        results.write_row(output, name, found, settings)
        shown = ", ".join(f"{d} {s['test']:.4f}" for d, s in found["accuracy"].items())
        print(f"{name}: {shown} on the test images, {found['seconds']:.0f} s", flush=True)


def _load(dataset: str, data_dir: str | None) -> ImageData:
    if dataset not in _CIFAR:
        return datasets.load(dataset, data_dir)
    classes = [str(number) for number in range(_CIFAR[dataset])]
    return tfds_source.load_downloaded(
        dataset, data_dir, classes, "give --data_dir with a copy that tensorflow-datasets prepared"
    )


class Parts:
    """Training, validation and test images; the validation images are cut off the training ones.

    Args:
        data: colour or grey images; grey becomes three equal channels.
        settings: how many of each.

    Attributes:
        train, validation, test: (uint8 images, int64 labels).
        num_classes: int.
    """

    def __init__(self, data: ImageData, settings: Settings) -> None:
        order = np.random.default_rng(settings.seed).permutation(len(data.x_train))
        cut = settings.validation_examples
        chosen = order[cut:][: settings.train_examples]
        x_train, x_test = (_in_colour(x) for x in (data.x_train, data.x_test))
        self.train = x_train[chosen], data.y_train[chosen]
        self.validation = x_train[order[:cut]], data.y_train[order[:cut]]
        last = settings.test_examples
        self.test = x_test[:last], data.y_test[:last]
        self.num_classes = data.num_classes


def _in_colour(images: np.ndarray) -> np.ndarray:
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _train(row: Row, parts: Parts, settings: Settings) -> tuple[dict[str, float], dict[str, Any]]:
    """Trains one network and scores it at the epoch that did best on the validation images."""
    training = settings.networks[row.network]
    cipher = cipher_of(row, training)
    keras.utils.set_random_seed(settings.seed)
    model = network_of(row, training, parts.num_classes)
    if row.transformed and isinstance(cipher, ViTBlockCipher):
        public = bool(training.sizes.get("preset"))
        model = transform_model(model, cipher, public_base=public)
    streams = {
        part: _stream(getattr(parts, part), row, training, cipher, settings, part == "train")
        for part in ("train", "validation", "test")
    }
    num_examples = len(parts.train[1])
    epochs = settings.epochs_of(row.network, num_examples)
    steps = math.ceil(num_examples / training.batch_size)
    model.compile(
        _optimizer(row, training, epochs, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", patience=epochs, restore_best_weights=True, mode="max"
    )
    history = model.fit(
        streams["train"],
        validation_data=streams["validation"],
        epochs=epochs,
        shuffle=False,  # the stream does it
        callbacks=[best],
        verbose=0,
    )
    curve = history.history["val_accuracy"]
    scores = {
        "validation": float(max(curve)),
        "test": float(model.evaluate(streams["test"], verbose=0, return_dict=True)["accuracy"]),
    }
    facts = {
        "parameters": int(model.count_params()),
        "epochs": epochs,
        "best_epoch": int(np.argmax(curve)) + 1,
        "train_examples": num_examples,
        "test_examples": len(parts.test[1]),
    }
    return scores, facts


def cipher_of(row: Row, training: Training) -> ImageCipher | None:
    """The row's cipher under a key that is public: nothing is protected here."""
    if row.scheme is None:
        return None
    key = SecretKey(hashlib.sha256(b"encryption_table").digest())
    size = training.image_size
    blocks = {} if row.scheme == "pe" else {"block_size": training.block_size}
    return make_cipher(row.scheme, key, (size, size, 3), **blocks, **row.options)


def network_of(row: Row, training: Training, num_classes: int) -> Any:
    """The row's network with random weights, or at full scale KerasHub's pre-trained ViT."""
    shape = (training.image_size, training.image_size, 3)
    if row.network == "resnet18":
        return networks.resnet18(num_classes, shape, **training.sizes)
    if row.network == "shake":
        return networks.shake_pyramid_net(
            num_classes,
            shape,
            adaptation=row.adaptation,
            block_size=training.block_size,
            **training.sizes,
        )
    if training.sizes.get("preset"):
        return networks.vit_b16(num_classes)
    return networks.vit_b16(num_classes, None, shape, **training.sizes)


def _optimizer(row: Row, training: Training, epochs: int, steps: int) -> Any:
    rate = training.learning_rate
    if row.learning_rate is not None and training.optimizer == "sgd":
        rate = row.learning_rate  # the paper's, which belongs to its optimizer
    total = epochs * steps
    schedule: Any
    if training.schedule == "steps":
        bounds = [round(total * share) for share in (150 / 305, 225 / 305)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            bounds, [rate, rate / 10, rate / 100]
        )
    else:
        warm = max(1, total // 20)
        schedule = keras.optimizers.schedules.CosineDecay(
            rate / warm, max(1, total - warm), warmup_target=rate, warmup_steps=warm
        )
    if training.optimizer == "adam":
        return keras.optimizers.Adam(schedule, global_clipnorm=training.clip)
    return L2SGD(
        schedule,
        momentum=0.9,
        nesterov=row.network != "vit",
        global_clipnorm=training.clip,
        l2=training.weight_decay,
    )


class L2SGD(keras.optimizers.SGD):
    """SGD with the L2 penalty in the gradient, before the momentum, as PyTorch's weight decay is.

    Keras's own `weight_decay` shrinks the variables beside the momentum instead.

    Args:
        *args: of `keras.optimizers.SGD`.
        l2: float, factor of the variable that is added to its gradient.
        **kwargs: of `keras.optimizers.SGD`.
    """

    def __init__(self, *args: Any, l2: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.l2 = l2

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        gradient = gradient + keras.ops.cast(self.l2, gradient.dtype) * variable
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l2": self.l2}


def _stream(
    part: tuple[np.ndarray, np.ndarray],
    row: Row,
    training: Training,
    cipher: ImageCipher | None,
    settings: Settings,
    for_training: bool,
) -> Any:
    """Batches as the network takes them: altered, resized, rounded, encrypted, in this order."""
    stream = tf.data.Dataset.from_tensor_slices(part)
    if for_training:
        stream = stream.shuffle(len(part[1]), seed=settings.seed)
        if settings.augment:
            stream = stream.map(_crop_and_flip, num_parallel_calls=tf.data.AUTOTUNE)
    stream = stream.batch(training.batch_size)
    side = training.image_size

    def resize(images: Any, labels: Any) -> tuple[Any, Any]:
        if images.shape[1:3] == (side, side):
            return images, labels
        resized = tf.image.resize(images, (side, side), method="bilinear")
        return tf.cast(tf.round(resized), tf.uint8), labels

    def scale(images: Any, labels: Any) -> tuple[Any, Any]:
        images = tf.cast(images, tf.float32)
        return (images / 127.5 - 1.0 if row.network == "vit" else images), labels

    stream = stream.map(resize)
    if cipher is not None:
        stream = stream.map(encrypt_map(cipher))
    return stream.map(scale).prefetch(tf.data.AUTOTUNE)


def _crop_and_flip(image: Any, label: Any) -> tuple[Any, Any]:
    """A random crop after 4 pixels of zeros around, and a random flip left to right."""
    shape = image.shape
    image = tf.image.resize_with_crop_or_pad(image, shape[0] + 8, shape[1] + 8)
    return tf.image.random_flip_left_right(tf.image.random_crop(image, shape)), label
