"""The model whose latency `benchmarks.serving_latency` measures."""

from typing import Any


def fused_pair() -> Any:
    """A fused pair of dpvit_small_28 with its first weights, which cost as much to run as any."""
    import keras

    import keras_dpvit as kd

    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        members.append(kd.DPViTClassifier.from_preset("dpvit_small_28", num_classes=10))
    return kd.FusedClassifier(members)
