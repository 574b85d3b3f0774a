"""The best of the named strategies, under the separable bound: a plan for problems of any kind."""

from __future__ import annotations

from opmerge.merging import evaluate
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, planner
from opmerge.plans.strategies import build_strategy, strategy_family
from opmerge.problem import Problem


@planner("strategies")
def best_strategy_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The named strategy with the smallest W2, sizes by powers of two; O(T³ d) for the bound.

    Under denoiser copy towards the teacher the best one-step plan is sequential BOOT, which
    reaches the bound (THEORY 7.9). K students stand on uniform windows.
    """
    outcomes = {
        name: evaluate(problem, build_strategy(name, problem.num_steps, student_steps))
        for name in strategy_family(problem.num_steps)
    }
    best = min(outcomes, key=lambda name: outcomes[name].w2)
    bound = separable_bound(problem, excess_ranges(problem, student_steps))
    note = f"{best} is the best of {len(outcomes)} named strategies"
    return PlannerResult(outcomes[best], bound, notes=(note,))
