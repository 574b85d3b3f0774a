"""Plans trained all at once: against the equations as they stand, and against random timesteps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.special import gammaincc

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans import Plan, Tree, build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import EMAFlow, GradientFlow, TrainingModel
from opmerge_studies.stabilisation import chain_response, mixed_excess

EIGENVALUES = (0.05, 0.5, 1.03, 1.5, 6.0)

Array = NDArray[np.float64]


def make(
    num_steps: int,
    time: float,
    merge_rule: MergeRule = "operator-copy",
    eigenvalues: tuple[float, ...] = EIGENVALUES,
) -> Problem:
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, GradientFlow(time), merge_rule)


def matrix(rates: Array) -> Array:
    generator: Array = np.diag(-rates)
    generator[np.arange(1, len(rates)), np.arange(len(rates) - 1)] = rates[1:]
    return generator


def test_a_chain_is_a_matrix_exponential() -> None:
    rng = np.random.default_rng(1)
    rates, initial = rng.uniform(0.1, 6.0, (7, 3)), rng.standard_normal((7, 3))
    found = chain_response(rates, initial, 1.3)
    expected = [(expm(1.3 * matrix(rates[:, i])) @ initial[:, i])[-1] for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("jumps", [0.5, 12.8, 300.0])
def test_equal_rates_count_a_poisson_process(jumps: float) -> None:
    """From 1 everywhere, what is left is the chance of fewer than K jumps."""
    found = chain_response(np.full((40, 1), 2.0), np.ones((40, 1)), jumps / 2)
    np.testing.assert_allclose(found, gammaincc(40, jumps), rtol=1e-11)


def test_a_chain_keeps_its_digits_however_small() -> None:
    """Of the exponential's entries down to e^-200; in 300 digits, where scipy.linalg.expm fails."""
    rates = np.array([40.0, 41.0, 0.5, 39.0, 40.0, 41.5])
    initial = np.array([1.0, 0, 0, 1e-30, 0, 1e-60])
    with mp.workdps(300):
        exact = (mpmath.expm(mpmath.matrix((5 * matrix(rates)).tolist())) * mpmath.matrix(initial))[
            5
        ]
        found = chain_response(rates[:, None], initial[:, None], 5.0)[0]
        assert abs(found - exact) <= exact * 1e-11
    rates[2] = 40.5
    with mp.workdps(300):
        exact = (mpmath.expm(mpmath.matrix((5 * matrix(rates)).tolist())) * mpmath.matrix(initial))[
            5
        ]
        found = chain_response(rates[:, None], initial[:, None], 5.0)[0]
        assert exact < 1e-75
        assert abs(found - exact) <= exact * 1e-11


def integrated(problem: Problem, plan: Plan, target_rate: float | None) -> Array:
    """(d,) the last student's operator, from db/ds = -2 n (b - product of children) as it is."""
    assert isinstance(problem.training, GradientFlow)
    teacher = problem.teacher
    alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
    steps = np.exp(teacher.log_steps)
    merges = plan.merges

    def begin(start: int, stop: int) -> Array:
        if problem.merge_rule == "operator-copy":
            return steps[start]
        inner = alphas[stop] * alphas[start] * problem.eigenvalues + sigmas[stop] * sigmas[start]
        jump: Array = inner / teacher.variances[start]
        return jump

    def slope(_: float, state: Array) -> Array:
        students, averages = state.reshape(2, len(merges), -1)
        read = students if target_rate is None else averages
        slopes, current = [], {}
        for merge, student, seen in zip(merges, students, read, strict=True):
            children = [
                current[pair] if pair in current else steps[pair[0]]
                for pair in pairwise(merge.boundaries)
            ]
            target = np.prod(children, axis=0)
            slopes.append(-2 * teacher.variances[merge.start] * (student - target))
            current[merge.start, merge.stop] = seen
        return np.concatenate(
            [np.ravel(slopes), ((target_rate or 0.0) * (students - averages)).ravel()]
        )

    starts = np.array([begin(merge.start, merge.stop) for merge in merges])
    initial = np.concatenate([starts.ravel(), starts.ravel()])
    span = (0, problem.training.time)
    solution = solve_ivp(slope, span, initial, "DOP853", rtol=1e-12, atol=1e-14)
    final: Array = solution.y[:, -1].reshape(2, len(merges), -1)[0, -1]
    return final


@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("strategy", ["vanilla", "boot", "consistency", "hybrid:3"])
@pytest.mark.parametrize("target_rate", [None, 3.0])
def test_mixing_solves_its_equations(
    merge_rule: MergeRule, strategy: str, target_rate: float | None
) -> None:
    problem, plan = make(7, 1.2, merge_rule), build_strategy(strategy, 7)
    found = np.exp(mixed_excess(problem, plan, target_rate) + problem.teacher.log_products[0])
    np.testing.assert_allclose(found, integrated(problem, plan, target_rate), rtol=1e-10)


@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
def test_a_single_merge_has_nothing_to_mix(merge_rule: MergeRule) -> None:
    problem, plan = make(12, 6.4, merge_rule), build_strategy("vanilla", 12)
    excess = mixed_excess(problem, plan)
    np.testing.assert_allclose(excess, evaluate(problem, plan).excess, rtol=1e-11)


def test_students_of_several_steps_are_mixed_tree_by_tree() -> None:
    """Two students of one merge each: what each adds stands beside the other's."""
    problem, plan = make(8, 1.0), build_strategy("vanilla", 8, 2)
    excess = mixed_excess(problem, plan)
    np.testing.assert_allclose(excess, evaluate(problem, plan).excess, rtol=1e-11)


def test_mixing_ends_at_the_teacher() -> None:
    """K students of one rate r need about K/r: e^-400 400^14/14! is left at r s = 400, K = 15."""
    problem = make(16, 200.0, eigenvalues=(0.3, 1.0, 4.0))
    for strategy in ("boot", "consistency"):
        assert np.abs(mixed_excess(problem, build_strategy(strategy, 16))).max() < 1e-50


def random_timesteps(
    problem: Problem, time: float, rate: float, runs: int, seed: int
) -> tuple[Array, float]:
    """BOOT's students on one eigenvalue, each iteration at a random step on one sample z_T.

    Final b / P of every run, and the mean of the process: the same recursion with its mean factor.
    """
    rng = np.random.default_rng(seed)
    steps = np.exp(problem.teacher.log_steps[:, 0])
    num_steps, students = problem.num_steps, problem.num_steps - 1
    weights = np.full((runs, students + 1), steps[num_steps])  # of T → T-1, …, T → 0
    mean = weights[0].copy()
    for _ in range(round(students * time / rate)):
        chosen = rng.integers(1, students + 1, runs)
        squares = rng.standard_normal(runs) ** 2  # n_T = 1
        rows = np.arange(runs)
        target = steps[num_steps - chosen] * weights[rows, chosen - 1]
        weights[rows, chosen] -= 2 * rate * squares * (weights[rows, chosen] - target)
        targets = steps[num_steps - 1 : 0 : -1] * mean[:-1]
        mean[1:] -= 2 * rate / students * (mean[1:] - targets)
    composite = np.exp(problem.teacher.log_products[0, 0])
    return weights[:, -1] / composite, float(mean[-1] / composite)


def test_random_timesteps_are_mixing() -> None:
    """SGD that draws its step anew has the chain as its mean: 4 standard errors, and O(η)."""
    time, rate = 1.0, 0.004
    problem = make(5, time, eigenvalues=(0.3,))
    runs, mean = random_timesteps(problem, time, rate, 2000, 7)
    error = runs.std(ddof=1) / np.sqrt(len(runs))
    assert abs(runs.mean() - mean) < 4 * error
    excess = np.expm1(mixed_excess(problem, build_strategy("boot", 5))[0])
    assert error < 0.02 * excess  # or the test would see nothing
    # each of K students is trained with steps 2 η / K of time s: relative O(η) of the error
    assert mean - 1 == pytest.approx(excess, rel=3 * rate)


@settings(max_examples=60)
@given(
    st.one_of(st.floats(1e-3, 1.0), st.floats(2.05, 50.0)),
    st.floats(0.1, 20.0),
    st.sets(st.integers(1, 8), max_size=8),
    st.sampled_from(["operator-copy", "denoiser-copy"]),
)
def test_every_further_student_of_a_mixed_comb_only_adds(
    eigenvalue: float, time: float, chosen: set[int], merge_rule: MergeRule
) -> None:
    """Outside the band (T = 10: λ* = 2.0125) all initial errors have one sign."""
    problem = make(10, time, merge_rule, (eigenvalue,))
    comb = Plan((Tree.chain(10, (9, *sorted(chosen, reverse=True), 0)),))
    mixed = abs(np.expm1(mixed_excess(problem, comb)[0]))
    vanilla = abs(np.expm1(evaluate(problem, build_strategy("vanilla", 10)).excess[0]))
    assert mixed >= vanilla * (1 - 1e-9)


def refusal(plan: Plan, training: TrainingModel | None = None, **options: Any) -> str:
    spectrum, schedule = eigenvalue_spectrum([0.5]), cosine_schedule(8)
    problem = Problem(spectrum, schedule, training or GradientFlow(), "operator-copy")
    with pytest.raises(InputError) as caught:
        mixed_excess(problem, plan, **options)
    return str(caught.value)


def test_what_cannot_be_mixed_is_refused() -> None:
    boot = build_strategy("boot", 8)
    assert refusal(build_strategy("progressive", 8)) == (
        "`plan` must have at most one merged child in each merge to be trained all at once, "
        "got [6, 5, 4]"
    )
    assert refusal(build_strategy("boot", 9)) == "`plan` must have 8 steps, as the problem, got 9"
    assert refusal(boot, EMAFlow(1.0, 1.0)) == "`training` must be gradient flow, got ema-flow"
    assert refusal(boot, target_rate=0.0) == "`target_rate` must be > 0, got 0.0"
