"""Worker: the same ViT in tf_keras, plain or under TF Privacy's vectorised optimizer.

Runs in the peers' environment with TF_USE_LEGACY_KERAS=1; see `pacing` for what it answers.
"""

import json
import sys
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from benchmarks import vit
from benchmarks.pacing import Pacer


class PositionTable(layers.Layer):
    """Adds one learned vector to each token."""

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(
            name="table", shape=tuple(input_shape[1:]), initializer="truncated_normal"
        )

    def call(self, tokens: Any) -> Any:
        return tokens + self.table


class Attention(layers.Layer):
    """Softmax attention over the heads of given queries, keys and values; no weights."""

    def call(self, inputs: Any) -> Any:
        query, key, value = (self._split_heads(x) for x in inputs)
        scale = (vit.WIDTH // vit.HEADS) ** -0.5
        weights = tf.nn.softmax(tf.matmul(query * scale, key, transpose_b=True))
        mixed = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return tf.reshape(mixed, (-1, vit.TOKENS, vit.WIDTH))

    def _split_heads(self, x: Any) -> Any:
        x = tf.reshape(x, (-1, vit.TOKENS, vit.HEADS, vit.WIDTH // vit.HEADS))
        return tf.transpose(x, (0, 2, 1, 3))


def _block(x: Any) -> Any:
    normal = layers.LayerNormalization(epsilon=1e-6)(x)
    query = layers.Dense(vit.WIDTH)(normal)
    key = layers.Dense(vit.WIDTH, use_bias=False)(normal)
    value = layers.Dense(vit.WIDTH)(normal)
    x = x + layers.Dense(vit.WIDTH)(Attention()([query, key, value]))
    hidden = layers.Dense(vit.WIDTH * vit.MLP_RATIO, activation="gelu")(
        layers.LayerNormalization(epsilon=1e-6)(x)
    )
    return x + layers.Dense(vit.WIDTH)(hidden)


def _model() -> Any:
    side, patch = vit.IMAGE_SIZE // vit.PATCH_SIZE, vit.PATCH_SIZE
    images = tf_keras.Input((vit.IMAGE_SIZE, vit.IMAGE_SIZE, 1))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = layers.Reshape((side, patch, side, patch))(x)
    x = layers.Reshape((vit.TOKENS, patch * patch))(layers.Permute((1, 3, 2, 4))(x))
    x = PositionTable()(layers.Dense(vit.WIDTH)(x))
    for _ in range(vit.BLOCKS):
        x = _block(x)
    logits = layers.Dense(vit.CLASSES)(layers.GlobalAveragePooling1D()(x))
    return tf_keras.Model(images, logits)


def _optimizer(private: bool) -> Any:
    """Adam of the kind that TF Privacy derives from, and for `private` TF Privacy's own."""
    if not private:
        return tf_keras.optimizers.legacy.Adam(vit.LEARNING_RATE)
    # TF Privacy's switch against the estimators that it imports and TensorFlow no longer has.
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras_vectorized

    return dp_optimizer_keras_vectorized.VectorizedDPKerasAdamOptimizer(
        l2_norm_clip=vit.L2_NORM_CLIP,
        noise_multiplier=vit.NOISE_MULTIPLIER,
        learning_rate=vit.LEARNING_RATE,
    )


class Paced(tf_keras.callbacks.Callback):
    """Hands the end of each step to a `Pacer`; its batches are all of one size."""

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._pacer.step_done(vit.BATCH_SIZE):
            self.model.stop_training = True


def main() -> None:
    """Trains the side that the first argument, a JSON object, describes."""
    pacer = Pacer.on_standard_streams()
    private = json.loads(sys.argv[1])["private"]
    model = _model()
    images, labels = vit.made_up_data(vit.RECORDS, model.input_shape[1:])
    reduction = tf_keras.losses.Reduction.NONE if private else tf_keras.losses.Reduction.AUTO
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile(_optimizer(private), loss, jit_compile=False)
    versions = {"tf_keras": tf_keras.__version__, "tensorflow": tf.__version__}
    if private:
        import tensorflow_privacy

        versions["tensorflow_privacy"] = tensorflow_privacy.__version__
    if pacer.ready(versions=versions, parameters=model.count_params()):
        model.fit(
            images,
            labels,
            batch_size=vit.BATCH_SIZE,
            epochs=vit.EPOCHS,
            verbose=0,
            callbacks=[Paced(pacer)],
        )


if __name__ == "__main__":
    main()
