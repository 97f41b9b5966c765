"""Runs TFLite files in MediaPipe's image classifier; runs in the engines' environment.

Usage: python benchmarks/side_mediapipe.py FILES IMAGES.npy ANSWERS.npz

FILES is a JSON object, name to path. IMAGES are uint8 `(n, height, width, 3)`. ANSWERS gets the
probabilities `(n, classes)` of each, by name, and the classes' names as NAME/labels.
"""

import json
import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def classify(path: str, images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Probabilities `(n, classes)` and the names of the classes, in order."""
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path))
    rows, names = [], {}
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in images:
            given = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
            categories = classifier.classify(given).classifications[0].categories
            names.update({category.index: category.category_name for category in categories})
            scores = {category.index: category.score for category in categories}
            rows.append([scores[index] for index in sorted(scores)])
    return np.array(rows), [names[index] for index in sorted(names)]


def main(files: str, images_file: str, answers_file: str) -> None:
    """Writes the answers, and prints the version as JSON."""
    images, answers = np.load(images_file), {}
    for name, path in json.loads(files).items():
        answers[name], labels = classify(path, images)
        answers[f"{name}/labels"] = np.array(labels)
    np.savez(answers_file, **answers)
    print(json.dumps({"mediapipe": mediapipe.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
