"""Image data sets as plain arrays, read from disk or from an installed package."""

from keras_dpvit.datasets.array_records import ArrayRecords, to_array_record
from keras_dpvit.datasets.image_data import ImageData
from keras_dpvit.datasets.image_files import Reading
from keras_dpvit.datasets.loading import DATASETS, load

__all__ = ["DATASETS", "ArrayRecords", "ImageData", "Reading", "load", "to_array_record"]
