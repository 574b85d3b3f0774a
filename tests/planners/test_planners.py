"""Every planner against every plan: the optimum of an independent program, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles import SQUARE_UNDERFLOW, DirectTheory, Setting, best_students, random_setting

from opmerge.data import open_source
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import (
    PLANNERS,
    PlannerResult,
    auto_plan,
    best_strategy_plan,
    brute_force_plan,
    certified_plan,
    find_plan,
    interval_plan,
    pareto_plan,
    scalar_plan,
)
from opmerge.planners.brute_force import MAX_STEPS
from opmerge.planners.ranges import excess_ranges
from opmerge.plans.strategies import STRATEGIES, build_strategy
from opmerge.plans.tree import Plan
from opmerge.problem import MergeRule, Objective, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum, estimate_spectrum
from opmerge.training import GradientDescent, GradientFlow

NUM_RANDOM = 60
NUM_RANDOM_IN_FULL = 1000


def problem_of(
    eigenvalues: Any,
    num_steps: int,
    time: float = 6.4,
    merge_rule: MergeRule = "operator-copy",
    objective: Objective = "teacher",
) -> Problem:
    return Problem(
        eigenvalue_spectrum(eigenvalues),
        cosine_schedule(num_steps),
        GradientFlow(time),
        merge_rule,
        objective,
    )


def slack_of(setting: Setting, w2: float) -> float:
    """Rounding of a distance.

    Excesses are good to 1e-12, and a bound adds and subtracts squared distances, a few times
    larger than itself, of excesses that are: 1e-9 covers both. Towards the data a distance is
    the difference of two outputs, each good to 1e-13 of itself.
    """
    outputs = np.sqrt(np.dot(setting.multiplicities, setting.eigenvalues))
    return 1e-9 * w2 + SQUARE_UNDERFLOW + (1e-13 * outputs if setting.objective == "data" else 0.0)


def has_mixed_steps(setting: Setting) -> bool:
    """Whether an eigenvalue has steps of both signs below the noisiest one."""
    steps = np.array(DirectTheory(setting).steps)[1:-1]
    return bool(((steps < 1).any(axis=0) & (steps > 1).any(axis=0)).any())


def exact_planners(setting: Setting) -> dict[str, Callable[[Problem, int], PlannerResult]]:
    """The planners that claim the optimum of this problem."""
    found: dict[str, Callable[[Problem, int], PlannerResult]] = {
        "pareto": pareto_plan,
        "auto": auto_plan,
    }
    if len(setting.eigenvalues) == 1:
        found["scalar"] = scalar_plan
    denoised = setting.merge_rule == "denoiser-copy"
    if setting.objective == "teacher" and (denoised or not has_mixed_steps(setting)):
        found["certified"] = certified_plan
        if len(setting.eigenvalues) == 1:
            found["interval"] = interval_plan
    return found


def bounding_planners(setting: Setting) -> dict[str, Callable[[Problem, int], PlannerResult]]:
    """The planners that claim an interval with the optimum in it."""
    found: dict[str, Callable[[Problem, int], PlannerResult]] = {
        "interval": interval_plan,
        "strategies": best_strategy_plan,
        "pareto, coarse": lambda problem, count: pareto_plan(problem, count, epsilon=0.1),
        "pareto, thinned": lambda problem, count: pareto_plan(problem, count, max_front=2),
    }
    if setting.objective == "teacher":
        found["certified"] = certified_plan
    return found


def check_random_problem(seed: int, most_steps: int) -> None:
    rng = np.random.default_rng(seed)
    num_steps = int(rng.integers(2, most_steps + 1))
    setting = random_setting(rng, num_steps, int(rng.integers(1, 7)))
    student_steps = int(rng.integers(1, min(3, num_steps) + 1))
    check_problem(setting, student_steps)


def check_problem(setting: Setting, student_steps: int) -> None:
    problem = setting.problem()
    optimum, _ = best_students(setting, student_steps)
    slack = slack_of(setting, optimum)
    exact, bounding = exact_planners(setting), bounding_planners(setting)
    for name, planner in [*bounding.items(), *exact.items()]:
        result = planner(problem, student_steps)
        assert result.plan.num_steps == setting.num_steps, name
        assert result.plan.student_steps == student_steps, name
        assert result.w2 == pytest.approx(evaluate(problem, result.plan).w2, rel=1e-12), name
        assert result.lower_bound - slack <= optimum <= result.w2 + slack, name
        searched = name == "scalar" and result.notes  # the target lies between the extremes
        if name in exact and not searched:
            assert result.w2 <= optimum + slack, name
            assert result.lower_bound >= optimum - slack, name


@pytest.mark.parametrize("seed", range(NUM_RANDOM))
def test_random_problems(seed: int) -> None:
    """1 to 6 eigenvalues over 12 decades, s from 0.05 to 30, 1 to 3 students, T <= 8."""
    check_random_problem(seed, 8 if seed % 10 == 0 else 7)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(NUM_RANDOM, NUM_RANDOM + NUM_RANDOM_IN_FULL))
def test_a_thousand_random_problems(seed: int) -> None:
    check_random_problem(seed, 8)


@pytest.mark.parametrize("objective", ["teacher", "data"])
@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("student_steps", [1, 2, 3])
def test_the_plain_cosine_on_a_mixed_spectrum(
    student_steps: int, merge_rule: Any, objective: Any
) -> None:
    setting = Setting(
        cosine_schedule(7),
        (40.0, 1.4, 0.3, 0.01),
        (1, 1, 10, 100),
        2.0,
        merge_rule,
        objective,
    )
    check_problem(setting, student_steps)


# One eigenvalue


@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("student_steps", [1, 2, 3])
@pytest.mark.parametrize("time", [0.1, 3.0])
def test_the_range_of_an_eigenvalue_is_exact(
    time: float, student_steps: int, merge_rule: Any
) -> None:
    eigenvalues = (1e4, 30.0, 1.8, 1.4, 1.3, 1.26, 1.2, 1.0, 0.3, 1e-4)
    setting = Setting(cosine_schedule(7), eigenvalues, time=time, merge_rule=merge_rule)
    theory = DirectTheory(setting)
    values = theory.all_students(student_steps) / theory.composite(0, 7) - 1
    ranges = np.expm1(excess_ranges(setting.problem(), student_steps))
    # Excesses of both signs may nearly cancel; what cancels is at most the larger end.
    size = np.abs(ranges).max(axis=0)
    for side, exact in enumerate((values.min(axis=0), values.max(axis=0))):
        assert (np.abs(ranges[side] - exact.astype(float)) <= 1e-12 * size).all()


@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("student_steps", [1, 3])
@pytest.mark.parametrize("eigenvalue", [1e-6, 0.2, 1.0, 2.5, 1e4])
def test_planners_agree_on_one_eigenvalue_of_one_sign(
    eigenvalue: float, student_steps: int, merge_rule: Any
) -> None:
    """64 steps, where nothing can be enumerated: the DP of extremes, the paper's DP, combs."""
    problem = problem_of([eigenvalue], 64, merge_rule=merge_rule)
    scalar = scalar_plan(problem, student_steps)
    assert scalar.gap < 1e-9
    assert scalar.notes == ()
    interval = interval_plan(problem, student_steps)
    assert interval.w2 == pytest.approx(scalar.w2, rel=1e-9)
    assert interval.gap < 1e-9
    certified = certified_plan(problem, student_steps)
    assert certified.w2 == pytest.approx(scalar.w2, rel=1e-9)
    assert certified.gap < 1e-9
    if student_steps == 1:
        best = "boot" if eigenvalue <= 1 or merge_rule == "denoiser-copy" else "vanilla"
        expected = evaluate(problem, build_strategy(best, 64)).w2
        assert scalar.w2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("student_steps", [1, 3])
def test_towards_the_data_the_largest_excess_is_best(student_steps: int) -> None:
    """λ < 1, well trained: every interval overshoots the teacher, and falls short of the data."""
    problem = problem_of([0.3], 24, objective="data")
    scalar = scalar_plan(problem, student_steps)
    assert scalar.gap < 1e-9
    assert problem.target_excess > excess_ranges(problem, student_steps)[1]
    interval = interval_plan(problem, student_steps)
    np.testing.assert_allclose(interval.outcome.excess, scalar.outcome.excess, rtol=1e-9)


@pytest.mark.parametrize(
    ("eigenvalue", "time", "objective"), [(1.35, 6.4, "teacher"), (0.35, 1.0, "data")]
)
def test_a_target_between_the_extremes_is_searched_for(
    eigenvalue: float, time: float, objective: Any
) -> None:
    setting = Setting(cosine_schedule(7), (eigenvalue,), time=time, objective=objective)
    problem = setting.problem()
    low, high = excess_ranges(problem)
    assert low < problem.target_excess < high
    optimum, _ = best_students(setting)
    result = scalar_plan(problem)
    assert result.notes[0].startswith("the target lies between the extremes: the nearest value")
    assert result.lower_bound <= optimum * (1 + 1e-9)
    assert result.w2 >= optimum * (1 - 1e-9)
    # A search among thinned sets may miss it, and says so by its gap; auto then tries all.
    assert result.gap > 1e-9 or result.w2 == pytest.approx(optimum, rel=1e-9)
    assert auto_plan(problem).w2 == pytest.approx(optimum, rel=1e-9)


@pytest.mark.parametrize(("num_steps", "eigenvalue"), [(16, 1.13), (64, 1.03), (256, 1.01)])
def test_inside_the_band_plans_come_near_the_teacher(num_steps: int, eigenvalue: float) -> None:
    problem = problem_of([eigenvalue], num_steps)
    low, high = excess_ranges(problem)[:, 0]
    assert low < 0 < high
    result = scalar_plan(problem)
    # 64 sums of each node halve the range at least six times, and the last edge, one of more
    # than a thousand sums, ten times more: what is missed is below 2^-10 of the range.
    assert abs(result.outcome.excess[0]) < (high - low) / 1024
    assert result.w2 < evaluate(problem, build_strategy("boot", num_steps)).w2 / 100


# Pareto


@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("max_front", [None, 1, 8])
def test_a_coarser_front_has_a_bound_that_still_holds(
    epsilon: float, max_front: int | None
) -> None:
    setting = Setting(cosine_schedule(7), (40.0, 1.4, 1.3, 0.3, 0.01), (1, 1, 1, 10, 100), 1.0)
    optimum, _ = best_students(setting)
    result = pareto_plan(setting.problem(), epsilon=epsilon, max_front=max_front)
    assert result.lower_bound <= optimum * (1 + 1e-9)
    assert result.w2 >= optimum * (1 - 1e-9)
    # ε is relative to what an eigenvalue can reach: 1e-9 of that, summed over T = 7 steps.
    if epsilon == 1e-9 and max_front is None:
        assert result.gap < 1e-7
    if epsilon == 100.0 or max_front == 1:
        assert result.gap > 1e-3
    if max_front is None:
        assert result.notes == ()
    if max_front == 1 and epsilon < 1:
        assert result.notes == ("fronts were thinned to 1 candidates",)


def test_fronts_are_thinned_where_there_are_many_steps() -> None:
    """16 steps, eigenvalues of one sign each: the optimum is known from combs."""
    problem = problem_of([30.0, 3.0, 0.5, 0.05], 16, 1.0)
    optimum = certified_plan(problem)
    assert optimum.gap < 1e-9
    result = pareto_plan(problem, max_front=20)
    assert result.notes == ("fronts were thinned to 20 candidates",)
    assert result.lower_bound <= optimum.w2 * (1 + 1e-9)
    assert (
        optimum.w2 * (1 - 1e-9)
        <= result.w2
        <= evaluate(problem, build_strategy("progressive", 16)).w2
    )


# Auto


def notes_of(problem: Problem, student_steps: int = 1) -> tuple[str, str]:
    result = auto_plan(problem, student_steps)
    return result.planner, result.notes[0]


def test_auto_says_which_planner_and_why() -> None:
    assert notes_of(problem_of([0.3], 12)) == (
        "scalar",
        "auto chose scalar: it is for a single eigenvalue",
    )
    assert notes_of(problem_of([5.0, 0.3], 12)) == (
        "certified",
        "auto chose certified: it proves its plans towards the teacher",
    )
    few = problem_of([5.0, 0.3], 5, objective="data")
    assert notes_of(few) == ("brute-force", "auto chose brute-force: few enough steps to try all")
    copied = problem_of([5.0, 0.3], 12, merge_rule="denoiser-copy")
    assert notes_of(copied) == notes_of(problem_of([5.0, 0.3], 12))
    copied = problem_of([5.0, 0.3], 12, merge_rule="denoiser-copy", objective="data")
    assert notes_of(copied) == (
        "strategies",
        "auto chose strategies: the best named strategy reaches the separable bound",
    )
    planner, note = notes_of(problem_of([5.0, 0.3], 12, time=0.5, objective="data"))
    assert planner in ("interval", "strategies")
    assert note.startswith(f"auto chose {planner}: certified does not cover operator-copy with the")


def test_auto_is_never_worse_than_a_strategy() -> None:
    for objective in ("teacher", "data"):
        for merge_rule in ("operator-copy", "denoiser-copy"):
            problem = problem_of([30.0, 1.5, 0.9, 0.1], 24, 1.0, merge_rule, objective)
            best = auto_plan(problem, 2).w2
            for name in STRATEGIES:
                assert best <= evaluate(problem, build_strategy(name, 24, 2)).w2 * (1 + 1e-12)


def test_auto_tries_strategies_of_other_sizes_than_the_default() -> None:
    """Towards digits, for s = 2 and T = 64, ``hybrid:8`` beats interval DP and ``hybrid:32``."""
    digits, schedule = estimate_spectrum(open_source("digits")), cosine_schedule(64)
    problem = Problem(digits, schedule, GradientFlow(2.0), "operator-copy", "data")
    errors = {
        name: evaluate(problem, build_strategy(name, 64)).w2
        for name in ("hybrid:8", "hybrid:32", "vanilla", "boot")
    }
    assert min(errors, key=errors.__getitem__) == "hybrid:8"
    assert auto_plan(problem).w2 <= errors["hybrid:8"] * (1 + 1e-12) < interval_plan(problem).w2


# Results and edges


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_as_many_students_as_steps_cost_nothing(planner: str, num_steps: int) -> None:
    result = find_plan(problem_of([0.5], num_steps), planner, num_steps)
    assert result.plan.to_nested() == list(range(num_steps, 0, -1))
    assert (result.w2, result.lower_bound, result.gap) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("planner", PLANNERS)
def test_two_steps_leave_one_tree(planner: str) -> None:
    result = find_plan(problem_of([0.5], 2), planner)
    assert result.plan.to_nested() == [[2, 1]]
    assert result.gap < 1e-12
    assert result.seconds >= 0


@pytest.mark.parametrize("planner", ["interval", "certified", "pareto", "brute-force", "auto"])
@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
def test_zero_eigenvalues_and_descent(planner: str, merge_rule: Any) -> None:
    spectrum = eigenvalue_spectrum([4.0, 0.5, 0.0], [1, 2, 30])
    problem = Problem(spectrum, cosine_schedule(6), GradientDescent(0.01, 200), merge_rule)
    optimum = brute_force_plan(problem).w2
    result = find_plan(problem, planner)
    assert np.isfinite(result.w2)
    assert result.lower_bound <= optimum * (1 + 1e-9)
    assert optimum <= result.w2 * (1 + 1e-12)


def test_the_bound_never_lies_above_the_value() -> None:
    problem = problem_of([0.5], 4)
    outcome = evaluate(problem, Plan.from_nested([[4, 3, 2, 1]]))
    crossed = PlannerResult(outcome, 2 * outcome.w2, "x", 0.0)
    assert (crossed.lower_bound, crossed.gap) == (outcome.w2, 0.0)
    assert PlannerResult(outcome, -1.0, "x", 0.0).gap == 1.0


@pytest.mark.parametrize("planner", PLANNERS)
def test_more_students_than_steps_are_refused(planner: str) -> None:
    for count, rule in [(0, ">= 1, got 0"), (5, "<= the number of teacher steps 4, got 5")]:
        with pytest.raises(InputError) as error:
            find_plan(problem_of([0.5], 4), planner, count)
        assert str(error.value) == f"`student_steps` must be {rule}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: find_plan(problem_of([1.0], 4), "best"),
            (
                "`planner` must be one of auto, interval, scalar, certified, pareto, brute-force, "
                "got best"
            ),
        ),
        (
            lambda: scalar_plan(problem_of([1.0, 2.0], 4)),
            (
                "`planner` scalar covers a single distinct eigenvalue only, got 2; "
                'use `planner="auto"`'
            ),
        ),
        (
            lambda: certified_plan(
                problem_of(np.geomspace(1e-3, 1e3, 800), 600, merge_rule="denoiser-copy"), 2
            ),
            (
                "`planner` certified needs a table of at most 2 GiB for several students, got "
                '2.2 GiB; use `planner="auto"`'
            ),
        ),
        (
            lambda: certified_plan(problem_of([1.0], 4, objective="data")),
            (
                "`planner` certified covers the objective teacher only, got data; "
                'use `planner="auto"`'
            ),
        ),
        (
            lambda: brute_force_plan(problem_of([1.0], MAX_STEPS + 1)),
            '`planner` brute-force needs num_steps <= 9, got 10; use `planner="auto"`',
        ),
        (
            lambda: interval_plan(problem_of(np.geomspace(1e-3, 1e3, 500), 600)),
            (
                "`planner` interval needs tables of at most 2 GiB, got 2.7 GiB; "
                'use `planner="auto"` or fewer steps'
            ),
        ),
        (
            lambda: pareto_plan(problem_of([1.0], 4), epsilon=-1.0),
            "`epsilon` must be finite and >= 0, got -1.0",
        ),
        (
            lambda: pareto_plan(problem_of([1.0], 4), epsilon=np.nan),
            "`epsilon` must be finite and >= 0, got nan",
        ),
        (
            lambda: pareto_plan(problem_of([1.0], 4), max_front=0),
            "`max_front` must be >= 1, got 0",
        ),
    ],
)
def test_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
