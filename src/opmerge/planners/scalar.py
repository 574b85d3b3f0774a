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
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

__all__ = ["scalar_plan"]

Array = NDArray[np.float64]


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
        named = best_strategy_plan(problem, student_steps)
        outcome, bound = best_outcome([found.outcome, named.outcome]), found.lower_bound
        notes = ("the target lies between the extremes: the nearest value was searched for",)
    else:
        side = 0 if target[0] <= ranges[0, 0] else 1
        outcome = evaluate(problem, extreme_plan(problem, side, student_steps))
        bound = max(separable_bound(problem, ranges), outcome.w2)
    return PlannerResult(outcome, bound, "scalar", time.perf_counter() - began, notes)


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
