"""Export a SavedModel and ask it what is on a picture, here or through TensorFlow Serving.

For a real server, with the folder that `--output` names:

    docker run -p 8501:8501 -v FOLDER/digits:/models/digits -e MODEL_NAME=digits tensorflow/serving
    python examples/serve.py --url=http://localhost:8501/v1/models/digits
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np
import PIL.Image

import keras_dpvit as kd
from keras_dpvit.export.runners import SavedModelRunner
from keras_dpvit.export.serving_client import client_for

parser = argparse.ArgumentParser(description="Export a SavedModel and ask it.")
parser.add_argument("--url", help="of TensorFlow Serving; http:// for REST, grpc:// for gRPC")
parser.add_argument("--output", help="folder for the model")
parser.add_argument("--epochs", type=int, default=20)
flags = parser.parse_args()

data = kd.datasets.load("digits")
pictures = []
for image in data.x_test[:5]:
    path = pathlib.Path(tempfile.mkdtemp(), "picture.png")
    PIL.Image.fromarray(image[..., 0]).save(path)
    pictures.append(path.read_bytes())


def show(answers, names):
    """One line a picture; class names come from the model, not from this script."""
    for probabilities, label in zip(answers["probabilities"], data.y_test, strict=False):
        best = int(np.argmax(probabilities))
        print(f"a picture of {label}: answer {names[best]}, probability {probabilities[best]:.3f}")


if flags.url:
    client = client_for(flags.url, timeout=10.0)
    show(client.answers(pictures), client.class_names(data.num_classes))
    raise SystemExit

plan = kd.PrivacyPlan.for_target(
    epsilon=8.0, delta=5e-5, num_examples=1400, batch_size=233, epochs=flags.epochs
)
model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=data.num_classes)
model.compile(
    kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(data.x_train, data.y_train, epochs=flags.epochs, verbose=0)
# TensorFlow Serving takes the highest version: export the next model as digits/2.
version = pathlib.Path(flags.output or tempfile.mkdtemp(), "digits", "1")
kd.export.saved_model(model, version, class_names=data.class_names)

# The file alone answers, preprocessing included: this needs neither Keras nor the training code.
served = SavedModelRunner(version.parent)
print("signatures:", *served.signatures)
show(served.predict_files(pictures), served.class_names(data.num_classes))
answers = served.predict(data.x_test)
print(f"accuracy of the SavedModel {np.mean(answers['class_id'] == data.y_test):.3f}")
card = json.loads((version / "assets.extra" / "privacy_card.json").read_text())
print(f"privacy card in it: epsilon {card['epsilon']['rdp']:.3f} at delta {card['delta']:g}")
