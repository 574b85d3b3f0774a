"""Noise whose covariance does not commute with the data's: operators as matrices (THEORY 9).

Data N(0, Λ) and noise N(0, Σ) have one frame V in which both are diagonal, V Vᵀ = Σ and
V Diag(μ) Vᵀ = Λ. There the teacher is the scalar teacher of the generalised eigenvalues μ, and
everything that does not commute stands in one matrix, the metric W = VᵀV of the frame:

    V⁻¹ C_t V = N_t W,    N_t = Diag(alpha_t² μ + sigma_t²),    C_t = alpha_t² Λ + sigma_t² Σ.

A state is a column; the operator on the noise side acts first and stands on the right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from opmerge.errors import InputError
from opmerge.linear_teacher import LinearTeacher
from opmerge.plans.tree import Merge, Plan
from opmerge.problem import MergeRule
from opmerge.schedules import NoiseSchedule
from opmerge.training import GradientFlow, TrainingModel

__all__ = ["MatrixOutcome", "MatrixProblem", "evaluate_matrices", "mapped_gaussian_w2"]

_SYMMETRIC = 1e-10  # relative to the largest entry
_SINGULAR = 1e-12  # relative variance below which directions are not rotated further
_REFINEMENTS = 3

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MatrixProblem:
    """Merging the steps of the linear teacher of ``z_t = alpha_t x_0 + sigma_t ε``, Cov ε = Σ.

    The optimal denoiser is ``alpha_t Λ C_t⁻¹ z_t`` and a DDIM step is ``A_t z_t``,
    ``A_t = (alpha_{t-1} alpha_t Λ + sigma_{t-1} sigma_t Σ) C_t⁻¹``.

    Args:
        data_covariance: (d, d) Λ, symmetric positive semi-definite.
        noise_covariance: (d, d) Σ, symmetric positive definite.
        schedule: noise schedule with T steps.
        training: how far a student gets in one merge, of one mode; its retention is taken as a
            function of the matrix C_t.
        merge_rule: where a student starts (THEORY 4).

    Raises:
        InputError: for matrices that are no covariances or do not fit, an unknown merge rule, or
            a training model of several modes.
    """

    data_covariance: Array
    noise_covariance: Array
    schedule: NoiseSchedule
    training: TrainingModel = field(default_factory=GradientFlow)
    merge_rule: MergeRule = "operator-copy"

    def __post_init__(self) -> None:
        for key in ("data_covariance", "noise_covariance"):
            object.__setattr__(self, key, _covariance(key, getattr(self, key)))
        if self.noise_covariance.shape != self.data_covariance.shape:
            raise InputError(
                "noise_covariance",
                f"must have shape {self.data_covariance.shape}, as data_covariance",
                self.noise_covariance.shape,
            )
        if np.linalg.eigvalsh(self.noise_covariance)[0] <= 0:
            raise InputError("noise_covariance", "must be positive definite")
        if self.merge_rule not in get_args(MergeRule):
            raise InputError(
                "merge_rule", f"must be one of {', '.join(get_args(MergeRule))}", self.merge_rule
            )
        if len(self.training.mode_weights) != 1:
            raise InputError("training", "must have a single mode", self.training.name)

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return self.schedule.num_steps

    @cached_property
    def _generalised(self) -> tuple[Array, Array]:
        values, vectors = eigh(self.data_covariance, self.noise_covariance)
        return np.maximum(values[::-1], 0.0), self.noise_covariance @ vectors[:, ::-1]

    @property
    def frame(self) -> Array:
        """(d, d) V with ``V Vᵀ = Σ`` and ``V Diag(μ) Vᵀ = Λ``."""
        return self._generalised[1]

    @cached_property
    def teacher(self) -> LinearTeacher:
        """The scalar teacher of the generalised eigenvalues μ: ``A_t = V a_t(μ) V⁻¹``."""
        return LinearTeacher(self.schedule, self._generalised[0])

    @property
    def eigenvalues(self) -> Array:
        """(d,) generalised eigenvalues μ of Λ and Σ, descending: signal-to-noise ratios."""
        return self.teacher.eigenvalues

    @cached_property
    def metric(self) -> Array:
        """(d, d) ``W = VᵀV``; diagonal where Λ and Σ commute, the identity for Σ = I."""
        metric: Array = self.frame.T @ self.frame
        return metric

    @cached_property
    def retentions(self) -> tuple[Array, ...]:
        """T + 1 matrices (d, d), ``V⁻¹ ρ(C_t) V``; by gradient flow ``exp(-2 s N_t W)``.

        ``N W`` is similar to the symmetric ``N^½ W N^½``. Row 0 is never trained and is 0.
        """
        found = [np.zeros_like(self.metric)]
        roots: Array = np.sqrt(self.teacher.variances[1:])
        for root in roots:
            values, vectors = np.linalg.eigh(root[:, None] * self.metric * root)
            left = self.training.retention(values)
            found.append(root[:, None] * (vectors * left) @ vectors.T / root)
        return tuple(found)

    def uncoupled(self) -> MatrixProblem:
        """The scalar theory that knows most: the same μ, and of W the diagonal alone.

        Equal to this problem where Λ and Σ commute.
        """
        weights = np.diag(self.metric)
        return self._with(np.diag(self.eigenvalues * weights), np.diag(weights))

    def in_data_basis(self) -> MatrixProblem:
        """The scalar theory in the eigenbasis of Λ, of Σ the diagonal there alone."""
        values, vectors = np.linalg.eigh(self.data_covariance)
        noise = np.einsum("ij,ik,kj->j", vectors, self.noise_covariance, vectors)
        return self._with(np.diag(np.maximum(values, 0.0)), np.diag(noise))

    def isotropic(self) -> MatrixProblem:
        """The scalar theory that takes the noise as isotropic, of the same total variance."""
        size = len(self.noise_covariance)
        variance = np.trace(self.noise_covariance) / size
        return self._with(self.data_covariance, variance * np.eye(size))

    def _with(self, data: Array, noise: Array) -> MatrixProblem:
        return MatrixProblem(data, noise, self.schedule, self.training, self.merge_rule)


@dataclass(frozen=True, eq=False)
class MatrixOutcome:
    """What a plan leaves.

    Args:
        problem: the problem that was evaluated.
        plan: the plan that was evaluated.
        deviation: (d, d) ``V⁻¹ (B - P(0, T)) V`` of the whole student B.
    """

    problem: MatrixProblem
    plan: Plan
    deviation: Array

    @property
    def w2(self) -> float:
        """Wasserstein-2 distance of the outputs ``B z_T`` and ``P z_T`` of Gaussian z_T.

        For any other law of z_T with this covariance it is a lower bound (Gelbrich 1990), as the
        paired error is an upper one.
        """
        composite = np.exp(self.problem.teacher.log_products[0])
        return mapped_gaussian_w2(self._spread * composite, self._change)

    @property
    def paired_error(self) -> float:
        """``sqrt(E|B z_T - P z_T|²)``, the same noise for both; it needs no Gaussian law."""
        return float(np.linalg.norm(self._change))

    @property
    def difference(self) -> Array:
        """(d, d) ``B - P(0, T)`` in the coordinates of the data."""
        frame = self.problem.frame
        return np.asarray(np.linalg.solve(frame.T, (frame @ self.deviation).T).T, np.float64)

    @property
    def _spread(self) -> Array:
        """(d, d) a root of C_T: ``V N_T^½``."""
        spread: Array = self.problem.frame * np.sqrt(self.problem.teacher.variances[-1])
        return spread

    @property
    def _change(self) -> Array:
        roots = np.sqrt(self.problem.teacher.variances[-1])
        change: Array = self.problem.frame @ self.deviation * roots
        return change


def evaluate_matrices(problem: MatrixProblem, plan: Plan) -> MatrixOutcome:
    """Operators of a plan by the closed form of matrix gradient flow (THEORY 4, 9).

    A merge of c_1, …, c_m starts at ``init`` and ends at ``G + (init - G) ρ(C_j)``,
    ``G = c_m ⋯ c_1``. Only deviations from the teacher's composites are carried along, so that
    they keep their digits however small they are (relative to the largest among them).

    Args:
        problem: the merge problem with T steps.
        plan: any plan for the same T.

    Raises:
        InputError: if the plan is for another number of steps.
    """
    if plan.num_steps != problem.num_steps:
        raise InputError(
            "plan", f"must have {problem.num_steps} steps, as the problem", plan.num_steps
        )
    deviations: dict[int, Array] = {}  # of students by the step that they read; teachers have none
    for merge in plan.merges:
        target = _product_deviation(problem, merge.boundaries, deviations)
        initial = _initial_deviation(problem, merge, deviations.get(merge.start))
        deviations[merge.start] = target + (initial - target) @ problem.retentions[merge.start]
    return MatrixOutcome(problem, plan, _product_deviation(problem, plan.boundaries, deviations))


def mapped_gaussian_w2(map_: Array, change: Array) -> float:
    """Wasserstein-2 distance of ``A g`` and ``(A + E) g``, g ~ N(0, I), to the digits of E.

    ``W2 = min |A - (A + E) O|_F`` over orthogonal O, which is the Bures form (THEORY 6). The
    polar factor O = I + K is refined in K, so nothing nearly equal is subtracted.

    Args:
        map_: (d, d) A.
        change: (d, d) E, of any size.
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
    products = problem.teacher.log_products
    start = boundaries[0]
    deviation = np.zeros_like(problem.metric)
    for above, below in pairwise(boundaries):
        own = deviations.get(above)
        reached = deviation
        deviation = np.exp(products[below] - products[above])[:, None] * reached
        if own is not None:
            deviation += own * np.exp(products[above] - products[start]) + own @ reached
    return deviation


def _initial_deviation(problem: MatrixProblem, merge: Merge, first: Array | None) -> Array:
    """``init - P(stop, start)``, a multiple of the first child's deviation beside a diagonal."""
    teacher = problem.teacher
    above = np.exp(teacher.log_composite(merge.split, merge.start))
    log_rest = teacher.log_composite(merge.stop, merge.split)
    if problem.merge_rule == "operator-copy":
        gain, offset = 1.0, -above * np.expm1(log_rest)
    else:
        weights = [_estimate_weight(problem.schedule, merge.start, k) for k in merge.boundaries]
        gain = weights[-1] / weights[1]
        offset = gain * above * teacher.jump_deficit(merge.split, merge.start)
        offset -= above * np.exp(log_rest) * teacher.jump_deficit(merge.stop, merge.start)
    diagonal: Array = np.diag(offset)
    return diagonal if first is None else diagonal + gain * first


def _estimate_weight(schedule: NoiseSchedule, start: int, stop: int) -> float:
    """The weight of the estimate of x_0 in a jump, times sigma_start (THEORY 4)."""
    alphas, sigmas = schedule.alphas, schedule.sigmas
    return float(alphas[stop] * sigmas[start] - sigmas[stop] * alphas[start])


def _covariance(argument: str, given: ArrayLike) -> Array:
    """A read-only symmetric positive semi-definite matrix."""
    matrix = np.array(given, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise InputError(argument, "must be a square matrix", matrix.shape)
    if not np.isfinite(matrix).all():
        raise InputError(argument, "must be finite")
    size = float(np.abs(matrix).max())
    if np.abs(matrix - matrix.T).max() > _SYMMETRIC * size:
        raise InputError(argument, "must be symmetric")
    matrix = (matrix + matrix.T) / 2
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if smallest < -_SYMMETRIC * size:
        raise InputError(
            argument, "must be positive semi-definite", f"the eigenvalue {smallest:.3g}"
        )
    matrix.setflags(write=False)
    return matrix
