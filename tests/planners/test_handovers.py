"""Denoiser copy: BOOT between handovers is best of all plans, and the bound tells (THEORY 7.9)."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from oracles import SQUARE_UNDERFLOW, Setting, best_students, random_setting

from opmerge import arrays_schedule
from opmerge.merging import evaluate
from opmerge.planners import auto_plan, certified, certified_plan
from opmerge.planners.handovers import HandoverSearch, boot_windows, window_excesses
from opmerge.planners.in_time import likely_result
from opmerge.plans.strategies import STRATEGIES, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum, resolve_spectrum
from opmerge.training import GradientFlow

# Value and bound are the same sum along two routes; what has been seen is 1e-13.
CLOSED = 1e-9


def denoised(setting: Setting) -> Setting:
    return Setting(
        setting.schedule, setting.eigenvalues, setting.multiplicities, setting.time, "denoiser-copy"
    )


def problem_of(eigenvalues: object, num_steps: int, time: float = 6.4) -> Problem:
    spectrum = eigenvalue_spectrum(eigenvalues)
    return Problem(spectrum, cosine_schedule(num_steps), GradientFlow(time), "denoiser-copy")


def windows(num_steps: int, student_steps: int) -> list[list[int]]:
    """Every choice of handovers, as T, …, 0."""
    inner = combinations(range(num_steps - 1, 0, -1), student_steps - 1)
    return [[num_steps, *chosen, 0] for chosen in inner]


@pytest.mark.parametrize("seed", range(24))
def test_the_plan_is_the_best_of_all(seed: int) -> None:
    """Any spectrum, schedule and time, T <= 7, against every plan in exact arithmetic."""
    rng = np.random.default_rng(20_000 + seed)
    num_steps = int(rng.integers(2, 8))
    setting = denoised(random_setting(rng, num_steps, int(rng.integers(1, 7))))
    problem = setting.problem()
    for student_steps in range(1, min(3, num_steps) + 1):
        optimum, _ = best_students(setting, student_steps)
        for result in (
            certified_plan(problem, student_steps),
            auto_plan(problem, student_steps),
        ):
            assert result.lower_bound <= optimum * (1 + CLOSED) + SQUARE_UNDERFLOW
            assert result.w2 == pytest.approx(optimum, rel=CLOSED, abs=SQUARE_UNDERFLOW)
            assert result.gap <= CLOSED or result.w2 <= SQUARE_UNDERFLOW
    assert certified_plan(problem).plan == build_strategy("boot", num_steps)


@pytest.mark.parametrize("time", [0.3, 6.4])
@pytest.mark.parametrize("student_steps", [2, 4])
def test_the_gap_closes_on_digits(
    monkeypatch: pytest.MonkeyPatch, student_steps: int, time: float
) -> None:
    """Without the clamp that hides a bound above the value."""
    monkeypatch.setattr("opmerge.planners.result.PlannerResult.__post_init__", lambda self: None)
    digits = resolve_spectrum("digits")
    problem = Problem(digits, cosine_schedule(64), GradientFlow(time), "denoiser-copy")
    result = certified_plan(problem, student_steps)
    assert result.plan == boot_windows(list(result.plan.boundaries))
    assert abs(result.gap) <= CLOSED
    for name in STRATEGIES:
        assert evaluate(problem, build_strategy(name, 64, student_steps)).w2 >= result.lower_bound
    assert result.w2 < certified_plan(problem, student_steps - 1).w2


def test_many_eigenvalues_are_searched_coarsely_first() -> None:
    problem = problem_of(np.geomspace(1e-4, 50, 400), 12)
    result = certified_plan(problem, 3)
    best = min(evaluate(problem, boot_windows(edges)).w2 for edges in windows(12, 3))
    assert result.w2 == pytest.approx(best, rel=CLOSED)
    assert result.gap <= CLOSED


def test_the_excess_of_a_plan_is_that_of_its_windows() -> None:
    problem = problem_of([50.0, 2.0, 1.0, 0.2, 1e-3], 7, 0.5)
    excess = window_excesses(problem)
    assert (excess[1:, 0][1:] < 0).all()
    search = HandoverSearch(problem, 3)
    weights = -np.array([1.0, 20.0, 3.0, 0.5, 7.0])
    found = {}
    for edges in windows(7, 3):
        whole = evaluate(problem, boot_windows(edges)).excess
        parts = [excess[start, stop] for start, stop in pairwise(edges)]
        np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-13)
        found[tuple(edges)] = whole
    costs = sorted(float(whole @ weights) for whole in found.values())
    least = np.min(list(found.values()), axis=0)
    np.testing.assert_allclose(search.least_excess(), least, rtol=1e-13)
    cost, plan = search.cheapest(weights)
    assert cost == pytest.approx(costs[0], rel=1e-13)
    assert found[plan.boundaries] @ weights == pytest.approx(costs[0], rel=1e-13)
    ordered = [cost for cost, _ in search.in_order(weights, costs[-1] * (1 + 1e-12))]
    np.testing.assert_allclose(ordered, costs, rtol=1e-12)
    assert [cost for cost, _ in search.in_order(weights, costs[4] * (1 + 1e-12))] == ordered[:5]


def test_enumeration_closes_what_the_relaxation_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, and directions that want other handovers: the best point lies between plans."""
    left_open = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = np.sort(10 ** rng.uniform(-3, 3, 3))[::-1]
        problem = problem_of(values.tolist(), 8, float(10 ** rng.uniform(-1, 0.5)))
        best = min(evaluate(problem, boot_windows(edges)).w2 for edges in windows(8, 3))
        result = certified_plan(problem, 3)
        assert result.w2 == pytest.approx(best, rel=CLOSED)
        assert result.gap <= CLOSED
        with monkeypatch.context() as patch:
            patch.setattr(certified, "_MAX_ENUMERATED", 0)
            stopped = certified_plan(problem, 3)
        assert stopped.lower_bound <= best * (1 + CLOSED)
        left_open += stopped.gap > CLOSED
    assert left_open > 0


def test_an_output_that_is_0_is_bounded() -> None:
    """A jump from z_T, trained not at all, sends nothing to the data: its excess is -∞, or what
    processors round it to."""
    schedule = arrays_schedule([1.0, 0.8, 0.4, 0.0], [0.0, 0.6, 0.9, 1.0])
    problem = Problem(
        eigenvalue_spectrum([3.0, 0.5]), schedule, GradientFlow(1e-300), "denoiser-copy"
    )
    best = min(evaluate(problem, boot_windows(edges)).w2 for edges in windows(3, 2))
    result = certified_plan(problem, 2)
    assert (evaluate(problem, build_strategy("boot", 3)).excess < np.log(1e-15)).any()
    assert result.w2 == pytest.approx(best, rel=CLOSED)
    assert result.gap <= CLOSED


@pytest.mark.parametrize("student_steps", [1, 2, 4])
def test_a_first_look_is_near_the_best_and_proves_what_takes_no_search(student_steps: int) -> None:
    problem = problem_of(3.0 * np.arange(1, 65) ** -1.5, 32, 3.0)
    best = certified_plan(problem, student_steps)
    found = likely_result(problem, student_steps, 60.0)
    assert best.w2 * (1 - 1e-12) <= found.w2 <= 1.02 * best.w2
    assert found.lower_bound == (found.w2 if student_steps == 1 else 0.0)
    hurried = likely_result(problem, student_steps, 0.0)
    assert hurried.w2 > 1.1 * best.w2 or student_steps == 1
    assert likely_result(problem, student_steps, 0.0, [best.plan]).w2 == best.w2
