"""The best of the named strategies, under the separable bound: a plan for problems of any kind."""

from __future__ import annotations

import time

from opmerge.merging import evaluate
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult
from opmerge.plans.strategies import build_strategy, strategy_family
from opmerge.problem import Problem

__all__ = ["best_strategy_plan"]


def best_strategy_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The named strategy with the smallest W2, sizes by powers of two; O(T³ d) for the bound.

    Under denoiser copy towards the teacher sequential BOOT reached the bound on every spectrum
    tried (THEORY 7.9), so that nothing is left to search for.

    Args:
        problem: any problem.
        student_steps: K >= 1 trees, on uniform windows.

    Raises:
        InputError: if K is out of range.
    """
    began = time.perf_counter()
    names = strategy_family(problem.num_steps)
    plans = {name: build_strategy(name, problem.num_steps, student_steps) for name in names}
    outcomes = {name: evaluate(problem, plan) for name, plan in plans.items()}
    best = min(outcomes, key=lambda name: outcomes[name].w2)
    bound = separable_bound(problem, excess_ranges(problem, student_steps))
    return PlannerResult(
        outcomes[best],
        bound,
        "strategies",
        time.perf_counter() - began,
        (f"{best} is the best of {len(names)} named strategies",),
    )
