"""Exact planner for a single eigenvalue (THEORY 8)."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.merging import evaluate, initial_coefficients
from opmerge.planners.backtrack import partition_edges, trace_tree
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.ranges import excess_ranges, scalar_extremes, separable_bound
from opmerge.planners.result import PlannerResult, best_outcome
from opmerge.planners.strategies import best_strategy_plan
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Plan, Tree
from opmerge.problem import Problem

__all__ = ["scalar_plan"]

Array = NDArray[np.float64]

_MAX_SUMS = 2_000  # sums of block excesses kept at a step, evenly among all


def scalar_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The optimal plan for one eigenvalue.

    The smallest and the largest reachable excess are exact. Where the target lies outside them,
    the nearer one is optimal. Where it lies between, the nearest reachable value is searched
    for among sets of values, and the gap that is left is reported.

    Args:
        problem: a problem with one distinct eigenvalue; either rule, either objective.
        student_steps: K >= 1 trees.

    Raises:
        InputError: if there are several eigenvalues, or K is out of range.
    """
    if len(problem.eigenvalues) != 1:
        raise InputError(
            "planner",
            "scalar covers a single distinct eigenvalue only",
            len(problem.eigenvalues),
            "use --planner auto",
        )
    uniform_boundaries(problem.num_steps, student_steps)
    began = time.perf_counter()
    ranges = excess_ranges(problem, student_steps)
    target = problem.target_excess
    notes: tuple[str, ...] = ()
    if ranges[0, 0] < target[0] < ranges[1, 0]:
        found = pareto_plan(problem, student_steps)
        candidates = [found.outcome, best_strategy_plan(problem, student_steps).outcome]
        if problem.merge_rule == "operator-copy" and student_steps == 1:
            candidates.append(evaluate(problem, _nearest_comb(problem)))
        outcome, bound = best_outcome(candidates), found.lower_bound
        notes = ("the target lies between the extremes: the nearest value was searched for",)
    else:
        side = 0 if target[0] <= ranges[0, 0] else 1
        outcome = evaluate(problem, extreme_plan(problem, side, student_steps))
        bound = max(separable_bound(problem, ranges), outcome.w2)
    return PlannerResult(outcome, bound, "scalar", time.perf_counter() - began, notes)


def _nearest_comb(problem: Problem) -> Plan:
    """A comb whose excess, a sum over its blocks (THEORY 7.7), is close to the target."""
    log_products = problem.teacher.log_products[:-1, 0]
    blocks = np.log1p(
        problem.retentions[-1, 0] * np.expm1(np.subtract.outer(log_products, log_products))
    )
    top = problem.num_steps - 1
    sums, parents = {top: np.zeros(1)}, {}
    for stop in range(top - 1, -1, -1):
        above = np.concatenate([np.full(len(sums[k]), k) for k in range(stop + 1, top + 1)])
        index = np.concatenate([np.arange(len(sums[k])) for k in range(stop + 1, top + 1)])
        values = np.concatenate([sums[k] + blocks[k, stop] for k in range(stop + 1, top + 1)])
        count = min(len(values), _MAX_SUMS)
        kept = np.argsort(values)[np.linspace(0, len(values) - 1, count).astype(int)]
        sums[stop], parents[stop] = values[kept], (above[kept], index[kept])
    boundaries, index_here = [0], int(np.abs(sums[0] - problem.target_excess[0]).argmin())
    while boundaries[-1] < top:
        above, index = parents[boundaries[-1]]
        boundaries.append(int(above[index_here]))
        index_here = int(index[index_here])
    return Plan((Tree.chain(problem.num_steps, boundaries[::-1]),))


def extreme_plan(problem: Problem, side: int, student_steps: int) -> Plan:
    """The plan with the smallest (side 0) or largest (side 1) excess of the only eigenvalue."""
    trees, forests = (table[side] for table in scalar_extremes(problem, 0))
    choose = np.argmin if side == 0 else np.argmax
    num_steps = problem.num_steps
    reached, choices = trees[num_steps].copy(), []
    for students in range(1, student_steps):
        choice = np.zeros(num_steps + 1, dtype=int)
        for stop in range(num_steps - students):
            above = slice(stop + 1, num_steps - students + 1)
            values = _compose(reached[above], trees[above, stop])
            best = int(choose(values))
            choice[stop], reached[stop] = stop + 1 + best, values[best]
        choices.append(choice)
    edges = partition_edges(num_steps, choices)

    def tree_split(start: int, stop: int) -> int:
        splits = np.arange(stop + 1, start)
        rho = problem.retentions[start, 0]
        first, rest = trees[start, stop + 1 : start], forests[stop, stop + 1 : start]
        offset, gain = np.array(
            [np.ravel(initial_coefficients(problem, start, int(k), stop)) for k in splits]
        ).T
        merged = (1 - rho) * _compose(first, rest) + rho * (offset + gain * first)
        return int(splits[choose(merged)])

    def forest_split(start: int, stop: int) -> int:
        splits = np.arange(stop + 1, start)
        composed = _compose(trees[start, stop + 1 : start], forests[stop, stop + 1 : start])
        best = choose(composed)
        whole = trees[start, stop]
        if (composed[best] < whole) if side == 0 else (composed[best] > whole):
            return int(splits[best])
        return 0

    return Plan(tuple(trace_tree(a, b, tree_split, forest_split) for a, b in pairwise(edges)))


def _compose(first: Array, rest: Array) -> Array:
    return first + rest + first * rest
