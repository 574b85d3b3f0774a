"""Every plan, one by one: the optimum by definition, for a few steps (THEORY 8)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, pairwise, product

from opmerge.merging import evaluate
from opmerge.planners.result import PlannerResult, planner, require
from opmerge.plans.strategies import uniform_boundaries
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
    plans = all_plans(steps, student_steps)
    outcome = min((evaluate(problem, plan) for plan in plans), key=lambda each: each.w2)
    return PlannerResult(outcome, outcome.w2)


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
