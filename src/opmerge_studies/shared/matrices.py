"""Operators as matrices, where covariances of data, noise and teacher do not commute (THEORY 9).

The teacher takes the data for N(0, Λ̂); the noise has covariance Σ. Both are diagonal in one frame
V, ``V Vᵀ = Σ`` and ``V Diag(μ) Vᵀ = Λ̂``, where the teacher is the scalar teacher of the generalised
eigenvalues μ. Students are trained on z_t of the data N(0, Λ), ``C_t = alpha_t² Λ + sigma_t² Σ``.

A state is a column; the operator on the noise side acts first and stands on the right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy.linalg import eigh

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.linear_teacher import LinearTeacher
from opmerge.metrics import gaussian_w2
from opmerge.plans import Plan
from opmerge.plans.tree import Merge
from opmerge.schedules import NoiseSchedule
from opmerge.settings.types import MergeRule
from opmerge.training import GradientFlow, TrainingModel
from opmerge_studies.shared.strategies import PAPER_RULE

_SINGULAR = 1e-12  # relative variance below which directions are not rotated further
_REFINEMENTS = 3


@dataclass(frozen=True, eq=False)
class MatrixProblem:
    """Merging the steps of the linear teacher of ``z_t = alpha_t x_0 + sigma_t ε``, Cov ε = Σ.

    Its denoiser is ``alpha_t Λ̂ Ĉ_t⁻¹ z_t`` with ``Ĉ_t = alpha_t² Λ̂ + sigma_t² Σ``, a DDIM step is
    ``A_t z_t``, ``A_t = (alpha_{t-1} alpha_t Λ̂ + sigma_{t-1} sigma_t Σ) Ĉ_t⁻¹``.

    Args:
        data_covariance: (d, d) Λ, symmetric positive semi-definite.
        noise_covariance: (d, d) Σ, symmetric positive definite.
        training: of one mode; its retention is taken as a function of the matrix C_t.
        learned_covariance: (d, d) Λ̂ that the teacher takes Λ to be; by default Λ itself.

    Raises:
        InputError: if the training has several modes.
    """

    data_covariance: Array
    noise_covariance: Array
    schedule: NoiseSchedule
    training: TrainingModel = field(default_factory=GradientFlow)
    merge_rule: MergeRule = PAPER_RULE
    learned_covariance: Array | None = None

    def __post_init__(self) -> None:
        if len(self.training.mode_weights) != 1:
            raise InputError("training", "must have a single mode", self.training.name)

    @cached_property
    def _generalised(self) -> tuple[Array, Array]:
        """(d,) μ, descending, and (d, d) V⁻ᵀ."""
        learned, data = self.learned_covariance, self.data_covariance
        values, vectors = eigh(data if learned is None else learned, self.noise_covariance)
        return np.maximum(values[::-1], 0.0), vectors[:, ::-1]

    @cached_property
    def frame(self) -> Array:
        """(d, d) V with ``V Vᵀ = Σ`` and ``V Diag(μ) Vᵀ = Λ̂``."""
        return self.noise_covariance @ self._generalised[1]

    @property
    def inverse_frame(self) -> Array:
        """(d, d) V⁻¹."""
        return self._generalised[1].T

    @cached_property
    def teacher(self) -> LinearTeacher:
        """The scalar teacher of the generalised eigenvalues μ: ``A_t = V a_t(μ) V⁻¹``."""
        return LinearTeacher(self.schedule, self._generalised[0])

    @property
    def eigenvalues(self) -> Array:
        """(d,) generalised eigenvalues μ of Λ̂ and Σ, descending: signal-to-noise ratios."""
        return self.teacher.eigenvalues

    def covariance(self, step: int) -> Array:
        """(d, d) C_t of z_t."""
        alpha, sigma = self.schedule.alphas[step], self.schedule.sigmas[step]
        return alpha**2 * self.data_covariance + sigma**2 * self.noise_covariance

    @cached_property
    def retentions(self) -> tuple[Array, ...]:
        """T + 1 matrices (d, d), ``V⁻¹ ρ(C_t) V``; row 0 is never trained and is 0."""
        rows = [np.zeros_like(self.frame)]
        for step in range(1, self.schedule.num_steps + 1):
            values, vectors = np.linalg.eigh(self.covariance(step))
            left = (vectors * self.training.retention(values)) @ vectors.T
            rows.append(self.inverse_frame @ left @ self.frame)
        return tuple(rows)

    @cached_property
    def input_root(self) -> Array:
        """(d, d) R with ``V R Rᵀ Vᵀ = C_T``."""
        inverse, last = self.inverse_frame, self.covariance(self.schedule.num_steps)
        return np.asarray(np.linalg.cholesky(inverse @ last @ inverse.T), np.float64)


@dataclass(frozen=True, eq=False)
class MatrixOutcome:
    """What a plan leaves: (d, d) ``V⁻¹ (B - P(0, T)) V`` of the student B; 0 for the teacher."""

    problem: MatrixProblem
    deviation: Array

    @property
    def w2(self) -> float:
        """Wasserstein-2 distance of the outputs ``B z_T`` and ``P z_T`` of Gaussian z_T.

        For any other law of z_T with this covariance it is a lower bound (Gelbrich 1990), as the
        paired error is an upper one.
        """
        return mapped_gaussian_w2(*self._roots)

    @property
    def paired_error(self) -> float:
        """``sqrt(E|B z_T - P z_T|²)``, the same noise for both; it needs no Gaussian law."""
        return float(np.linalg.norm(self._roots[1]))

    @property
    def to_data(self) -> float:
        """Wasserstein-2 distance of ``B z_T`` from the data N(0, Λ)."""
        root, data = np.add(*self._roots), self.problem.data_covariance
        zero = np.zeros(len(data))
        return gaussian_w2(zero, root @ root.T, zero, data)

    @property
    def difference(self) -> Array:
        """(d, d) ``B - P(0, T)`` in the coordinates of the data."""
        return self.problem.frame @ self.deviation @ self.problem.inverse_frame

    @property
    def _roots(self) -> tuple[Array, Array]:
        """(d, d) P and (d, d) B - P, each times one root of C_T."""
        frame, root = self.problem.frame, self.problem.input_root
        composite = np.exp(self.problem.teacher.log_products[0])
        return frame * composite @ root, frame @ self.deviation @ root


def evaluate_matrices(problem: MatrixProblem, plan: Plan) -> MatrixOutcome:
    """Operators of a plan by the closed form of matrix gradient flow (THEORY 4, 9).

    A merge of c_1, …, c_m starts at ``init`` and ends at ``G + (init - G) ρ(C_j)``,
    ``G = c_m ⋯ c_1``. Only deviations from the teacher's composites are carried along, so that
    they keep their digits however small they are (relative to the largest among them).

    Raises:
        InputError: if the plan is for another number of steps.
    """
    num_steps = problem.schedule.num_steps
    if plan.num_steps != num_steps:
        raise InputError("plan", f"must have {num_steps} steps, as the problem", plan.num_steps)
    deviations: dict[int, Array] = {}  # of students by the step that they read; teachers have none
    for merge in plan.merges:
        target = _product_deviation(problem, merge.boundaries, deviations)
        initial = _initial_deviation(problem, merge, deviations.get(merge.start))
        deviations[merge.start] = target + (initial - target) @ problem.retentions[merge.start]
    return MatrixOutcome(problem, _product_deviation(problem, plan.boundaries, deviations))


def mapped_gaussian_w2(map_: Array, change: Array) -> float:
    """Wasserstein-2 distance of ``A g`` and ``(A + E) g``, g ~ N(0, I), to the digits of E.

    ``W2 = min |A - (A + E) O|_F`` over orthogonal O, which is the Bures form (THEORY 6). The
    polar factor O = I + K is refined in K, so nothing nearly equal is subtracted.
    """
    gram, cross = map_.T @ map_, change.T @ map_
    left, _, right = np.linalg.svd(gram + cross)
    identity = np.eye(len(map_))
    turn = left @ right - identity
    values, vectors = np.linalg.eigh(gram)
    sums = values[:, None] + values
    for _ in range(_REFINEMENTS):
        stretch = turn + turn.T + turn.T @ turn
        product = cross + turn.T @ (gram + cross)  # beside the symmetric Gram matrix
        skew = vectors.T @ (product - product.T) @ vectors
        moved = np.divide(skew, sums, out=np.zeros_like(skew), where=sums > _SINGULAR * sums.max())
        step = vectors @ moved @ vectors.T - stretch / 2
        turn = turn + (identity + turn) @ step
    return float(np.linalg.norm(change + map_ @ turn + change @ turn))


def _product_deviation(
    problem: MatrixProblem, boundaries: tuple[int, ...], deviations: dict[int, Array]
) -> Array:
    """``c_m ⋯ c_1 - P`` of the operators between these steps, term by term."""
    products, start = problem.teacher.log_products, boundaries[0]
    deviation = np.zeros_like(problem.frame)
    for above, below in pairwise(boundaries):
        reached = deviation
        deviation = np.exp(products[below] - products[above])[:, None] * reached
        if above in deviations:
            student = deviations[above]
            deviation += student * np.exp(products[above] - products[start]) + student @ reached
    return deviation


def _initial_deviation(problem: MatrixProblem, merge: Merge, first: Array | None) -> Array:
    """``init - P(stop, start)``, a multiple of the first child's deviation beside a diagonal."""
    teacher = problem.teacher
    above = np.exp(teacher.log_composite(merge.split, merge.start))
    log_rest = teacher.log_composite(merge.stop, merge.split)
    if problem.merge_rule == "operator-copy":
        gain, offset = 1.0, -above * np.expm1(log_rest)
    else:
        alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
        ends = np.array([merge.stop, merge.split])
        weights = alphas[ends] * sigmas[merge.start] - sigmas[ends] * alphas[merge.start]
        gain = float(weights[0] / weights[1])  # of the estimates of x_0 in the two jumps
        offset = gain * above * teacher.jump_deficit(merge.split, merge.start)
        offset -= above * np.exp(log_rest) * teacher.jump_deficit(merge.stop, merge.start)
    diagonal: Array = np.diag(offset)
    return diagonal if first is None else diagonal + gain * first
