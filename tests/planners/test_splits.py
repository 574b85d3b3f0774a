"""The compiled composition is ``opmerge.forecast``'s; splits are optimal and within budget."""

from itertools import product

import numpy as np
import pytest
from forecast_cases import a_law, a_table

from opmerge import InputError, Plan
from opmerge.forecast import FittedLaw, forecast
from opmerge.forecast.composition import squared_errors
from opmerge.forecast.cost import IterationCost
from opmerge.planners.splits import Forecasts, Splitter, in_order, jumps_of, plan_of
from opmerge.plans import build_strategy
from opmerge.plans.strategies import strategy_family


def a_splitter(num_steps: int, cost: IterationCost | None = None, **law: float) -> Splitter:
    table = a_table(num_steps)
    return Splitter(table, a_law(table, **law), cost or IterationCost(reuse="auto"))


@pytest.mark.parametrize(
    ("cost", "children", "expected"),
    [
        (IterationCost(2, 1), 4, 2 * (4 + 3)),
        (IterationCost(2, 8), 4, 2 * (4 / 8 + 3)),
        (IterationCost(2, "auto"), 4, 2 * (4 / 4 + 3)),
        (IterationCost(2, "auto", is_linear_solved=True), 40, 2 * (41 / 16 + 3)),
        (IterationCost(2, "auto", student_passes=5.0), 64, 2 * (64 / 16 + 5)),
    ],
)
def test_iteration_costs_its_target_by_reuse_and_the_students_passes(cost, children, expected):
    assert cost.per_iteration(children) == pytest.approx(expected, rel=1e-15)


def test_total_pays_for_whole_batches_of_targets():
    # 5 iterations with R = 4 take 2 batches of targets of 4 children; 3 with R = 3 take one of 3
    cost = IterationCost(10, "auto")
    assert cost.total([4, 3], [5, 3]) == 10 * (2 * 4 + 5 * 3 + 1 * 3 + 3 * 3)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"reuse": 0}, {"student_passes": 0.0}])
def test_costs_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        IterationCost(**wrong)


@pytest.mark.parametrize("num_steps", [7, 32, 100])  # 100: nodes lie several steps apart
@pytest.mark.parametrize("student_steps", [1, 3])
def test_compiled_composition_is_the_reference(num_steps, student_steps):
    splitter, rng = a_splitter(num_steps), np.random.default_rng(1)
    for name in strategy_family(num_steps):
        plan = build_strategy(name, num_steps, student_steps)
        jumps = jumps_of(plan)
        iterations = np.exp(rng.uniform(-1, 7, len(jumps)))
        error, gradient = splitter.error(jumps, iterations)
        reference = squared_errors([splitter.law], splitter.table, plan, iterations)[0]
        assert error == pytest.approx(reference, rel=1e-10)
        assert splitter.student_steps(jumps) == student_steps
        assert plan_of(jumps, num_steps) == plan
        for place in rng.choice(len(jumps), min(3, len(jumps)), replace=False):
            step = np.zeros(len(jumps))
            step[place] = 1e-5
            up, down = (splitter.error(jumps, iterations * np.exp(s))[0] for s in (step, -step))
            # central difference: truncation 1e-10, rounding 1e-16 / 1e-5 of the error
            expected = (up - down) / 2e-5
            assert gradient[place] == pytest.approx(expected, abs=1e-7 * abs(gradient).max())


def test_crossing_jumps_are_no_plan():
    splitter = a_splitter(8)
    assert splitter.student_steps(in_order([(8, 4), (6, 2), (8, 0)])) == 0
    assert splitter.student_steps(in_order([(8, 4), (4, 2), (8, 0)])) == 1
    assert splitter.student_steps(in_order([(8, 4), (4, 2)])) == 4  # and the steps 2 and 1
    with pytest.raises(InputError, match="nest"):
        splitter.best(in_order([(8, 4), (6, 2), (8, 0)]), 1e6)


@pytest.mark.parametrize("name", ["boot", "progressive", "uniform:4", "temporal:8", "hybrid:4"])
@pytest.mark.parametrize("budget", [3e5, 1e7])
@pytest.mark.parametrize("reuse", [1, "auto"])
def test_best_split_meets_the_conditions_of_the_optimum(name, budget, reuse):
    """With h = -dE²/dN of the reference, h/c is one number where N > 1 and at most it where N = 1.

    A relative decrease of 1e-11 a round ends the descent, so h/c agrees to about its root.
    """
    splitter = a_splitter(32, IterationCost(reuse=reuse))
    plan = build_strategy(name, 32)
    jumps, costs = (
        jumps_of(plan),
        splitter.cost.per_iteration([m.num_children for m in plan.merges]),
    )
    counts = splitter.best(jumps, budget).counts
    assert counts @ costs == pytest.approx(budget, rel=1e-9)
    gains = []
    for place, count in enumerate(counts):
        step = 1e-4 * count * (np.arange(len(counts)) == place)
        ends = [counts + step, counts - step] if count > 1 else [counts + step, counts]
        up, down = (squared_errors([splitter.law], splitter.table, plan, end)[0] for end in ends)
        gains.append((down - up) / (ends[0] - ends[1]).sum() / costs[place])
    is_free = counts > 1 + 1e-9
    level = np.average(np.array(gains)[is_free], weights=(counts * costs)[is_free])
    assert np.array(gains)[is_free] == pytest.approx(level, rel=3e-3)
    assert (np.array(gains)[~is_free] <= level * 1.003).all()


@pytest.mark.parametrize("jumps", [((16, 6), (16, 0)), ((16, 9), (9, 3), (16, 0))])
@pytest.mark.parametrize("budget", [2e5, 5e6])
def test_best_split_beats_a_fine_grid(jumps, budget):
    splitter = a_splitter(16)
    costs = splitter.cost.per_iteration([merge.num_children for merge in plan_of(jumps, 16).merges])
    shares = np.linspace(0.005, 0.995, 120)
    points = [
        np.array([*part, 1 - sum(part)]) * budget / costs
        for part in product(shares, repeat=len(jumps) - 1)
        if sum(part) < 0.997
    ]
    on_grid = min(splitter.error(jumps, counts)[0] for counts in points if counts.min() >= 1)
    best = splitter.error(jumps, splitter.best(jumps, budget).counts)[0]
    assert best <= on_grid * (1 + 1e-9)
    assert best >= on_grid * 0.99  # the grid is fine enough to say that


@pytest.mark.parametrize("cost", [IterationCost(), IterationCost(8, "auto", is_linear_solved=True)])
def test_whole_iterations_never_cost_more_and_leave_nothing_that_pays(cost):
    splitter, rng = a_splitter(24, cost), np.random.default_rng(2)
    for name in strategy_family(24):
        jumps = jumps_of(build_strategy(name, 24))
        least = splitter.least_cost(jumps)
        for budget in least * np.exp(rng.uniform(0, 7, 4)):
            split = splitter.best(jumps, budget)
            spent = splitter.total_cost(jumps, split.iterations)
            assert spent <= budget
            assert split.iterations.min() >= 1
            # what is left is less than an iteration of every merge costs
            assert budget - spent <= least
            equal = splitter.equal(jumps, budget)
            assert len(set(equal.iterations)) == 1
            assert splitter.total_cost(jumps, equal.iterations) <= budget
            assert splitter.total_cost(jumps, equal.iterations + 1) > budget


def test_budget_below_an_iteration_a_merge_is_refused():
    splitter = a_splitter(8)
    jumps = jumps_of(build_strategy("boot", 8))
    splitter.best(jumps, splitter.least_cost(jumps))
    for split in (splitter.best, splitter.equal):
        with pytest.raises(InputError, match="an iteration a merge"):
            split(jumps, splitter.least_cost(jumps) - 1)


def test_plan_without_merges_costs_and_leaves_nothing():
    splitter = a_splitter(4)
    split = splitter.best((), 10.0)
    assert (split.error, split.num_merges) == (0.0, 0)
    assert plan_of((), 4) == Plan.from_nested([4, 3, 2, 1])


def test_forecasts_under_draws_are_the_reference():
    table = a_table(32)
    draws = tuple(a_law(table, share_exponent=0.1 * k, shape=0.5 + 0.1 * k) for k in range(4))
    law = FittedLaw(a_law(table), draws, 0.1, "none")
    found = Forecasts(Splitter(table, law.law, IterationCost()), law)
    plan = build_strategy("progressive", 32, 2)
    iterations = [10 * (place + 1) for place in range(len(plan.merges))]
    expected = forecast(law, table, plan, iterations)
    shown = found.of(jumps_of(plan), iterations)
    assert shown.draws == pytest.approx(expected.draws, rel=1e-10)
    assert len(set(shown.draws)) == 4
    told = (shown.rms, shown.low, shown.high)
    assert told == pytest.approx((expected.rms, expected.low, expected.high), rel=1e-10)


def test_a_split_of_few_rounds_is_near_the_best():
    splitter, jumps = a_splitter(32), jumps_of(build_strategy("boot", 32))
    few = Splitter(splitter.table, splitter.law, splitter.cost, rounds=10)
    best, near, begun = (
        each.best(jumps, 1e6).error
        for each in (splitter, few, Splitter(splitter.table, splitter.law, splitter.cost, 0))
    )
    assert best * (1 - 1e-6) < near < best * (1 + 1e-3) < begun
