"""A plan in a stated time: where a search does not end in it, the best plan and bound there are.

The squared distance is a sum of terms >= 0, one an eigenvalue. So what no plan goes below on some
of the eigenvalues, no plan goes below on all: a bound that takes as little time as one likes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from opmerge.clock import TimeUpError, seconds_left, tick, time_limit
from opmerge.errors import InputError
from opmerge.merging import Outcome, evaluate
from opmerge.planners.certified import certified_memory, certified_plan, likely_plan
from opmerge.planners.combs import step_signs
from opmerge.planners.interval import MEMORY_LIMIT
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, best_outcome
from opmerge.plans.strategies import build_strategy, strategy_family
from opmerge.plans.tree import Plan
from opmerge.problem import Problem
from opmerge.spectra import eigenvalue_spectrum

_SEARCH_SHARE = 0.65  # of the time; the rest is for what stands in where it does not suffice
_FEWEST, _MORE = 4, 4  # eigenvalues of the first bound, and how many times as many of the next


def plan_in_time(
    search: Callable[[], PlannerResult], problem: Problem, student_steps: int, max_seconds: float
) -> PlannerResult:
    """What the search finds, or, where it does not end in time, the best of what is at hand.

    That is the best of what it had and of the named strategies, under the better of its bound and
    of those on some of the eigenvalues; ``cut_short`` then, and a note says so.

    Raises:
        InputError: as the search; or where the time does not suffice to evaluate a single plan.
    """
    began = time.perf_counter()
    with time_limit(max_seconds):
        try:
            first = evaluate(problem, build_strategy("vanilla", problem.num_steps, student_steps))
        except TimeUpError:
            need = "must be enough to evaluate a plan"
            raise InputError("max_seconds", need, max_seconds) from None
        try:
            with time_limit(_SEARCH_SHARE * seconds_left()):
                result = search()
        except TimeUpError:
            note = "the search was not far enough to give a plan: a named strategy stands in"
            result = PlannerResult(first, 0.0, "strategies", notes=(note,), cut_short=True)
        if not result.cut_short:
            return result
        outcomes = [result.outcome, first, *_evaluated(problem, _plans(problem, student_steps))]
        best = best_outcome(outcomes)
        bound = max([result.lower_bound, *_bounds(best, student_steps)])
    note = "the search was cut short: one of more seconds may find a better plan, or prove more"
    seconds, notes = time.perf_counter() - began, (note, *result.notes)
    return replace(result, outcome=best, lower_bound=bound, seconds=seconds, notes=notes)


def likely_result(
    problem: Problem, student_steps: int, max_seconds: float, known: Iterable[Plan] = ()
) -> PlannerResult:
    """The plan that a coarser problem wants: near the best, in a tenth of the time, unproved.

    Proved under denoiser copy with one student, which takes no search. A coarse search that is not
    over in the seconds gives the best that it had; known plans may be better then.

    Raises:
        InputError: for K out of range.
    """
    if problem.merge_rule == "denoiser-copy" and student_steps == 1:
        return certified_plan(problem)
    plans = [build_strategy("boot", problem.num_steps, student_steps), *known]
    with suppress(TimeUpError), time_limit(max_seconds):
        plans.append(likely_plan(problem, student_steps))
    best = best_outcome(evaluate(problem, plan) for plan in dict.fromkeys(plans))
    note = "a first look: the plan of a coarser problem, of which nothing is proved"
    return PlannerResult(best, 0.0, "first look", notes=(note,))


def _plans(problem: Problem, student_steps: int) -> Iterator[Plan]:
    """What a coarser problem wants, and the named strategies."""
    with suppress(TimeUpError), time_limit(seconds_left() / 2):
        yield likely_plan(problem, student_steps)
    for name in strategy_family(problem.num_steps):
        yield build_strategy(name, problem.num_steps, student_steps)


def _evaluated(problem: Problem, plans: Iterable[Plan]) -> Iterator[Outcome]:
    """Plans, as many as can be evaluated in half of the time that is left."""
    with suppress(TimeUpError), time_limit(seconds_left() / 2):
        for number, plan in enumerate(plans):
            tick("plans evaluated", number)
            yield evaluate(problem, plan)


def _bounds(near: Outcome, student_steps: int) -> Iterator[float]:
    """Bounds on ever more of the eigenvalues that carry most of a plan's error."""
    problem = near.problem
    is_mixed = problem.by_eigenvalue((step_signs(problem) == 0).astype(float)) > 0
    if problem.merge_rule == "denoiser-copy":
        is_mixed[:] = False  # no sign takes longer than another
    order = np.lexsort((-near.errors, is_mixed))
    values, weights = problem.distinct_eigenvalues, problem.distinct_multiplicities
    count = _FEWEST
    with suppress(TimeUpError):
        while count < _MORE * len(order):
            chosen = np.sort(order[:count])
            part = replace(problem, spectrum=eigenvalue_spectrum(values[chosen], weights[chosen]))
            tick("bounds by some eigenvalues", len(chosen))
            yield separable_bound(part, excess_ranges(part, student_steps))
            memory = certified_memory(part, student_steps)
            if problem.objective == "teacher" and memory <= MEMORY_LIMIT:
                with suppress(TimeUpError), time_limit(seconds_left() / 2):
                    yield certified_plan(part, student_steps).lower_bound
            count *= _MORE
