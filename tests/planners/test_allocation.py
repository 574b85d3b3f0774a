"""Budgets over merges: slopes, water-filling, the best split and its proof, schedules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles import DirectTheory, Numbers, Setting
from scipy.optimize import minimize
from strategies import students

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import allocation
from opmerge.planners.allocation import (
    SCHEDULES,
    Allocation,
    allocate,
    largest_gain,
    merge_costs,
    scheduled_times,
    water_filling,
)
from opmerge.planners.brute_force import all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import (
    EMAFlow,
    GammaRates,
    GradientDescent,
    GradientFlow,
    HeavyBall,
    TrainingModel,
)

Array = NDArray[np.float64]


def problem_of(*eigenvalues: float, num_steps: int = 8, **more: Any) -> Problem:
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, GradientFlow(1.0), **{"merge_rule": "operator-copy", **more})


# Times of merges


@pytest.mark.parametrize("name", ["boot", "progressive", "consistency", "temporal:3"])
def test_times_are_multiples_of_the_training(name: str) -> None:
    plan = build_strategy(name, 8)
    for once, thrice in (
        (GradientFlow(0.7), GradientFlow(2.1)),
        (GradientDescent(0.05, 20), GradientDescent(0.05, 60)),
    ):
        problem = replace(problem_of(0.2, 1.0, 3.0), training=once)
        expected = evaluate(replace(problem, training=thrice), plan).excess
        found = evaluate(problem, plan, np.full(len(plan.merges), 3.0)).excess
        np.testing.assert_allclose(found, expected, rtol=1e-12)


class TimedTheory(DirectTheory):
    """The direct formulas with a time for each merge, by its ends."""

    def __init__(self, setting: Setting, times: dict[tuple[int, int], float]) -> None:
        super().__init__(setting)
        self.times = times

    def merge(self, start: int, split: int, stop: int, first: Numbers, target: Numbers) -> Numbers:
        kept = self.retentions[start] ** mpmath.mpf(self.times[start, stop])
        student: Numbers = kept * self._initial(start, split, stop, first) + (1 - kept) * target
        return student


@settings(max_examples=25)
@given(st.data(), students(5), st.sampled_from(get_args(MergeRule)))
def test_every_merge_has_its_own_time(data: st.DataObject, nested: Any, rule: MergeRule) -> None:
    """λ up to 100, for at s = 1 the retention of 400 underflows, and then so does its power."""
    values = data.draw(st.sets(st.floats(0.01, 100.0), min_size=1, max_size=3))
    setting = Setting(cosine_schedule(5), tuple(sorted(values, reverse=True)), (), 1.0, rule)
    plan = Plan.from_nested(nested)
    count = len(plan.merges)
    times = data.draw(st.lists(st.floats(0.01, 3), min_size=count, max_size=count))
    by_ends = {(m.start, m.stop): time for m, time in zip(plan.merges, times, strict=True)}
    student, composite = TimedTheory(setting, by_ends).plan(nested)
    expected = [float(mpmath.log(b / p)) for b, p in zip(student, composite, strict=True)]
    found = evaluate(setting.problem(), plan, times).excess
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_what_is_not_trained_stays_as_it_starts() -> None:
    """Operator copy: e = log(A_T / P). Denoiser copy: the jump from pure noise to the data is 0."""
    plan = build_strategy("vanilla", 8)
    problem = problem_of(0.2)
    expected = -problem.teacher.log_composite(0, 7)
    np.testing.assert_allclose(evaluate(problem, plan, [0.0]).excess, expected, rtol=1e-13)
    copied = problem_of(0.2, merge_rule="denoiser-copy")
    assert evaluate(copied, plan, [0.0]).excess[0] < -30


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "`training_times` must have 2 entries, one a merge, got 1"),
        ([1.0, -1.0], "`training_times` must be finite and >= 0, got -1.0"),
    ],
)
def test_times_that_do_not_fit_are_refused(times: list[float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(problem_of(0.5, num_steps=3), build_strategy("boot", 3), times)
    assert str(caught.value) == message


@pytest.mark.parametrize("training", [EMAFlow(1.0, 2.0), HeavyBall(1e-3, 400, 0.9)])
def test_times_are_refused_where_training_has_a_memory(training: TrainingModel) -> None:
    """Twice the time leaves (1 + 2 r s) e^{-2 r s} at β = r, not (1 + r s)² e^{-2 r s}."""
    problem, plan = replace(problem_of(0.5), training=training), build_strategy("boot", 8)
    for call in (lambda: evaluate(problem, plan, [1.0] * 7), lambda: allocate(problem, plan, 9.0)):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == (
            "`training_times` must be left out where error does not decay exponentially with "
            f"training, got {training.name}; take gradient-flow, gradient-descent, gamma-rates"
        )


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.05, 8.0), min_size=1, max_size=3, unique=True),
    st.sampled_from(["operator-copy", "denoiser-copy"]),
    students(6),
    st.integers(0, 100),
)
def test_slopes_are_differences(
    eigenvalues: list[float], rule: Any, nested: Any, seed: int
) -> None:
    """Central differences of step h are good to h² of the third derivative: 1e-8 of the rates."""
    problem, plan = problem_of(*eigenvalues, num_steps=6, merge_rule=rule), Plan.from_nested(nested)
    times = np.random.default_rng(seed).uniform(0.1, 2.0, len(plan.merges))
    found = Allocation(problem, plan, merge_costs(plan), times).slopes
    for row in range(len(times)):
        shift = 1e-5 * np.eye(len(times))[row]
        ends = [evaluate(problem, plan, times + sign * shift).excess for sign in (1, -1)]
        np.testing.assert_allclose(found[row], (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)


# Water-filling


positive = st.floats(-4, 2).map(lambda power: 10.0**power)
triples = st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=6)


@given(triples, st.floats(0.0, 50.0))
def test_water_filling_meets_the_conditions_of_its_optimum(
    rows: list[tuple[float, float, float]], budget: float
) -> None:
    """Karush, Kuhn and Tucker: equal worth where time is spent, no more of it elsewhere."""
    errors, rates, costs = np.array(rows).T
    times = water_filling(errors, rates, costs, budget)
    assert (times >= 0).all()
    assert costs @ times == pytest.approx(budget, rel=1e-9, abs=1e-9)
    log_worth = np.log(rates * errors / costs) - rates * times
    spent = times > 1e-9 * (1 + 1 / rates)
    if spent.any():
        np.testing.assert_allclose(log_worth[spent], log_worth[spent].max(), atol=1e-6)
        assert (log_worth[~spent] <= log_worth[spent].max() + 1e-6).all()


def test_no_time_goes_where_there_is_no_error() -> None:
    found = water_filling(np.array([0.0, 1.0, -2.0]), np.ones(3), np.ones(3), 5.0)
    assert found.tolist() == [0.0, 5.0, 0.0]
    assert water_filling(-np.ones(2), np.ones(2), np.ones(2), 5.0).tolist() == [0.0, 0.0]


# The best split


def minimised(problem: Problem, plan: Plan, budget: float, start: Array) -> float:
    """W2 by SLSQP on log W2 with differences for slopes, from shares of the budget."""
    costs = merge_costs(plan)

    def loss(shares: Array) -> float:
        return float(np.log(evaluate(problem, plan, np.maximum(shares, 0) * budget / costs).w2))

    found = minimize(
        loss,
        start,
        method="SLSQP",
        bounds=[(0, 1)] * len(costs),
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    return float(np.exp(loss(found.x / found.x.sum())))


COMBS = ("boot", "vanilla", "hybrid:3")


@pytest.mark.parametrize("name", COMBS)
@pytest.mark.parametrize("eigenvalues", [(0.2,), (5.0,), (0.1, 0.6, 4.0)])
@pytest.mark.parametrize("budget", [15.0, 60.0])
def test_the_split_of_a_comb_is_proved(
    name: str, eigenvalues: tuple[float, ...], budget: float
) -> None:
    problem, plan = problem_of(*eigenvalues), build_strategy(name, 8)
    found = allocate(problem, plan, budget)
    assert found.is_convex
    assert found.budget == pytest.approx(budget)
    assert found.w2 * (1 - 1e-6) <= found.lower_bound <= found.w2
    rng, costs = np.random.default_rng(0), merge_costs(plan)
    for shares in rng.dirichlet(np.full(len(costs), 0.7), 50):
        assert evaluate(problem, plan, shares * budget / costs).w2 >= found.lower_bound * (
            1 - 1e-12
        )
    independent = minimised(problem, plan, budget, np.full(len(costs), 1 / len(costs)))
    assert independent == pytest.approx(found.w2, rel=1e-4)
    assert independent >= found.lower_bound * (1 - 1e-12)


@pytest.mark.parametrize("iterations", [0, 1])
def test_a_search_that_is_cut_short_proves_what_it_can(
    monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    """From equal times the gradient alone bounds the optimum; 18 % below them is not proved."""
    problem, plan = problem_of(0.2), build_strategy("boot", 8)
    best = allocate(problem, plan, 60.0)
    monkeypatch.setattr(allocation, "_MAX_ITERATIONS", iterations)
    found = allocate(problem, plan, 60.0)
    assert found.w2 > best.w2 * (1 + 1e-9)
    assert found.lower_bound <= best.w2
    assert found.lower_bound == pytest.approx(found.w2 * np.sqrt(max(1 - 2 * found.residual, 0)))


@pytest.mark.parametrize("rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("name", ["progressive", "consistency", "temporal:3"])
def test_no_start_leads_to_a_better_split_of_a_tree(name: str, rule: Any) -> None:
    """What is not proved is compared with an independent minimisation from other starts."""
    problem, plan = problem_of(0.2, 3.0, merge_rule=rule), build_strategy(name, 8)
    found = allocate(problem, plan, 40.0)
    assert not found.is_convex
    assert found.lower_bound == 0
    assert found.residual < 1e-5
    for shares in np.random.default_rng(1).dirichlet(np.ones(len(plan.merges)), 3):
        assert minimised(problem, plan, 40.0, shares) >= found.w2 * (1 - 1e-4)


def test_a_split_towards_the_data_is_stationary() -> None:
    problem = problem_of(0.2, 0.5, objective="data")
    found = allocate(problem, build_strategy("boot", 8), 12.0)
    shares = np.full(7, 1 / 7)
    assert found.w2 <= minimised(problem, found.outcome.plan, 12.0, shares) * (1 + 1e-4)


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        (problem_of(1.5), "boot"),
        (problem_of(0.2), "progressive"),
        (problem_of(0.2, merge_rule="denoiser-copy"), "boot"),
        (problem_of(0.2, objective="data"), "boot"),
    ],
    ids=["both signs", "tree", "denoiser copy", "data"],
)
def test_nothing_is_proved_where_convexity_is_not(problem: Problem, name: str) -> None:
    assert not allocate(problem, build_strategy(name, 8), 20.0).is_convex


def test_a_proof_is_withheld_where_the_loss_bends_down() -> None:
    """1 - exp(-u) squared is concave in u beyond ln 2: so it is at λ = 1e4, hardly trained."""
    problem, plan = problem_of(1e4), build_strategy("boot", 8)
    assert not allocate(problem, plan, 0.5).is_convex
    assert allocate(problem, plan, 200.0).is_convex


@pytest.mark.parametrize("eigenvalue", [0.2, 5.0])
def test_splits_gain_as_a_divergence_says(eigenvalue: float) -> None:
    """At B = 600 every ρ is below 1e-7, so that is the relative error of the first order."""
    problem = problem_of(eigenvalue)
    for name in ("boot", "hybrid:3"):
        plan = build_strategy(name, 8)
        blocks = [problem.teacher.log_composite(m.stop, m.split)[0] for m in plan.merges]
        gain = largest_gain(np.abs(np.expm1(-np.array(blocks))), merge_costs(plan))
        equal = evaluate(problem, plan, scheduled_times("constant", plan, 600.0))
        assert equal.w2 / allocate(problem, plan, 600.0).w2 == pytest.approx(gain, rel=1e-6)
        assert gain > 1.01


def test_errors_of_both_signs_cancel_inside_the_band() -> None:
    """λ = 1.5: a hybrid's blocks grow and shrink, and the best split meets the teacher."""
    problem, plan = problem_of(1.5, num_steps=16), build_strategy("hybrid:2", 16)
    equal = evaluate(problem, plan, scheduled_times("constant", plan, 200.0)).w2
    assert allocate(problem, plan, 200.0).w2 < 1e-6 * equal


def test_modes_of_spread_rates_are_split_too() -> None:
    rates = GammaRates(0.5, 12.0, 0.0, 400, 3e-4, 400, 3e-4)
    problem = replace(problem_of(0.2, 2.0), training=rates)
    plan = build_strategy("progressive", 8)
    found = allocate(problem, plan, 300.0)
    assert found.residual < 1e-5
    assert found.w2 < 0.95 * evaluate(problem, plan, scheduled_times("constant", plan, 300.0)).w2


def test_one_merge_gets_everything() -> None:
    found = allocate(problem_of(0.3), build_strategy("vanilla", 8), 33.0)
    assert isinstance(found, Allocation)
    assert found.costs.tolist() == [11.0]
    assert found.times.tolist() == [3.0]
    assert found.lower_bound == pytest.approx(found.w2)


# Schedules


def test_schedules_follow_the_rounds() -> None:
    plan = build_strategy("progressive", 8)
    assert plan.rounds() == [1, 1, 2, 1, 1, 2, 3]
    expected = {
        "constant": [1, 1, 1, 1, 1, 1, 1],
        "growing": [1, 1, 2, 1, 1, 2, 3],
        "falling": [3, 3, 2, 3, 3, 2, 1],
        "doubled last rounds": [1, 1, 2, 1, 1, 2, 2],
    }
    assert set(SCHEDULES) == set(expected)
    for name, relative in expected.items():
        times = scheduled_times(name, plan, 70.0)
        assert merge_costs(plan) @ times == pytest.approx(70.0)
        np.testing.assert_allclose(times / times[0], np.array(relative) / relative[0])


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_no_schedule_beats_the_best_split(name: str) -> None:
    for plan in list(all_plans(5, 1))[::4]:
        problem = problem_of(0.3, num_steps=5)
        given_times = scheduled_times(name, plan, 12.0)
        assert evaluate(problem, plan, given_times).w2 >= allocate(problem, plan, 12.0).w2 * (
            1 - 1e-6
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scheduled_times("rising", build_strategy("boot", 3), 1.0), "`schedule` must be"),
        (lambda: allocate(problem_of(1.0), build_strategy("boot", 8), 0.0), "`budget` must be > 0"),
        (
            lambda: allocate(problem_of(1.0, num_steps=1), build_strategy("boot", 1), 1.0),
            "`plan` must have merges to train",
        ),
    ],
)
def test_bad_input_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
