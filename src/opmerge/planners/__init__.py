"""Planners: from a problem to the best plan, with a proof of how good it is.

Each takes a problem and K >= 1, the number of student steps, chooses where they begin too, and
raises ``InputError`` for a problem that it does not cover or a K out of range. A new planner is a
function with the decorator ``planner`` in a file of its own in this package, whose import does not
import numba.
"""

from dataclasses import replace
from functools import partial
from importlib import import_module
from pkgutil import iter_modules

from opmerge.clock import TimeUpError
from opmerge.errors import InputError
from opmerge.guided_teacher import GuidedProblem
from opmerge.planners.brute_force import MAX_STEPS, best_strategy_plan, brute_force_plan
from opmerge.planners.certified import certified_memory, certified_plan
from opmerge.planners.guided import guided_plan
from opmerge.planners.in_time import plan_in_time
from opmerge.planners.interval import MEMORY_LIMIT, interval_memory, interval_plan
from opmerge.planners.pareto import pareto_plan
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PLANNERS, PlannerResult, planner
from opmerge.planners.scalar import scalar_plan
from opmerge.problem import Problem

__all__ = [
    "PLANNERS",
    "PlannerResult",
    "auto_plan",
    "best_strategy_plan",
    "brute_force_plan",
    "certified_plan",
    "find_plan",
    "guided_plan",
    "interval_plan",
    "pareto_plan",
    "planner",
    "scalar_plan",
]

_OPERATIONS = 1e12  # of the separable bound: some minutes
_CLOSED = 1e-9  # a relative gap that is rounding for every purpose

for _module in iter_modules(__path__, f"{__name__}."):
    if not _module.name.endswith("_kernels"):
        import_module(_module.name)


def find_plan(
    problem: Problem,
    planner: str = "auto",
    student_steps: int = 1,
    max_seconds: float | None = None,
) -> PlannerResult:
    """The best merge plan of K = ``student_steps`` trees that the planner of that name finds.

    Without ``max_seconds`` a search goes on to its end, and the same problem has the same answer
    anywhere. With them it is cut short after about as many seconds, unless it has ended.

    Returns:
        The plan, evaluated, with ``lower_bound``: a W2 distance that no plan of K trees goes
        below, proved up to rounding in float64.

    Raises:
        InputError: for an unknown name, a problem that the planner does not cover, K < 1 or > T, or
            seconds that do not suffice to evaluate a plan.
    """
    if planner not in PLANNERS:
        raise InputError("planner", f"must be one of {', '.join(PLANNERS)}", planner)
    if isinstance(problem, GuidedProblem):
        requirement = "must be of a teacher without guidance, which no certificate covers"
        remedy = f"`guided_plan` proves the best of up to {MAX_STEPS} steps"
        raise InputError("problem", requirement, f"w = {problem.scale:g}", remedy)
    search = partial(PLANNERS[planner], problem, student_steps)
    if max_seconds is None:
        return search()
    return plan_in_time(search, problem, student_steps, max_seconds)


@planner("auto", 0)
def auto_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The planner that proves most for this problem; its notes begin with why.

    One eigenvalue: scalar (THEORY 8). Towards the teacher: certified (THEORY 7). Anything else of a
    few steps: brute force. The rest: interval DP and the named strategies, whichever is better,
    under the separable bound.
    """
    result, reason = _first_answer(problem, student_steps)
    try:
        result, reason = _closed(result, reason, student_steps)
    except TimeUpError:
        result = replace(result, cut_short=True)
    return replace(result, notes=(f"auto chose {result.planner}: {reason}", *result.notes))


def _is_covered(problem: Problem, student_steps: int) -> bool:
    """Whether certified plans for it."""
    is_within = certified_memory(problem, student_steps) <= MEMORY_LIMIT
    return problem.objective == "teacher" and is_within


def _first_answer(problem: Problem, student_steps: int) -> tuple[PlannerResult, str]:
    """Of the planner for this kind of problem, and why of that."""
    if len(problem.eigenvalues) == 1:
        return scalar_plan(problem, student_steps), "it is for a single eigenvalue"
    if _is_covered(problem, student_steps):
        result = certified_plan(problem, student_steps)
        return result, "it proves its plans towards the teacher"
    if problem.num_steps <= MAX_STEPS:
        return brute_force_plan(problem, student_steps), "few enough steps to try all"
    result = best_strategy_plan(problem, student_steps)
    return result, "the best named strategy reaches the separable bound"


def _closed(result: PlannerResult, reason: str, student_steps: int) -> tuple[PlannerResult, str]:
    """The answer, or where its gap is open what closes it or comes nearer."""
    problem = result.outcome.problem
    if result.gap <= _CLOSED or result.cut_short:
        return result, reason
    is_covered = _is_covered(problem, student_steps)
    if result.planner == "strategies":
        if interval_memory(problem) > MEMORY_LIMIT:
            reason = "the tables of the planners that prove more take over 2 GiB"
        else:
            interval = interval_plan(problem, student_steps)
            is_better = interval.w2 < result.w2
            result = interval if is_better else result
            reason = (
                f"certified does not cover {problem.merge_rule} with the objective "
                f"{problem.objective}; interval DP {'beat' if is_better else 'did not beat'} "
                "the best named strategy"
            )
    if result.gap > _CLOSED and is_covered and problem.num_steps <= MAX_STEPS:
        return brute_force_plan(problem, student_steps), "few enough steps to try all"
    operations = problem.num_steps**3 * len(problem.eigenvalues)
    if result.gap > _CLOSED and operations <= _OPERATIONS:
        bound = separable_bound(problem, excess_ranges(problem, student_steps))
        result = replace(result, lower_bound=max(bound, result.lower_bound))
    return result, reason
