"""Planner for a single eigenvalue: exact, or the nearest value found (THEORY 8)."""

from __future__ import annotations

from itertools import pairwise

from opmerge.merging import Outcome, evaluate
from opmerge.planners.backtrack import best_edges
from opmerge.planners.nearest import Extremes, nearest_plan
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.ranges import compose, excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, best_outcome, planner, require
from opmerge.planners.strategies import best_strategy_plan
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

_FEW_STEPS = 24  # up to which sets of values take less than a second


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
    require(
        modes == 1,
        "scalar covers training models of a single mode only",
        f"{problem.training.name} with {modes} modes",
    )
    uniform_boundaries(problem.num_steps, student_steps)
    ranges = excess_ranges(problem, student_steps)
    bound, target = separable_bound(problem, ranges), problem.target_excess
    if ranges[0, 0] < target[0] < ranges[1, 0]:
        note = "the target lies between the extremes: the nearest value was searched for"
        return PlannerResult(_nearest(problem, student_steps), bound, notes=(note,))
    side = 0 if target[0] <= ranges[0, 0] else 1
    outcome = evaluate(problem, extreme_plan(problem, side, student_steps))
    return PlannerResult(outcome, max(bound, outcome.w2))


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
    extremes, sign = Extremes(problem, side), 1 - 2 * side
    edges = best_edges(extremes.trees, student_steps, compose, lambda values, _: sign * values)
    return Plan(tuple(extremes.tree(start, stop) for start, stop in pairwise(edges)))
