"""Plans for budgets: within them, and never worse than what is set beside them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from forecast_cases import a_law, a_table

from opmerge import InputError, build_strategy
from opmerge.forecast import PRIORS, FittedLaw, Forecast, forecast
from opmerge.forecast.cost import IterationCost
from opmerge.planners.around_budget import PlansAround, plans_around
from opmerge.planners.budget import (
    BudgetResult,
    equal_angle_boundaries,
    frontier,
    plan_for_budget,
    ratio_interval,
)
from opmerge.planners.splits import Splitter, jumps_of
from opmerge.plans import STRATEGIES
from opmerge.plans.strategies import uniform_boundaries, windowed_strategy

COST = IterationCost(128, "auto", is_linear_solved=True)
BUDGETS = (2e5, 1e6, 5e6, 2.5e7)


@pytest.fixture(scope="module")
def results() -> list[BudgetResult]:
    return frontier(a_table(16), PRIORS["mlp"], BUDGETS, (1, 2, 4), COST)


def plans_of(result: BudgetResult):
    equal = [result.equal] if result.equal else []
    return [result.best, result.least, *equal, *result.strategies, *(t.plan for t in result.ties)]


def test_results_are_by_student_steps_and_then_by_budget(results):
    expected = [(k, budget) for k in (1, 2, 4) for budget in BUDGETS]
    assert [(each.student_steps, each.budget) for each in results] == expected


def test_every_plan_is_whole_within_its_budget_and_forecast_by_the_reference(results):
    table, law = a_table(16), PRIORS["mlp"]
    for result in results:
        for planned in plans_of(result):
            plan, counts = planned.plan, planned.iterations
            assert plan.student_steps == result.student_steps
            assert plan.num_steps == 16
            assert len(counts) == len(plan.merges)
            assert min(counts) >= 1
            cost = COST.total([merge.num_children for merge in plan.merges], counts)
            assert planned.cost == cost <= result.budget
            told, reference = planned.forecast, forecast(law, table, plan, counts)
            assert [told.rms, told.low, told.high, *told.draws] == pytest.approx(
                [reference.rms, reference.low, reference.high, *reference.draws], rel=1e-9
            )
            assert planned.forecast.low < planned.forecast.rms < planned.forecast.high


def test_no_plan_beside_the_least_is_better(results):
    for result in results:
        assert all(each.forecast.rms >= result.least.forecast.rms for each in plans_of(result))


def test_more_budget_never_forecasts_worse(results):
    for number, budget in enumerate(BUDGETS[1:], start=1):
        for start in (0, 4, 8):
            before, after = results[start + number - 1], results[start + number]
            assert after.budget == budget
            assert after.least.forecast.rms <= before.least.forecast.rms


def test_more_student_steps_never_forecast_worse(results):
    # one more handover takes a merge away; the search is no proof, but 1, 2 and 4 are far apart
    rms = [[each.least.forecast.rms for each in results[k : k + 4]] for k in (0, 4, 8)]
    assert all(a > b > c for a, b, c in zip(*rms, strict=True))


def test_ties_are_those_whose_ratio_may_be_1_and_the_simplest_is_proposed(results):
    """One merge a window of equal angles if that ties; for one student it is vanilla."""
    table = a_table(16)
    for result in results:
        edges = equal_angle_boundaries(table, result.student_steps)
        even = windowed_strategy("vanilla", edges)
        law, least = PRIORS["mlp"], result.least
        scatter = law.scatter
        tied = {tie.plan.plan for tie in result.ties}
        for tie in result.ties:
            interval = ratio_interval(tie.plan.forecast, least.forecast, scatter)
            assert (tie.low, tie.high) == interval
            assert tie.low <= 1 <= tie.high
        for strategy in result.strategies:
            if strategy.plan not in tied and strategy.plan != least.plan:
                low, _ = ratio_interval(strategy.forecast, least.forecast, scatter)
                assert low > 1
        alike = [least, *(tie.plan for tie in result.ties)]
        simplest = min(alike, key=lambda each: (len(each.iterations), each.forecast.rms))
        split = Splitter(table, law.law, COST).best(jumps_of(even), result.budget)
        as_usual = forecast(law, table, even, split.iterations.tolist())
        low, high = ratio_interval(as_usual, simplest.forecast, scatter)
        is_even = even in {*tied, least.plan} or low <= 1 <= high
        assert result.best.plan == (even if is_even else simplest.plan)


def test_even_windows_are_proposed_unless_the_law_tells_them_from_the_simplest(results):
    """Where they are no tie of the least, which a search among many plans overrates."""
    told = PRIORS["mlp"]
    sure = replace(told, draws=told.draws[:1])
    found = [
        plan_for_budget(a_table(16), replace(sure, scatter=scatter), 5e5, 2, COST)
        for scatter in np.geomspace(0.003, 0.3, 15)
    ]
    even = windowed_strategy("vanilla", equal_angle_boundaries(a_table(16), 2))
    is_even = [each.best.plan == even for each in found]
    is_tie = [even in {each.least.plan, *(t.plan.plan for t in each.ties)} for each in found]
    assert is_even == sorted(is_even)
    assert is_even[-1] > is_even[0]
    assert sum(is_even) > sum(is_tie)


def test_a_law_that_is_sure_proposes_the_least():
    law = FittedLaw(PRIORS["mlp"].law, (), 1e-6, "for a test")
    result = plan_for_budget(a_table(16), law, 2e6, 1, COST)
    assert result.best == result.least
    assert len(result.best.iterations) > 1


def test_every_strategy_stands_beside_the_best_once(results):
    for result in results:
        families = [each.name.partition(":")[0] for each in result.strategies]
        assert len(families) == len(set(families))
        if result.budget > 1e6:
            assert set(families) == set(STRATEGIES)
        else:
            assert set(families) >= {"vanilla"}


def test_equal_is_progressive_as_people_run_it(results):
    for result in results:
        if result.equal is not None:
            assert result.equal.plan == build_strategy("progressive", 16, result.student_steps)
            assert len(set(result.equal.iterations)) == 1


def test_a_smooth_budget_is_found_alone_as_on_a_frontier(results):
    alone = plan_for_budget(a_table(16), PRIORS["mlp"], BUDGETS[1], 1, COST)
    # other prices are tried on the way, so that the plan may be another: by little
    assert alone.least.forecast.rms == pytest.approx(results[1].least.forecast.rms, rel=0.02)


def test_longer_samplers_than_the_table_are_planned_in_real_steps():
    table = a_table(150)
    result = plan_for_budget(table, PRIORS["mlp"], 5e6, 2, COST)
    assert result.least.plan.num_steps == 150
    assert result.least.forecast.rms <= min(s.forecast.rms for s in result.strategies)
    counts = [merge.num_children for merge in result.least.plan.merges]
    assert result.least.cost == COST.total(counts, result.least.iterations) <= 5e6


def test_as_many_student_steps_as_the_teachers_need_no_training():
    result = plan_for_budget(a_table(4), PRIORS["mlp"], 1e5, 4, COST)
    assert (result.best.iterations, result.best.cost, result.best.forecast.rms) == ((), 0.0, 0.0)


def test_boundaries_of_k_student_steps_are_the_plans(results):
    for result in results:
        edges = result.least.plan.boundaries
        assert (edges[0], edges[-1], len(edges)) == (16, 0, result.student_steps + 1)


@pytest.mark.parametrize(("num_steps", "student_steps"), [(16, 4), (64, 7), (5, 5), (5, 4)])
def test_equal_angles_of_the_cosine_schedule_are_equal_steps(num_steps, student_steps):
    edges = equal_angle_boundaries(a_table(num_steps), student_steps)
    exact = np.linspace(num_steps, 0, student_steps + 1)
    assert (edges[0], edges[-1]) == (num_steps, 0)
    assert (np.diff(edges) < 0).all()
    assert abs(edges - exact).max() <= 0.5 + 1e-9


def test_ratio_interval_is_of_paired_draws_and_the_scatter_of_both():
    one = Forecast(2.0, 1.0, 3.0, (1.0, 2.0, 4.0))
    other = Forecast(1.0, 0.5, 1.5, (0.5, 1.0, 2.0))
    assert ratio_interval(one, other, 0.0) == (2.0, 2.0)  # whatever the draw
    low, high = np.log(ratio_interval(one, one, 0.1))
    # 5 % quantiles of a normal with √2 · 0.1; of 256 samples they have a standard error of
    # √(0.05 · 0.95 / 256) / 0.103 = 0.13 standard deviations
    spread = math.sqrt(2) * 0.1
    assert low == pytest.approx(-1.645 * spread, abs=3 * 0.13 * spread)
    assert high == pytest.approx(1.645 * spread, abs=3 * 0.13 * spread)


def test_other_laws_and_costs_change_the_plan():
    table = a_table(16)
    slow = FittedLaw(a_law(table), (), 0.1, "for a test")
    dear = IterationCost(128, 1)
    with_reuse, without = (plan_for_budget(table, slow, 3e6, 1, c) for c in (COST, dear))
    assert with_reuse.least.forecast.rms < without.least.forecast.rms


@pytest.mark.parametrize(
    ("budget", "student_steps", "words"),
    [
        (0.0, 1, "budget` must be > 0"),
        (-1.0, 1, "budget` must be > 0"),
        (math.nan, 1, "budget` must be a finite number"),
        (100.0, 1, "budget` must be >= 2,560 evaluations"),  # 128 (16 + 1 + 3)
        (1e6, 17, "student_steps` must be <= the number of teacher steps 16"),
        (1e6, 0, "student_steps` must be >= 1"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(budget, student_steps, words):
    with pytest.raises(InputError) as refused:
        plan_for_budget(a_table(16), PRIORS["mlp"], budget, student_steps, COST)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_frontier_needs_budgets_and_student_steps():
    for budgets, counts in (([], [1]), ([1e6], [])):
        with pytest.raises(InputError, match="must not be empty"):
            frontier(a_table(8), PRIORS["mlp"], budgets, counts, COST)


@pytest.mark.parametrize("free_runs", [None, 100])
def test_plans_around_a_budget_are_read_as_they_were_found(free_runs: int | None) -> None:
    table, law = a_table(8), PRIORS["mlp"]
    found = plans_around(table, law, 2e5, [2, 1], COST, 60.0, free_runs=free_runs)
    assert found.chosen in found.curve
    assert not found.is_cut
    assert {each.student_steps for each in found.curve} == {1, 2}
    read = PlansAround.from_dict(json.loads(json.dumps(found.to_dict())), table, law)
    assert read.to_dict() == found.to_dict()
    for one, other in zip(read.curve, found.curve, strict=True):
        assert one.best.plan == other.best.plan
        # found by compiled forecasts, read by the others: the same but for rounding
        np.testing.assert_allclose(
            one.best.forecast.draws, other.best.forecast.draws, rtol=1e-12, atol=0
        )


def test_plans_for_other_budgets_land_where_that_of_the_budget_does() -> None:
    table, law = a_table(8), PRIORS["mlp"]
    without = plans_around(table, law, 2e5, [1, 2], COST, 60.0)
    found = plans_around(table, law, 2e5, [1, 2], COST, 60.0, free_runs=100)
    landing = found.chosen.best.plan.free_step
    assert landing is not None
    for one, other in zip(found.curve, without.curve, strict=True):
        assert one.best.plan.free_step in (None, landing)
        assert one.best.cost <= one.budget == other.budget
        assert one.best.forecast.rms <= other.best.forecast.rms
        assert one.least.forecast.rms <= other.least.forecast.rms
        assert all(tie.low <= 1 <= tie.high for tie in one.ties)


@pytest.mark.parametrize("budget", [3e4, 3e5, 3e6])
def test_all_hand_over_at_equal_angles_or_equal_steps(budget):
    """Also of a law that is sure of the least forecast, which other handovers would have."""
    law, table = FittedLaw(PRIORS["mlp"].law, (), 1e-6, "for a test"), a_table(16)
    result = plan_for_budget(table, law, budget, 4, COST)
    windows = uniform_boundaries(16, 4), equal_angle_boundaries(table, 4)
    for planned in plans_of(result):
        assert list(planned.plan.boundaries) in [list(each) for each in windows]
