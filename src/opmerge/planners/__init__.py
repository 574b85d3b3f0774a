"""Planners: from a problem to the best plan, with a proof of how good it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

# numba sets the number of threads of the OpenMP that torch uses too, without asking how many
# there should be; it reads this variable when it is imported.
if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

from opmerge.errors import InputError
from opmerge.planners.brute_force import MAX_STEPS, brute_force_plan
from opmerge.planners.certified import certified_plan
from opmerge.planners.interval import MEMORY_LIMIT, interval_memory, interval_plan
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult
from opmerge.planners.scalar import scalar_plan
from opmerge.planners.strategies import best_strategy_plan
from opmerge.problem import Problem

__all__ = [
    "PLANNERS",
    "PlannerResult",
    "auto_plan",
    "best_strategy_plan",
    "brute_force_plan",
    "certified_plan",
    "find_plan",
    "interval_plan",
    "pareto_plan",
    "scalar_plan",
]

_OPERATIONS = 1e12  # of the separable bound: some minutes
_CLOSED = 1e-9  # a relative gap that is rounding for every purpose


def auto_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The planner that proves most for this problem; its notes begin with why.

    One eigenvalue: scalar. Operator copy towards the teacher: certified. Anything else of a few
    steps: brute force. The rest: interval DP and the named strategies, whichever is better,
    under the separable bound.

    Args:
        problem: any problem.
        student_steps: K >= 1 trees.

    Raises:
        InputError: if K is out of range.
    """
    covered = problem.merge_rule == "operator-copy" and problem.objective == "teacher"
    if len(problem.eigenvalues) == 1:
        result, reason = scalar_plan(problem, student_steps), "it is for a single eigenvalue"
    elif covered:
        result = certified_plan(problem, student_steps)
        reason = "it proves its plans for operator copy towards the teacher"
    elif problem.num_steps <= MAX_STEPS:
        result, reason = brute_force_plan(problem, student_steps), "few enough steps to try all"
    else:
        result = best_strategy_plan(problem, student_steps)
        reason = "the best named strategy reaches the separable bound"
        if result.gap > _CLOSED and interval_memory(problem) <= MEMORY_LIMIT:
            interval = interval_plan(problem, student_steps)
            better = interval.w2 < result.w2
            result = interval if better else result
            reason = (
                f"certified does not cover {problem.merge_rule} with the objective "
                f"{problem.objective}; interval DP {'beat' if better else 'did not beat'} "
                "the best named strategy"
            )
    if result.gap > _CLOSED and covered and problem.num_steps <= MAX_STEPS:
        result, reason = brute_force_plan(problem, student_steps), "few enough steps to try all"
    elif result.gap > _CLOSED and _is_affordable(problem):
        bound = separable_bound(problem, excess_ranges(problem, student_steps))
        result = replace(result, lower_bound=max(bound, result.lower_bound))
    return replace(result, notes=(f"auto chose {result.planner}: {reason}", *result.notes))


def _is_affordable(problem: Problem) -> bool:
    return problem.num_steps**3 * len(problem.eigenvalues) <= _OPERATIONS


PLANNERS: Mapping[str, Callable[[Problem, int], PlannerResult]] = {
    "auto": auto_plan,
    "interval": interval_plan,
    "scalar": scalar_plan,
    "certified": certified_plan,
    "pareto": pareto_plan,
    "brute-force": brute_force_plan,
}
"""Every planner by the name that the command line uses."""


def find_plan(problem: Problem, planner: str = "auto", student_steps: int = 1) -> PlannerResult:
    """Find the best merge plan with the planner of that name.

    Args:
        problem: the merge problem.
        planner: a key of ``PLANNERS``.
        student_steps: K >= 1, the number of steps of the student.

    Returns:
        The best plan found, evaluated, with ``lower_bound``: a W2 distance that no plan of K
        trees goes below, proved up to rounding in float64.

    Raises:
        InputError: for an unknown name, or a problem that the planner does not cover.
    """
    if planner not in PLANNERS:
        raise InputError("planner", f"must be one of {', '.join(PLANNERS)}", planner)
    return PLANNERS[planner](problem, student_steps)
