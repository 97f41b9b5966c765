"""Getting a trained model out: SavedModel, TFLite, and the privacy card that goes with them."""

from keras_dpvit.export.calibration import synthetic_images
from keras_dpvit.export.card import privacy_card, write_privacy_card
from keras_dpvit.export.saved_model import saved_model
from keras_dpvit.export.tflite import tflite

__all__ = ["privacy_card", "saved_model", "synthetic_images", "tflite", "write_privacy_card"]
