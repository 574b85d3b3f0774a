"""Training models with memory: a moving average of gradient flow, and heavy-ball momentum.

Both are linear recursions of second order: a moving average at rate β of the flow at rate r obeys
``m'' + (β + r) m' + β r m = 0``, a heavy ball that is never underdamped. Their retentions have
the same form, symmetric in the two rates or roots, and are written below without a difference of
nearly equal numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError

__all__ = ["EMAFlow", "HeavyBall"]

_LARGEST = 1e100  # leaves room for products in float64
_MOST_ITERATIONS = 10**18

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EMAFlow:
    """Gradient flow for time s of which the exponential moving average is kept (THEORY 3).

    The average starts where the student starts and follows it, ``m' = β (a - m)``, so

        retention = (β e^{-r s} - r e^{-β s}) / (β - r),    r = 2 n_t,

    and (1 + r s) e^{-r s} at β = r.
    The average is what later merges build on: it is their first child and part of their targets.
    Within a merge targets are fixed, so averaging the target network as well changes nothing;
    where all steps train at once it does (``opmerge_studies.stabilisation.mixing``). An average of
    decay D an iteration at learning rate η has β = -ln(D) / η.

    Args:
        time: s > 0, the optimisation time of one merge.
        rate: β > 0 per unit of optimisation time; ``β s`` time constants fit into a merge.

    Raises:
        InputError: naming the parameter that is out of range.
    """

    time: float
    rate: float

    name = "ema-flow"
    mode_weights = (1.0,)
    floor = 0.0

    def __post_init__(self) -> None:
        for key in ("time", "rate"):
            _require_positive(key, getattr(self, key))

    def retention(self, variances: Array, mode: int = 0) -> Array:
        """``e^{-low} (1 + low (1 - e^{-(high - low)}) / (high - low))`` elementwise.

        ``low`` and ``high`` are the smaller and the larger of r s and β s.
        """
        learned, averaged = 2.0 * self.time * variances, self.time * self.rate
        low, high = np.minimum(learned, averaged), np.maximum(learned, averaged)
        retention: Array = np.exp(-low) * (1.0 + low * _decline(high - low))
        return retention

    def to_dict(self) -> dict[str, Any]:
        """``{"model": "ema-flow", "time": s, "rate": β}``."""
        return {"model": self.name, **asdict(self)}


@dataclass(frozen=True)
class HeavyBall:
    """Full-batch descent with heavy-ball momentum, from rest (Polyak 1964; THEORY 3).

    With the gradient ``r = 2 n_t`` times the error,

        e_{k+1} = (1 + μ - η r) e_k - μ e_{k-1},    e_{-1} = e_0,
        retention = e_N / e_0 = (x_1^{N+1} (1 - x_2) - x_2^{N+1} (1 - x_1)) / (x_1 - x_2),

    x_1 >= x_2 the roots of ``x² - (1 + μ - η r) x + μ``. They are real and the error keeps its
    sign for ``η r <= (1 - √μ)²``; beyond, it swings through 0, which no planner's proof covers,
    so that is refused. Slow directions learn as by flow for time ``η N / (1 - μ)``.

    Args:
        learning_rate: η > 0.
        num_iterations: N >= 1.
        momentum: μ from 0 (gradient descent) to below 1.

    Raises:
        InputError: naming the parameter that is out of range.
    """

    learning_rate: float
    num_iterations: int
    momentum: float

    name = "heavy-ball"
    mode_weights = (1.0,)
    floor = 0.0

    def __post_init__(self) -> None:
        _require_positive("learning_rate", self.learning_rate)
        if check_count("num_iterations", self.num_iterations) > _MOST_ITERATIONS:
            raise InputError("num_iterations", "must be <= 1e18", self.num_iterations)
        if not 0 <= check_number("momentum", self.momentum) < 1:
            raise InputError("momentum", "must be >= 0 and < 1", self.momentum)

    def retention(self, variances: Array, mode: int = 0) -> Array:
        """``x_1^{N+1} (1 + (1 - x_1) (1 - (x_2/x_1)^{N+1}) / (x_1 - x_2))`` elementwise.

        Raises:
            InputError: if ``2 η n_t > (1 - √μ)²`` for some n_t.
        """
        root = np.sqrt(self.momentum)
        speed = 2.0 * self.learning_rate * np.asarray(variances, dtype=np.float64)
        overdamping = (1.0 - root) ** 2 - speed
        if (overdamping < 0).any():
            limit = 0.5 * (1.0 - root) ** 2 / float(np.max(variances))
            raise InputError(
                "learning_rate",
                f"must be <= (1 - √momentum)² / (2 max n_t) = {limit:.6g} for monotone descent",
                self.learning_rate,
            )
        gap = np.sqrt(overdamping * ((1.0 + root) ** 2 - speed))
        rest = 0.5 * (1.0 - self.momentum + speed + gap)
        slow = speed / rest  # 1 - x_1, because (1 - x_1)(1 - x_2) = η r
        count = self.num_iterations + 1
        with np.errstate(divide="ignore", invalid="ignore"):
            log_larger = np.log1p(-slow)
            ratio = gap / (1.0 - slow)
            unlike = -np.expm1(count * np.log1p(-np.minimum(ratio, 1.0))) / gap
            geometric = np.where(gap > 0, unlike, count / (1.0 - slow))
            retention = np.exp(count * log_larger) * (1.0 + slow * geometric)
        return np.where(slow < 1.0, retention, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """``{"model": "heavy-ball", "learning_rate": η, "num_iterations": N, "momentum": μ}``."""
        return {"model": self.name, **asdict(self)}


def _decline(value: Array) -> Array:
    """``(1 - e^{-x}) / x``, 1 at 0."""
    positive = np.where(value > 0, value, 1.0)
    decline: Array = np.where(value > 0, -np.expm1(-positive) / positive, 1.0)
    return decline


def _require_positive(argument: str, value: object) -> None:
    if not 0 < check_number(argument, value) <= _LARGEST:
        raise InputError(argument, "must be > 0 and <= 1e100", value)
