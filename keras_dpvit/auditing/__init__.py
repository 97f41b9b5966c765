"""What an adversary learns from a training, tried out."""

from keras_dpvit.auditing.neighbours import Neighbours, adversarial_records, neighbours

__all__ = ["Neighbours", "adversarial_records", "neighbours"]
