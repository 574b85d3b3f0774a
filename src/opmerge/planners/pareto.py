"""Pareto planner: per interval, every vector of excesses that could still be part of the optimum.

A composite and a merge increase with every child in every coordinate, so a part may be dropped
if another is at least as good in every coordinate: lower where no plan falls below the target,
higher where none rises above it, and equal where the target lies within reach. With ε > 0, a
part may also be dropped if it is better by little; the part that stays remembers how good the
dropped ones were, so that the final lower bound accounts for all of them, exactly. The abstract of
the paper's second version names such a programme (arXiv 2505.16024); this one is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.clock import tick
from opmerge.errors import InputError
from opmerge.merging import evaluate, initial_coefficients
from opmerge.planners.ranges import compose, excess_ranges
from opmerge.planners.result import PlannerResult, planner
from opmerge.plans.tree import Nested, Plan
from opmerge.problem import Problem

Indices = NDArray[np.intp]
Origin = Callable[[int, int, int], list[Nested]]

_MAX_STEPS_UNLIMITED = 9
_UNLIMITED = 100_000
_MAX_NUMBERS = 2e7
_LEAST_RAISED = 1e-9  # the ε at which thinning starts where none was asked for


@dataclass(frozen=True, eq=False)
class _Front:
    """Candidates for one interval."""

    points: Array
    """(3, n, d) δ of each, and the least and the largest δ of all that it stands for."""
    origins: Indices
    """(n, 3) where each comes from: the split, and the indices of the first part and of the rest in
    their fronts; in a forest, split 0 stands for a single tree."""
    trees_from: Origin
    """The trees, as nested lists, of a candidate with this origin."""

    def trees(self, index: int) -> list[Nested]:
        """The trees of a candidate, as nested lists."""
        return self.trees_from(*self.origins[index].tolist())


@planner("pareto", 4)
def pareto_plan(
    problem: Problem,
    student_steps: int = 1,
    epsilon: float = 0.0,
    max_front: int | None = None,
) -> PlannerResult:
    """The optimal plan (ε = 0), or one within a stated gap; either rule, either objective.

    ε >= 0 is relative to the range of excesses that each eigenvalue can reach. Fronts grow quickly
    with T and with the number of distinct eigenvalues; where one would hold more candidates than
    ``max_front``, ε is raised for it, and the gap says what that cost. By default there is no limit
    up to 9 steps, and beyond, one that keeps the search to a minute or so.

    Raises:
        InputError: if K, ε or ``max_front`` is out of range.
    """
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise InputError("epsilon", "must be finite and >= 0", epsilon)
    if max_front is None:  # the most with which T³/6 pairs of fronts stay within bounds
        pairs = problem.num_steps**3 / 6 * len(problem.eigenvalues)
        is_short = problem.num_steps <= _MAX_STEPS_UNLIMITED
        max_front = _UNLIMITED if is_short else max(8, int(np.sqrt(_MAX_NUMBERS / pairs)))
    if max_front < 1:
        raise InputError("max_front", "must be >= 1", max_front)
    search = _Search(problem, student_steps, epsilon, max_front)
    front = search.plans(student_steps)
    excess, low, high = np.log1p(np.maximum(front.points, -1.0))
    best = int(problem.errors(excess).sum(axis=1).argmin())
    bounds = problem.errors(np.clip(problem.target_excess, low, high)).sum(axis=1)
    outcome = evaluate(problem, Plan.from_nested(front.trees(best)))
    notes = (f"fronts were thinned to {max_front} candidates",) if search.raised else ()
    return PlannerResult(outcome, float(np.sqrt(bounds.min())), notes=notes)


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
        self.trees: dict[tuple[int, int], _Front] = {}
        self.forests: dict[tuple[int, int], _Front] = {}
        for start in range(1, problem.num_steps + 1):
            origin, step = np.zeros((1, 3), dtype=np.intp), [start]
            front = _Front(np.zeros((3, 1, len(low))), origin, lambda *_, step=step: step)
            self.trees[start, start - 1] = self.forests[start, start - 1] = front
            for stop in range(start - 2, -1, -1):
                tick("fronts of intervals from step", start)
                self._build(start, stop)

    def _build(self, start: int, stop: int) -> None:
        """Train one student on every composite; its start is given by the first part."""
        firsts = {split: self.trees[start, split] for split in range(start - 1, stop, -1)}
        composed, row = _followed(firsts, self.forests, stop)
        rho, merged = self.problem.retentions[start], []
        for (split, first), (points, origins) in zip(firsts.items(), composed, strict=True):
            offset, gain = initial_coefficients(self.problem, start, split, stop)
            initial = offset + gain * first.points[:, origins[:, 1]]
            merged.append(((1.0 - rho) * points + rho * initial, origins))
        trees = self.trees[start, stop] = self._thin(merged, lambda *origin: [row(*origin)])
        whole = np.zeros_like(trees.origins)
        whole[:, 1] = np.arange(len(whole))
        self.forests[start, stop] = self._thin(
            [(trees.points, whole), *composed],
            lambda *origin: row(*origin) if origin[0] else trees.trees(origin[1]),
        )

    def plans(self, student_steps: int) -> _Front:
        """Every candidate with K trees; the last front is not thinned."""
        num_steps = self.problem.num_steps
        prefixes = {stop: self.trees[num_steps, stop] for stop in range(num_steps)}
        for students in range(2, student_steps + 1):
            is_last, extended = students == student_steps, {}
            for stop in (0,) if is_last else range(num_steps - students + 1):
                tick("fronts of students", students)
                above = {split: front for split, front in prefixes.items() if split > stop}
                parts, row = _followed(above, self.trees, stop)
                extended[stop] = _Front(*_joined(parts), row) if is_last else self._thin(parts, row)
            prefixes = extended
        return prefixes[0]

    def _thin(self, parts: list[tuple[Array, Indices]], trees_from: Origin) -> _Front:
        """Keep what is not dominated; raise ε here until at most ``limit`` candidates are left."""
        (points, origins), epsilon = _joined(parts), self.epsilon
        if self.raised > _LEAST_RAISED:  # begin a little below what the last interval needed
            epsilon = max(epsilon, self.raised / 4)
        while True:
            tick()
            boxed = self._boxed(points, origins, epsilon) if epsilon > 0 else (points, origins)
            kept = self._undominated(*boxed)
            if kept is not None:
                return _Front(*kept, trees_from)
            epsilon = self.raised = max(2.0 * epsilon, _LEAST_RAISED)

    def _boxed(self, points: Array, origins: Indices, epsilon: float) -> tuple[Array, Indices]:
        """One candidate for each box of side ε, with the range of all that were in it."""
        order = np.argsort(self._keys(points).sum(axis=1), kind="stable")
        values, low, high = points[:, order]
        # counted from the least, so that a box that is large enough holds them all
        boxes = np.floor((values - values.min(axis=0)) / self.scale / epsilon)
        _, first, box = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
        kept = np.stack([values[first], low[first], high[first]])
        np.minimum.at(kept[1], box, low)
        np.maximum.at(kept[2], box, high)
        return kept, origins[order[first]]

    def _undominated(self, points: Array, origins: Indices) -> tuple[Array, Indices] | None:
        """The candidates that no other one dominates; None if they are more than ``limit``."""
        keys = self._keys(points)
        remaining = np.argsort(keys.sum(axis=1), kind="stable")
        kept: list[int] = []
        widened = points.copy()
        while remaining.size:
            if len(kept) == self.limit:
                return None
            here, others = int(remaining[0]), remaining[1:]
            kept.append(here)
            is_dominated = (keys[here] <= keys[others]).all(axis=1)
            dropped = np.append(others[is_dominated], here)
            widened[1, here] = points[1, dropped].min(axis=0)
            widened[2, here] = points[2, dropped].max(axis=0)
            remaining = others[~is_dominated]
        return widened[:, kept], origins[kept]

    def _keys(self, points: Array) -> Array:
        """(n, m) values such that smaller is better in every column."""
        relative = points[0] / self.scale
        return np.hstack([relative[:, self.lower_is_better], -relative[:, self.higher_is_better]])


def _followed(
    firsts: dict[int, _Front], rests: dict[tuple[int, int], _Front], stop: int
) -> tuple[list[tuple[Array, Indices]], Origin]:
    """Points and origins of every pair, split by split, and the trees of a pair of this origin."""

    def row(split: int, first: int, rest: int) -> list[Nested]:
        return firsts[split].trees(first) + rests[split, stop].trees(rest)

    parts = []
    for split, first in firsts.items():
        rest = rests[split, stop]
        pairs = np.indices((len(first.origins), len(rest.origins))).reshape(2, -1)
        points = compose(first.points[:, pairs[0]], rest.points[:, pairs[1]])
        parts.append((points, np.insert(pairs.T, 0, split, axis=1)))
    return parts, row


def _joined(parts: list[tuple[Array, Indices]]) -> tuple[Array, Indices]:
    points, origins = zip(*parts, strict=True)
    return np.concatenate(points, axis=1), np.vstack(origins)
