# %% [markdown]
"""Train a private classifier on a folder of pictures.

The folder has one sub-folder of pictures for each class. Without `--folder`, the 1,797
handwritten digits of scikit-learn are written as such a folder first.
"""

# %%
import argparse
import pathlib
import sys
import tempfile

import keras
import numpy as np
import PIL.Image
from sklearn.datasets import load_digits

import keras_dpvit as kd

# For other pictures, change these. Class names and the number of training pictures are taken as
# public: write the names out and round the number down.
IMAGE_SHAPE, PRESET = (8, 8, 1), "dpvit_tiny_8"
CLASS_NAMES = [str(digit) for digit in range(10)]
NUM_EXAMPLES = 1400

parser = argparse.ArgumentParser(description="Train a private classifier on a folder of pictures.")
parser.add_argument("--folder", help="one sub-folder for each class")
parser.add_argument("--output", help="folder for the model")
parser.add_argument("--epsilon", type=float, default=3.0)
parser.add_argument("--epochs", type=int, default=60)
flags = parser.parse_args([] if "ipykernel" in sys.modules else None)

# %%
if flags.folder is None:
    flags.folder = tempfile.mkdtemp()
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = pathlib.Path(flags.folder, str(label), f"{number:04}.png")
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.round(image * 255 / 16).astype("uint8")).save(path)

sizes = {"image_shape": IMAGE_SHAPE, "class_names": CLASS_NAMES}
data = kd.datasets.load("image_folder", flags.folder, **sizes)
print(f"{len(data.x_train)} pictures to train on, {len(data.x_test)} held out")

# %% [markdown]
# The plan works out the noise that keeps the whole training within epsilon. Delta is at most a
# tenth of 1/n.

# %%
plan = kd.PrivacyPlan.for_target(
    epsilon=flags.epsilon,
    delta=5e-5,
    num_examples=NUM_EXAMPLES,
    batch_size=NUM_EXAMPLES // 6,
    epochs=flags.epochs,
)
print(f"{plan.steps} steps, noise multiplier {plan.noise_multiplier:.2f}")

# %%
model = kd.DPViTClassifier.from_preset(PRESET, num_classes=data.num_classes)
model.compile(
    optimizer=kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(data.x_train, data.y_train, epochs=flags.epochs, verbose=0).history
loss, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
print(f"accuracy on held-out pictures {accuracy:.3f}, epsilon {history['epsilon'][-1]:.3f}")
print(model.privacy_statement())

# %% [markdown]
# A SavedModel for TensorFlow Serving, with class names and privacy card; `1` is its version.

# %%
version = pathlib.Path(flags.output or tempfile.mkdtemp(), "digits", "1")
kd.export.saved_model(model, version, class_names=data.class_names)
print("exported:", *sorted(path.name for path in version.iterdir()))
