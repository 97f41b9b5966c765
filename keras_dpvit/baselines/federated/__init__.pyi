from .partition import split as split
from .plans import RecordPrivacy as RecordPrivacy
from .plans import client_plan as client_plan
from .training import FederatedResult as FederatedResult
from .training import train as train
