"""Gaussian mixtures: against the theory of one Gaussian, quadrature, an ODE solver, transport."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from typing import get_args

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm
from strategies import plans

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.brute_force import all_plans
from opmerge.plans import build_strategy
from opmerge.plans.tree import Plan
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import NoiseSchedule, cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientDescent, GradientFlow, TrainingModel
from opmerge_studies.mixture.laws import (
    GaussianMixture,
    Nodes,
    quadrature_nodes,
    sampled_nodes,
    weighted_w2,
)
from opmerge_studies.mixture.merging import (
    LiftedMap,
    MixtureProblem,
    Training,
    closest_plans,
    composite_gain,
    ddim_map,
    effective_paths,
    features,
    gates_needed,
    identity_weights,
    relative_floor,
)

Array = NDArray[np.float64]

RULES: tuple[MergeRule, ...] = get_args(MergeRule)
THREE = GaussianMixture([-1.2, 0.3, 2.0], [0.2, 1.5, 0.4], [0.5, 0.2, 0.3])


def line_problem(
    mixture: GaussianMixture,
    num_steps: int,
    training: TrainingModel | None,
    rule: MergeRule = "operator-copy",
    num_nodes: int = 513,
) -> MixtureProblem:
    schedule = cosine_schedule(num_steps)
    nodes = quadrature_nodes(mixture, schedule, num_nodes)
    return MixtureProblem(mixture, schedule, nodes, training, nodes[-1], rule)


# ----------------------------------------------------------------- the law and its denoiser


def estimate(mixture: GaussianMixture, schedule: NoiseSchedule, t: int, points: Array) -> Array:
    """x̂ of a DDIM step t → 0, which is ``α_0 x̂ + σ_0 / σ_t (z - α_t x̂)``."""
    alphas, ratio = schedule.alphas, schedule.sigmas[0] / schedule.sigmas[t]
    reached = ddim_map(mixture, schedule, t, 0)(points)
    return np.asarray((reached - ratio * points) / (alphas[0] - ratio * alphas[t]))


def test_denoiser_is_the_posterior_mean() -> None:
    """∫ x p(x) N(z; αx, σ²) dx / ∫ p(x) N(z; αx, σ²) dx by adaptive quadrature."""
    schedule = cosine_schedule(5)
    alpha, sigma = float(schedule.alphas[3]), float(schedule.sigmas[3])

    def joint(x: float, z: float) -> float:
        parts = zip(THREE.weights, THREE.means[:, 0], THREE.variances[:, 0], strict=True)
        prior = sum(w * norm.pdf(x, m, v**0.5) for w, m, v in parts)
        return float(prior * norm.pdf(z, alpha * x, sigma))

    for z in (-2.0, 0.1, 1.7):
        mean = quad(lambda x, z=z: x * joint(x, z), -9, 9, epsabs=1e-13)[0]
        evidence = quad(joint, -9, 9, args=(z,), epsabs=1e-13)[0]
        point = np.array([[z]])
        denoised = estimate(THREE, schedule, 3, point)
        assert denoised[0, 0] == pytest.approx(mean / evidence, rel=1e-9)
        density = np.exp(THREE.noised(alpha, sigma).log_densities(point)).sum()
        assert density == pytest.approx(evidence, rel=1e-9)


def test_denoiser_in_the_plane_by_tweedie() -> None:
    """``x̂ = (z + σ² ∇ log p(z)) / α`` (Tweedie), the gradient by central differences."""
    generator = np.random.default_rng(0)
    mixture = GaussianMixture(generator.normal(size=(4, 2)), generator.uniform(0.1, 3, (4, 2)))
    schedule, step = cosine_schedule(5), 1e-5
    alpha, sigma = float(schedule.alphas[2]), float(schedule.sigmas[2])
    law = mixture.noised(alpha, sigma)
    points = generator.normal(size=(6, 2))

    def log_density(at: np.ndarray) -> np.ndarray:
        return np.log(np.exp(law.log_densities(at)).sum(axis=1))

    score = np.stack(
        [
            (log_density(points + shift) - log_density(points - shift)) / (2 * step)
            for shift in step * np.eye(2)
        ],
        axis=1,
    )
    expected = (points + sigma**2 * score) / alpha
    assert estimate(mixture, schedule, 2, points) == pytest.approx(expected, abs=1e-8)


def test_responsibilities_far_out_are_finite() -> None:
    """Densities underflow at 1e4; their ratios do not: the widest component has all of it."""
    probabilities = THREE.responsibilities(np.array([[1e4], [-1e4]]))
    assert probabilities == pytest.approx(np.array([[0, 1, 0]] * 2), abs=1e-300)


def test_samples_and_moments() -> None:
    """Mean and covariance by hand, and within five standard errors of 40,000 samples."""
    mixture = GaussianMixture([[-1.0, 0.0], [3.0, 2.0]], [[1.0, 2.0], [0.5, 0.1]], [0.75, 0.25])
    assert mixture.mean == pytest.approx([0.0, 0.5])
    between = 0.75 * 0.25 * np.outer([4.0, 2.0], [4.0, 2.0])
    expected = np.diag([0.875, 1.525]) + between
    assert mixture.covariance == pytest.approx(expected)
    samples = mixture.sample(40_000, np.random.default_rng(1))
    centred = samples - mixture.mean
    for a, b in product(range(2), repeat=2):
        terms = centred[:, a] * centred[:, b]
        assert abs(terms.mean() - expected[a, b]) < 5 * terms.std() / 200
    assert abs(centred.mean(axis=0)).max() < 5 * np.sqrt(expected.diagonal().max()) / 200


def test_refused_mixtures() -> None:
    """One line each, naming the argument."""
    with pytest.raises(InputError, match=r"`weights` must be > 0 and sum to 1"):
        GaussianMixture([0.0, 1.0], [1.0, 1.0], [0.5, 0.6])
    with pytest.raises(InputError, match=r"`variances` must be > 0, got 0.0"):
        GaussianMixture([0.0], [0.0])
    for shapes in (([0.0, 1.0], [1.0]), ([0.0, 1.0], [1.0, 1.0], [1.0])):
        with pytest.raises(
            InputError, match=r"must have arrays of shapes \(K, d\), \(K, d\), \(K,\)"
        ):
            GaussianMixture(*shapes)
    plane = GaussianMixture([[0.0, 0.0]], [[1.0, 1.0]])
    with pytest.raises(InputError, match=r"`mixture` must have one dimension for quadrature"):
        quadrature_nodes(plane, cosine_schedule(4))


# ----------------------------------------------------------------------- expectations


def test_quadrature_of_moments() -> None:
    """E z² = α² E x² + σ² exactly; a non-polynomial by adaptive quadrature."""
    schedule = cosine_schedule(8)
    second = float(THREE.covariance[0, 0] + THREE.mean[0] ** 2)
    for nodes, alpha, sigma in zip(
        quadrature_nodes(THREE, schedule), schedule.alphas, schedule.sigmas, strict=True
    ):
        found = nodes.weights @ nodes.points[:, 0] ** 2
        assert found == pytest.approx(alpha**2 * second + sigma**2, rel=1e-12)
    law = THREE.noised(float(schedule.alphas[1]), float(schedule.sigmas[1]))

    def integrand(z: float) -> float:
        point = np.array([[z]])
        density = np.exp(law.log_densities(point)).sum()
        return float(density * law.responsibilities(point)[0, 0] * np.tanh(3 * z))

    nodes = quadrature_nodes(THREE, schedule)[1]
    values = law.responsibilities(nodes.points)[:, 0] * np.tanh(3 * nodes.points[:, 0])
    assert nodes.weights @ values == pytest.approx(quad(integrand, -9, 9)[0], abs=1e-10)


def test_common_random_numbers() -> None:
    """z_t = α_t x_0 + σ_t ε with one x_0 and one ε: z_0 and z_T give every other step."""
    schedule = cosine_schedule(6)
    nodes = sampled_nodes(THREE, schedule, 50, 3)
    for t in range(7):
        expected = schedule.alphas[t] * nodes[0].points + schedule.sigmas[t] * nodes[6].points
        assert nodes[t].points == pytest.approx(expected, abs=1e-14)
    assert (nodes[6].points != sampled_nodes(THREE, schedule, 50, 4)[6].points).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 30))
def test_w2_on_the_line_is_the_optimal_transport(seed: int, count: int) -> None:
    """POT's exact transport between the same weighted points."""
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(2, count))
    weights = generator.dirichlet(np.ones(count))
    expected = ot.emd2_1d(first, second, weights, weights, metric="sqeuclidean")
    found = weighted_w2(first, second, weights)
    assert found**2 == pytest.approx(expected, rel=1e-9, abs=1e-12)
    paired = Nodes(first[:, None], weights).distance(first[:, None], second[:, None])
    assert found <= paired * (1 + 1e-12) + 1e-12


# ------------------------------------------------------------------- lifted linear maps


@pytest.mark.parametrize(("start", "stop"), [(6, 5), (6, 0), (3, 1), (1, 0)])
def test_ddim_step_is_lifted(start: int, stop: int) -> None:
    """``α_i x̂ + σ_i (z - α_j x̂) / σ_j`` from the posterior mean written out, in the plane."""
    schedule = cosine_schedule(6)
    generator = np.random.default_rng(start)
    mixture = GaussianMixture(generator.normal(size=(3, 2)), generator.uniform(0.1, 3, (3, 2)))
    points = 2 * generator.normal(size=(20, 2))
    alphas, sigmas = schedule.alphas, schedule.sigmas
    denoised = np.zeros_like(points)
    shares = mixture.noised(float(alphas[start]), float(sigmas[start])).responsibilities(points)
    for share, mean, variance in zip(shares.T, mixture.means, mixture.variances, strict=True):
        gain = alphas[start] * variance / (alphas[start] ** 2 * variance + sigmas[start] ** 2)
        denoised += share[:, None] * (mean + gain * (points - alphas[start] * mean))
    noise = (points - alphas[start] * denoised) / sigmas[start]
    expected = alphas[stop] * denoised + sigmas[stop] * noise
    assert ddim_map(mixture, schedule, start, stop)(points) == pytest.approx(expected, abs=1e-13)
    gate = mixture.noised(float(alphas[start]), float(sigmas[start]))
    identity = LiftedMap(start, start - 1, gate, identity_weights(3, 2))
    assert identity(points) == pytest.approx(points, abs=1e-14)


def test_closed_form_is_the_gradient_flow() -> None:
    """dW/ds = -∇ E|Wᵀ Φ - f|² = -2 E[Φ (Φᵀ W - f)] by an ODE solver, two outputs."""
    generator = np.random.default_rng(5)
    gate = GaussianMixture(generator.normal(size=(2, 2)), generator.uniform(0.3, 2, (2, 2)))
    points = gate.sample(60, generator)
    nodes = Nodes(points, generator.dirichlet(np.ones(60)))
    target = np.sin(points) + points[:, ::-1] ** 2
    initial = generator.normal(size=(6, 2))
    phi = features(gate, points)

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        error = phi @ flat.reshape(6, 2) - target
        return np.asarray(-2.0 * phi.T @ (nodes.weights[:, None] * error)).ravel()

    solved = solve_ivp(slope, (0, 1.7), initial.ravel(), rtol=1e-11, atol=1e-12, method="DOP853")
    weights, *_ = Training(gate, nodes, GradientFlow(1.7)).train(initial, target)
    assert weights == pytest.approx(solved.y[:, -1].reshape(6, 2), abs=1e-8)


def test_closed_form_is_gradient_descent() -> None:
    """The same for a training model of another kind: 40 steps taken one by one."""
    nodes = quadrature_nodes(THREE, cosine_schedule(4), 65)[2]
    gate = THREE.noised(float(np.cos(np.pi / 4)), float(np.sin(np.pi / 4)))
    phi, target = features(gate, nodes.points), np.sin(2 * nodes.points)
    weights = initial = np.ones((6, 1))
    for _ in range(40):
        gradient = 2 * phi.T @ (nodes.weights[:, None] * (phi @ weights - target))
        weights = weights - 0.1 * gradient
    found, *_ = Training(gate, nodes, GradientDescent(0.1, 40)).train(initial, target)
    assert found == pytest.approx(weights, abs=1e-12)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), time=st.floats(0.01, 100.0))
def test_floor_and_optimisation_separate(seed: int, time: float) -> None:
    """E|student - f|² = floor² + optimisation²; the floor is least squares' own residual."""
    generator = np.random.default_rng(seed)
    schedule = cosine_schedule(8)
    t = int(generator.integers(1, 9))
    gate = THREE.noised(float(schedule.alphas[t]), float(schedule.sigmas[t]))
    nodes = quadrature_nodes(THREE, schedule, 129)[t]
    phi, target = features(gate, nodes.points), np.cos(nodes.points + seed)
    initial = generator.normal(size=(6, 1))
    weights, floor, optimisation = Training(gate, nodes, GradientFlow(time)).train(initial, target)
    squares = nodes.weights @ (phi @ weights - target) ** 2
    assert squares[0] == pytest.approx(floor**2 + optimisation**2, rel=1e-9)
    roots = np.sqrt(nodes.weights)[:, None]
    solution = np.linalg.lstsq(roots * phi, roots * target, rcond=1e-10)[0]
    residual = np.linalg.norm(roots * (phi @ solution - target))
    assert floor == pytest.approx(residual, rel=1e-6, abs=1e-12)
    assert Training(gate, nodes, None).train(initial, target)[1:] == (floor, 0)


# --------------------------------------------------------------------------- merging


@settings(max_examples=40)
@given(
    power=st.floats(-1, 1),
    plan=st.integers(2, 7).flatmap(plans),
    rule=st.sampled_from(RULES),
    time=st.floats(0.3, 8.0),
)
def test_one_component_is_the_gaussian_theory(
    power: float, plan: Plan, rule: MergeRule, time: float
) -> None:
    """``evaluate`` for any plan, K trees and either rule; outputs of order 1 are rounded at 1e-16,
    and its errors are relative where these are absolute."""
    eigenvalue = 10**power
    problem = line_problem(
        GaussianMixture([0.0], [eigenvalue]), plan.num_steps, GradientFlow(time), rule, 257
    )
    theory = evaluate(
        Problem(
            eigenvalue_spectrum([eigenvalue]), problem.schedule, GradientFlow(time), merge_rule=rule
        ),
        plan,
    )
    outcome = problem.outcome(plan)
    assert outcome.error == pytest.approx(theory.w2, rel=1e-9, abs=1e-13)
    assert outcome.w2 == pytest.approx(theory.w2, rel=1e-9, abs=1e-13)
    assert all(trace["floor"] < 1e-13 for trace in outcome.traces)


@pytest.mark.parametrize("strategy", ["vanilla", "progressive", "consistency", "boot"])
def test_equal_components_train_more_slowly(strategy: str) -> None:
    """K copies of one Gaussian have features π_k [z, 1]: the flow runs Σ π_k² times as fast."""
    weights = np.array([0.5, 0.3, 0.2])
    copies = GaussianMixture([0.0] * 3, [0.7] * 3, weights)
    plan = build_strategy(strategy, 8)
    found = line_problem(copies, 8, GradientFlow(5.0)).outcome(plan).error
    slower = GradientFlow(5.0 * float(weights @ weights))
    theory = evaluate(
        Problem(eigenvalue_spectrum([0.7]), cosine_schedule(8), slower, "operator-copy"), plan
    )
    assert found == pytest.approx(theory.w2, rel=1e-10)


def test_independent_coordinates_are_gaussian_too() -> None:
    """One component in three dimensions, by a whole sample: the empirical flow mixes coordinates,
    so the theory is met within sampling error only: 5 / √n of the largest error."""
    eigenvalues = np.array([0.3, 1.0, 4.0])
    mixture, schedule = GaussianMixture([[0.0] * 3], [eigenvalues]), cosine_schedule(6)
    nodes = sampled_nodes(mixture, schedule, 20_000, 7)
    plan = build_strategy("consistency", 6)
    problem = MixtureProblem(mixture, schedule, nodes, GradientFlow(1.0), nodes[-1])
    found = problem.outcome(plan).error
    theory = Problem(
        eigenvalue_spectrum(eigenvalues.tolist()), schedule, GradientFlow(1.0), "operator-copy"
    )
    assert found == pytest.approx(evaluate(theory, plan).w2, rel=5 / np.sqrt(20_000))


def test_samples_agree_with_quadrature() -> None:
    """The mean over 16 seeds of sampled errors, within 4 standard errors of the quadrature."""
    exact = line_problem(THREE, 6, GradientFlow(3.0))
    plan = build_strategy("progressive", 6, 2)
    found = []
    for seed in range(16):
        nodes = sampled_nodes(THREE, exact.schedule, 4096, seed)
        fresh = sampled_nodes(THREE, exact.schedule, 4096, 100 + seed)[-1]
        found.append(replace(exact, nodes=nodes, inputs=fresh).outcome(plan).error)
    standard_error = np.std(found, ddof=1) / 4
    assert abs(np.mean(found) - exact.outcome(plan).error) < 4 * standard_error


@pytest.mark.parametrize("rule", RULES)
def test_one_step_students_are_affine(rule: MergeRule) -> None:
    """alpha_T = 0: no plan is below the nearest affine map, found by regression on [z, 1]."""
    problem = line_problem(THREE, 6, GradientFlow(), rule)
    nodes, teacher = problem.nodes[-1], problem.teacher_output[:, 0]
    z = nodes.points[:, 0]
    slope = nodes.weights @ (z * teacher)  # z_T is standard normal
    residual = teacher - nodes.weights @ teacher - slope * z
    nearest = float(np.sqrt(nodes.weights @ residual**2))
    errors = [problem.outcome(plan).error for plan in all_plans(problem.num_steps)]
    assert len(errors) == 197
    assert nearest * (1 - 1e-12) <= min(errors) <= nearest * 1.001
    trained_to_the_end = replace(problem, training=None).outcome(build_strategy("vanilla", 6))
    assert trained_to_the_end.error == pytest.approx(nearest, rel=1e-10)
    student = trained_to_the_end.trained[0]
    curvature = np.diff(student(np.array([[-2.0], [0.0], [2.0]]))[:, 0], n=2)
    assert abs(curvature[0]) < 1e-12


def test_starts_of_both_rules() -> None:
    """Without training (time → 0) the student is its start: the first child, or that child's
    denoiser used for the whole jump, which for a teacher step is DDIM's own longer jump."""
    plan = build_strategy("vanilla", 5)
    for rule, stop in (("operator-copy", 4), ("denoiser-copy", 0)):
        problem = line_problem(THREE, 5, GradientFlow(1e-14), rule)
        student = problem.outcome(plan).trained[0]
        expected = ddim_map(THREE, problem.schedule, 5, stop)
        points = np.linspace(-3, 3, 7)[:, None]
        assert student(points) == pytest.approx(expected(points), abs=1e-12)
        assert (student.start, student.stop) == (5, 0)


def test_traces_add_up() -> None:
    """One merge: floor² + optimisation² is the whole error, also to the teacher's composite."""
    problem = line_problem(THREE, 6, GradientFlow())
    outcome = problem.outcome(build_strategy("vanilla", 6))
    (trace,) = outcome.traces
    assert outcome.local_error == pytest.approx(outcome.error, rel=1e-10)
    assert trace["to_teacher"] == pytest.approx(outcome.error, rel=1e-12)
    assert outcome.w2 == pytest.approx(outcome.error, rel=1e-9)  # both maps are increasing
    kept = problem.outcome(Plan.from_nested([[6, 5], 4, 3, 2, 1]))
    assert len(kept.traces) == 1
    with pytest.raises(InputError, match="`plan` must have 6 steps, got 5"):
        problem.outcome(build_strategy("boot", 5))


# ---------------------------------------------------------------------------- planning


def test_students_that_are_trained_once_are_those_trained_anew() -> None:
    problem = line_problem(THREE, 5, GradientFlow(), num_nodes=129)
    for plan in all_plans(5, 2):
        assert problem.outcome(plan).error == replace(problem).outcome(plan).error


def test_closest_plan_of_one_gaussian_is_the_best() -> None:
    """Exact for one eigenvalue where signs agree: BOOT at λ < 1, vanilla at λ > λ*."""
    for eigenvalue, name in ((0.4, "boot"), (5.0, "vanilla")):
        problem = line_problem(GaussianMixture([0.0], [eigenvalue]), 6, GradientFlow(2.0))
        assert closest_plans(problem, [1]) == [build_strategy(name, 6)]


def test_closest_plans_lie_between_best_and_worst() -> None:
    """A heuristic: within all plans by definition; here within 10 % of the best for K = 1, 2, 3."""
    problem = line_problem(THREE, 6, GradientFlow(), num_nodes=257)
    for count, plan in zip((1, 2, 3), closest_plans(problem, (1, 2, 3)), strict=True):
        errors = [problem.outcome(plan).error for plan in all_plans(6, count)]
        assert plan.student_steps == count
        assert min(errors) * (1 - 1e-12) <= problem.outcome(plan).error <= 1.1 * min(errors)
    with pytest.raises(InputError, match="`student_steps` must be <= the number"):
        closest_plans(problem, [7])


# ------------------------------------------------------------------------------ growth


def test_effective_paths() -> None:
    """Equal weights at alpha_T = 0: K paths a step; far apart near the data: one."""
    apart = GaussianMixture([-50.0, 50.0], [0.1, 0.1])
    problem = line_problem(apart, 8, None)
    assert effective_paths(problem, 8, 7) == pytest.approx(2.0)
    assert effective_paths(problem, 2, 0) == pytest.approx(1.0)
    copies = line_problem(GaussianMixture([0.0] * 2, [0.7] * 2, [0.25, 0.75]), 8, None)
    entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert effective_paths(copies, 6, 1) == pytest.approx(np.exp(5 * entropy))


def test_gain_and_floor_of_one_gaussian() -> None:
    """The composite is multiplication by P: gain P everywhere, no floor, one gate."""
    problem = line_problem(GaussianMixture([0.0], [3.0]), 8, None)
    log_composite = Problem(eigenvalue_spectrum([3.0]), problem.schedule).teacher.log_composite
    for start, stop in pairwise((8, 5, 1)):
        gain = composite_gain(problem, start, stop)
        expected = np.exp(log_composite(stop, start)[0])
        assert gain == pytest.approx((expected, expected), rel=1e-9)
        assert relative_floor(problem, start, stop) < 1e-13
        assert gates_needed(problem, start, stop, 1e-6, 5) == 1


def test_floors_and_gates_of_two_components() -> None:
    """The floor shrinks towards the data and is 0 for a teacher step; fewer gates do not do."""
    problem = line_problem(GaussianMixture([-1.0, 1.0], [0.1, 0.3]), 8, None)
    floors = [relative_floor(problem, t, 0) for t in (8, 6, 4, 2, 1)]
    assert floors == sorted(floors, reverse=True)
    assert floors[-1] < 1e-12
    needed = gates_needed(problem, 8, 0, 0.05, 30)
    assert needed is not None
    assert gates_needed(problem, 8, 0, 0.05, needed - 1) is None
