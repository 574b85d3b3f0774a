"""What minibatches add to the closed form: against samples, and against moments merge by merge."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from mpmath import mp
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.training import GradientDescent, GradientFlow, TrainingModel
from opmerge_studies.shared.batches import operator_noise, retention_noise
from opmerge_studies.shared.simulation import descent, train_plan
from opmerge_studies.shared.strategies import cosine_problem

Array = NDArray[np.float64]

EIGENVALUES = (0.05, 0.5, 1.02, 5.0)
STRATEGIES = ("vanilla", "progressive", "consistency", "boot", "uniform:3", "hybrid:3")


def make(training: TrainingModel, num_steps: int = 9) -> Problem:
    return cosine_problem(EIGENVALUES, num_steps, training)


def test_noise_of_a_retention_on_samples() -> None:
    """Mean and variance over 20,000 runs of SGD on z itself, within 4 standard errors."""
    rng, runs, batch = np.random.default_rng(3), 20_000, 4
    training, variance = GradientDescent(0.02, 25), 2.0
    retention = np.ones(runs)
    for _ in range(25):
        samples = np.sqrt(variance) * rng.standard_normal((runs, batch))
        retention *= 1 - 2 * 0.02 * np.mean(samples**2, axis=1)
    mean = training.retention(np.array([variance]))[0]
    spread = mean**2 * retention_noise(training, np.array([variance]), batch)[0]
    assert abs(retention.mean() - mean) < 4 * np.sqrt(spread / runs)
    fourth = np.mean((retention - mean) ** 4)
    assert abs(np.mean((retention - mean) ** 2) - spread) < 4 * np.sqrt(fourth / runs)


def moments(problem: Problem, strategy: str, column: int, batch: int) -> tuple[float, float]:
    """E b and Var b from E b and E b² of children, merge by merge, in 60 digits."""
    training = problem.training
    assert isinstance(training, GradientDescent)
    steps = np.exp(problem.teacher.log_steps[:, column])
    first = {t: mpmath.mpf(steps[t]) for t in range(1, problem.num_steps + 1)}
    second = {t: first[t] ** 2 for t in first}
    for merge in build_strategy(strategy, problem.num_steps).merges:
        n = mpmath.mpf(problem.teacher.variances[merge.start, column])
        step = 2 * mpmath.mpf(training.learning_rate) * n
        mean = (1 - step) ** training.num_iterations
        square = (1 - 2 * step + step**2 * (1 + mpmath.mpf(2) / batch)) ** training.num_iterations
        start, *others = merge.boundaries[:-1]
        rest = mpmath.fprod(first.pop(t) for t in others)
        rest_square = mpmath.fprod(second.pop(t) for t in others)
        first[start] *= mean * (1 - rest) + rest
        second[start] *= (
            rest_square + 2 * mean * (rest - rest_square) + square * (1 - 2 * rest + rest_square)
        )
    mean, square = mpmath.fprod(first.values()), mpmath.fprod(second.values())
    return float(mean), float((square - mean**2) / mean**2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_noise_of_a_whole_student(strategy: str) -> None:
    problem, batch = make(GradientDescent(0.02, 60)), 8
    plan = build_strategy(strategy, 9)
    noise = operator_noise(problem, plan, batch)
    closed = np.exp(evaluate(problem, plan).excess + problem.teacher.log_products[0])
    with mp.workdps(60):
        for column in range(len(EIGENVALUES)):
            mean, expected = moments(problem, strategy, column, batch)
            assert closed[column] == pytest.approx(mean, rel=1e-12)
            assert noise[column] == pytest.approx(expected, rel=1e-9)


def test_sgd_deviates_as_derived() -> None:
    """The mean of 1,000 runs within 4 standard errors; their variance within 4 of its own.

    Of four coordinates and two plans; the variance of a sample variance is about 2 V² / R, three
    times that for the mild excess kurtosis of these products.
    """
    training, runs, batch = GradientDescent(0.01, 100), 1000, 64
    problem = make(training)
    for strategy in ("progressive", "boot"):
        plan = build_strategy(strategy, 9)
        trained = train_plan(problem, plan, descent(0.01, 100, batch), runs, 11)
        mean = np.exp(evaluate(problem, plan).excess + problem.teacher.log_products[0])
        spread = mean * np.sqrt(operator_noise(problem, plan, batch))
        deviations = (trained.operators.mean(axis=0) - mean) / spread * np.sqrt(runs)
        assert np.abs(deviations).max() < 4
        ratios = trained.operators.var(axis=0) / spread**2
        assert np.abs(ratios - 1).max() < 4 * np.sqrt(3 * 2 / runs)


def test_what_is_not_covered_is_refused() -> None:
    plan = build_strategy("boot", 5)
    with pytest.raises(InputError, match="`problem` must have operator copy and gradient descent"):
        operator_noise(make(GradientFlow(1.0), 5), plan, 4)
    with pytest.raises(InputError, match=r"`learning_rate` must be < 1 / \(2 max n_t\), got 0.3"):
        retention_noise(GradientDescent(0.3, 5), np.array([2.0]), 4)
    with pytest.raises(InputError, match="`batch_size` must be >= 1, got 0"):
        retention_noise(GradientDescent(0.1, 5), np.array([2.0]), 0)
