"""Models of twelve Keras tutorials, written as their authors do.

Only the optimizer and `make_private` are swapped; one step's clipped sum is that of one record at a
time.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dpvit as kd
from keras_dpvit.privacy.sensitivity import ROUNDING_MARGIN

layers, ops = keras.layers, keras.ops
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RECORDS = 12
rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(RECORDS, 16, 16, 1)).astype("float32")
COLOURS = rng.normal(size=(RECORDS, 32, 32, 3)).astype("float32")
TEN = np.arange(RECORDS) % 10
TWO = np.arange(RECORDS) % 2
WORDS = rng.integers(1, 20, (RECORDS, 9))


def convnet():
    """simple_convnet for MNIST."""
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(8, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(8, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return model, "categorical_crossentropy", IMAGES, np.eye(10)[TEN]


def tabular():
    """Structured data: numbers and a category, each an input of its own."""
    age, income = keras.Input((1,), name="age"), keras.Input((1,), name="income")
    kind = keras.Input((1,), name="kind", dtype="int64")
    encoded = layers.CategoryEncoding(num_tokens=4, output_mode="one_hot")(kind)
    x = layers.Concatenate()([age, income, encoded])
    x = layers.Dense(8, activation="relu")(x)
    model = keras.Model([age, income, kind], layers.Dense(1, activation="sigmoid")(x))
    numbers = rng.normal(size=(RECORDS, 2)).astype("float32")
    x = {"age": numbers[:, :1], "income": numbers[:, 1:], "kind": TEN[:, None] % 4}
    return model, "binary_crossentropy", x, TWO


def imdb_lstm():
    """Bidirectional LSTM on IMDB."""
    inputs = keras.Input(shape=(9,), dtype="int32")
    x = layers.Embedding(20, 6)(inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(4))(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    return model, "binary_crossentropy", WORDS, TWO


def timeseries():
    """Time series classification by Conv1D, BatchNormalization replaced."""
    inputs = keras.Input((20, 1))
    x = inputs
    for _ in range(2):
        x = layers.Conv1D(filters=8, kernel_size=3, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    x = rng.normal(size=(RECORDS, 20, 1)).astype("float32")
    return kd.replace_batch_normalization(model), SPARSE, x, TWO


def siamese():
    """Siamese network with a distance between two images."""
    image = keras.Input((16, 16, 1))
    x = layers.Conv2D(4, (5, 5), activation="tanh")(image)
    x = layers.Flatten()(layers.AveragePooling2D(pool_size=(2, 2))(x))
    embedding = keras.Model(image, layers.Dense(6, activation="tanh")(x))
    one, two = keras.Input((16, 16, 1)), keras.Input((16, 16, 1))
    squares = ops.square(embedding(one) - embedding(two))
    distance = ops.sqrt(ops.maximum(ops.sum(squares, axis=1, keepdims=True), 1e-7))
    model = keras.Model([one, two], layers.Dense(1, activation="sigmoid")(distance))
    return model, "binary_crossentropy", [IMAGES, np.roll(IMAGES, 5, axis=0)], TEN % 3 == 0


def autoencoder():
    """Convolutional autoencoder for denoising."""
    inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(8, (3, 3), activation="relu", padding="same")(inputs)
    x = layers.MaxPooling2D((2, 2), padding="same")(x)
    x = layers.Conv2DTranspose(8, (3, 3), strides=2, activation="relu", padding="same")(x)
    x = layers.Conv2D(1, (3, 3), activation="sigmoid", padding="same")(x)
    targets = rng.uniform(size=IMAGES.shape).astype("float32")
    return keras.Model(inputs, x), "binary_crossentropy", IMAGES, targets


def u_net():
    """Xception-style U-Net for segmentation, BatchNormalization replaced."""
    inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    previous = x
    x = layers.SeparableConv2D(8, 3, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.add([x, layers.Conv2D(8, 1, strides=2, padding="same")(previous)])
    x = layers.Conv2DTranspose(8, 3, padding="same")(layers.Activation("relu")(x))
    x = layers.UpSampling2D(4)(layers.BatchNormalization()(x))
    model = keras.Model(inputs, layers.Conv2D(3, 3, activation="softmax", padding="same")(x))
    masks = rng.integers(0, 3, (RECORDS, 16, 16, 1))
    return kd.replace_batch_normalization(model), "sparse_categorical_crossentropy", IMAGES, masks


def multi_task():
    """The functional guide's model of tickets: two outputs with weights."""
    title, tags = keras.Input((9,), name="title", dtype="int32"), keras.Input((3,), name="tags")
    x = layers.LSTM(5)(layers.Embedding(20, 6)(title))
    x = layers.concatenate([x, tags])
    priority = layers.Dense(1, name="priority")(x)
    department = layers.Dense(4, name="department")(x)
    model = keras.Model(
        inputs=[title, tags], outputs={"priority": priority, "department": department}
    )
    losses = {
        "priority": keras.losses.BinaryCrossentropy(from_logits=True),
        "department": keras.losses.CategoricalCrossentropy(from_logits=True),
    }
    x = {"title": WORDS, "tags": rng.integers(0, 2, (RECORDS, 3)).astype("float32")}
    y = {"priority": TWO[:, None].astype("float32"), "department": np.eye(4)[TEN % 4]}
    return model, losses, x, y


class Patches(layers.Layer):
    def __init__(self, patch_size):
        super().__init__()
        self.patch_size = patch_size

    def call(self, images):
        patches = ops.image.extract_patches(images, size=self.patch_size)
        return ops.reshape(patches, (ops.shape(images)[0], -1, patches.shape[-1]))


class PatchEncoder(layers.Layer):
    def __init__(self, num_patches, projection_dim):
        super().__init__()
        self.num_patches = num_patches
        self.projection = layers.Dense(units=projection_dim)
        self.position_embedding = layers.Embedding(num_patches, projection_dim)

    def call(self, patch):
        positions = ops.expand_dims(ops.arange(start=0, stop=self.num_patches, step=1), axis=0)
        return self.projection(patch) + self.position_embedding(positions)


def vision_transformer():
    """Image classification with Vision Transformer."""
    inputs = keras.Input((16, 16, 1))
    encoded = PatchEncoder(16, 12)(Patches(4)(inputs))
    x1 = layers.LayerNormalization(epsilon=1e-6)(encoded)
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=6, dropout=0.0)(x1, x1)
    x2 = layers.Add()([attention, encoded])
    x3 = layers.LayerNormalization(epsilon=1e-6)(x2)
    x3 = layers.Dense(24, activation=keras.activations.gelu)(x3)
    encoded = layers.Add()([layers.Dense(12)(x3), x2])
    representation = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(encoded))
    return keras.Model(inputs, layers.Dense(10)(representation)), SPARSE, IMAGES, TEN


def transfer():
    """Transfer learning: a frozen MobileNet and a new head."""
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, include_top=False)
    base.trainable = False
    inputs = keras.Input((32, 32, 3))
    x = base(layers.Rescaling(scale=1 / 127.5, offset=-1)(inputs), training=False)
    x = layers.UnitNormalization()(layers.GlobalAveragePooling2D()(x) * 1e6)  # it is untrained
    x = layers.Dense(1)(x)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.Model(inputs, x), loss, COLOURS * 50 + 100, TWO


class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.0):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([layers.Dense(ff_dim, "relu"), layers.Dense(embed_dim)])
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1 = layers.Dropout(rate)

    def call(self, inputs):
        attention = self.dropout1(self.att(inputs, inputs))
        out1 = self.layernorm1(inputs + attention)
        return self.layernorm2(out1 + self.ffn(out1))


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, x):
        positions = ops.arange(start=0, stop=ops.shape(x)[-1], step=1)
        return self.token_emb(x) + self.pos_emb(positions)


def text_transformer():
    """Text classification with Transformer."""
    inputs = keras.Input(shape=(9,), dtype="int32")
    x = TokenAndPositionEmbedding(9, 20, 8)(inputs)
    x = layers.GlobalAveragePooling1D()(TransformerBlock(8, 2, 16)(x))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    return model, "sparse_categorical_crossentropy", WORDS, TWO


class TiedLanguageModel(keras.Model):
    """The table that words are read with is the one that they are scored with."""

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(20, 8)
        self.recurrent = layers.GRU(8, return_sequences=True)

    def call(self, words):
        states = self.recurrent(self.table(words))
        return ops.matmul(states, ops.transpose(self.table.embeddings))


def tied_language_model():
    model = TiedLanguageModel()
    model(WORDS[:2])
    return model, SPARSE, WORDS, np.roll(WORDS, -1, axis=1)


TUTORIALS = [
    convnet, tabular, imdb_lstm, timeseries, siamese, autoencoder, u_net, multi_task,
    vision_transformer, transfer, text_transformer, tied_language_model,
]  # fmt: skip
# Of the clipping; the norm that is clipped to is this much below (see privacy.sensitivity).
BOUND = 0.05
# So large that the weights' own rounding does not show beside their change.
RATE = 1e4


def one_by_one(model, loss, x, y):
    """The sum of each record's gradient clipped to the bound, by Keras' own loss on one record."""
    model.compile("sgd", loss)
    variables, total, clipped = model.trainable_variables, None, 0
    for i in range(RECORDS):
        x_one, y_one = keras.tree.map_structure(lambda a, i=i: a[i : i + 1], (x, y))
        with tf.GradientTape() as tape:
            value = model.compute_loss(x_one, y_one, model(x_one, training=True))
        found = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
        own = np.concatenate([tf.convert_to_tensor(g).numpy().ravel() for g in found])
        own = own.astype("float64")
        factor = min(1.0, BOUND * (1 - ROUNDING_MARGIN) / np.linalg.norm(own))
        clipped += factor < 1
        total = own * factor if total is None else total + own * factor
    return total, clipped


@pytest.mark.proof
@pytest.mark.parametrize("make", TUTORIALS, ids=lambda make: make.__name__)
def test_a_tutorials_model_trains_and_its_sum_is_that_of_one_record_at_a_time(make):
    model, loss, x, y = make()
    expected, clipped = one_by_one(model, loss, x, y)
    assert clipped > 0 or make is tied_language_model
    start = [v.numpy() for v in model.trainable_variables]
    private = kd.make_private(model)
    plan = kd.PrivacyPlan(
        RECORDS, RECORDS, 1, 1e-3, noise_multiplier=0.0,
        clipping=kd.FlatClipping(), sensitivity=kd.FixedSensitivity(BOUND),
    )  # fmt: skip
    private.compile(kd.DPKerasSGDOptimizer(plan, RATE), loss)
    private.fit(x, y, verbose=0)
    moved = [
        np.ravel(before - v.numpy()).astype("float64") * RECORDS / RATE
        for before, v in zip(start, model.trainable_variables, strict=True)
    ]
    error = np.linalg.norm(np.concatenate(moved) - expected) / np.linalg.norm(expected)
    assert error < 1e-5
    for v, before in zip(model.trainable_variables, start, strict=True):
        v.assign(before)
    private.compile(
        kd.DPKerasAdamOptimizer(kd.PrivacyPlan(RECORDS, 4, 2, 1e-3, noise_multiplier=1.0)), loss
    )
    history = private.fit(x, y, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
