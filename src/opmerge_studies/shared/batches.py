"""What minibatches add to training: exact second moments of linear students trained by SGD.

The target is linear in z, so a student's gap D = B - G shrinks as ``D ← D (I - 2 η Ĉ)`` with a
new batch each time, and training ends at the target however noisy it is. The mean gap is that of
descent on the whole law, ``D_0 (I - 2 η C)^N``, for any data; only its spread sees more of the law
than the covariance, through the fourth moments (``expected_square``).

With one weight a coordinate, which feels less noise than a full matrix, an iteration multiplies
the error by ``1 - 2 η m``, m the mean square of b samples of z ~ N(0, n), with mean n and variance
2 n² / b: errors are products of independent factors (``retention_noise``, ``operator_noise``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans.tree import Plan
from opmerge.problem import Problem
from opmerge.training import GradientDescent

Cumulant = Callable[[Array], Array]
"""``Q ↦ E[z zᵀ Q z zᵀ] - 2 C Q C - tr(C Q) C`` for symmetric Q; 0 for a Gaussian law."""


def expected_square(
    covariance: Array, cumulant: Cumulant, learning_rate: float, num_iterations: int, batch: int
) -> Array:
    """The matrix Q with ``E|D_N z|² = tr(D_0 Q D_0ᵀ)`` for descent on batches, exactly.

    From ``Q = C``, N times ``Q ← Q - 2η(CQ + QC) + 4η² ((1 - 1/b) CQC + E[z zᵀ Q z zᵀ] / b)``.

    C is the (d, d) covariance of the student's input z, ``cumulant`` the fourth cumulant of z;
    ``learning_rate`` η, ``num_iterations`` N, and each takes a ``batch`` of b independent samples.

    Raises:
        InputError: if N or b is not a whole number >= 1.
    """
    check_count("batch", batch)
    square = covariance
    for _ in range(check_count("num_iterations", num_iterations)):
        left = covariance @ square
        both = left @ covariance
        noise = both + np.trace(left) * covariance + cumulant(square)
        shrunk = -2.0 * learning_rate * (left + left.T)
        square = square + shrunk + 4.0 * learning_rate**2 * (both + noise / batch)
    return square


def independent_cumulant(basis: Array, variances: Array, excess_kurtosis: float) -> Cumulant:
    """The cumulant of coordinates independent in a basis: ``Σ_i κ λ_i² (u_iᵀ Q u_i) u_i u_iᵀ``.

    The basis holds (d, d) columns u_i, ``variances`` (d,) λ_i; κ is 0 for Gaussian coordinates, 3
    for Laplace, -1.2 for uniform ones.
    """

    def cumulant(square: Array) -> Array:
        weights = excess_kurtosis * variances**2 * np.einsum("ji,jk,ki->i", basis, square, basis)
        return (basis * weights) @ basis.T

    return cumulant


def sample_cumulant(samples: Array) -> Cumulant:
    """The cumulant of the law that draws one of these centred samples (n, d)."""
    covariance = samples.T @ samples / len(samples)

    def cumulant(square: Array) -> Array:
        weights = np.einsum("ni,ij,nj->n", samples, square, samples)
        fourth = (samples.T * weights) @ samples / len(samples)
        left = covariance @ square
        return fourth - 2.0 * left @ covariance - np.trace(left) * covariance

    return cumulant


def retention_noise(training: GradientDescent, variances: Array, batch_size: int) -> Array:
    """Var ρ / (E ρ)² of SGD's retention, elementwise in n.

    ``(1 + 8 η² n² / (b (1 - 2 η n)²))^N - 1``; it is small while ``8 η² n² N ≪ b``.

    Raises:
        InputError: if η n >= 1/2 for some n_t, or b is not a whole number >= 1.
    """
    step = 2.0 * training.learning_rate * variances
    if not (step < 1.0).all():
        raise InputError("learning_rate", "must be < 1 / (2 max n_t)", training.learning_rate)
    per_iteration = 2.0 / check_count("batch_size", batch_size) * (step / (1.0 - step)) ** 2
    return np.expm1(training.num_iterations * np.log1p(per_iteration))


def operator_noise(problem: Problem, plan: Plan, batch_size: int) -> Array:
    """(d,) Var B / (E B)² of the whole student B, every merge of the plan trained by SGD.

    With independent factors 1 + noise multiply. A merge is ``c_1 (R + ρ (1 - R))``, R the product
    of its other children; relative to the teacher, with E the mean of ``(1 - R)/R`` (THEORY 4),

        noise(R + ρ (1 - R)) = (V E² + (1 - E ρ)² noise(R) + V noise(R)) / (1 + E ρ · E)²,

    V = Var ρ. The mean E B is the closed form's, as B is linear in every ρ.

    Raises:
        InputError: for a merge rule other than operator copy, or another training model.
    """
    training = problem.training
    if not isinstance(training, GradientDescent) or problem.merge_rule != "operator-copy":
        raise InputError("problem", "must have operator copy and gradient descent", problem)
    zero = np.zeros_like(problem.eigenvalues)
    logs = dict.fromkeys(range(problem.num_steps, 0, -1), zero)  # log(1 + noise)
    means = dict(logs)
    for merge, local in zip(plan.merges, evaluate(problem, plan).local_excess, strict=True):
        first, *others = merge.boundaries[:-1]
        rest = np.sum([means.pop(t) for t in others], axis=0)
        rest_noise = np.expm1(np.sum([logs.pop(t) for t in others], axis=0))
        gap = np.expm1(-problem.teacher.log_composite(merge.stop, merge.split) - rest)
        mean = problem.retentions[merge.start]
        variances = problem.teacher.variances[merge.start]
        spread = mean**2 * retention_noise(training, variances, batch_size)
        noise = spread * gap**2 + ((1.0 - mean) ** 2 + spread) * rest_noise
        logs[first] = logs[first] + np.log1p(noise / (1.0 + mean * gap) ** 2)
        means[first] = means[first] + rest + local
    return np.expm1(np.sum(list(logs.values()), axis=0))
