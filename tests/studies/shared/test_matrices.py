"""Operators as matrices where noise and data do not commute, against dense and mpmath oracles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from numpy.typing import NDArray
from oracles import DenseNoise, random_covariance
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from strategies import plans, schedules

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.metrics import gaussian_w2
from opmerge.plans import Plan, build_strategy
from opmerge.plans.tree import Tree
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import NoiseSchedule, cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GammaRates, GradientDescent, GradientFlow
from opmerge_studies.correlated_noise.problems import geodesic_rotation, scalar_theories
from opmerge_studies.shared.matrices import (
    MatrixProblem,
    evaluate_matrices,
    mapped_gaussian_w2,
)

Array = NDArray[np.float64]

RULES: Sequence[MergeRule] = ("operator-copy", "denoiser-copy")
NAMES = ("boot", "vanilla", "progressive", "consistency", "temporal:3")

rules = st.sampled_from(RULES)
seeds = st.integers(0, 2**16)


# Against an independent program


@given(
    plans(max_steps=7),
    rules,
    seeds,
    st.integers(1, 4),
    st.floats(0.1, 2.0),
    st.booleans(),
    st.data(),
)
@settings(max_examples=60)
def test_every_plan_agrees_with_dense_matrices(
    plan: Plan,
    rule: MergeRule,
    seed: int,
    size: int,
    time: float,
    is_misled: bool,
    data: st.DataObject,
) -> None:
    """Both subtract the composite, so 1e-11 of the operator's size is what is left to compare."""
    schedule = data.draw(schedules(plan.num_steps))
    signal, noise = random_covariance(seed, size), random_covariance(seed + 1, size)
    learned = random_covariance(seed + 2, size) if is_misled else None
    dense = DenseNoise(schedule, signal, noise, time, learned)
    student, teacher = dense.plan(plan, rule), dense.composite(0, plan.num_steps)
    problem = MatrixProblem(signal, noise, schedule, GradientFlow(time), rule, learned)
    outcome = evaluate_matrices(problem, plan)
    scale = max(np.abs(teacher).max(), np.abs(student).max())
    np.testing.assert_allclose(outcome.difference, student - teacher, rtol=0, atol=1e-11 * scale)
    spread = np.linalg.cholesky(dense.variance(-1))
    paired = np.linalg.norm((student - teacher) @ spread)
    assert outcome.paired_error == pytest.approx(paired, rel=1e-9, abs=1e-10 * scale)
    zero = np.zeros(size)
    bures = gaussian_w2(zero, dense.output(student), zero, dense.output(teacher))
    # the Bures form subtracts traces, so it loses half of the digits
    assert outcome.w2 == pytest.approx(bures, rel=1e-6, abs=3e-7 * scale)
    assert outcome.w2 <= outcome.paired_error * (1 + 1e-12) + 1e-30
    bures = gaussian_w2(zero, dense.output(student), zero, signal)
    assert outcome.to_data == pytest.approx(bures, rel=1e-6, abs=3e-7 * scale)


def test_training_ends_where_its_differential_equation_does() -> None:
    """dB/ds = -2 (B - G) C_T by Runge-Kutta, for the merge of all steps."""
    signal, noise, time = random_covariance(0, 3), random_covariance(1, 3), 0.7
    schedule = cosine_schedule(4)
    dense = DenseNoise(schedule, signal, noise, time)
    target = dense.composite(0, 4)

    def velocity(_time: float, flat: Array) -> Array:
        pulled: Array = -2.0 * (flat.reshape(3, 3) - target) @ dense.variance(4)
        return pulled.ravel()

    solved = solve_ivp(velocity, (0.0, time), dense.step(4).ravel(), rtol=1e-11, atol=1e-13)
    problem = MatrixProblem(signal, noise, schedule, GradientFlow(time))
    difference = evaluate_matrices(problem, build_strategy("vanilla", 4)).difference
    np.testing.assert_allclose(difference, solved.y[:, -1].reshape(3, 3) - target, atol=1e-9)


def test_the_retention_is_the_matrix_exponential() -> None:
    signal, noise = random_covariance(2, 4), random_covariance(3, 4)
    problem = MatrixProblem(signal, noise, cosine_schedule(5), GradientFlow(1.3))
    frame, schedule = problem.frame, problem.schedule
    np.testing.assert_allclose(frame @ frame.T, noise, atol=1e-13)
    np.testing.assert_allclose(frame * problem.eigenvalues @ frame.T, signal, atol=1e-13)
    for t in range(1, 6):
        inputs = schedule.alphas[t] ** 2 * signal + schedule.sigmas[t] ** 2 * noise
        found = frame @ problem.retentions[t] @ np.linalg.inv(frame)
        np.testing.assert_allclose(found, expm(-2.6 * inputs), atol=1e-13)


def test_operators_act_on_states_noise_side_first() -> None:
    """Samples carried through the steps one by one, and through a trained merge of two."""
    signal, noise, schedule = random_covariance(4, 2), random_covariance(5, 2), cosine_schedule(2)
    problem = MatrixProblem(signal, noise, schedule, GradientFlow(30.0))
    states = np.random.default_rng(0).standard_normal((1000, 2)) @ np.linalg.cholesky(noise).T
    carried = states
    for t in (2, 1):
        alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
        inputs = alpha**2 * signal + sigma**2 * noise
        clean = alpha * np.linalg.solve(inputs, carried.T).T @ signal
        eps = (carried - alpha * clean) / sigma
        carried = schedule.alphas[t - 1] * clean + schedule.sigmas[t - 1] * eps
    composite = problem.frame * np.exp(problem.teacher.log_products[0])
    student = composite @ np.linalg.inv(problem.frame)
    student = student + evaluate_matrices(problem, build_strategy("boot", 2)).difference
    np.testing.assert_allclose(states @ student.T, carried, atol=1e-4)  # e^-12 is left


# Digits, where errors are far below rounding of the operators


def mp_difference(
    problem: MatrixProblem, nested: Any, time: float, rule: MergeRule
) -> tuple[Any, Any]:
    """(B - P, C_T^½ columns) by the definitions, with 60 digits."""
    mp.dps = 60
    alphas = [mpmath.mpf(float(a)) for a in problem.schedule.alphas]
    sigmas = [mpmath.mpf(float(s)) for s in problem.schedule.sigmas]
    signal, noise = (
        mpmath.matrix(m.tolist()) for m in (problem.data_covariance, problem.noise_covariance)
    )

    def inputs(t: int) -> Any:
        return alphas[t] ** 2 * signal + sigmas[t] ** 2 * noise

    def step(t: int) -> Any:
        outer = alphas[t - 1] * alphas[t] * signal + sigmas[t - 1] * sigmas[t] * noise
        return outer * mpmath.inverse(inputs(t))

    def operator(tree: Any) -> tuple[Any, int, int]:
        if isinstance(tree, int):
            return step(tree), tree, tree - 1
        children = [operator(child) for child in tree]
        start, split, stop = children[0][1], children[0][2], children[-1][2]
        target = mpmath.eye(signal.rows)
        for child, _, _ in children:
            target = child * target
        initial = children[0][0]
        if rule == "denoiser-copy":
            weight = alphas[split] - sigmas[split] * alphas[start] / sigmas[start]
            clean = (initial - sigmas[split] / sigmas[start] * mpmath.eye(signal.rows)) / weight
            eps = (mpmath.eye(signal.rows) - alphas[start] * clean) / sigmas[start]
            initial = alphas[stop] * clean + sigmas[stop] * eps
        left = mpmath.expm(-2 * mpmath.mpf(time) * inputs(start))
        return target + (initial - target) * left, start, stop

    teacher = mpmath.eye(signal.rows)
    for t in range(problem.schedule.num_steps, 0, -1):
        teacher = step(t) * teacher
    spread = mpmath.cholesky(inputs(problem.schedule.num_steps))
    return (operator(nested)[0] - teacher) * spread, teacher * spread


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("time", [0.5, 10.0, 40.0])
@pytest.mark.parametrize("name", NAMES)
def test_errors_far_below_rounding_keep_their_digits(
    rule: MergeRule, time: float, name: str
) -> None:
    """At s = 40 the error is 1e-35 of the operator; rates carry 2 s C eps = 1e-13 of it."""
    signal, noise = random_covariance(6, 2, 0.1, 5.0), random_covariance(7, 2, 0.8, 1.4)
    problem = MatrixProblem(signal, noise, cosine_schedule(6), GradientFlow(time), rule)
    plan = build_strategy(name, 6)
    outcome = evaluate_matrices(problem, plan)
    change, teacher = mp_difference(problem, plan.to_nested()[0], time, rule)
    paired = mpmath.mnorm(change, "f")
    assert outcome.paired_error == pytest.approx(float(paired), rel=1e-11)
    gram = teacher.T * (teacher + change)  # W2² = |A|² + |B|² - 2 |AᵀB|_nuclear
    singular = mpmath.svd_r(gram, compute_uv=False)
    squared = mpmath.mnorm(teacher, "f") ** 2 + mpmath.mnorm(teacher + change, "f") ** 2
    squared -= 2 * mpmath.fsum(singular)
    if time < 20:  # beyond, 60 digits are too few for the traces of this oracle
        assert outcome.w2 == pytest.approx(float(mpmath.sqrt(squared)), rel=1e-9)


# Where everything commutes, theory of one scalar per direction


@given(plans(max_steps=10), rules, st.lists(st.floats(0.01, 30.0), min_size=1, max_size=4), seeds)
@settings(max_examples=40)
def test_isotropic_noise_is_the_scalar_theory(
    plan: Plan, rule: MergeRule, eigenvalues: list[float], seed: int
) -> None:
    schedule = cosine_schedule(plan.num_steps)
    problem = Problem(eigenvalue_spectrum(eigenvalues), schedule, GradientFlow(), rule)
    size = len(eigenvalues)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    signal = turn * np.array(eigenvalues) @ turn.T
    matrices = MatrixProblem(signal, np.eye(size), schedule, GradientFlow(), rule)
    outcome = evaluate_matrices(matrices, plan)
    expected = evaluate(problem, plan).w2
    assert outcome.paired_error == pytest.approx(expected, rel=1e-8, abs=1e-18)
    assert outcome.w2 == pytest.approx(expected, rel=1e-8, abs=1e-18)


@pytest.mark.parametrize("rule", RULES)
def test_commuting_noise_is_the_scalar_theory_with_a_time_for_each_direction(
    rule: MergeRule,
) -> None:
    """In direction i the scalar problem of μ = λ/ς, trained for s ς, with an output √ς as large."""
    signal, noise = np.array([5.0, 1.0, 0.3]), np.array([0.5, 2.0, 1.2])
    turn = geodesic_rotation(3, 50.0, np.random.default_rng(0))
    schedule = cosine_schedule(12)
    problem = MatrixProblem(
        turn * signal @ turn.T, turn * noise @ turn.T, schedule, GradientFlow(2.0), rule
    )
    for name in NAMES:
        plan = build_strategy(name, 12)
        squares = [
            scale
            * evaluate(
                Problem(
                    eigenvalue_spectrum([value / scale]), schedule, GradientFlow(2.0 * scale), rule
                ),
                plan,
            ).w2
            ** 2
            for value, scale in zip(signal, noise, strict=True)
        ]
        assert evaluate_matrices(problem, plan).w2 == pytest.approx(np.sqrt(sum(squares)))
        theories = scalar_theories(problem)
        for theory in (theories["generalised"], theories["data_basis"]):
            expected = evaluate_matrices(problem, plan).w2
            assert evaluate_matrices(theory, plan).w2 == pytest.approx(expected)


def test_descent_is_the_power_of_a_matrix() -> None:
    signal, noise = random_covariance(10, 2), random_covariance(11, 2)
    training = GradientDescent(0.05, 30)
    problem = MatrixProblem(signal, noise, cosine_schedule(2), training)
    dense = DenseNoise(cosine_schedule(2), signal, noise, 1.0)
    target = dense.composite(0, 2)
    left = np.linalg.matrix_power(np.eye(2) - 0.1 * dense.variance(2), 30)
    expected = (dense.step(2) - target) @ left
    found = evaluate_matrices(problem, build_strategy("vanilla", 2)).difference
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_data_without_variance_in_a_direction() -> None:
    signal, noise = np.diag([2.0, 0.0]), random_covariance(12, 2)
    problem = MatrixProblem(signal, noise, cosine_schedule(6), GradientFlow(1.0))
    dense = DenseNoise(cosine_schedule(6), signal, noise, 1.0)
    for name in NAMES:
        plan = build_strategy(name, 6)
        expected = dense.plan(plan, "operator-copy") - dense.composite(0, 6)
        found = evaluate_matrices(problem, plan).difference
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_a_plan_that_merges_nothing_leaves_the_teacher() -> None:
    problem = MatrixProblem(np.eye(2), np.diag([1.0, 2.0]), cosine_schedule(3))
    outcome = evaluate_matrices(problem, Plan((Tree(3, 2), Tree(2, 1), Tree(1, 0))))
    assert outcome.paired_error == 0.0
    assert outcome.w2 < 1e-30


# Wasserstein


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2, 1.0, 30.0])
def test_w2_of_maps_to_the_last_digits_of_the_change(size: float) -> None:
    """The Bures form with 60 digits; half of them are left at the smallest change."""
    rng = np.random.default_rng(0)
    first, change = rng.standard_normal((4, 4)), size * rng.standard_normal((4, 4))
    mp.dps = 60
    left = mpmath.matrix(first.tolist())
    moved = left + mpmath.matrix(change.tolist())
    squared = mpmath.mnorm(left, "f") ** 2 + mpmath.mnorm(moved, "f") ** 2
    squared -= 2 * mpmath.fsum(mpmath.svd_r(left.T * moved, compute_uv=False))
    expected = float(mpmath.sqrt(squared))
    assert mapped_gaussian_w2(first, change) == pytest.approx(expected, rel=1e-11)


def test_w2_of_maps_sees_no_rotation_and_no_sign() -> None:
    first = np.diag([2.0, 1.0, 0.1])
    turn = geodesic_rotation(3, 80.0, np.random.default_rng(1))
    assert mapped_gaussian_w2(first, first @ turn - first) < 1e-14
    assert mapped_gaussian_w2(np.array([[2.0]]), np.array([[-5.0]])) == pytest.approx(1.0)


def test_w2_of_any_law_lies_between_that_of_gaussians_and_the_paired_error() -> None:
    """Gelbrich 1990, for z_T of Laplace data where alpha_T > 0; optimal transport of samples."""
    rng = np.random.default_rng(0)
    turn = geodesic_rotation(2, 60.0, rng)
    angles = np.linspace(0.0, np.pi / 5, 7)
    schedule = NoiseSchedule(np.cos(angles), np.sin(angles))
    signal, noise = np.diag([6.0, 0.05]), turn * (3.0, 0.1) @ turn.T
    problem = MatrixProblem(signal, noise, schedule, GradientFlow(0.05))
    outcome = evaluate_matrices(problem, build_strategy("consistency", 6))
    assert outcome.paired_error > 1.1 * outcome.w2
    alpha, sigma = schedule.alphas[-1], schedule.sigmas[-1]
    data = rng.laplace(scale=0.5**0.5, size=(2, 700)) * np.sqrt(np.diag(signal))[:, None]
    states = alpha * data + sigma * np.linalg.cholesky(noise) @ rng.standard_normal((2, 700))
    states = states - states.mean(axis=1, keepdims=True)
    teacher = problem.frame * np.exp(problem.teacher.log_products[0]) @ np.linalg.inv(problem.frame)
    first, second = teacher @ states, (teacher + outcome.difference) @ states
    cost = ot.dist(first.T, second.T)
    uniform = np.full(700, 1 / 700)
    transported = np.sqrt(ot.emd2(uniform, uniform, cost))
    sampled = states @ states.T / 700  # the same samples' own covariance, so no sampling error
    root = np.linalg.cholesky(sampled)
    lower = mapped_gaussian_w2(teacher @ root, outcome.difference @ root)
    upper = np.linalg.norm(outcome.difference @ root)
    assert lower - 1e-9 <= transported <= upper + 1e-9


# What is refused


def test_what_does_not_fit_is_refused() -> None:
    problem = MatrixProblem(np.eye(2), np.eye(2), cosine_schedule(3))
    with pytest.raises(InputError, match="`plan` must have 3 steps"):
        evaluate_matrices(problem, build_strategy("boot", 4))
    rates = GammaRates(1.0, 1.0, 1.0, 10, 0.1, 10, 0.1)
    with pytest.raises(InputError, match="`training` must have a single mode"):
        MatrixProblem(np.eye(2), np.eye(2), cosine_schedule(3), rates)
