"""Budgets for whole spectra: the frontier's bound and plans, and the theory to first order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.allocation import allocate, comb_bound, comb_frontier, merge_costs
from opmerge.planners.brute_force import all_plans
from opmerge.planners.budget_frontier import budget_frontier
from opmerge.planners.first_order import FirstOrderTheory, first_order_distance
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import EMAFlow, GammaRates, GradientFlow

Array = NDArray[np.float64]
RULES = ("operator-copy", "denoiser-copy")
SPREAD = GammaRates(0.5, 12.0, 0.0, 400, 3e-4, 400, 3e-4, num_modes=6)


def problem_of(*eigenvalues: float, num_steps: int = 5, **more: Any) -> Problem:
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    usual: dict[str, Any] = {"training": GradientFlow(1.0), "merge_rule": "operator-copy"}
    return Problem(spectrum, schedule, **(usual | more))


def first_order_terms(problem: Problem, plan: Plan) -> tuple[Array, Array]:
    """(M, d) what each merge adds to b / P - 1 where it alone is untrained, and (M, d) decays.

    From the exact evaluation: one merge has the time 0 and all others are trained to the end.
    """
    count, ends = len(plan.merges), 1e9
    alone = [
        evaluate(problem, plan, np.where(np.arange(count) == row, 0.0, ends)).excess
        for row in range(count)
    ]
    starts = [merge.start for merge in plan.merges]
    return np.expm1(np.array(alone)), -np.log(problem.retentions[starts])


def best_split(problem: Problem, plan: Plan, budget: float) -> float:
    """First-order W2 of the best split of a plan, by SLSQP on its logarithm, from equal shares.

    W2² is convex in the times where all errors of a column have one sign: one start is enough.
    """
    errors, rates = first_order_terms(problem, plan)
    costs, scale = merge_costs(plan), np.exp(problem.log_scale)

    def log_distance(shares: Array) -> float:
        total = (errors * np.exp(-rates * (shares * budget / costs)[:, None])).sum(axis=0)
        return float(np.log(np.linalg.norm(total * scale)))

    count = len(costs)
    found = minimize(
        log_distance,
        np.full(count, 1 / count),
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1},
        options={"maxiter": 300, "ftol": 1e-12},
    )
    return float(np.exp(found.fun))


def test_first_order_is_the_sum_of_what_each_merge_adds_alone() -> None:
    for rule in RULES:
        problem = problem_of(0.2, 1.5, 6.0, merge_rule=rule)
        for plan in list(all_plans(5, 2))[::5]:
            errors, rates = first_order_terms(problem, plan)
            times = np.linspace(0.5, 2.0, len(rates))
            total = (errors * np.exp(-rates * times[:, None])).sum(axis=0)
            expected = np.linalg.norm(total * np.exp(problem.log_scale))
            assert first_order_distance(problem, plan, times) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_equal_training_per_merge_is_the_usual_evaluation(rule: Any) -> None:
    """The problem's own training is a time of 1 in every merge; first order is off by O(ρ)."""
    problem = problem_of(0.2, 3.0, merge_rule=rule, training=GradientFlow(8.0), num_steps=8)
    for name in ("vanilla", "boot", "hybrid:3"):
        plan = build_strategy(name, 8)
        ones = np.ones(len(plan.merges))
        assert evaluate(problem, plan, ones).w2 == evaluate(problem, plan).w2
        assert first_order_distance(problem, plan, ones) == pytest.approx(
            evaluate(problem, plan).w2, rel=1e-5
        )


def priced(problem: Problem, plan: Plan, weights: Array, price: float) -> float:
    """Σ_d u_d size_d + μ cost of a plan with its best times, merge by merge, by a search on x."""
    errors, rates = first_order_terms(problem, plan)
    scaled, total = np.abs(errors) * np.exp(problem.log_scale) * weights, 0.0
    for row, cost in enumerate(merge_costs(plan)):

        def paid(time: float, row: int = row, cost: float = cost) -> float:
            return float(scaled[row] @ np.exp(-rates[row] * time)) + price * cost * time

        grid = np.append(0.0, np.geomspace(1e-3, 1e6, 181))
        near = int(np.argmin([paid(time) for time in grid]))
        bounds = grid[max(near - 1, 0)], grid[min(near + 1, len(grid) - 1)]
        total += min(paid(0.0), float(minimize_scalar(paid, bounds=bounds, method="bounded").fun))
    return total


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("price", [0.3, 1e-2, 1e-4])
def test_the_cheapest_plan_is_the_cheapest_of_all(rule: Any, count: int, price: float) -> None:
    """Over every tree: at most that value, and within the 1 % that nodes 10 % apart cost."""
    problem = problem_of(0.1, 0.7, 4.0, merge_rule=rule)
    weights = np.array([0.5, 0.7, 0.3])
    theory = FirstOrderTheory(problem, count)
    found = theory.cheapest(weights, price)
    least = min(priced(problem, plan, weights, price) for plan in all_plans(5, count))
    assert found.value <= least * (1 + 1e-9)
    assert found.value >= 0.99 * least
    reached = weights @ theory.sizes(found.plan, found.times)
    paid = reached + price * theory.cost(found.plan, found.times)
    assert least * (1 - 1e-6) <= paid <= 1.01 * least


@pytest.mark.parametrize("training", [GradientFlow(1.0), SPREAD])
def test_times_of_a_given_plan_are_the_best_at_the_price(training: Any) -> None:
    problem, weights = problem_of(0.1, 0.7, 4.0, training=training), np.array([0.5, 0.7, 0.3])
    columns = np.repeat(weights, len(training.mode_weights))
    theory = FirstOrderTheory(problem)
    for plan in list(all_plans(5, 1))[::4]:
        times = theory.times(plan, columns, 1e-3)
        paid = columns @ theory.sizes(plan, times) + 1e-3 * theory.cost(plan, times)
        least = priced(problem, plan, columns, 1e-3)
        assert least * (1 - 1e-6) <= paid <= 1.01 * least


def test_one_column_is_exact() -> None:
    """Then the tangent in the logarithm is the curve, whatever the nodes."""
    problem, weights = problem_of(0.3), np.ones(1)
    found = FirstOrderTheory(problem).cheapest(weights, 1e-3)
    least = min(priced(problem, plan, weights, 1e-3) for plan in all_plans(5, 1))
    assert found.value == pytest.approx(least, rel=1e-7)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 2])
def test_no_plan_with_any_split_goes_below_the_bound(rule: Any, count: int) -> None:
    """Against every tree with its best split; and the best of them is near the plan found.

    A mixture of two plans that err in different columns is nearer than either, so that the bound
    may stay below all of them: by 16 % for two students at B = 60 under denoiser copy.
    """
    problem = problem_of(0.1, 0.7, 4.0, merge_rule=rule)
    for point in budget_frontier(problem, [5.0, 60.0], count):
        plans = [plan for plan in all_plans(5, count) if plan.merges]
        least = min(best_split(problem, plan, point.budget) for plan in plans)
        assert point.lower_bound <= least * (1 + 1e-9)
        assert point.lower_bound >= 0.84 * least
        exact = min(allocate(problem, plan, point.budget).w2 for plan in plans)
        assert exact <= point.w2 * (1 + 1e-9)
        assert point.w2 <= 1.03 * exact


@pytest.mark.parametrize("training", [GradientFlow(1.0), SPREAD])
@pytest.mark.parametrize("rule", RULES)
def test_no_strategy_goes_below_the_bound(rule: Any, training: Any) -> None:
    spectrum = (0.02, 0.1, 0.5, 0.9, 3.0, 9.0)
    problem = problem_of(*spectrum, merge_rule=rule, training=training, num_steps=16)
    for point in budget_frontier(problem, [30.0, 120.0]):
        for name in ("vanilla", "boot", "progressive", "hybrid:4", "temporal:4", "consistency"):
            split = allocate(problem, build_strategy(name, 16), point.budget)
            first_order = first_order_distance(problem, split.plan, split.times)
            assert point.lower_bound <= first_order * (1 + 1e-9)
            assert point.w2 <= split.w2 * (1 + 1e-6)


def test_for_one_shrinking_eigenvalue_the_bound_is_that_of_combs() -> None:
    """Combs are best there to first order too (``comb_bound``), whose excess it is within O(ρ)."""
    problem = problem_of(0.2, num_steps=12)
    points = comb_frontier(problem, np.geomspace(1, 1e-12, 800))
    for point in budget_frontier(problem, [100.0, 140.0]):
        expected = problem.distance(np.array([comb_bound(points, point.budget)]))
        assert point.lower_bound == pytest.approx(expected, rel=0.02)


def test_of_shrinking_eigenvalues_combs_obey_the_bound_exactly() -> None:
    """b / P = Π (1 + a ρ) >= 1 + Σ a ρ for a >= 0, whatever is trained."""
    problem = problem_of(0.05, 0.3, 0.8, num_steps=6)
    for point in budget_frontier(problem, [1.0, 6.0, 25.0]):
        for plan in all_plans(6, 1):
            if all(merge.start == 6 for merge in plan.merges):
                assert allocate(problem, plan, point.budget).w2 >= point.lower_bound


@pytest.mark.parametrize("rule", RULES)
def test_the_frontier_falls_and_its_bound_is_convex(rule: Any) -> None:
    problem = problem_of(0.02, 0.3, 0.9, 1.3, 5.0, num_steps=12, merge_rule=rule)
    budgets = np.linspace(5.0, 95.0, 10)
    points = budget_frontier(problem, [*budgets[::-1]])[::-1]
    assert [point.budget for point in points] == budgets.tolist()
    bounds = np.array([point.lower_bound for point in points])
    assert (np.diff(bounds) < 0).all()
    assert (np.diff(bounds, 2) >= -1e-12).all()
    for smaller, larger in pairwise(points):
        assert larger.w2 <= smaller.w2
        assert smaller.allocation.budget == pytest.approx(smaller.budget)
        assert 0 <= larger.gap < 0.2


def test_columns_of_both_signs_count_as_nothing_in_the_bound() -> None:
    """Errors of λ = 1.5 can cancel (THEORY 7.4): the bound is that of the others alone."""
    alone, both = problem_of(0.3, num_steps=16), problem_of(0.3, 1.5, num_steps=16)
    without, beside = (budget_frontier(each, [80.0])[0] for each in (alone, both))
    assert beside.lower_bound == pytest.approx(without.lower_bound, rel=0.01)
    assert beside.w2 >= without.w2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: budget_frontier(problem_of(0.5), [0.0]), "`budgets` must be finite and > 0"),
        (lambda: budget_frontier(problem_of(0.5), [1.0], 5), "`student_steps` must leave merges"),
        (lambda: budget_frontier(problem_of(0.5), [1.0], 6), "`student_steps` must be"),
        (
            lambda: budget_frontier(problem_of(0.5, objective="data"), [1.0]),
            "`objective` must be teacher for a budget, got data",
        ),
        (
            lambda: budget_frontier(problem_of(0.5, training=EMAFlow(1.0, 2.0)), [1.0]),
            "`training` must leave an error that decays exponentially",
        ),
        (
            lambda: budget_frontier(problem_of(1.5, num_steps=16), [1.0]),
            "`spectrum` must have eigenvalues whose steps all shrink or all grow",
        ),
        (
            lambda: budget_frontier(problem_of(0.5, num_steps=600), [1.0]),
            "`problem` must need at most 2 GiB of tables",
        ),
    ],
)
def test_other_problems_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
