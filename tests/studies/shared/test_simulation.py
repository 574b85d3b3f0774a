"""Students really trained: against closed forms, another program's Adam, and moments derived."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import (
    EMAFlow,
    GradientDescent,
    GradientFlow,
    HeavyBall,
    TrainingModel,
)
from opmerge_studies.shared.batches import expected_square, independent_cumulant
from opmerge_studies.shared.simulation import (
    Optimiser,
    TrainedPlan,
    adam,
    descent,
    flow_solver,
    train_dense,
    train_plan,
)

Array = NDArray[np.float64]

EIGENVALUES = (0.05, 0.5, 1.02, 5.0)
STRATEGIES = ("vanilla", "progressive", "consistency", "boot", "uniform:3", "hybrid:3")


def make(training: TrainingModel, num_steps: int = 9) -> Problem:
    spectrum, schedule = eigenvalue_spectrum(EIGENVALUES), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, training, "operator-copy")


@pytest.mark.parametrize(
    ("optimiser", "training"),
    [
        (flow_solver(1.0), GradientFlow(1.0)),
        (descent(0.01, 100), GradientDescent(0.01, 100)),
        (descent(2e-4, 500, momentum=0.9), HeavyBall(2e-4, 500, 0.9)),
    ],
    ids=["flow", "descent", "heavy ball"],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_plans_end_where_the_closed_form_says(
    optimiser: Optimiser, training: TrainingModel, strategy: str
) -> None:
    """To the digits that the issue promises; students of several steps included."""
    for student_steps in (1, 2):
        problem, plan = make(training), build_strategy(strategy, 9, student_steps)
        excess = evaluate(problem, plan).excess
        trained = train_plan(problem, plan, optimiser)
        expected = np.exp(excess + problem.teacher.log_products[0])
        np.testing.assert_allclose(trained.operators[0], expected, rtol=1e-10)
        starts = [merge.start for merge in plan.merges]
        predicted = problem.retentions[starts]
        clear = np.abs(trained.result - trained.target)[:, 0] > 1e-6
        retentions = trained.retentions[:, 0]
        np.testing.assert_allclose(retentions[clear], predicted[clear], rtol=1e-8, atol=1e-11)


def test_averaged_descent_tends_to_averaged_flow() -> None:
    """As 1/N: four times the iterations, a quarter of the difference."""
    time, turnovers = 1.0, 4.0
    problem = make(EMAFlow(time, turnovers / time))
    plan = build_strategy("consistency", 9)
    predicted = np.expm1(evaluate(problem, plan).excess)
    differences = []
    for count in (1000, 4000):
        averaged = descent(time / count, count, decay=float(np.exp(-turnovers / count)))
        ratio = train_plan(problem, plan, averaged).operators[0]
        error = ratio * np.exp(-problem.teacher.log_products[0]) - 1
        differences.append(error / predicted - 1)
    np.testing.assert_allclose(differences[1] / differences[0], 0.25, rtol=0.05)
    assert np.abs(differences[1]).max() < 0.01


def test_adam_is_that_of_torch() -> None:
    """Full-batch, step by step, on three weights at once."""
    torch = pytest.importorskip("torch")
    initial, target = np.array([[0.9, 0.2, 1.4]]), np.array([[0.5, 0.7, 1.39]])
    variances = np.array([0.3, 1.0, 2.0])
    weights = torch.tensor(initial, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.01)
    for _ in range(120):
        optimiser.zero_grad()
        (torch.tensor(variances) * (weights - torch.tensor(target)) ** 2).sum().backward()
        optimiser.step()
    found = adam(0.01, 120)(initial, target, variances, np.random.default_rng(0))
    np.testing.assert_allclose(found, weights.detach().numpy(), rtol=1e-10)


def test_momentum_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    initial, variances = np.array([[0.9, 0.2]]), np.array([0.3, 2.0])
    weights = torch.tensor(initial, requires_grad=True)
    optimiser = torch.optim.SGD([weights], lr=0.02, momentum=0.8)
    for _ in range(50):
        optimiser.zero_grad()
        (torch.tensor(variances) * (weights - 0.5) ** 2).sum().backward()
        optimiser.step()
    way = descent(0.02, 50, momentum=0.8)
    found = way(initial, np.full((1, 2), 0.5), variances, np.random.default_rng(0))
    np.testing.assert_allclose(found, weights.detach().numpy(), rtol=1e-12)


def test_matrices_feel_the_noise_of_all_directions() -> None:
    """Second moment over 4,000 runs against its exact recursion, in a rotated basis."""
    variances, errors = np.array([0.5, 1.0, 3.0]), np.array([0.4, -0.2, 0.7])
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    covariance = basis * variances @ basis.T
    way = (0.05, 20, 2)
    weights = train_dense(basis * errors @ basis.T, np.zeros((3, 3)), covariance, way, 4000, 5)
    found = np.einsum("rij,jk,rik->r", weights, covariance, weights)
    gaussian = independent_cumulant(basis, variances, 0.0)
    square = basis.T @ expected_square(covariance, gaussian, 0.05, 20, 2) @ basis
    expected = errors**2 @ np.diag(square)
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(4000)
    # the same recursion for a diagonal matrix, written out by entries
    own = (1 - 0.1 * variances) ** 2 + 0.01 / 2 * variances**2
    step = np.diag(own) + 0.01 / 2 * np.outer(variances, variances)
    written_out = np.linalg.matrix_power(step, 20) @ errors**2 @ variances
    assert expected == pytest.approx(written_out, rel=1e-12)


def test_one_seed_one_result() -> None:
    problem, plan = make(GradientFlow(1.0)), build_strategy("boot", 9)
    first, again, other = (
        train_plan(problem, plan, descent(0.01, 20, 4), 3, seed).operators for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).all()


def test_a_student_that_begins_at_its_end_has_no_retention() -> None:
    begun, aimed, ended = (np.full((1, 1, 2), value) for value in (0.5, 0.5, 0.5))
    begun[..., 1], ended[..., 1] = 0.9, 0.6
    retentions = TrainedPlan(begun, aimed, ended, ended[0]).retentions
    assert np.isnan(retentions[0, 0, 0])
    assert retentions[0, 0, 1] == pytest.approx(0.25)


def test_what_is_not_covered_is_refused() -> None:
    spectrum, schedule = eigenvalue_spectrum(EIGENVALUES), cosine_schedule(5)
    plan = build_strategy("boot", 5)
    denoiser = Problem(spectrum, schedule, GradientFlow(1.0), merge_rule="denoiser-copy")
    with pytest.raises(InputError, match="`merge_rule` must be operator-copy, got denoiser-copy"):
        train_plan(denoiser, plan, descent(0.01, 5))
