"""The planner that chooses among the planners."""

from __future__ import annotations

from dataclasses import replace

from opmerge.planners.brute_force import MAX_STEPS, best_strategy_plan, brute_force_plan
from opmerge.planners.certified import certified_plan
from opmerge.planners.interval import MEMORY_LIMIT, interval_memory, interval_plan
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, planner
from opmerge.planners.scalar import scalar_plan
from opmerge.problem import Problem

_OPERATIONS = 1e12  # of the separable bound: some minutes
_CLOSED = 1e-9  # a relative gap that is rounding for every purpose


@planner("auto", 0)
def auto_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The planner that proves most for this problem; its notes begin with why.

    One eigenvalue: scalar. Operator copy towards the teacher: certified. Anything else of a few
    steps: brute force. The rest: interval DP and the named strategies, whichever is better,
    under the separable bound.
    """
    is_covered = problem.merge_rule == "operator-copy" and problem.objective == "teacher"
    is_short = problem.num_steps <= MAX_STEPS
    if len(problem.eigenvalues) == 1:
        result, reason = scalar_plan(problem, student_steps), "it is for a single eigenvalue"
    elif is_covered:
        result = certified_plan(problem, student_steps)
        reason = "it proves its plans for operator copy towards the teacher"
    elif is_short:
        result, reason = brute_force_plan(problem, student_steps), "few enough steps to try all"
    else:
        result = best_strategy_plan(problem, student_steps)
        reason = "the best named strategy reaches the separable bound"
        if result.gap > _CLOSED and interval_memory(problem) <= MEMORY_LIMIT:
            interval = interval_plan(problem, student_steps)
            is_better = interval.w2 < result.w2
            result = interval if is_better else result
            reason = (
                f"certified does not cover {problem.merge_rule} with the objective "
                f"{problem.objective}; interval DP {'beat' if is_better else 'did not beat'} "
                "the best named strategy"
            )
    if result.gap > _CLOSED and is_covered and is_short:
        result, reason = brute_force_plan(problem, student_steps), "few enough steps to try all"
    elif result.gap > _CLOSED and problem.num_steps**3 * len(problem.eigenvalues) <= _OPERATIONS:
        bound = separable_bound(problem, excess_ranges(problem, student_steps))
        result = replace(result, lower_bound=max(bound, result.lower_bound))
    return replace(result, notes=(f"auto chose {result.planner}: {reason}", *result.notes))
