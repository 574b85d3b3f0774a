"""Training models: which fraction of a student's initial error training leaves (THEORY 3).

A student coordinate at step t trained on E|a z_t - target z_t|² ends at
``target + retention (init - target)``; the retention depends on training and on n_t = Var z_t.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError

__all__ = [
    "DEFAULT_MERGE_TIME",
    "GradientDescent",
    "GradientFlow",
    "TrainingModel",
    "training_from_dict",
]

DEFAULT_MERGE_TIME = 6.4
"""Optimisation time s of one merge in arXiv 2505.16024."""

_MOST_ITERATIONS = 10**18

Array = NDArray[np.float64]


@runtime_checkable
class TrainingModel(Protocol):
    """What a planner asks of training: the retention, and a record of its parameters."""

    @property
    def name(self) -> str:
        """Name under which plan files store the model."""
        ...

    def retention(self, variances: Array) -> Array:
        """Fraction of the initial error left where z_t has these variances n_t; same shape."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Name and parameters, as ``training_from_dict`` reads them."""
        ...


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow for optimisation time s: ``retention = exp(-2 s n_t)`` (arXiv 2505.16024).

    Args:
        time: s > 0, the optimisation time of one merge (learning rate times iterations).
    """

    time: float = DEFAULT_MERGE_TIME

    name = "gradient-flow"

    def __post_init__(self) -> None:
        _require_positive("merge_time", self.time)

    def retention(self, variances: Array) -> Array:
        """``exp(-2 s n_t)`` elementwise."""
        return np.exp(-2.0 * self.time * variances)

    def to_dict(self) -> dict[str, Any]:
        """``{"model": "gradient-flow", "time": s}``."""
        return {"model": self.name, **asdict(self)}


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch descent: ``retention = (1 - 2 η n_t)^N``, for η n_t <= 1/2 (THEORY 3).

    Descent is stable up to η n_t < 1, but beyond 1/2 the error changes sign at every iteration;
    no planner's proof covers that, so it is refused.

    Args:
        learning_rate: η > 0.
        num_iterations: N >= 1.
    """

    learning_rate: float
    num_iterations: int

    name = "gradient-descent"

    def __post_init__(self) -> None:
        _require_positive("learning_rate", self.learning_rate)
        if isinstance(self.num_iterations, bool) or not isinstance(self.num_iterations, int):
            raise InputError("num_iterations", "must be an integer", self.num_iterations)
        if self.num_iterations < 1:
            raise InputError("num_iterations", "must be >= 1", self.num_iterations)
        if self.num_iterations > _MOST_ITERATIONS:
            raise InputError("num_iterations", "must be <= 1e18", self.num_iterations)

    def retention(self, variances: Array) -> Array:
        """``(1 - 2 η n_t)^N`` elementwise.

        Raises:
            InputError: if η n_t > 1/2 for some n_t.
        """
        largest = float(np.max(variances))
        if self.learning_rate * largest > 0.5:
            raise InputError(
                "learning_rate",
                f"must be <= 1 / (2 max n_t) = {0.5 / largest:.6g} for monotone descent",
                self.learning_rate,
            )
        with np.errstate(divide="ignore"):
            log_step = np.log1p(-2.0 * self.learning_rate * variances)
        retention: Array = np.exp(self.num_iterations * log_step)
        return retention

    def to_dict(self) -> dict[str, Any]:
        """``{"model": "gradient-descent", "learning_rate": η, "num_iterations": N}``."""
        return {"model": self.name, **asdict(self)}


_MODELS: dict[str, type[GradientFlow] | type[GradientDescent]] = {
    model.name: model for model in (GradientFlow, GradientDescent)
}


def training_from_dict(data: Mapping[str, Any]) -> TrainingModel:
    """Build the training model that ``to_dict`` described.

    Raises:
        InputError: for an unknown model, or parameters that are missing, unknown or out of range.
    """
    if not isinstance(data, Mapping):
        raise InputError("training", "must be an object with a `model`", data)
    parameters = dict(data)
    model = parameters.pop("model", None)
    if not isinstance(model, str) or model not in _MODELS:
        raise InputError("training.model", f"must be one of {', '.join(_MODELS)}", repr(model))
    try:
        return _MODELS[model](**parameters)
    except TypeError as error:
        expected = ", ".join(_MODELS[model].__dataclass_fields__)
        raise InputError("training", f"must have the parameters {expected}", data) from error


def _require_positive(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(argument, "must be a number", value)
    if not 0 < value <= sys.float_info.max:
        raise InputError(argument, "must be finite and > 0", value)
