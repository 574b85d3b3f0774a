"""The best split of a budget over the merges of a plan, under the law of merges (THEORY 10).

A plan is told by its students' jumps start → stop, in the order of execution: what they leave
uncovered are teacher steps. All numbers come from the compiled composition, which is that of
``opmerge.forecast``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.forecast import FittedLaw, Forecast, MergeLaw, TeacherTable
from opmerge.forecast.cost import IterationCost
from opmerge.forecast.law import LEAST_ONSET
from opmerge.plans import Merge, Plan, Tree

if TYPE_CHECKING:
    from opmerge.forecast._kernels import Law, Laws, Parts, Tables

Jumps = tuple[tuple[int, int], ...]
"""Students of a plan, (start, stop) each, in the order of execution."""

LENGTH_EXPONENT = 1.75
"""N ∝ length^1.75 is where a split begins: measured to be near the best (docs/findings.md)."""

_MOST_ROUNDS = 200
_COST_ROUNDS = 4
_MOST_KNOWN = 4096  # plans whose parts are kept


def in_order(jumps: Iterable[tuple[int, int]]) -> Jumps:
    """Jumps, each once, in the order of execution: noise side first, inner ones before outer."""
    return tuple(sorted(set(jumps), key=lambda jump: (-jump[1], jump[0])))


def jumps_of(plan: Plan) -> Jumps:
    """The students of a plan."""
    return tuple((merge.start, merge.stop) for merge in plan.merges)


def plan_of(jumps: Jumps, num_steps: int) -> Plan:
    """The plan with these students; they nest, and are in the order of execution."""
    following = {t: t - 1 for t in range(num_steps, 0, -1)}
    trees: dict[int, list[Merge]] = {}
    for start, stop in jumps:
        boundaries = [start]
        while boundaries[-1] > stop:
            boundaries.append(following.pop(boundaries[-1]))
        following[start] = stop
        inner = [merge for t in boundaries[:-1] for merge in trees.pop(t, [])]
        trees[start] = [*inner, Merge(tuple(boundaries))]
    ordered = sorted(following.items(), reverse=True)
    return Plan(tuple(Tree(a, b, tuple(trees.get(a, ()))) for a, b in ordered))


@dataclass(frozen=True, eq=False)
class Split:
    """A plan with a split of a budget over its merges.

    Args:
        jumps: of its students.
        iterations: (M,) whole numbers >= 1, one a merge in the order of execution.
        error: squared paired error that the law forecasts of them.
        counts: (M,) iterations before they were made whole: the best split of the budget.
    """

    jumps: Jumps
    iterations: NDArray[np.int64]
    error: float
    counts: Array

    @property
    def num_merges(self) -> int:
        """M."""
        return len(self.jumps)

    @property
    def rms(self) -> float:
        """Root mean square of ‖student - teacher‖."""
        return math.sqrt(self.error)


class Splitter:
    """Splits budgets for one teacher, one law and one cost of iterations, in so many rounds."""

    def __init__(
        self, table: TeacherTable, law: MergeLaw, cost: IterationCost, rounds: int = _MOST_ROUNDS
    ) -> None:
        self.table, self.cost, self.rounds = table, cost, rounds
        self.law = law.for_groups(len(table.sizes))
        self._parts: dict[Jumps, tuple[int, Parts] | None] = {}
        self._guided: dict[Jumps, Array] = {}

    @cached_property
    def tables(self) -> Tables:
        """Arrays of the teacher, as the kernels read them."""
        from opmerge.forecast._kernels import Tables

        table, schedule = self.table, self.table.schedule
        node_of = np.array([table.node_at(step) for step in range(table.num_steps + 1)])
        angles = np.arctan2(schedule.sigmas, schedule.alphas)
        carry, gains = np.ascontiguousarray(table.carry), np.ascontiguousarray(table.gains)
        own = np.arange(len(table.nodes))
        shares = table.shares_of(table.deviations[own, own])
        fixed = node_of.astype(np.int64), angles, carry, gains, table.deviations
        return Tables(*fixed, shares / 100, shares**self.law.share_exponent)

    @cached_property
    def compiled_law(self) -> Law:
        """The law, as the kernels read it."""
        return _compiled(self.law)

    def parts(self, jumps: Jumps) -> tuple[int, Parts] | None:
        """Number of students in the end, and what does not depend on iterations; None for jumps
        that do not nest."""
        from opmerge.forecast._kernels import static_parts

        if jumps not in self._parts:
            if len(self._parts) >= _MOST_KNOWN:
                self._parts.clear()
            ends = np.array(jumps, dtype=np.int64).reshape(-1, 2)
            starts, stops = np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
            nests, left, parts = static_parts(starts, stops, self.tables)
            self._parts[jumps] = (left, parts) if nests else None
        return self._parts[jumps]

    def student_steps(self, jumps: Jumps) -> int:
        """K of the plan with these students; 0 if they do not nest."""
        known = self.parts(jumps)
        return known[0] if known else 0

    def error(self, jumps: Jumps, iterations: ArrayLike) -> tuple[float, Array]:
        """Squared paired error, and its (M,) derivatives by log N."""
        from opmerge.forecast._kernels import composed

        return composed(self.known(jumps), self.compiled_law, np.asarray(iterations, np.float64))

    def total_cost(self, jumps: Jumps, iterations: ArrayLike) -> float:
        """Evaluations of a whole batch that these iterations cost."""
        return self.cost.total(self.known(jumps).children, iterations, self.guided(jumps))

    def guided(self, jumps: Jumps) -> Array:
        """(M,) children of each merge that are guided steps of the teacher."""
        if not self.cost.guided_steps:
            return np.zeros(len(jumps))
        if jumps not in self._guided:
            if len(self._guided) >= _MOST_KNOWN:
                self._guided.clear()
            self._guided[jumps] = self.cost.guided(plan_of(jumps, self.table.num_steps).merges)
        return self._guided[jumps]

    def least_cost(self, jumps: Jumps) -> float:
        """Evaluations that one iteration of every merge costs."""
        return self.total_cost(jumps, np.ones(len(jumps)))

    def equal(self, jumps: Jumps, budget: float) -> Split:
        """As many iterations for every merge as the budget pays for.

        Raises:
            InputError: if it does not pay for one of each.
        """
        self._afford(jumps, budget)
        one = np.ones(len(jumps))
        counts = range(1, int(budget) + 1)
        count = bisect_right(counts, budget, key=lambda n: self.total_cost(jumps, n * one))
        return self._split(jumps, count * one)

    def best(self, jumps: Jumps, budget: float, weights: Array | None = None) -> Split:
        """The split with the least error, by descent from N ∝ weights, or ∝ length^1.75.

        Raises:
            InputError: if the budget does not pay for an iteration of every merge.
        """
        from opmerge.forecast._kernels import best_split, whole_iterations

        self._afford(jumps, budget)
        if not jumps:
            return self._split(jumps, np.zeros(0))
        if weights is None:
            ends = np.array(jumps, dtype=np.float64)
            weights = (ends[:, 0] - ends[:, 1]) ** LENGTH_EXPONENT
        parts, cost, guided = self.known(jumps), self.cost, self.guided(jumps)
        each = cost.per_iteration(parts.children, guided)
        targets = cost.target_evaluations(parts.children, guided)
        passes = float(cost.batch * cost.student_passes)
        uses = cost.uses(parts.children)
        # a merge with the fewest targets pays for these once, and then for its passes alone; which
        # merges these are is found in a few rounds
        counts, is_least = np.asarray(weights, np.float64), np.zeros(len(jumps), dtype=bool)
        for _ in range(_COST_ROUNDS):
            left = budget - cost.fewest * targets[is_least].sum()
            prices = np.where(is_least, passes, each)
            given = parts, self.compiled_law, prices, left, counts
            _, counts, gradient = best_split(*given, self.rounds)
            before, is_least = is_least, counts < cost.fewest * uses
            if (is_least == before).all():
                break
        limits = passes, budget, float(cost.fewest)
        whole = whole_iterations(counts, gradient, uses, targets, *limits)
        return self._split(jumps, whole, counts)

    def _split(self, jumps: Jumps, whole: Array, counts: Array | None = None) -> Split:
        error = self.error(jumps, whole)[0]
        return Split(jumps, whole.astype(np.int64), error, whole if counts is None else counts)

    def known(self, jumps: Jumps) -> Parts:
        """What does not depend on iterations.

        Raises:
            InputError: for jumps that do not nest.
        """
        known = self.parts(jumps)
        if known is None:
            raise InputError("jumps", "must nest, in the order of execution", jumps)
        return known[1]

    def _afford(self, jumps: Jumps, budget: float) -> None:
        least = self.least_cost(jumps)
        if budget < least:
            requirement = f"must be >= {math.ceil(least):,} evaluations, an iteration a merge"
            raise InputError("budget", requirement, f"{budget:,.0f}")


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts of plans under a law and its draws: ``opmerge.forecast``, by the compiled one."""

    splitter: Splitter
    law: FittedLaw

    @cached_property
    def _laws(self) -> Laws:
        """The law and its draws, as the kernels read them."""
        from opmerge.forecast._kernels import Laws

        table = self.splitter.table
        laws = [each.for_groups(len(table.sizes)) for each in (self.law.law, *self.law.draws)]
        rows = [(*_compiled(each), each.share_exponent) for each in laws]
        return Laws(*map(np.array, zip(*rows, strict=True)))

    def of(self, jumps: Jumps, iterations: ArrayLike) -> Forecast:
        """What a plan's students leave, with these (M,) iterations in the order of execution."""
        from opmerge.forecast._kernels import errors_by_law

        parts, counts = self.splitter.known(jumps), np.asarray(iterations, dtype=np.float64)
        return Forecast.of(self.law, errors_by_law(parts, self._laws, counts))


def _compiled(law: MergeLaw) -> Law:
    """A law for the groups of a table, as the kernels read it."""
    from opmerge.forecast._kernels import Law

    rates, first, behind = np.array(law.rates, dtype=np.float64), law.first, law.behind
    shape, exponent = float(law.shape), float(law.length_exponent)
    onset = max(float(law.onset), LEAST_ONSET)
    return Law(rates, float(first), float(behind), shape, exponent, onset)
