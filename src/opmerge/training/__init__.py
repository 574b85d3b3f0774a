"""Training models: what training leaves of a student's initial error, closed form or fitted."""

from importlib import import_module
from pkgutil import iter_modules

from opmerge.training.models import (
    DEFAULT_MERGE_TIME,
    MODELS,
    EMAFlow,
    GammaRates,
    GradientDescent,
    GradientFlow,
    HeavyBall,
    Model,
    TrainingModel,
    training_from_dict,
)

__all__ = [
    "DEFAULT_MERGE_TIME",
    "MODELS",
    "EMAFlow",
    "GammaRates",
    "GradientDescent",
    "GradientFlow",
    "HeavyBall",
    "Model",
    "TrainingModel",
    "training_from_dict",
]

for _module in iter_modules(__path__, f"{__name__}."):  # each registers the models it defines
    import_module(_module.name)
