"""Image data sets as plain arrays, read from disk or from an installed package."""

from keras_dpvit.datasets.array_records import ArrayRecords, to_array_record
from keras_dpvit.datasets.image_data import ImageData
from keras_dpvit.datasets.image_files import Reading
from keras_dpvit.datasets.loading import DATASETS, load
from keras_dpvit.datasets.synthetic import ShapeImages, synthetic_shapes

__all__ = [
    "DATASETS",
    "ArrayRecords",
    "ImageData",
    "Reading",
    "ShapeImages",
    "load",
    "synthetic_shapes",
    "to_array_record",
]
