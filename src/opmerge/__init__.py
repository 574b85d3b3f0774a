"""Certified merge plans for diffusion trajectory distillation.

>>> from opmerge import Problem, cosine_schedule, eigenvalue_spectrum, find_plan
>>> problem = Problem(eigenvalue_spectrum([0.2, 0.5, 2.5]), cosine_schedule(64))
>>> result = find_plan(problem)
>>> result.gap < 1e-9
True

Docstrings cite sections of docs/theory.md, where formulas are derived, as THEORY.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opmerge.data import SourceOptions, open_source
    from opmerge.errors import InputError
    from opmerge.linear_teacher import LinearTeacher
    from opmerge.merging import Outcome, evaluate
    from opmerge.metrics import gaussian_w2
    from opmerge.planners import PlannerResult, find_plan
    from opmerge.plans import Merge, Plan, PlanFile, Tree, build_strategy, parse_plan
    from opmerge.problem import Problem
    from opmerge.schedules import (
        NoiseSchedule,
        arrays_schedule,
        cosine_schedule,
        diffusers_schedule,
        resolve_schedule,
    )
    from opmerge.spectra import Spectrum, eigenvalue_spectrum, estimate_spectrum, resolve_spectrum
    from opmerge.training import (
        EMAFlow,
        GammaRates,
        GradientDescent,
        GradientFlow,
        HeavyBall,
        TrainingModel,
    )

__all__ = [
    "EMAFlow",
    "GammaRates",
    "GradientDescent",
    "GradientFlow",
    "HeavyBall",
    "InputError",
    "LinearTeacher",
    "Merge",
    "NoiseSchedule",
    "Outcome",
    "Plan",
    "PlanFile",
    "PlannerResult",
    "Problem",
    "SourceOptions",
    "Spectrum",
    "TrainingModel",
    "Tree",
    "arrays_schedule",
    "build_strategy",
    "cosine_schedule",
    "diffusers_schedule",
    "eigenvalue_spectrum",
    "estimate_spectrum",
    "evaluate",
    "find_plan",
    "gaussian_w2",
    "open_source",
    "parse_plan",
    "resolve_schedule",
    "resolve_spectrum",
]

_HOMES = (
    "errors",
    "schedules",
    "data",
    "spectra",
    "linear_teacher",
    "training",
    "problem",
    "plans",
    "merging",
    "metrics",
    "planners",
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use: numba alone takes longer than ``opmerge --help`` may."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"{__name__}.{home}")
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
