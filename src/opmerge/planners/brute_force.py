"""Plans one by one: all of them, the optimum by definition (THEORY 8), or the named strategies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise, product

from opmerge.clock import TimeUpError, tick
from opmerge.merging import Outcome, evaluate
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.record import compare_strategies
from opmerge.planners.result import PlannerResult, best_outcome, planner, require
from opmerge.plans.strategies import strategy_family, uniform_boundaries
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

MAX_STEPS = 9
"""20,793 trees, about 10 s; each further step is almost six times more."""


def all_trees(start: int, stop: int) -> Iterator[Tree]:
    """Every tree start → stop; their number is little Schröder: 1, 1, 3, 11, 45, 197, …"""
    for merges in _merges(start, stop):
        yield Tree(start, stop, merges)


def all_plans(num_steps: int, student_steps: int = 1) -> Iterator[Plan]:
    """Every plan of T steps with K students."""
    uniform_boundaries(num_steps, student_steps)
    for inner in combinations(range(num_steps - 1, 0, -1), student_steps - 1):
        edges = (num_steps, *inner, 0)
        for trees in product(*(tuple(all_trees(a, b)) for a, b in pairwise(edges))):
            yield Plan(trees)


@planner("brute-force", 5)
def brute_force_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The best of all plans, T <= 9; either rule, either objective."""
    steps = problem.num_steps
    require(steps <= MAX_STEPS, f"brute-force needs num_steps <= {MAX_STEPS}", steps)
    outcome = best_outcome(_evaluated(problem, student_steps))
    return PlannerResult(outcome, outcome.w2)


@planner("strategies")
def best_strategy_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The named strategy with the smallest W2, sizes by powers of two; O(T³ d) for the bound.

    It covers every problem, under the separable bound; K students stand on uniform windows. Under
    denoiser copy towards the teacher the best one-step plan is sequential BOOT, which reaches the
    bound (THEORY 7.9).
    """
    outcomes = compare_strategies(problem, strategy_family(problem.num_steps), student_steps)
    best = min(outcomes, key=lambda name: outcomes[name].w2)
    result = PlannerResult(
        outcomes[best], 0.0, notes=(f"{best} is the best of {len(outcomes)} named strategies",)
    )
    try:
        bound = separable_bound(problem, excess_ranges(problem, student_steps))
    except TimeUpError:
        return replace(result, cut_short=True)
    return replace(result, lower_bound=bound)


def _evaluated(problem: Problem, student_steps: int) -> Iterator[Outcome]:
    for number, plan in enumerate(all_plans(problem.num_steps, student_steps)):
        tick("plans tried", number)
        yield evaluate(problem, plan)


@cache
def _merges(start: int, stop: int) -> tuple[tuple[Merge, ...], ...]:
    """The merges of every tree start → stop; a single step needs none."""
    found: list[tuple[Merge, ...]] = [()] if start - stop == 1 else []
    steps = range(start - 1, stop, -1)
    for count in range(1, len(steps) + 1):
        for inner in combinations(steps, count):
            root = Merge((start, *inner, stop))
            children = (_merges(a, b) for a, b in pairwise(root.boundaries))
            found.extend((*sum(parts, ()), root) for parts in product(*children))
    return tuple(found)
