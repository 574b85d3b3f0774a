"""Training models: which fraction of a student's initial error training leaves (THEORY 3).

A student coordinate at step t trained on E|a z_t - target z_t|² ends at
``target + retention (init - target)``; the retention depends on training and on n_t = Var z_t.

A new model is a class derived from ``Model``, in this file or in one of its own beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_count, check_number
from opmerge.errors import InputError

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

DEFAULT_MERGE_TIME = 6.4
"""Optimisation time s of one merge in arXiv 2505.16024."""

_MOST_ITERATIONS = 10**18
_LARGEST = 1e100  # leaves room for products in float64
_TAIL = 1e-12  # probability of the gamma law's tails that are left out
_UNLEARNED = 1e-4  # a rate so low that its retention is 1


@runtime_checkable
class TrainingModel(Protocol):
    """What a planner asks of training: the retention, and a record of its parameters.

    Where parts of the error are learned at different rates, each part is a *mode*: it has a
    retention of its own, which is its own in every merge, and the squared errors add up with the
    modes' weights. Most models have one mode.
    """

    @property
    def name(self) -> str:
        """Name under which plan files store the model."""

    @property
    def mode_weights(self) -> tuple[float, ...]:
        """Share of each mode in the squared error; they sum to 1."""
        return (1.0,)

    @property
    def floor(self) -> float:
        """Squared error >= 0, a direction of x_0, that each merge adds whatever it starts from."""
        return 0.0

    def retention(self, variances: Array, mode: int = 0) -> Array:
        """(…) fraction of the initial error left where z_t has these (…) variances n_t."""

    def to_dict(self) -> dict[str, Any]:
        """``{"model": name, …}`` with the parameters by name, as ``training_from_dict`` reads."""


MODELS: dict[str, type[Model]] = {}
"""Every training model by its name."""


@dataclass(frozen=True)
class Model(TrainingModel):
    """Base of the models that can be named; refuses parameters with ``InputError``."""

    name: ClassVar[str]
    is_exponential: ClassVar[bool] = True
    """Whether x times the training leaves the retention ρ^x of each mode."""

    def __init_subclass__(cls) -> None:
        MODELS[cls.name] = cls

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.name, **asdict(self)}


@dataclass(frozen=True)
class GradientFlow(Model):
    """Gradient flow for time s: ``retention = exp(-2 s n_t)`` (arXiv 2505.16024)."""

    time: float = DEFAULT_MERGE_TIME
    """s > 0, learning rate times iterations of one merge."""

    name = "gradient-flow"

    def __post_init__(self) -> None:
        _require_positive("merge_time", self.time)

    def retention(self, variances: Array, mode: int = 0) -> Array:
        return np.exp(-2.0 * self.time * variances)


@dataclass(frozen=True)
class GradientDescent(Model):
    """Full-batch descent: ``retention = (1 - 2 η n_t)^N``, for η n_t <= 1/2 (THEORY 3).

    Learning rate η > 0, N from 1 to 1e18 iterations. Descent is stable up to η n_t < 1, but beyond
    1/2 the error changes sign at every iteration; no planner's proof covers that: ``InputError``.
    """

    learning_rate: float
    num_iterations: int

    name = "gradient-descent"

    def __post_init__(self) -> None:
        _require_positive("learning_rate", self.learning_rate)
        if isinstance(self.num_iterations, bool) or not isinstance(self.num_iterations, int):
            raise InputError("num_iterations", "must be an integer", self.num_iterations)
        _require_iterations("num_iterations", self.num_iterations)

    def retention(self, variances: Array, mode: int = 0) -> Array:
        largest = float(np.max(variances))
        if self.learning_rate * largest > 0.5:
            raise _too_fast(self.learning_rate, "1 / (2 max n_t)", 0.5 / largest)
        with np.errstate(divide="ignore"):
            log_step = np.log1p(-2.0 * self.learning_rate * variances)
        return np.exp(self.num_iterations * log_step)


# Models with memory are linear recursions of second order: a moving average at rate β of the flow
# at rate r obeys m'' + (β + r) m' + β r m = 0, a heavy ball that is never underdamped. Their
# retentions have the same form, symmetric in the two rates or roots, and are written without a
# difference of nearly equal numbers.


@dataclass(frozen=True)
class EMAFlow(Model):
    """Gradient flow for time s of which the exponential moving average is kept (THEORY 3).

    The average starts where the student starts and follows it, ``m' = β (a - m)``, so

        retention = (β e^{-r s} - r e^{-β s}) / (β - r),    r = 2 n_t,

    and (1 + r s) e^{-r s} at β = r. The average is what later merges build on: it is their first
    child and part of their targets. Within a merge targets are fixed, so averaging the target
    network as well changes nothing; where all steps train at once it does
    (``opmerge_studies.stabilisation``). An average of decay D an iteration at learning rate
    η has β = -ln(D) / η.
    """

    time: float
    """s > 0, the optimisation time of one merge."""
    rate: float
    """β > 0 per unit of that time."""

    name = "ema-flow"
    is_exponential = False

    def __post_init__(self) -> None:
        _require_usable("time", self.time)
        _require_usable("rate", self.rate)

    def retention(self, variances: Array, mode: int = 0) -> Array:
        """(…) ``e^{-low} (1 + low (1 - e^{-gap}) / gap)``, low and low + gap being r s and β s."""
        learned, averaged = 2.0 * self.time * variances, self.time * self.rate
        low, gap = np.minimum(learned, averaged), np.abs(learned - averaged)
        positive = np.where(gap > 0, gap, 1.0)
        decline = np.where(gap > 0, -np.expm1(-positive) / positive, 1.0)
        return np.exp(-low) * (1.0 + low * decline)


@dataclass(frozen=True)
class HeavyBall(Model):
    """Full-batch descent with heavy-ball momentum, from rest (Polyak 1964; THEORY 3).

    With the gradient ``r = 2 n_t`` times the error,

        e_{k+1} = (1 + μ - η r) e_k - μ e_{k-1},    e_{-1} = e_0,
        retention = e_N / e_0 = (x_1^{N+1} (1 - x_2) - x_2^{N+1} (1 - x_1)) / (x_1 - x_2),

    x_1 >= x_2 the roots of ``x² - (1 + μ - η r) x + μ``. They are real and the error keeps its
    sign for ``η r <= (1 - √μ)²``; beyond, it swings through 0, which no planner's proof covers,
    so ``retention`` refuses it (``InputError``). Slow directions learn as by flow for time
    ``η N / (1 - μ)``.

    Learning rate η > 0, N from 1 to 1e18 iterations, momentum 0 (gradient descent) <= μ < 1.
    """

    learning_rate: float
    num_iterations: int
    momentum: float

    name = "heavy-ball"
    is_exponential = False

    def __post_init__(self) -> None:
        _require_usable("learning_rate", self.learning_rate)
        _require_iterations("num_iterations", self.num_iterations)
        if not 0 <= check_number("momentum", self.momentum) < 1:
            raise InputError("momentum", "must be >= 0 and < 1", self.momentum)

    def retention(self, variances: Array, mode: int = 0) -> Array:
        """(…) ``x_1^{N+1} (1 + (1 - x_1) (1 - (x_2/x_1)^{N+1}) / (x_1 - x_2))``."""
        root = np.sqrt(self.momentum)
        speed = 2.0 * self.learning_rate * np.asarray(variances, dtype=np.float64)
        overdamping = (1.0 - root) ** 2 - speed
        if (overdamping < 0).any():
            limit = 0.5 * (1.0 - root) ** 2 / float(np.max(variances))
            raise _too_fast(self.learning_rate, "(1 - √momentum)² / (2 max n_t)", limit)
        gap = np.sqrt(overdamping * ((1.0 + root) ** 2 - speed))
        rest = 0.5 * (1.0 - self.momentum + speed + gap)
        slow = speed / rest  # 1 - x_1, because (1 - x_1)(1 - x_2) = η r
        count = self.num_iterations + 1
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = gap / (1.0 - slow)
            unlike = -np.expm1(count * np.log1p(-np.minimum(ratio, 1.0))) / gap
            geometric = np.where(gap > 0, unlike, count / (1.0 - slow))
            retention = np.exp(count * np.log1p(-slow)) * (1.0 + slow * geometric)
        return np.where(slow < 1.0, retention, 0.0)


@dataclass(frozen=True)
class GammaRates(Model):
    """A network whose error is learned at rates k spread by a gamma law: ``retention = exp(-k)``.

    At variance n of its input, after N iterations at the highest learning rate η,

        k ~ Gamma(a, θ (N/N₀) (η/η₀)^q n^p),    E[retention²] = (1 + 2 θ (N/N₀) (η/η₀)^q n^p)^(-a):

    a power law of training with exponent a. One network's slow part is slow in every merge, so
    a mode keeps its place in the law. a → ∞ at p = 1 is gradient flow with
    ``2 s = a θ (N/N₀) (η/η₀)^q``.

    The law is read at ``num_modes`` points by the trapezoidal rule in log k, which converges
    exponentially: 16 points give E[retention²] to 2 % for a from 0.05 to 1e4 and θ n^p from 0.05
    to 1e5, and distances of whole plans to 1 % (``tests/training/test_spread_rates.py``).

    Args:
        shape: a from 0.001 to 1e6.
        scale: θ > 0, of a merge with N₀ iterations at η₀.
        exponent: p from 0 to 4.
        num_iterations: N >= 1 of each merge.
        learning_rate: η > 0 of each merge.
        fitted_iterations: N₀ >= 1.
        fitted_learning_rate: η₀ > 0.
        learning_rate_exponent: q from 0 to 4.
        floor: squared error >= 0 that training adds in each merge (see ``TrainingModel``).
        num_modes: from 4 to 256.

    Raises:
        InputError: for others.
    """

    shape: float
    scale: float
    exponent: float
    num_iterations: int
    learning_rate: float
    fitted_iterations: int
    fitted_learning_rate: float
    learning_rate_exponent: float = 1.0
    floor: float = 0.0
    num_modes: int = 16

    name = "gamma-rates"

    def __post_init__(self) -> None:
        _require_range("shape", self.shape, 1e-3, 1e6)
        for key in ("scale", "learning_rate", "fitted_learning_rate"):
            _require_positive(key, getattr(self, key))
        for key in ("exponent", "learning_rate_exponent"):
            _require_range(key, getattr(self, key), 0, 4)
        for key in ("num_iterations", "fitted_iterations"):
            _require_iterations(key, getattr(self, key))
        _require_range("floor", self.floor, 0, _LARGEST)
        _require_range("num_modes", check_count("num_modes", self.num_modes), 4, 256)
        if not 1 / _LARGEST <= self.scale_used <= _LARGEST:
            raise InputError("scale", "must give rates from 1e-100 to 1e100", self.scale_used)

    @property
    def scale_used(self) -> float:
        """θ (N/N₀) (η/η₀)^q, the scale at the iterations and the learning rate that are used."""
        speed = float(self.learning_rate) / self.fitted_learning_rate
        budget = self.num_iterations / self.fitted_iterations
        return float(self.scale * budget * np.float64(speed) ** self.learning_rate_exponent)

    @property
    def mode_weights(self) -> tuple[float, ...]:
        return tuple(self._law[1].tolist())

    def retention(self, variances: Array, mode: int = 0) -> Array:
        """(…) ``exp(-k_m n^p)``, k_m the rate of the mode at n = 1; slowest mode first."""
        return np.exp(-self._law[0][mode] * variances**self.exponent)

    def mean_square(self, variances: Array) -> Array:
        """(…) ``E[retention²] = (1 + 2 θ (N/N₀) (η/η₀)^q n^p)^(-a)`` of (…) variances n."""
        spread = 2.0 * self.scale_used * variances**self.exponent
        return np.exp(-self.shape * np.log1p(spread))

    @cached_property
    def _law(self) -> tuple[Array, Array]:
        """(M,) rates at n = 1 and (M,) weights.

        Modes lie evenly in v = log(k / θ a), where the density is exp(a (v + 1 - e^v)). The
        slowest stands for all that would follow it, whose weights are a geometric series: it has
        their sum and their mean rate.
        """
        from scipy.special import gammainccinv, gammaincinv

        highest = gammainccinv(self.shape, _TAIL)
        unlearned = min(_UNLEARNED / self.scale_used, _UNLEARNED * highest)
        lowest = max(gammaincinv(self.shape, _TAIL), unlearned)
        grid = np.linspace(np.log(lowest), np.log(highest), self.num_modes) - np.log(self.shape)
        weights = np.exp(self.shape * (grid - np.expm1(grid)))
        rates = self.scale_used * self.shape * np.exp(grid)
        gap = grid[1] - grid[0]
        following = -1.0 / np.expm1(-self.shape * gap)
        weights[0] *= following
        rates[0] /= -np.expm1(-(self.shape + 1.0) * gap) * following
        return rates, weights / weights.sum()


def training_from_dict(data: Mapping[str, Any]) -> TrainingModel:
    """Build the training model that ``to_dict`` described.

    Raises:
        InputError: for an unknown model, or parameters that are missing, unknown or out of range.
    """
    if not isinstance(data, Mapping):
        raise InputError("training", "must be an object with a `model`", data)
    parameters = dict(data)
    name = parameters.pop("model", None)
    if not isinstance(name, str) or name not in MODELS:
        raise InputError("training.model", f"must be one of {', '.join(MODELS)}", repr(name))
    try:
        return MODELS[name](**parameters)
    except TypeError as error:
        expected = ", ".join(signature(MODELS[name]).parameters)
        raise InputError("training", f"must have the parameters {expected}", data) from error


def _too_fast(learning_rate: float, bound: str, limit: float) -> InputError:
    requirement = f"must be <= {bound} = {limit:.6g} for monotone descent"
    return InputError("learning_rate", requirement, learning_rate)


def _require_positive(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(argument, "must be a number", value)
    if not 0 < value <= sys.float_info.max:
        raise InputError(argument, "must be finite and > 0", value)


def _require_usable(argument: str, value: object) -> None:
    if not 0 < check_number(argument, value) <= _LARGEST:
        raise InputError(argument, "must be > 0 and <= 1e100", value)


def _require_iterations(argument: str, count: object) -> None:
    _require_range(argument, check_count(argument, count), 1, _MOST_ITERATIONS)


def _require_range(argument: str, value: object, low: float, high: float) -> None:
    if not low <= check_number(argument, value) <= high:
        raise InputError(argument, f"must be from {low:g} to {high:g}", value)


for _module in iter_modules(__path__, f"{__name__}."):  # each registers the models it defines
    import_module(_module.name)
