"""Plans and times together under a budget: the frontier of W2 against cost, for any spectrum.

To first order in the retentions a plan with the times of its merges is a point (e, c) of sizes
e >= 0 of the columns, in units of W2, and a cost c (``first_order``). For any unit vector u >= 0
and any price μ >= 0, by Cauchy and Schwarz, a plan that costs at most B has

    W2 = |e| >= <u, e> >= <u, e> + μ (c - B) >= V(u, μ) - μ B,

V the least of <u, e> + μ c over all plans and times, a dynamic programme. The greatest of these
lines is a bound on every plan with every split of every budget, convex in B. Best u and μ belong to
the nearest point of the convex hull of all (e, c) with c <= B, which the Frank-Wolfe method finds:
u is the direction of the best point so far, V's plan the next vertex. At the end those of the plans
seen and of the named strategies whose exact distance is least get the split that ``allocate`` gives
them (THEORY 8.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.allocation import OVERHEAD, Allocation, allocate, merge_costs
from opmerge.planners.first_order import FirstOrderTheory, first_order_distance
from opmerge.plans.strategies import build_strategy, strategy_family
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

_CLOSED = 5e-3  # relative gap of the hull below which plans, not mixtures, are looked for
_MAX_ITERATIONS = 25  # of a budget
_MOST_PLANS = 3  # that are split exactly
_PENALTY = 1e3  # of what the weights of a mixture miss their sum and the budget by
_BEYOND = 2.0  # a vertex costs so many times the largest budget: every budget lies between two
_LOG_PRICES = (-250.0, 50.0)


@dataclass(frozen=True, eq=False)
class BudgetPoint:
    """The best plan found for a budget, and a bound on all."""

    budget: float
    """B >= Σ_m (m + κ) x_m."""
    allocation: Allocation
    """The plan and the times of its merges."""
    lower_bound: float
    """First-order W2 that no plan with any split of the budget goes below."""

    @property
    def plan(self) -> Plan:
        """The plan found."""
        return self.allocation.plan

    @property
    def w2(self) -> float:
        """Its exact Wasserstein-2 distance."""
        return self.allocation.w2

    @property
    def first_order(self) -> float:
        """Its W2 to first order, which is what the bound is below."""
        allocation = self.allocation
        return first_order_distance(allocation.problem, allocation.plan, allocation.times)

    @property
    def gap(self) -> float:
        """Relative gap between bound and plan, both to first order; 0 where that is 0."""
        distance = self.first_order
        return max(1.0 - self.lower_bound / distance, 0.0) if distance > 0 else 0.0


def budget_frontier(
    problem: Problem,
    budgets: Iterable[float],
    student_steps: int = 1,
    overhead: float = OVERHEAD,
) -> list[BudgetPoint]:
    """For each budget of network evaluations a sample, the best plan of K trees and its split.

    Equal training per merge is the case of equal times. Budgets are in any order; W2 does not
    rise from a smaller to a larger one. The bound holds for the distance to first order in the
    retentions. It is exact, too, for combs of shrinking eigenvalues under operator copy, where
    b / P = Π (1 + a_m ρ_m) with all a_m >= 0.

    Raises:
        InputError: for budgets that are not > 0, K out of range or without merges, or a problem
            that ``FirstOrderTheory`` does not cover.
    """
    asked = [check_number("budgets", budget) for budget in budgets]
    for wrong in [budget for budget in asked if not 0 < budget < np.inf][:1]:
        raise InputError("budgets", "must be finite and > 0", wrong)
    first = build_strategy("vanilla", problem.num_steps, student_steps)
    if not first.merges:
        raise InputError("student_steps", "must leave merges to train", student_steps)
    ascending = sorted(set(asked))
    hull = _Hull(FirstOrderTheory(problem, student_steps, overhead), first, ascending)
    for budget in ascending:
        hull.descend(budget)
    rounded: dict[float, BudgetPoint] = {}
    best: Allocation | None = None
    for budget in ascending:
        plans = hull.candidates(budget)
        candidates = dict.fromkeys([*plans, best.plan] if best else plans)
        splits = [allocate(problem, plan, budget, overhead) for plan in candidates]
        best = min([*splits, best] if best else splits, key=lambda split: split.w2)
        rounded[budget] = BudgetPoint(budget, best, hull.bound(budget))
    return [rounded[budget] for budget in asked]


class _Aim(NamedTuple):
    """The best mixture of points at a budget."""

    distance: float
    direction: Array
    """(d,) unit vector u, or 0 where the distance is."""
    price: float
    """μ."""


class _Hull:
    """Plans and times that were seen, as points, and the bounds that were proved on the way.

    Both serve every budget: a point is one whatever it costs, and a bound is a line in B.
    """

    def __init__(self, theory: FirstOrderTheory, first: Plan, budgets: Sequence[float]) -> None:
        self._theory = theory
        steps, students = theory.problem.num_steps, theory.student_steps
        named = (build_strategy(name, steps, students) for name in strategy_family(steps))
        self._named = [plan for plan in dict.fromkeys(named) if plan.merges]
        self._plans: list[Plan] = []
        self._times: list[Array] = []
        self._sizes = np.empty((0, len(theory.scale)))
        self._costs = np.empty(0)
        self._values, self._prices = [0.0], [0.0]  # W2 >= 0
        for budget in [*budgets, _BEYOND * max(budgets, default=1.0)]:
            costs = merge_costs(first, theory.overhead)
            self._add(first, np.full(len(costs), budget / costs.sum()))

    def bound(self, budget: float) -> float:
        """The greatest of the lines V - μ B."""
        return float((np.array(self._values) - np.array(self._prices) * budget).max())

    def descend(self, budget: float) -> None:
        """Come near the best mixture of points at this budget, and add what that finds."""
        for _ in range(_MAX_ITERATIONS):
            aim = self._aim(budget)
            if aim.distance - self.bound(budget) <= _CLOSED * aim.distance:
                return
            priced = self._theory.cheapest(aim.direction, aim.price)
            self._values.append(priced.value)
            self._prices.append(aim.price)
            self._add(priced.plan, priced.times)

    def candidates(self, budget: float) -> list[Plan]:
        """A few plans: those of least exact W2 with first-order times stretched to the budget.

        Of the points seen that cost about as much, and of the named strategies at the prices here.
        """
        aim, near = self._aim(budget), (self._costs > 0.5 * budget) & (self._costs < 2.0 * budget)
        seen = [(self._plans[index], self._times[index]) for index in np.flatnonzero(near)]
        for plan in self._named:
            seen.append((plan, self._theory.times(plan, aim.direction, aim.price)))
        distances: dict[Plan, float] = {}
        for plan, times in seen:
            cost = self._theory.cost(plan, times)
            if cost > 0.0:
                w2 = evaluate(self._theory.problem, plan, times * (budget / cost)).w2
                distances[plan] = min(w2, distances.get(plan, w2))
        return sorted(distances, key=distances.__getitem__)[:_MOST_PLANS]

    def _aim(self, budget: float) -> _Aim:
        """Where the best mixture of the points seen lies, and the prices that belong to it."""
        point = self._mixture(budget) @ self._sizes
        distance = float(np.linalg.norm(point))
        direction = point / distance if distance > 0.0 else np.zeros_like(point)
        return _Aim(distance, direction, self._price(direction, budget))

    def _add(self, plan: Plan, times: Array) -> None:
        self._plans.append(plan)
        self._times.append(times)
        self._sizes = np.vstack([self._sizes, self._theory.sizes(plan, times)])
        self._costs = np.append(self._costs, self._theory.cost(plan, times))

    def _mixture(self, budget: float) -> Array:
        """(points,) weights of the nearest mixture that costs at most the budget.

        Non-negative least squares, with the sum of the weights and the cost (plus what is not
        spent) as two more rows. What they miss by makes the direction worse and no bound wrong.
        """
        from scipy.optimize import nnls

        count, within = len(self._plans), self._costs <= budget * (1.0 + 1e-9)
        sizes = np.linalg.norm(self._sizes[within], axis=1)
        unit = float(sizes.min())
        if unit == 0.0:
            return np.eye(count)[np.flatnonzero(within)[sizes.argmin()]]
        rows = np.zeros((self._sizes.shape[1] + 2, count + 1))
        rows[:-2, :count] = self._sizes.T / unit
        rows[-2, :count] = _PENALTY
        rows[-1] = _PENALTY * np.append(self._costs / budget, 1.0)
        wanted = np.append(np.zeros(len(rows) - 2), [_PENALTY, _PENALTY])
        weights = nnls(rows, wanted, maxiter=100 * count)[0][:count]
        return weights / weights.sum()

    def _price(self, direction: Array, budget: float) -> float:
        """μ with the greatest bound that the points seen allow in this direction.

        Above it the cheapest point at the price costs less than the budget, and below it more.
        """
        sizes = self._sizes @ direction
        low, high = _LOG_PRICES
        for _ in range(60):
            middle = 0.5 * (low + high)
            cheapest = (sizes + np.exp(middle) * self._costs).argmin()
            is_low = self._costs[cheapest] > budget
            low, high = (middle, high) if is_low else (low, middle)
        return float(np.exp(high))
