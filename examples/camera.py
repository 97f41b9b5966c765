"""Label the frames of a camera with a TFLite file.

Without `--model` a small classifier is trained and written first; without `--source` a folder of
held-out pictures stands in for the camera. On a device, where there is no TensorFlow:

    python examples/camera.py --model=digits.tflite --source=0
"""

import argparse
import collections
import pathlib
import tempfile

from keras_dpvit.edge import TFLiteRunner, frames

parser = argparse.ArgumentParser(description="Label frames with a TFLite file.")
parser.add_argument("--model", help="a TFLite file")
parser.add_argument("--source", help="a folder, a video file or a camera's number")
parser.add_argument("--limit", type=int, help="frames at the most")
parser.add_argument("--epochs", type=int, default=20)
flags = parser.parse_args()


def trained_file():
    """A digits classifier as a TFLite file of 8-bit weights."""
    import keras

    import keras_dpvit as kd

    data = kd.datasets.load("digits")
    plan = kd.PrivacyPlan.for_target(
        epsilon=8.0, delta=5e-5, num_examples=1400, batch_size=233, epochs=flags.epochs
    )
    model = kd.DPViTClassifier.from_preset("dpvit_tiny_8", num_classes=data.num_classes)
    model.compile(
        kd.DPKerasAdamOptimizer(plan, learning_rate=5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(data.x_train, data.y_train, epochs=flags.epochs, verbose=0)
    path = pathlib.Path(tempfile.mkdtemp(), "digits.tflite")
    kd.export.tflite(model, path, quantize="dynamic", class_names=data.class_names)
    return path


def folder_of_frames(number=24):
    """Held-out digits as numbered PNG files."""
    import PIL.Image

    from keras_dpvit import datasets

    folder = pathlib.Path(tempfile.mkdtemp())
    data = datasets.load("digits")
    for frame in range(number):
        path = folder / f"frame_{frame:02}_shows_{data.y_test[frame]}.png"
        PIL.Image.fromarray(data.x_test[frame, ..., 0]).save(path)
    return folder


path = pathlib.Path(flags.model or trained_file())
runner = TFLiteRunner(path, num_threads=1)
print(f"{path.name}: {path.stat().st_size:,} bytes, images {runner.image_shape}")
source = frames.open_source(str(flags.source or folder_of_frames()))
seen = collections.Counter()
# Another thread reads ahead; of a live camera it drops frames rather than show old ones.
for frame in frames.read_ahead(source, runner.image_shape, with_pictures=False, limit=flags.limit):
    outputs = runner.predict(frame.pixels[None])
    class_id = int(outputs["class_id"][0])
    probability = outputs["probabilities"][0, class_id]
    seen[runner.label(class_id)] += 1
    print(f"{frame.name:24} {runner.label(class_id):4} {probability:.3f}")
print("frames by label:", *(f"{label} x {number}" for label, number in sorted(seen.items())))
