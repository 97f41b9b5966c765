"""keras_dpvit: vision transformers trained on private images with differential privacy.

Names are loaded when they are first used, so that planning a run does not wait for TensorFlow.
"""

import importlib
from typing import Any

from keras_dpvit.version import __version__

_HOME = {
    "InputError": "errors",
    "PrivacyPlan": "privacy.plan",
    "PrivacyLedger": "privacy.ledger",
    "MedianLayerClipping": "privacy.clipping",
    "FlatClipping": "privacy.clipping",
    "FixedLayerClipping": "privacy.clipping",
    "AutomaticClipping": "privacy.clipping",
    "ConstantNoise": "privacy.schedules",
    "StepNoise": "privacy.schedules",
    "LinearNoise": "privacy.schedules",
    "DynamicSensitivity": "privacy.sensitivity",
    "FixedSensitivity": "privacy.sensitivity",
    "DPViTBackbone": "models.backbone",
    "DPViTClassifier": "models.classifier",
    "FusedClassifier": "models.fused",
    "describe": "models.description",
    "AdaptiveWeightedFusion": "layers.fusion",
    "DPKerasSGDOptimizer": "training.optimizers",
    "DPKerasAdamOptimizer": "training.optimizers",
    "choose_trainable": "models.trainable",
    "load_initial_weights": "training.fine_tuning",
    "Augmentation": "training.augmentation",
    "PrivacyBudget": "training.callbacks",
    "PrivateMetrics": "training.private_metrics",
    "TrialCount": "privacy.tuning",
    "random_trials": "privacy.tuning",
    "load_model": "loading",
    "make_private": "training.dp_model",
    "PerClassBinaryCrossentropy": "training.losses",
    "validate": "training.validation",
}
_ROOMS = (
    "auditing", "datasets", "encryption", "export", "gradients", "layers", "models", "plots",
    "privacy", "training",
)  # fmt: skip

__all__ = ["__version__", *_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
