"""Hide images under a key, train on the hidden ones, and see what an attacker sees.

This is obfuscation, not confidentiality: it hides images from a casual viewer. The last part finds
the key from two hidden photographs and nothing else. Differential privacy and the key are about
different things: epsilon is about the finished model, the key about who looks at the images.
"""

import argparse
import pathlib
import tempfile

import keras
import numpy as np
from sklearn.datasets import load_sample_images

import keras_dpvit as kd
from keras_dpvit import encryption
from keras_dpvit.attacks import correlation_jigsaw
from keras_dpvit.attacks.ssim import ssim

parser = argparse.ArgumentParser(description="Hide images under a key.")
parser.add_argument("--output", help="folder for the key")
parser.add_argument("--epochs", type=int, default=40)
flags = parser.parse_args()

# A key file that its owner alone can read. The block is the vision transformer's patch.
path = pathlib.Path(flags.output or tempfile.mkdtemp(), "key.json")
secret = encryption.SecretKey.generate()
encryption.write_key_file(path, encryption.KeyFile(secret, "vit_block", {"block_size": 2}))
data = kd.datasets.load("digits")
cipher = encryption.read_key_file(path).cipher(data.image_shape)
hidden_train, hidden_test = cipher.encrypt(data.x_train), cipher.encrypt(data.x_test)
print(f"key {cipher.kid}: the owner gets every pixel back:", end=" ")
print(np.array_equal(cipher.decrypt(hidden_test), data.x_test))

# Whoever trains sees hidden images alone.
plan = kd.PrivacyPlan.for_target(
    epsilon=8.0, delta=5e-5, num_examples=1400, batch_size=233, epochs=flags.epochs
)
model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=data.num_classes)
model.compile(
    kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(hidden_train, data.y_train, epochs=flags.epochs, verbose=0)
for name, images in {"hidden": hidden_test, "plain": data.x_test}.items():
    _, accuracy = model.evaluate(images, data.y_test, verbose=0)
    print(f"accuracy on {name} images {accuracy:.3f}")

# The attacker has two photographs under one key, hidden, and neither key nor plain images.
photographs = np.stack([image[:224, :224] for image in load_sample_images().images])
cipher = encryption.make_cipher("vit_block", secret, photographs.shape[1:], block_size=16)
hidden = cipher.encrypt(photographs)
found = correlation_jigsaw.recover(hidden, block_size=16)
recovered = found.decrypt(hidden)
for name, images in {"hidden": hidden, "recovered by the attacker": recovered}.items():
    print(f"similarity to the photographs (SSIM), {name}: {ssim(photographs, images).mean():.2f}")
exact = np.array_equal(recovered, photographs)
print("The attacker has the photographs exactly." if exact else "The attacker got some of them.")
print("Hidden images are obfuscated and not confidential.")
