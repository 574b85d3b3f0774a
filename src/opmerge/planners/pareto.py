"""Pareto planner: per interval, every vector of excesses that could still be part of the optimum.

A composite and a merge increase with every child in every coordinate, so a part may be dropped
if another is at least as good in every coordinate: lower where no plan falls below the target,
higher where none rises above it, and equal where the target lies within reach. With ε > 0, a
part may also be dropped if it is better by little; the part that stays remembers how good the
dropped ones were, so that the final lower bound accounts for all of them, exactly.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.merging import evaluate, initial_coefficients
from opmerge.planners.ranges import excess_ranges
from opmerge.planners.result import PlannerResult
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

__all__ = ["pareto_plan"]

Array = NDArray[np.float64]

Interval = tuple[int, int]

_MAX_STEPS_UNLIMITED = 9
_UNLIMITED = 100_000
_MAX_NUMBERS = 2e7
_LEAST_RAISED = 1e-9  # the ε at which thinning starts where none was asked for


@dataclass(frozen=True, eq=False)
class _Front:
    """Candidates for one interval.

    Args:
        values: (n, d) relative excesses δ.
        bounds: (2, n, d) range of δ of everything a candidate stands for.
        origins: (n, 3) where each comes from: the split, and the indices of the first part and
            of the rest in their fronts; in a forest, split 0 stands for a single tree.
    """

    values: Array
    bounds: Array
    origins: NDArray[np.intp]


def pareto_plan(
    problem: Problem,
    student_steps: int = 1,
    epsilon: float = 0.0,
    max_front: int | None = None,
) -> PlannerResult:
    """The optimal plan (ε = 0), or one within a stated gap.

    Covers either rule and either objective. Fronts grow quickly with T and with the number of
    distinct eigenvalues; where one would exceed ``max_front``, ε is raised for it, and the gap
    says what that cost.

    Args:
        problem: any problem.
        student_steps: K >= 1 trees; the boundaries are chosen too.
        epsilon: ε >= 0, relative to the range of excesses that each eigenvalue can reach.
        max_front: largest number of candidates kept for an interval. By default there is no
            limit up to 9 steps, and beyond, one that keeps the search to a minute or so.

    Raises:
        InputError: if K, ε or ``max_front`` is out of range.
    """
    uniform_boundaries(problem.num_steps, student_steps)
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise InputError("epsilon", "must be finite and >= 0", epsilon)
    if max_front is None:
        max_front = _affordable_front(problem)
    if max_front < 1:
        raise InputError("max_front", "must be >= 1", max_front)
    began = time.perf_counter()
    search = _Search(problem, student_steps, epsilon, max_front)
    front = search.plans(student_steps)
    excess = np.log1p(np.maximum(front.values, -1.0))
    best = int(problem.errors(excess).sum(axis=1).argmin())
    low, high = np.log1p(np.maximum(front.bounds, -1.0))
    bounds = problem.errors(np.clip(problem.target_excess, low, high)).sum(axis=1)
    outcome = evaluate(problem, search.trace(student_steps, best))
    notes = (f"fronts were thinned to {max_front} candidates",) if search.raised else ()
    return PlannerResult(
        outcome, float(np.sqrt(bounds.min())), "pareto", time.perf_counter() - began, notes
    )


def _affordable_front(problem: Problem) -> int:
    """As many candidates as keep the numbers that T³/6 pairs of fronts make within bounds."""
    if problem.num_steps <= _MAX_STEPS_UNLIMITED:
        return _UNLIMITED
    splits = problem.num_steps**3 / 6
    return max(8, int(np.sqrt(_MAX_NUMBERS / (splits * len(problem.eigenvalues)))))


class _Search:
    """Fronts of every interval, built from short to long."""

    def __init__(self, problem: Problem, student_steps: int, epsilon: float, limit: int) -> None:
        self.problem, self.limit = problem, limit
        low, high = np.expm1(excess_ranges(problem, student_steps))
        self.epsilon, self.raised = epsilon, 0.0
        target = np.expm1(problem.target_excess)
        self.scale = np.where(high > low, high - low, 1.0)
        self.lower_is_better = ~(high <= target) | (low >= target)
        self.higher_is_better = ~(low >= target)
        d = len(problem.eigenvalues)
        self.trees: dict[tuple[int, int], _Front] = {}
        self.forests: dict[tuple[int, int], _Front] = {}
        for start in range(1, problem.num_steps + 1):
            leaf = _Front(np.zeros((1, d)), np.zeros((2, 1, d)), np.zeros((1, 3), dtype=np.intp))
            self.trees[start, start - 1] = self.forests[start, start - 1] = leaf
            for stop in range(start - 2, -1, -1):
                self._build(start, stop)

    def _build(self, start: int, stop: int) -> None:
        composed, merged = [], []
        for split in range(start - 1, stop, -1):
            first, rest = self.trees[start, split], self.forests[split, stop]
            forest = _compose(first, rest, split)
            composed.append(forest)
            merged.append(self._merge(forest, first, (start, split, stop)))
        trees = self._thin(merged)
        whole = np.zeros((len(trees.values), 3), dtype=np.intp)
        whole[:, 1] = np.arange(len(whole))
        self.trees[start, stop] = trees
        self.forests[start, stop] = self._thin(
            [_Front(trees.values, trees.bounds, whole), *composed]
        )

    def _merge(self, composed: _Front, first: _Front, steps: tuple[int, int, int]) -> _Front:
        """Train one student on every composite; its start is given by the first part."""
        rho = self.problem.retentions[steps[0]]
        offset, gain = initial_coefficients(self.problem, *steps)
        index = composed.origins[:, 1]

        def trained(composite: Array, firsts: Array) -> Array:
            student: Array = (1.0 - rho) * composite + rho * (offset + gain * firsts[index])
            return student

        bounds = [trained(composed.bounds[side], first.bounds[side]) for side in (0, 1)]
        return _Front(trained(composed.values, first.values), np.stack(bounds), composed.origins)

    def plans(self, student_steps: int) -> _Front:
        """Every candidate with K trees; the last front is not thinned."""
        num_steps = self.problem.num_steps
        prefixes = {(num_steps, stop): self.trees[num_steps, stop] for stop in range(num_steps)}
        self.prefixes = [prefixes]
        for students in range(1, student_steps):
            last = students == student_steps - 1
            following = {}
            for stop in (0,) if last else range(num_steps - students):
                above = range(stop + 1, num_steps - students + 1)
                fronts = [_compose(prefixes[num_steps, k], self.trees[k, stop], k) for k in above]
                following[num_steps, stop] = _join(fronts) if last else self._thin(fronts)
            prefixes = following
            self.prefixes.append(prefixes)
        return prefixes[num_steps, 0]

    def trace(self, student_steps: int, index: int) -> Plan:
        """The plan behind a candidate of ``plans``."""
        num_steps = self.problem.num_steps
        stop, students = 0, []
        for prefixes in reversed(self.prefixes[1:]):
            split, before, tree = prefixes[num_steps, stop].origins[index]
            students.append(self._trace_tree((int(split), stop), int(tree)))
            stop, index = int(split), int(before)
        students.append(self._trace_tree((num_steps, stop), index))
        return Plan(tuple(reversed(students)))

    def _trace_tree(self, interval: Interval, index: int) -> Tree:
        merges, pending = [], [(interval, index)]
        while pending:
            (start, stop), index = pending.pop()
            if start - stop < 2:
                continue
            split, first, rest = (int(n) for n in self.trees[start, stop].origins[index])
            children = [((start, split), first), *self._trace_forest((split, stop), rest)]
            merges.append(Merge((start, *(end for (_, end), _ in children))))
            pending.extend(children)
        return Tree(*interval, tuple(merges))

    def _trace_forest(self, interval: Interval, index: int) -> Iterator[tuple[Interval, int]]:
        start, stop = interval
        while start > stop:
            split, first, rest = (int(n) for n in self.forests[start, stop].origins[index])
            yield (start, split or stop), first
            start, index = (split, rest) if split else (stop, 0)

    def _thin(self, fronts: list[_Front]) -> _Front:
        """Keep what is not dominated; raise ε here until at most ``limit`` candidates are left."""
        joined = _join(fronts)
        # an interval starts a little below the ε that its predecessor needed
        epsilon = (
            max(self.epsilon, self.raised / 4) if self.raised > _LEAST_RAISED else self.epsilon
        )
        while True:
            front = self._undominated(self._boxed(joined, epsilon) if epsilon > 0 else joined)
            if front is not None:
                return front
            epsilon = self.raised = max(2.0 * epsilon, _LEAST_RAISED)

    def _boxed(self, front: _Front, epsilon: float) -> _Front:
        """One candidate for each box of side ε, with the range of all that were in it."""
        order = np.argsort(self._badness(front), kind="stable")
        # counted from the least, so that a box that is large enough holds them all
        above = (front.values[order] - front.values.min(axis=0)) / self.scale
        boxes = np.floor(above / epsilon)
        _, first, box = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
        low = np.full((len(first), front.values.shape[1]), np.inf)
        high = -low
        np.minimum.at(low, box, front.bounds[0, order])
        np.maximum.at(high, box, front.bounds[1, order])
        kept = order[first]
        return _Front(front.values[kept], np.stack([low, high]), front.origins[kept])

    def _undominated(self, front: _Front) -> _Front | None:
        """The candidates that no other one dominates; None if they are more than ``limit``."""
        keys = self._keys(front)
        remaining = np.argsort(self._badness(front), kind="stable")
        kept: list[int] = []
        bounds = front.bounds.copy()
        while remaining.size:
            if len(kept) == self.limit:
                return None
            here, others = remaining[0], remaining[1:]
            kept.append(int(here))
            dominated = (keys[here] <= keys[others]).all(axis=1)
            dropped = np.append(others[dominated], here)
            bounds[0, here] = front.bounds[0, dropped].min(axis=0)
            bounds[1, here] = front.bounds[1, dropped].max(axis=0)
            remaining = others[~dominated]
        return _Front(front.values[kept], bounds[:, kept], front.origins[kept])

    def _keys(self, front: _Front) -> Array:
        """(n, m) values such that smaller is better in every column."""
        relative = front.values / self.scale
        return np.hstack([relative[:, self.lower_is_better], -relative[:, self.higher_is_better]])

    def _badness(self, front: _Front) -> Array:
        total: Array = self._keys(front).sum(axis=1)
        return total


def _compose(first: _Front, rest: _Front, split: int) -> _Front:
    index = np.indices((len(first.values), len(rest.values))).reshape(2, -1).T
    origins = np.insert(index, 0, split, axis=1)

    def composite(a: Array, b: Array) -> Array:
        a, b = a[index[:, 0]], b[index[:, 1]]
        return a + b + a * b

    bounds = [composite(first.bounds[side], rest.bounds[side]) for side in (0, 1)]
    return _Front(composite(first.values, rest.values), np.stack(bounds), origins)


def _join(fronts: list[_Front]) -> _Front:
    return _Front(
        np.vstack([front.values for front in fronts]),
        np.concatenate([front.bounds for front in fronts], axis=1),
        np.vstack([front.origins for front in fronts]),
    )
