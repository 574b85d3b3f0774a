"""What every planner returns: a plan, what it costs, and how much better any plan could be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from importlib import import_module
from typing import ParamSpec

from opmerge.errors import InputError
from opmerge.merging import Outcome
from opmerge.plans.tree import Plan

P = ParamSpec("P")


@dataclass(frozen=True, eq=False)
class PlannerResult:
    """A plan with its certificate.

    ``lower_bound`` is a W2 distance that no plan for the problem can go below, proved up to
    rounding in float64; each of the notes is a line: why this planner, what limits the bound.
    ``cut_short`` where the time was up before the search ended: both are then what it had.
    """

    outcome: Outcome
    lower_bound: float
    planner: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    cut_short: bool = False

    def __post_init__(self) -> None:
        # The bound and the value are computed along different routes and may cross by rounding.
        object.__setattr__(self, "lower_bound", float(min(max(self.lower_bound, 0.0), self.w2)))

    @property
    def plan(self) -> Plan:
        """The best plan found."""
        return self.outcome.plan

    @property
    def w2(self) -> float:
        """Its W2 distance: the upper bound on the optimum."""
        return self.outcome.w2

    @property
    def gap(self) -> float:
        """Relative gap (w2 - lower_bound) / w2, proved; 0 where w2 is 0."""
        return (self.w2 - self.lower_bound) / self.w2 if self.w2 > 0 else 0.0


PLANNERS: dict[str, Callable[..., PlannerResult]] = {}
"""Every planner by the name that ``find_plan`` and the command line use."""

_PLACES: dict[str, int] = {}


def planner(
    name: str, place: int | None = None
) -> Callable[[Callable[P, PlannerResult]], Callable[P, PlannerResult]]:
    """Decorator of a planner, whose results it gives their name and the wall-clock seconds spent.

    ``place`` is that in lists of planners; None for one that is not offered by name.
    """

    def register(search: Callable[P, PlannerResult]) -> Callable[P, PlannerResult]:
        @wraps(search)
        def timed(*args: P.args, **options: P.kwargs) -> PlannerResult:
            import_module("opmerge.planners._kernels")  # loaded before the clock starts
            began = time.perf_counter()
            result = search(*args, **options)
            if result.planner:  # another planner's
                return result
            return replace(result, planner=name, seconds=time.perf_counter() - began)

        if place is not None:
            PLANNERS[name], _PLACES[name] = timed, place
            for known in sorted(_PLACES, key=_PLACES.__getitem__):
                PLANNERS[known] = PLANNERS.pop(known)
        return timed

    return register


def require(is_covered: bool, requirement: str, value: object) -> None:
    """Refuse a problem that a planner does not cover."""
    if not is_covered:
        raise InputError("planner", requirement, value, 'use `planner="auto"`')


def best_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome with the smallest W2; the first of equals."""
    return min(outcomes, key=lambda outcome: outcome.w2)
