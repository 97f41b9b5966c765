"""The model that the benchmarks of serving serve."""

from typing import Any


def fused_pair(num_images: int = 0) -> Any:
    """A fused pair of dpvit_small_28.

    Args:
        num_images: int, Fashion-MNIST images that the members are trained on for an epoch, as
            public data; with 0 they keep their first weights, which cost as much to run.
    """
    import keras

    import keras_dpvit as kd

    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        member = kd.DPViTClassifier.from_preset("dpvit_small_28", num_classes=10)
        if num_images:
            data = kd.datasets.load("fashion_mnist")
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            member.compile(keras.optimizers.Adam(2e-3), loss, jit_compile=False)
            x, y = data.x_train[:num_images], data.y_train[:num_images]
            member.fit(x, y, batch_size=64, verbose=0, public_data=True)
        members.append(member)
    return kd.FusedClassifier(members)
