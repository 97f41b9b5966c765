from . import attacks as attacks
from . import auditing as auditing
from . import baselines as baselines
from . import datasets as datasets
from . import edge as edge
from . import encryption as encryption
from . import export as export
from . import gradients as gradients
from . import layers as layers
from . import models as models
from . import plots as plots
from . import privacy as privacy
from . import report as report
from . import reproduction as reproduction
from . import runs as runs
from . import training as training
from .errors import InputError as InputError
from .layers.fusion import AdaptiveWeightedFusion as AdaptiveWeightedFusion
from .loading import load_model as load_model
from .models.backbone import DPViTBackbone as DPViTBackbone
from .models.batch_normalization import (
    replace_batch_normalization as replace_batch_normalization,
)
from .models.classifier import DPViTClassifier as DPViTClassifier
from .models.description import describe as describe
from .models.fused import FusedClassifier as FusedClassifier
from .models.trainable import choose_trainable as choose_trainable
from .privacy.clipping import AutomaticClipping as AutomaticClipping
from .privacy.clipping import FixedLayerClipping as FixedLayerClipping
from .privacy.clipping import FlatClipping as FlatClipping
from .privacy.clipping import MedianLayerClipping as MedianLayerClipping
from .privacy.ledger import PrivacyLedger as PrivacyLedger
from .privacy.noise_schedules import ConstantNoise as ConstantNoise
from .privacy.noise_schedules import LinearNoise as LinearNoise
from .privacy.noise_schedules import StepNoise as StepNoise
from .privacy.plan import PrivacyPlan as PrivacyPlan
from .privacy.private_selection import TrialCount as TrialCount
from .privacy.private_selection import random_trials as random_trials
from .privacy.sensitivity import DynamicSensitivity as DynamicSensitivity
from .privacy.sensitivity import FixedSensitivity as FixedSensitivity
from .training.augmentation import Augmentation as Augmentation
from .training.callbacks import PrivacyBudget as PrivacyBudget
from .training.example_independence import check_examples_independent as check_examples_independent
from .training.initial_weights import load_initial_weights as load_initial_weights
from .training.losses import PerClassBinaryCrossentropy as PerClassBinaryCrossentropy
from .training.optimizers import DPKerasAdamOptimizer as DPKerasAdamOptimizer
from .training.optimizers import DPKerasSGDOptimizer as DPKerasSGDOptimizer
from .training.optimizers import private as private
from .training.own_loop import PrivateStep as PrivateStep
from .training.private_mean import center_features as center_features
from .training.private_mean import private_mean as private_mean
from .training.private_metrics import PrivateMetrics as PrivateMetrics
from .training.private_wrapper import make_private as make_private

__version__: str
