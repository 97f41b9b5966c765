from .neighbouring_records import Neighbours as Neighbours
from .neighbouring_records import adversarial_records as adversarial_records
from .neighbouring_records import neighbours as neighbours
