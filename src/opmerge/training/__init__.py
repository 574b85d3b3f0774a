"""Training models: what training leaves of a student's initial error, closed form or fitted."""

from opmerge.training.averaging import EMAFlow, HeavyBall
from opmerge.training.models import (
    DEFAULT_MERGE_TIME,
    GammaRates,
    GradientDescent,
    GradientFlow,
    TrainingModel,
    training_from_dict,
)

__all__ = [
    "DEFAULT_MERGE_TIME",
    "EMAFlow",
    "GammaRates",
    "GradientDescent",
    "GradientFlow",
    "HeavyBall",
    "TrainingModel",
    "training_from_dict",
]
