"""Running TFLite files on devices: needs numpy and LiteRT, neither TensorFlow nor Keras."""

from keras_dpvit.edge.runner import TFLiteRunner

__all__ = ["TFLiteRunner"]
