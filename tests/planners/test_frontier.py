"""Plans and times together: shortest paths at a price, and the tree that is cheapest in the end."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.allocation import (
    allocate,
    cheapest_plan,
    comb_bound,
    comb_frontier,
    evaluations_per_fold,
    merge_costs,
)
from opmerge.planners.brute_force import all_plans
from opmerge.plans import Plan, Tree, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow

STEPS = 6


def problem_of(*eigenvalues: float, num_steps: int = STEPS, **more: Any) -> Problem:
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, GradientFlow(1.0), **{"merge_rule": "operator-copy", **more})


def combs() -> list[list[int]]:
    """Every way to cut steps T-1 … 1 into blocks, as boundaries T-1, …, 0."""
    inner = range(STEPS - 2, 0, -1)
    return [
        [STEPS - 1, *cuts, 0] for count in range(STEPS - 1) for cuts in combinations(inner, count)
    ]


def price_of(problem: Problem, boundaries: list[int], price: float) -> float:
    """|e| + price · cost of a comb with each block's best time, by a search in one dimension."""
    total = 0.0
    for above, below in pairwise(boundaries):
        growth = float(problem.teacher.log_composite(below, above)[0])
        start, cost = np.expm1(-growth), above - below + 4.0

        def paid(time: float, start: float = start, cost: float = cost) -> float:
            return float(abs(np.log1p(start * np.exp(-2.0 * time))) + price * cost * time)

        best = minimize_scalar(paid, bounds=(0, 40), method="bounded", options={"xatol": 1e-10})
        total += min(float(best.fun), paid(0.0))
    return total


@pytest.mark.parametrize("eigenvalue", [0.05, 0.6, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("price", [0.3, 0.02, 1e-3, 1e-6])
def test_the_comb_of_a_price_is_the_best_of_all(eigenvalue: float, price: float) -> None:
    problem = problem_of(eigenvalue)
    point = comb_frontier(problem, [price])[0]
    least = min(price_of(problem, boundaries, price) for boundaries in combs())
    assert abs(point.excess) + price * point.budget == pytest.approx(least, rel=1e-7)
    assert evaluate(problem, point.plan, point.times).excess[0] == pytest.approx(
        point.excess, rel=1e-10, abs=1e-15
    )
    assert merge_costs(point.plan) @ point.times == pytest.approx(point.budget)


@pytest.mark.parametrize("eigenvalue", [0.2, 6.0])
@pytest.mark.parametrize("budget", [2.0, 10.0, 40.0])
def test_no_comb_goes_below_the_bound(eigenvalue: float, budget: float) -> None:
    """And the best comes within 3 %: the bound is the convex hull over combs of the error."""
    problem = problem_of(eigenvalue)
    bound = comb_bound(comb_frontier(problem, np.geomspace(1, 1e-12, 200)), budget)
    reached = [
        abs(allocate(problem, Plan((Tree.chain(STEPS, cuts),)), budget).outcome.excess[0])
        for cuts in combs()
    ]
    assert bound <= min(reached) * (1 + 1e-9)
    assert min(reached) <= 1.03 * bound


@pytest.mark.parametrize("eigenvalue", [0.1, 1.0, 2.0, 5.0, 50.0, 1000.0])
@pytest.mark.parametrize("overhead", [0.0, 3.0])
def test_the_cheapest_plan_is_the_cheapest_of_all(eigenvalue: float, overhead: float) -> None:
    problem = problem_of(eigenvalue)
    costs = [evaluations_per_fold(problem, plan, overhead) for plan in all_plans(STEPS, 1)]
    found = cheapest_plan(problem, overhead)
    assert evaluations_per_fold(problem, found, overhead) == pytest.approx(min(costs))
    if eigenvalue <= 1:
        assert found == build_strategy("vanilla", STEPS)


def test_above_1_a_tree_is_cheaper_than_one_merge() -> None:
    """λ = 5, T = 64: 21.63 evaluations for a factor e, where one merge takes (T + 3) / 2."""
    problem = problem_of(5.0, num_steps=64)
    assert evaluations_per_fold(problem, build_strategy("vanilla", 64)) == 33.5
    assert evaluations_per_fold(problem, cheapest_plan(problem)) < 22


@pytest.mark.parametrize("name", ["vanilla", "boot", "progressive", "consistency"])
def test_errors_fall_by_e_for_so_many_evaluations(name: str) -> None:
    """Between budgets at which all but the leading exponential is below 1e-6 of it."""
    problem, plan = problem_of(3.0, num_steps=8), build_strategy(name, 8)
    sooner, later = (np.log(allocate(problem, plan, budget).w2) for budget in (250.0, 300.0))
    assert 50.0 / (sooner - later) == pytest.approx(evaluations_per_fold(problem, plan), rel=1e-4)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (problem_of(1.5, num_steps=16), "`eigenvalue` must make every step t < T shrink or grow"),
        (problem_of(0.5, 0.6), "`problem` must have one eigenvalue, got 2"),
        (problem_of(0.5, merge_rule="denoiser-copy"), "`merge_rule` must be operator-copy, got"),
    ],
)
def test_other_problems_are_refused(problem: Problem, message: str) -> None:
    with pytest.raises(InputError) as caught:
        comb_frontier(problem, [0.1])
    assert str(caught.value).startswith(message)
