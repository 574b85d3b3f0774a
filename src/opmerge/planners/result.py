"""What every planner returns: a plan, what it costs, and how much better any plan could be."""

from __future__ import annotations

from dataclasses import dataclass

from opmerge.merging import Outcome
from opmerge.plans.tree import Plan

__all__ = ["PlannerResult", "best_outcome"]


@dataclass(frozen=True, eq=False)
class PlannerResult:
    """A plan with its certificate.

    Args:
        outcome: the best plan found, evaluated.
        lower_bound: W2 distance that no plan for the problem can go below (proved).
        planner: name of the planner.
        seconds: wall-clock time spent.
        notes: one line each: why this planner, what limits the bound.
    """

    outcome: Outcome
    lower_bound: float
    planner: str
    seconds: float
    notes: tuple[str, ...] = ()

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


def best_outcome(outcomes: list[Outcome]) -> Outcome:
    """The outcome with the smallest W2; the first of equals."""
    return min(outcomes, key=lambda outcome: outcome.w2)
