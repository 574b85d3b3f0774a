"""When one eigenvalue's student is nearer to the data than its teacher (question 3).

The teacher falls short of the data by a factor exp(l), ``l = log(√λ / (√n_T P)) = -Σ log cos φ_t``,
which is >= 0 (THEORY 2). A student with excess e > 0 makes up for it:

    |exp(e) - exp(l)| < |1 - exp(l)|    if and only if    0 < e < log(2 exp(l) - 1),

about 2 l, and at e = l it has the data's variance exactly. So a student overtakes its teacher
where its plan overshoots, and from the optimisation time on at which the overshoot is that small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from opmerge.merging import evaluate
from opmerge.plans import Plan
from opmerge.problem import Problem
from opmerge.spectra import eigenvalue_spectrum

_SCAN = np.geomspace(1e-2, 1e2, 60)  # times between which a change is bracketed

Array = NDArray[np.float64]


class OvertakingTimes(NamedTuple):
    """Optimisation times, in multiples of the problem's training.

    Args:
        first: from which on the student is nearer to the data than its teacher; None if never.
        until: at which it ceases to be; None if it does not.
        perfect: at which it first has the data's variance; None if never.
    """

    first: float | None
    until: float | None
    perfect: float | None


def nearer_excesses(log_data_ratio: Array) -> tuple[Array, Array]:
    """The ends (low, high) between which a student's excess puts it nearer to the data.

    0 and ``log(2 exp(l) - 1)``. A teacher that spreads more than the data (l < 0, which only one
    that has learned another λ can do) is beaten by students that shrink; below ``l = -ln 2`` by
    all of these.

    Args:
        log_data_ratio: l = log of the data's standard deviation over the teacher's, any shape.
    """
    with np.errstate(divide="ignore"):
        other = np.log1p(np.maximum(2.0 * np.expm1(log_data_ratio), -1.0))
    return np.minimum(other, 0.0), np.maximum(other, 0.0)


def vanilla_overtaking_time(problem: Problem) -> Array:
    """(d,) times from which vanilla's student is nearer to the data: closed form.

    With ``a = 1/P(0, T-1) - 1 > 0`` its excess is ``log1p(a exp(-r x))``, below
    ``log(2 exp(l) - 1)`` for ``x > log(a / (2 (exp(l) - 1))) / r``; by gradient flow r = 2 n_T.
    As exp(l) - 1 falls as 1/T, the time grows as log(T) / r. Infinite for a <= 0, where vanilla
    shrinks and never overtakes; 0 where the untrained student is nearer already.
    """
    rates = -np.log(problem.retentions[-1])
    start = np.expm1(-problem.teacher.log_composite(0, problem.num_steps - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.log(start / (2.0 * np.expm1(problem.teacher.log_data_ratio))) / rates
    return np.where(start > 0, np.maximum(times, 0.0), np.inf)


def overtaking_times(problem: Problem, plan: Plan) -> list[OvertakingTimes]:
    """When a plan's student, trained equally long in each merge, is nearer to the data.

    Changes are searched for among multiples from 0.01 to 100 of the problem's training. For
    λ <= 1 and operator copy the excess is positive and falls with time, so there is one at most.

    Args:
        problem: of any eigenvalues, each taken alone.
        plan: for its number of steps.

    Returns:
        One for each column of the problem.
    """
    scanned = np.array([_excess(problem, plan, time) for time in _SCAN])
    return [
        _overtaking(replace(problem, spectrum=eigenvalue_spectrum([value])), plan, column)
        for value, column in zip(problem.eigenvalues, scanned.T, strict=True)
    ]


def _overtaking(problem: Problem, plan: Plan, scanned: Array) -> OvertakingTimes:
    """The overtaking of one eigenvalue, from its excess at the scanned times."""
    ratio = problem.teacher.log_data_ratio
    low, high = nearer_excesses(ratio)

    def changes(margin: Callable[[Array], Array]) -> list[float]:
        """Times at which a function of the excess changes sign."""

        def at(time: float) -> float:
            return float(margin(_excess(problem, plan, time))[0])

        values = margin(scanned)
        brackets = (_SCAN[n : n + 2] for n in np.flatnonzero(values[1:] * values[:-1] < 0))
        return [float(brentq(at, *bracket, rtol=1e-12)) for bracket in brackets]

    inside = changes(lambda excess: np.minimum(excess - low, high - excess))
    if low < scanned[0] < high:
        inside = [float(_SCAN[0]), *inside]
    first, until, *_ = [*inside, None, None]
    return OvertakingTimes(first, until, next(iter(changes(lambda excess: excess - ratio)), None))


def _excess(problem: Problem, plan: Plan, time: float) -> Array:
    return evaluate(problem, plan, np.full(len(plan.merges), time)).excess
