"""Teachers of another covariance than the data's, and when students overtake their teachers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import expm, sqrtm

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.brute_force import all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.better_than_teacher import (
    limited_covariance,
    nearer_excesses,
    overtaking_times,
    vanilla_overtaking_time,
)
from opmerge_studies.shared.matrices import MatrixOutcome, MatrixProblem, evaluate_matrices

Array = NDArray[np.float64]

NAMES = ("vanilla", "progressive", "consistency", "boot", "hybrid:2")


def problem_of(*eigenvalues: float, num_steps: int = 8, **more: Any) -> Problem:
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, GradientFlow(1.0), **{"merge_rule": "operator-copy", **more})


def random_covariance(seed: int, size: int = 3) -> Array:
    root = np.random.default_rng(seed).standard_normal((size, size))
    return np.asarray(root @ root.T / size)


# Misfits


def misfit(data: Array, learned: Array, *rest: Any) -> MatrixProblem:
    """Under white noise."""
    return MatrixProblem(data, np.eye(len(data)), *rest, learned_covariance=learned)


def teacher_to_data(problem: MatrixProblem) -> float:
    return MatrixOutcome(problem, np.zeros_like(problem.data_covariance)).to_data


@pytest.mark.parametrize("rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("time", [0.5, 2.0])
def test_a_teacher_of_the_data_is_the_scalar_theory(rule: MergeRule, time: float) -> None:
    """In a rotated basis, so that nothing is diagonal by chance; 1e-7 is the root of rounding."""
    eigenvalues, schedule = np.array([3.0, 0.8, 0.2, 0.05]), cosine_schedule(8)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    covariance = (basis * eigenvalues) @ basis.T
    dense = misfit(covariance, covariance, schedule, GradientFlow(time), rule)
    spectrum = eigenvalue_spectrum(eigenvalues)
    scalar = Problem(spectrum, schedule, GradientFlow(time), rule, "data")
    assert teacher_to_data(dense) == pytest.approx(scalar.teacher_to_data, abs=1e-7)
    for name in NAMES:
        plan = build_strategy(name, 8)
        found = evaluate_matrices(dense, plan).to_data
        assert found == pytest.approx(evaluate(scalar, plan).w2, abs=1e-7)


def direct_distance(problem: MatrixProblem, nested: Any) -> float:
    """W2 to the data by the formulas as they stand, in the basis in which they are given."""
    data, taught = problem.data_covariance, problem.learned_covariance
    assert taught is not None
    alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
    identity = np.eye(len(data))
    assert isinstance(problem.training, GradientFlow)
    time = problem.training.time

    def covariance(of: Array, t: int) -> Array:
        return np.asarray(alphas[t] ** 2 * of + sigmas[t] ** 2 * identity)

    def operator(tree: Any) -> tuple[Array, int, int]:
        if isinstance(tree, int):
            signal = alphas[tree - 1] * alphas[tree] * taught
            noise = sigmas[tree - 1] * sigmas[tree] * identity
            return (signal + noise) @ np.linalg.inv(covariance(taught, tree)), tree, tree - 1
        children = [operator(child) for child in tree]
        target = identity
        for child, _, _ in children:
            target = child @ target
        start, stop = children[0][1], children[-1][2]
        decay = expm(-2.0 * time * covariance(data, start))
        return target + (children[0][0] - target) @ decay, start, stop

    student, steps, _ = operator(nested)
    output = student @ covariance(data, steps) @ student.T
    root = np.real(sqrtm(data))
    cross = np.real(sqrtm(root @ output @ root))
    return float(np.sqrt(np.trace(data) + np.trace(output) - 2 * np.trace(cross)))


@pytest.mark.parametrize("seed", range(4))
def test_covariances_need_not_commute(seed: int) -> None:
    """Against matrix exponentials and square roots (scipy), over plans of every kind."""
    data, taught = random_covariance(seed), random_covariance(seed + 50)
    problem = misfit(data, taught, cosine_schedule(5), GradientFlow(0.6))
    for plan in list(all_plans(5, 1))[seed::6]:
        expected = direct_distance(problem, plan.to_nested()[0])
        assert evaluate_matrices(problem, plan).to_data == pytest.approx(expected, rel=1e-6)


def test_a_teacher_without_variance_leaves_all_of_it_to_noise() -> None:
    """λ̂ = 0: P = 0, and vanilla's student is ρ_T A_T, A_T = sigma_{T-1} (alpha_T = 0)."""
    data, schedule = np.array([[0.3]]), cosine_schedule(8)
    problem = misfit(data, np.zeros((1, 1)), schedule, GradientFlow(0.4))
    assert teacher_to_data(problem) == pytest.approx(np.sqrt(0.3))
    left = np.exp(-0.8) * schedule.sigmas[7]
    found = evaluate_matrices(problem, build_strategy("vanilla", 8)).to_data
    assert found == pytest.approx(abs(left - np.sqrt(0.3)), abs=1e-7)


def test_limited_covariances() -> None:
    data = random_covariance(3, 6)
    values = np.linalg.eigvalsh(data)
    for rank in (1, 4, 6):
        rest_0 = limited_covariance(data, "rank, rest 0", rank)
        assert np.linalg.matrix_rank(rest_0) == rank
        mean = limited_covariance(data, "rank, rest mean", rank)
        np.testing.assert_allclose(np.linalg.eigvalsh(mean)[6 - rank :], values[6 - rank :])
        assert np.trace(mean) == pytest.approx(np.trace(data))
    np.testing.assert_allclose(limited_covariance(data, "rank, rest 0", 6), data, atol=1e-12)
    np.testing.assert_array_equal(limited_covariance(data, "biased", 1.5), 1.5 * data)
    np.testing.assert_array_equal(limited_covariance(data, "exact", 1.0), data)
    assert np.linalg.matrix_rank(limited_covariance(data, "samples", 4, 0)) == 4
    with pytest.raises(InputError, match="`rank` must be from 1 to 6, got 7"):
        limited_covariance(data, "rank, rest 0", 7)


def test_sample_covariances_scatter_about_the_data() -> None:
    """Var Ĉ_ij = (C_ii C_jj + C_ij²) / n; the largest of 21 entries within 5 deviations."""
    data, number = random_covariance(5, 6), 20_000
    spread = np.sqrt((np.outer(np.diag(data), np.diag(data)) + data**2) / number)
    drawn, again = (limited_covariance(data, "samples", number, 1) for _ in range(2))
    assert (np.abs(drawn - data) < 5 * spread).all()
    assert (drawn == again).all()


# Overtaking


@given(st.floats(-2.0, 2.0), st.floats(-3.0, 3.0))
def test_nearer_is_between_zero_and_the_mirror_image(ratio: float, excess: float) -> None:
    """e and its bound each carry rounding of 1e-15, so points within 1e-9 of an end are left."""
    low, high = (float(end) for end in nearer_excesses(np.array(ratio)))
    if min(abs(excess - low), abs(excess - high)) < 1e-9:
        return
    is_nearer = abs(np.exp(excess) - np.exp(ratio)) < abs(1 - np.exp(ratio))
    assert (low < excess < high) == is_nearer


@pytest.mark.parametrize("num_steps", [4, 64])
def test_the_closed_form_of_vanilla_is_found_by_search(num_steps: int) -> None:
    for eigenvalue in (0.02, 0.2, 0.6, 1.6, 3.0):
        problem = problem_of(eigenvalue, num_steps=num_steps, objective="data")
        (time,) = vanilla_overtaking_time(problem)
        when = overtaking_times(problem, build_strategy("vanilla", num_steps))
        assert when["until"] is None
        if np.isinf(time):
            assert when["first"] is None
        else:
            assert when["first"] == pytest.approx(max(time, 0.01), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_distances_change_order_at_the_times_found(name: str) -> None:
    """W2 itself, on both sides of the first time; at the perfect one nothing is left."""
    problem, plan = problem_of(0.3, num_steps=16, objective="data"), build_strategy(name, 16)
    when = overtaking_times(problem, plan)
    assert when["first"] is not None
    assert when["perfect"] is not None

    def distance(time: float) -> float:
        return evaluate(problem, plan, np.full(len(plan.merges), time)).w2

    assert (
        distance(when["first"] * 0.999) > problem.teacher_to_data > distance(when["first"] * 1.001)
    )
    assert distance(when["perfect"]) < 1e-9
    assert distance(50.0) < problem.teacher_to_data * (1 + 1e-12)


def test_the_time_grows_as_half_the_logarithm_of_the_steps() -> None:
    """exp(l) - 1 is π²/8T to first order in 1/T times a constant: 1 % of ½ log 2 at T = 1024."""
    first, second = (
        float(vanilla_overtaking_time(problem_of(0.2, num_steps=steps))[0])
        for steps in (1024, 2048)
    )
    assert second - first == pytest.approx(0.5 * np.log(2), rel=0.01)


@pytest.mark.parametrize("time", [0.3, 1.0, 3.0])
def test_every_plan_overshoots_below_1_and_none_above_the_threshold(time: float) -> None:
    """All 197 plans of 6 steps: the sign of e decides (THEORY 7.2, 7.3); λ*(6) = 2.035."""
    for plan in all_plans(6, 1):
        excess = evaluate(problem_of(3.0, 2.04, 1.0, 0.1, num_steps=6), plan, _equal(plan, time))
        assert (excess.excess[:2] < 0).all()
        assert (excess.excess[2:] > 0).all()


@pytest.mark.parametrize("time", [0.3, 1.0, 3.0])
def test_copied_denoisers_never_overshoot(time: float) -> None:
    """All 197 plans of 6 steps (THEORY 7.9): no student of an optimal teacher overtakes it."""
    problem = problem_of(20.0, 3.0, 1.5, 1.0, 0.3, 0.02, num_steps=6, merge_rule="denoiser-copy")
    for plan in all_plans(6, 1):
        assert (evaluate(problem, plan, _equal(plan, time)).excess < 0).all()


def _equal(plan: Plan, time: float) -> Array:
    return np.full(len(plan.merges), time)
