"""Planner for a single eigenvalue: exact, or the nearest value found (THEORY 8)."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.merging import Outcome, evaluate
from opmerge.planners.backtrack import partition_edges
from opmerge.planners.extremes import Extremes, compose
from opmerge.planners.nearest import nearest_plan
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, best_outcome
from opmerge.planners.strategies import best_strategy_plan
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

__all__ = ["scalar_plan"]

Array = NDArray[np.float64]

_FEW_STEPS = 24  # up to which sets of values take less than a second


def scalar_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The optimal plan for one eigenvalue, or inside the band one near to it.

    The smallest and the largest reachable excess are exact. Where the target lies outside them,
    the nearer one is optimal. Where it lies between, the nearest reachable value is searched
    for among sets of values, and the gap that is left is reported.

    Args:
        problem: a problem with one distinct eigenvalue and a training model of one mode; either
            rule, either objective.
        student_steps: K >= 1 trees.

    Raises:
        InputError: if there are several eigenvalues, the training model has several modes, or K
            is out of range.
    """
    distinct, modes = len(problem.distinct_eigenvalues), len(problem.training.mode_weights)
    if distinct != 1:
        raise InputError(
            "planner",
            "scalar covers a single distinct eigenvalue only",
            distinct,
            'use `planner="auto"`',
        )
    if modes != 1:
        raise InputError(
            "planner",
            "scalar covers training models of a single mode only",
            f"{problem.training.name} with {modes} modes",
            'use `planner="auto"`',
        )
    uniform_boundaries(problem.num_steps, student_steps)
    began = time.perf_counter()
    ranges = excess_ranges(problem, student_steps)
    target = problem.target_excess
    notes: tuple[str, ...] = ()
    if ranges[0, 0] < target[0] < ranges[1, 0]:
        outcome = _nearest(problem, student_steps)
        bound = separable_bound(problem, ranges)
        notes = ("the target lies between the extremes: the nearest value was searched for",)
    else:
        side = 0 if target[0] <= ranges[0, 0] else 1
        outcome = evaluate(problem, extreme_plan(problem, side, student_steps))
        bound = max(separable_bound(problem, ranges), outcome.w2)
    return PlannerResult(outcome, bound, "scalar", time.perf_counter() - began, notes)


def _nearest(problem: Problem, student_steps: int) -> Outcome:
    """The nearest value found, by sums over a spine; of few steps, by sets of values too."""
    found = [best_strategy_plan(problem, student_steps).outcome]
    if problem.merge_rule == "operator-copy" and student_steps == 1 and problem.num_steps > 1:
        found.append(evaluate(problem, nearest_plan(problem)))
    if len(found) == 1 or problem.num_steps <= _FEW_STEPS:
        found.append(pareto_plan(problem, student_steps).outcome)
    return best_outcome(found)


def extreme_plan(problem: Problem, side: int, student_steps: int) -> Plan:
    """The plan with the smallest (side 0) or largest (side 1) excess of the only eigenvalue."""
    extremes = Extremes(problem, side)
    choose = np.argmin if side == 0 else np.argmax
    num_steps = problem.num_steps
    reached, choices = extremes.trees[num_steps].copy(), []
    for students in range(1, student_steps):
        choice = np.zeros(num_steps + 1, dtype=int)
        for stop in range(num_steps - students):
            above = slice(stop + 1, num_steps - students + 1)
            values = compose(reached[above], extremes.trees[above, stop])
            best = int(choose(values))
            choice[stop], reached[stop] = stop + 1 + best, values[best]
        choices.append(choice)
    edges = partition_edges(num_steps, choices)
    return Plan(tuple(extremes.tree(start, stop) for start, stop in pairwise(edges)))
