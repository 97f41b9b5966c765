"""Package metadata; tools are configured in pyproject.toml."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "keras_dpvit" / "version.py").read_text("utf-8")
).group(1)

# OpenCV from 4.12 on wants NumPy 2, which TensorFlow Privacy does not take.
EDGE = ["ai-edge-litert>=2.1", "opencv-python-headless>=4.8,<4.12"]
HUB = ["keras-hub==0.32.*"]
SERVING = ["tensorflow-serving-api==2.21.*"]
ENCRYPTION = ["cryptography>=42"]
ATTACKS = ["scikit-image>=0.24"]
TEST = [
    *EDGE,
    *HUB,
    *SERVING,
    *ENCRYPTION,
    *ATTACKS,
    "hypothesis>=6.100",
    "mypy>=1.10",
    "pytest>=8.0",
    "pytest-xdist>=3.0",
    "ruff>=0.5",
]

setuptools.setup(
    name="keras_dpvit",
    version=VERSION,
    description="Vision transformers trained on private images with differential privacy (Keras 3)",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_data={
        "keras_dpvit": ["*.pyi", "py.typed"],
        "keras_dpvit.*": ["*.pyi"],
        "keras_dpvit.native": ["*.cc", "*.h"],
    },
    # TensorFlow Privacy 0.9 needs Python < 3.12, the other pins need >= 3.11.
    python_requires=">=3.11,<3.12",
    packages=setuptools.find_packages(include=["keras_dpvit", "keras_dpvit.*", "trainers"]),
    install_requires=[
        "absl-py>=1.0",
        "dp-accounting==0.4.3",  # TensorFlow Privacy's own pin
        "importlib-resources>=5.0",  # tensorflow-datasets 4.9.10 imports it and declares it not
        "keras>=3.15,<4",
        "kymatio==0.3.0",  # filters of the scattering transform
        "lazy-loader>=0.4",
        "matplotlib>=3.8",
        "numpy>=1.26,<2",  # TensorFlow Privacy's ~=1.21
        "pillow>=10.0",
        "scikit-learn>=1.4",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.10",
        "tensorflow-privacy==0.9.0",
        "tqdm>=4.60",
    ],
    extras_require={
        "edge": EDGE,
        "hub": HUB,
        "serving": SERVING,
        "encryption": ENCRYPTION,
        "attacks": ATTACKS,
        "test": TEST,
    },
)
