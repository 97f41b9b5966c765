"""Worker: this package in Keras' `fit`, plain or private; see `pacing` for what it answers."""

import json
import sys
from typing import Any

import keras
import tensorflow as tf

import keras_dpvit as kd
from benchmarks import vit
from benchmarks.pacing import Pacer
from keras_dpvit import native

NETWORKS: dict[str, dict[str, Any]] = {
    "vit": {
        "name": "dpvit_small_28",
        "patch_size": vit.PATCH_SIZE,
        "hidden_dim": vit.WIDTH,
        "num_heads": vit.HEADS,
        "stage_depths": (vit.BLOCKS,),
        "mlp_ratio": vit.MLP_RATIO,
        "position_stddev": 0.02,
        "input_scaling": "range",  # as in the peers' networks
    },
    "small": {"name": "dpvit_small_28"},
    "tiny": {"name": "dpvit_tiny_8"},
}


class Records(keras.metrics.Metric):
    """The number of records seen since the epoch began: it tells a Poisson sample's size."""

    def __init__(self) -> None:
        super().__init__(name="records")
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        del y_pred, sample_weight
        self.total.assign_add(keras.ops.cast(keras.ops.shape(y_true)[0], self.dtype))

    def result(self) -> Any:
        return self.total


class Paced(keras.callbacks.Callback):
    """Hands the end of each step to a `Pacer`."""

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer
        self._records = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._records = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        records = round(logs["records"])
        go_on = self._pacer.step_done(records - self._records)
        self._records = records
        if not go_on:
            self.model.stop_training = True


def _optimizer(settings: dict[str, Any]) -> Any:
    if not settings["private"]:
        return keras.optimizers.Adam(vit.LEARNING_RATE)
    plan = kd.PrivacyPlan(
        num_examples=settings["records"],
        batch_size=settings["batch_size"],
        epochs=vit.EPOCHS,
        delta=1e-5,
        noise_multiplier=vit.NOISE_MULTIPLIER,
        clipping=kd.MedianLayerClipping(),
        sensitivity=kd.DynamicSensitivity(),
    )
    return kd.DPKerasAdamOptimizer(plan, learning_rate=vit.LEARNING_RATE)


def main() -> None:
    """Trains the side that the first argument, a JSON object, describes."""
    pacer = Pacer.on_standard_streams()
    settings = json.loads(sys.argv[1])
    model = kd.DPViTClassifier.from_preset(num_classes=vit.CLASSES, **NETWORKS[settings["network"]])
    images, labels = vit.made_up_data(settings["records"], model.input_shape[1:])
    model.compile(
        _optimizer(settings),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[Records()],
        jit_compile=settings["jit_compile"],
    )
    arguments: dict[str, Any] = {"epochs": vit.EPOCHS, "verbose": 0, "callbacks": [Paced(pacer)]}
    if not settings["private"]:
        arguments |= {"batch_size": settings["batch_size"], "public_data": True}
    versions = {
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "keras_dpvit": kd.__version__,
        "compiled_kernels": "no" if native.library() is None else "yes",
    }
    if pacer.ready(versions=versions, parameters=model.count_params()):
        model.fit(images, labels, **arguments)


if __name__ == "__main__":
    main()
