"""Linear students that are really trained, merge by merge: what the closed form stands for.

A student is one weight a coordinate, trained on ``E|a z_t - target z_t|²`` by an optimiser that
is iterated, not solved. Nothing here knows a retention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.integrate import solve_ivp

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

_TOLERANCE = 1e-12

Optimiser = Callable[[Array, Array, Array, Generator], Array]
"""What (runs, d) weights become, of their initial values, target, (d,) n_t and random numbers."""


def flow_solver(time: float) -> Optimiser:
    """Gradient flow ``da/ds = -2 n_t (a - target)`` for time s, by Runge-Kutta of order 8."""
    precision = {"rtol": _TOLERANCE, "atol": _TOLERANCE**2}

    def train(initial: Array, target: Array, variances: Array, rng: Generator) -> Array:
        def slope(_: float, weights: Array) -> Array:
            return np.ravel(-2.0 * variances * (weights.reshape(initial.shape) - target))

        solution = solve_ivp(slope, (0.0, time), initial.ravel(), "DOP853", **precision)
        return np.reshape(solution.y[:, -1], initial.shape)

    return train


def descent(
    learning_rate: float,
    num_iterations: int,
    batch_size: int | None = None,
    momentum: float = 0.0,
    decay: float = 0.0,
) -> Optimiser:
    """Gradient descent, with the heavy ball's ``momentum``, which starts at rest.

    What is kept is the moving average ``m ← D m + (1 - D) a`` of the weights, D the ``decay``. An
    iteration takes ``batch_size`` fresh samples; None, the population's gradient.
    """

    def train(initial: Array, target: Array, variances: Array, rng: Generator) -> Array:
        weights, velocity, average = initial, np.zeros_like(initial), initial
        for _ in range(num_iterations):
            gradient = _gradient(weights - target, variances, batch_size, rng)
            velocity = momentum * velocity - learning_rate * gradient
            weights = weights + velocity
            average = decay * average + (1.0 - decay) * weights
        return average

    return train


def adam(learning_rate: float, num_iterations: int, batch_size: int | None = None) -> Optimiser:
    """Adam (Kingma & Ba 2015), begun afresh in each merge; a coordinate is a parameter."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def train(initial: Array, target: Array, variances: Array, rng: Generator) -> Array:
        weights, first, second = initial, np.zeros_like(initial), np.zeros_like(initial)
        for iteration in range(1, num_iterations + 1):
            gradient = _gradient(weights - target, variances, batch_size, rng)
            first = beta1 * first + (1.0 - beta1) * gradient
            second = beta2 * second + (1.0 - beta2) * gradient**2
            direction = first / (1.0 - beta1**iteration)
            size = np.sqrt(second / (1.0 - beta2**iteration)) + epsilon
            weights = weights - learning_rate * direction / size
        return weights

    return train


def _gradient(gap: Array, variances: Array, batch_size: int | None, rng: Generator) -> Array:
    """The gradient of mean (a z - target z)², z ~ N(0, n_t); mean z² has the law n_t χ²_B / B."""
    squares = variances
    if batch_size is not None:
        squares = variances / batch_size * rng.chisquare(batch_size, gap.shape)
    return 2.0 * squares * gap


@dataclass(frozen=True, eq=False)
class TrainedPlan:
    """Every student of a plan as training left it, and (runs, d) ``operators`` of the whole.

    In the order of ``plan.merges``, (merges, runs, d): where each began, what product it was
    trained on and where it ended.
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
        return self.operators * np.exp(-problem.teacher.log_products[0])


def train_plan(
    problem: Problem,
    plan: Plan,
    optimiser: Optimiser,
    num_runs: int = 1,
    seed: int | Sequence[int] = 0,
) -> TrainedPlan:
    """Train the students of a plan one after the other, as a real distillation does.

    Each starts as a copy of its first child's operator and is trained on the product of its
    children as training left them. Runs are independent; the training model plays no part.

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
        result = optimiser(children[0], target, variances, rng)
        operators[merge.start] = result
        trained.append((children[0], target, result))
    initial, target, result = np.reshape(trained, (-1, 3, *shape)).swapaxes(0, 1)
    return TrainedPlan(initial, target, result, np.prod(list(operators.values()), axis=0))


def train_dense(
    initial: Array,
    target: Array,
    covariance: Array,
    way: tuple[float, int, int],
    num_runs: int,
    seed: int,
) -> Array:
    """(runs, d, d) full matrices W trained by plain SGD on ``E|W z - target z|²``, z ~ N(0, C).

    Unlike a weight a coordinate, a matrix also learns and forgets correlations that a minibatch
    shows by chance. ``initial``, ``target`` and ``covariance`` C are (d, d); the ``way`` is the
    learning rate, the number of iterations and the samples of each.
    """
    learning_rate, num_iterations, batch_size = way
    rng, root = np.random.default_rng(seed), np.linalg.cholesky(covariance)
    weights = np.broadcast_to(initial, (num_runs, *initial.shape))
    for _ in range(num_iterations):
        samples = rng.standard_normal((num_runs, batch_size, len(covariance))) @ root.T
        residuals = samples @ (weights - target).swapaxes(1, 2)
        gradients = 2.0 / batch_size * residuals.swapaxes(1, 2) @ samples
        weights = weights - learning_rate * gradients
    return weights
