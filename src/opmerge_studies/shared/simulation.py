"""Linear students that are really trained, merge by merge: what the closed form stands for.

A student is one weight a coordinate, trained on ``E|a z_t - target z_t|²`` by an optimiser that
is iterated, not solved. Nothing here knows a retention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from opmerge.errors import InputError
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

__all__ = ["Adam", "Descent", "FlowSolver", "Optimiser", "TrainedPlan", "train_dense", "train_plan"]

_TOLERANCE = 1e-12

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FlowSolver:
    """Gradient flow ``da/ds = -2 n_t (a - target)`` by a Runge-Kutta method of order 8.

    Args:
        time: s, the optimisation time of one merge.
    """

    time: float

    def train(self, initial: Array, target: Array, variances: Array, rng: Generator) -> Array:
        """(runs, d) weights at time s, to 12 digits, from (runs, d) initial weights at (d,) n_t."""

        def slope(_: float, weights: Array) -> Array:
            slopes: Array = -2.0 * variances * (weights.reshape(initial.shape) - target)
            return slopes.ravel()

        solution = solve_ivp(
            slope, (0.0, self.time), initial.ravel(), "DOP853", rtol=_TOLERANCE, atol=_TOLERANCE**2
        )
        weights: Array = solution.y[:, -1].reshape(initial.shape)
        return weights


@dataclass(frozen=True)
class _Iterated:
    """An optimiser that takes steps along gradients.

    Args:
        learning_rate: η.
        num_iterations: N.
        batch_size: B fresh samples an iteration; None for the population's gradient.
    """

    learning_rate: float
    num_iterations: int
    batch_size: int | None = None

    def _gradient(self, gap: Array, variances: Array, rng: Generator) -> Array:
        """Of the mean of (a z - target z)², z ~ N(0, n_t), at the gap a - target.

        The samples enter by their mean square alone, whose law is n_t χ²_B / B.
        """
        squares = variances
        if self.batch_size is not None:
            squares = variances / self.batch_size * rng.chisquare(self.batch_size, gap.shape)
        gradient: Array = 2.0 * squares * gap
        return gradient


@dataclass(frozen=True)
class Descent(_Iterated):
    """Gradient descent, full-batch or on fresh minibatches, with momentum or averaged weights.

    Args:
        momentum: μ of the heavy ball, which starts at rest.
        decay: D, if the moving average ``m ← D m + (1 - D) a`` is what is kept; 0 keeps a itself.
    """

    momentum: float = 0.0
    decay: float = 0.0

    def train(self, initial: Array, target: Array, variances: Array, rng: Generator) -> Array:
        """(runs, d) weights after N iterations; see ``FlowSolver.train``."""
        weights, velocity, average = initial, np.zeros_like(initial), initial
        for _ in range(self.num_iterations):
            gradient = self._gradient(weights - target, variances, rng)
            velocity = self.momentum * velocity - self.learning_rate * gradient
            weights = weights + velocity
            average = self.decay * average + (1.0 - self.decay) * weights
        return average


@dataclass(frozen=True)
class Adam(_Iterated):
    """Adam (Kingma & Ba 2015), begun afresh in each merge; a coordinate is a parameter."""

    beta1 = 0.9
    beta2 = 0.999
    epsilon = 1e-8

    def train(self, initial: Array, target: Array, variances: Array, rng: Generator) -> Array:
        """(runs, d) weights after N iterations; see ``FlowSolver.train``."""
        weights, first, second = initial, np.zeros_like(initial), np.zeros_like(initial)
        for iteration in range(1, self.num_iterations + 1):
            gradient = self._gradient(weights - target, variances, rng)
            first = self.beta1 * first + (1.0 - self.beta1) * gradient
            second = self.beta2 * second + (1.0 - self.beta2) * gradient**2
            direction = first / (1.0 - self.beta1**iteration)
            size = np.sqrt(second / (1.0 - self.beta2**iteration)) + self.epsilon
            weights = weights - self.learning_rate * direction / size
        return weights


Optimiser = FlowSolver | Descent | Adam
"""Takes weights from where they start towards their target."""


@dataclass(frozen=True, eq=False)
class TrainedPlan:
    """Every student of a plan as training left it.

    Args:
        initial: (merges, runs, d) where each student began, in the order of ``plan.merges``.
        target: (merges, runs, d) the product that it was trained on.
        result: (merges, runs, d) where it ended.
        operators: (runs, d) the whole student T → 0.
    """

    initial: Array
    target: Array
    result: Array
    operators: Array

    @property
    def retentions(self) -> Array:
        """(merges, runs, d) error left over initial error; NaN where a student began at its end."""
        begun = self.initial - self.target
        blank = np.full_like(begun, np.nan)
        return np.divide(self.result - self.target, begun, out=blank, where=begun != 0)

    def ratio(self, problem: Problem) -> Array:
        """(runs, d) the whole student's operator over the teacher's composite."""
        ratio: Array = self.operators * np.exp(-problem.teacher.log_products[0])
        return ratio


def train_plan(
    problem: Problem,
    plan: Plan,
    optimiser: Optimiser,
    num_runs: int = 1,
    seed: int | Sequence[int] = 0,
) -> TrainedPlan:
    """Train the students of a plan one after the other, as a real distillation does.

    Each starts as a copy of its first child's operator and is trained on the product of its
    children as training left them. Runs are independent; with the same seed they are the same.

    Args:
        problem: its schedule, eigenvalues and teacher; its training model plays no part.
        plan: any plan of T steps.
        optimiser: how a student is trained.
        num_runs: independent repetitions.
        seed: of the samples.

    Raises:
        InputError: for a merge rule other than operator copy.
    """
    if problem.merge_rule != "operator-copy":
        raise InputError("merge_rule", "must be operator-copy", problem.merge_rule)
    rng = np.random.default_rng(seed)
    shape = (num_runs, len(problem.eigenvalues))
    steps = np.exp(problem.teacher.log_steps)
    operators = {t: np.broadcast_to(steps[t], shape) for t in range(1, problem.num_steps + 1)}
    trained = []
    for merge in plan.merges:
        children = [operators.pop(t) for t in merge.boundaries[:-1]]
        target = np.prod(children, axis=0)
        variances = problem.teacher.variances[merge.start]
        result = optimiser.train(children[0], target, variances, rng)
        operators[merge.start] = result
        trained.append((children[0], target, result))
    initial, target, result = np.reshape(trained, (-1, 3, *shape)).swapaxes(0, 1)
    return TrainedPlan(initial, target, result, np.prod(list(operators.values()), axis=0))


def train_dense(
    initial: Array,
    target: Array,
    covariance: Array,
    descent: tuple[float, int, int],
    num_runs: int,
    seed: int,
) -> Array:
    """(runs, d, d) full matrices W trained by plain SGD on ``E|W z - target z|²``.

    Unlike a weight a coordinate, a matrix also learns and forgets correlations that a minibatch
    shows by chance.

    Args:
        initial, target: (d, d) W at the start, and what it tends to.
        covariance: (d, d) of z ~ N(0, C).
        descent: learning rate η, iterations N and samples B of each.
        num_runs: independent repetitions.
        seed: of the samples.
    """
    learning_rate, num_iterations, batch_size = descent
    rng, root = np.random.default_rng(seed), np.linalg.cholesky(covariance)
    weights = np.broadcast_to(initial, (num_runs, *initial.shape))
    for _ in range(num_iterations):
        samples = rng.standard_normal((num_runs, batch_size, len(covariance))) @ root.T
        residuals = samples @ (weights - target).swapaxes(1, 2)
        gradients = 2.0 / batch_size * residuals.swapaxes(1, 2) @ samples
        weights = weights - learning_rate * gradients
    return weights
