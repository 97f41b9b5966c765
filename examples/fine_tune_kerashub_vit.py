# %% [markdown]
"""Fine-tune a KerasHub vision transformer privately.

A small `ViTImageClassifier` learns the digits 0 to 4, which stand for public pictures, in ordinary
training. Its head then learns the digits 5 to 9, which stand for private pictures.
"""

# %%
import argparse
import pathlib
import sys
import tempfile

import keras
import keras_hub

import keras_dpvit as kd

parser = argparse.ArgumentParser(description="Fine-tune a KerasHub vision transformer privately.")
parser.add_argument("--trainable", default="head", choices=["head", "bias", "all"])
parser.add_argument("--epsilon", type=float, default=3.0)
parser.add_argument("--public_epochs", type=int, default=40)
parser.add_argument("--epochs", type=int, default=40)
flags = parser.parse_args([] if "ipykernel" in sys.modules else None)

data = kd.datasets.load("digits")
x_train, x_test = data.x_train.astype("float32") / 255, data.x_test.astype("float32") / 255
public, public_test = data.y_train < 5, data.y_test < 5
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def vision_transformer():
    """A ViT for 8 x 8 gray pictures; `ViTBackbone.from_preset` would download a large one."""
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 1), patch_size=2, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    )
    return keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=5)


# %% [markdown]
# Public pre-training. `public_data=True` says that these pictures need no protection: the file
# then carries an empty privacy ledger. Without it, epsilon would be infinite.

# %%
start = kd.make_private(vision_transformer())
start.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
x_public, y_public = x_train[public], data.y_train[public]
start.fit(
    x_public, y_public, batch_size=64, epochs=flags.public_epochs, verbose=0, public_data=True
)
_, accuracy = start.evaluate(x_test[public_test], data.y_test[public_test], verbose=0)
print(f"digits 0 to 4, public: accuracy {accuracy:.3f}")
path = pathlib.Path(tempfile.mkdtemp(), "public.keras")
start.save(path)

# %% [markdown]
# Private fine-tuning of the head alone; `"bias"` trains the biases too, `"all"` everything. Give
# the file to `load_initial_weights` rather than the weights to the model: the ledger comes along.

# %%
x_private, y_private = x_train[~public], data.y_train[~public] - 5
plan = kd.PrivacyPlan.for_target(
    epsilon=flags.epsilon, delta=1e-4, num_examples=700, batch_size=120, epochs=flags.epochs
)
model = kd.make_private(vision_transformer(), flags.trainable)
kd.load_initial_weights(model, path)
model.compile(kd.DPKerasAdamOptimizer(plan, learning_rate=3e-2), loss, metrics=["accuracy"])
model.fit(x_private, y_private, epochs=flags.epochs, verbose=0)
trained = sum(keras.ops.size(variable) for variable in model.trainable_variables)
print(f"{len(x_private)} private pictures; {trained:,} of {model.count_params():,} numbers trained")

# %%
_, accuracy = model.evaluate(x_test[~public_test], data.y_test[~public_test] - 5, verbose=0)
print(f"digits 5 to 9, private: accuracy {accuracy:.3f}")
print(model.privacy_statement())
