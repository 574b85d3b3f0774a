"""Planner for a single eigenvalue: exact, or the nearest value found (THEORY 8).

Where the target lies between the extremes, it is approached along the spine of a tree, the merges
that train the student at T. There the excess is a sum over the blocks that are merged into it,
Σ log((1 - ρ_T) e^u + ρ_T / P), with u the excess of what stands in a block: teacher steps (u = 0),
or the trees with the smallest or the largest excess of that interval. Plans are then paths
T-1 → … → 0 whose edges add up, and what is looked for is a path of a given length. Sums that reach
a node lie dense between the shortest and the longest; one of each small interval is kept, and the
last edge is the one that comes out nearest.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.merging import Outcome, evaluate
from opmerge.planners.brute_force import best_strategy_plan
from opmerge.planners.interval import best_edges, forest_edges, trace_tree
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.ranges import (
    compose,
    estimates,
    excess_ranges,
    scalar_extremes,
    separable_bound,
)
from opmerge.planners.result import PlannerResult, best_outcome, planner, require
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

_FEW_STEPS = 24  # up to which sets of values take less than a second
_KEPT = 64  # sums of a node
_TEACHER = 2  # index of the blocks of teacher steps, after those of the two extremes


@planner("scalar", 2)
def scalar_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The optimal plan for one eigenvalue, or inside the band one near to it.

    The smallest and the largest reachable excess are exact. Where the target lies outside them,
    the nearer one is optimal. Where it lies between, the nearest reachable value is searched
    for among sets of values, and the gap that is left is reported.

    Raises:
        InputError: if there are several eigenvalues, or the training model has several modes.
    """
    distinct, modes = len(problem.distinct_eigenvalues), len(problem.training.mode_weights)
    require(distinct == 1, "scalar covers a single distinct eigenvalue only", distinct)
    training = f"{problem.training.name} with {modes} modes"
    require(modes == 1, "scalar covers training models of a single mode only", training)
    ranges = excess_ranges(problem, student_steps)
    bound, target = separable_bound(problem, ranges), problem.target_excess
    if ranges[0, 0] < target[0] < ranges[1, 0]:
        note = "the target lies between the extremes: the nearest value was searched for"
        return PlannerResult(_nearest(problem, student_steps), bound, notes=(note,))
    side = 0 if target[0] <= ranges[0, 0] else 1
    extremes, sign = Extremes(problem, side), 1 - 2 * side
    edges = best_edges(extremes.trees, student_steps, compose, lambda values, _: sign * values)
    outcome = evaluate(problem, Plan(tuple(extremes.tree(*ends) for ends in pairwise(edges))))
    return PlannerResult(outcome, max(bound, outcome.w2))


def _nearest(problem: Problem, student_steps: int) -> Outcome:
    """The nearest value found, by sums over a spine; of few steps, by sets of values too."""
    found = [best_strategy_plan(problem, student_steps).outcome]
    if problem.merge_rule == "operator-copy" and student_steps == 1 and problem.num_steps > 1:
        found.append(evaluate(problem, nearest_plan(problem)))
    if len(found) == 1 or problem.num_steps <= _FEW_STEPS:
        found.append(pareto_plan(problem, student_steps).outcome)
    return best_outcome(found)


class Extremes:
    """Smallest (side 0) or largest (side 1) δ = b/P - 1 of one eigenvalue, under either rule.

    That of trees, (T+1, T+1), stands at [start, stop], that of rows of trees at [stop, start].
    """

    def __init__(self, problem: Problem, side: int) -> None:
        self._problem, self._sign = problem, 1 - 2 * side
        self.trees, self.forests = (table[side] for table in scalar_extremes(problem, 0))
        self._deficits, self._weights = estimates(problem, 0)

    def tree(self, start: int, stop: int) -> Tree:
        """The extreme tree start → stop."""
        return trace_tree(start, stop, self._tree_split, self._forest_split)

    def forest(self, start: int, stop: int) -> list[Tree]:
        """The extreme row of trees start → stop, noise side first."""
        edges = forest_edges(start, stop, self._forest_split)
        return [self.tree(*ends) for ends in pairwise(edges)]

    def _tree_split(self, start: int, stop: int) -> int:
        splits = np.arange(stop + 1, start)
        rho, products = self._problem.retentions[start, 0], self._problem.teacher.log_products[:, 0]
        first, rest = self.trees[start, splits], self.forests[stop, splits]
        growth = np.expm1(products[splits] - products[stop])
        offset, gain = growth, 1.0 + growth  # of ``merging.initial_coefficients``
        if self._problem.merge_rule == "denoiser-copy":
            gain *= self._weights[start, stop] / self._weights[start, splits]
            offset = gain * self._deficits[start, splits] - self._deficits[start, stop]
        merged = (1 - rho) * compose(first, rest) + rho * (offset + gain * first)
        return int(splits[(self._sign * merged).argmin()])

    def _forest_split(self, start: int, stop: int) -> int:
        splits = np.arange(stop + 1, start)
        composed = self._sign * compose(self.trees[start, splits], self.forests[stop, splits])
        best = composed.argmin()
        return int(splits[best]) if composed[best] < self._sign * self.trees[start, stop] else 0


def nearest_plan(problem: Problem) -> Plan:
    """A plan whose excess is near the target, for one eigenvalue, operator copy and T >= 2.

    O(T² k) for k = 64 sums a node, after O(T³).
    """
    extremes = [Extremes(problem, side) for side in (0, 1)]
    head = problem.num_steps
    blocks = _nearest_path(_block_lengths(problem, extremes), float(problem.target_excess[0]))
    merges: list[Merge] = []
    for above, below, kind in blocks:
        trees = [] if kind == _TEACHER else extremes[kind].forest(above, below)
        edges = [tree.start for tree in trees] or list(range(above, below, -1))
        merges += [merge for tree in trees for merge in tree.merges]
        merges.append(Merge((head, *edges, below)))
    return Plan((Tree(head, 0, tuple(merges)),))


def _block_lengths(problem: Problem, extremes: list[Extremes]) -> Array:
    """(T, T, 3) what the block k → i adds at [k, i], by what stands in it."""
    products = problem.teacher.log_products[:-1, 0]
    inverse = np.expm1(products[:, None] - products[None, :])  # 1/P(i, k) - 1
    inside = [each.forests[:-1, :-1].T for each in extremes]  # exp(u) - 1
    rho = problem.retentions[-1, 0]
    changes = [(1 - rho) * u + rho * inverse for u in (*inside, np.zeros_like(inverse))]
    with np.errstate(divide="ignore", invalid="ignore"):  # above the diagonal nothing is read
        lengths: Array = np.log1p(np.stack(changes, axis=-1))
    return lengths


def _nearest_path(lengths: Array, target: float) -> list[tuple[int, int, int]]:
    """Blocks (k, i, kind) from T - 1 down to 0 whose lengths add up to about the target."""
    top, kinds = len(lengths) - 1, lengths.shape[-1]
    sums = np.zeros((top + 1, _KEPT))  # that reach each node
    origins = np.zeros((top + 1, _KEPT), dtype=int)  # index among all sums over an edge to it
    for node in range(top - 1, -1, -1):
        reached = (sums[node + 1 :, :, None] + lengths[node + 1 :, node, None]).ravel()
        origins[node] = _spread_over(reached) if node else np.abs(reached - target).argmin()
        sums[node] = reached[origins[node]]
    blocks, node, place = [], 0, 0
    while node < top:
        above, place, kind = np.unravel_index(origins[node, place], (top - node, _KEPT, kinds))
        blocks.append((node + 1 + int(above), node, int(kind)))
        node = blocks[-1][0]
    return blocks[::-1]


def _spread_over(values: Array) -> NDArray[np.intp]:
    """Indices of the extremes, and of one value in each of as many equal intervals as are kept."""
    low, high = values.argmin(), values.argmax()
    width = max(values[high] - values[low], np.finfo(float).tiny)
    interval = np.minimum((values - values[low]) / width * _KEPT, _KEPT - 1).astype(int)
    chosen = np.full(_KEPT, low)
    chosen[interval] = np.arange(len(values))
    chosen[0], chosen[-1] = low, high
    return chosen
