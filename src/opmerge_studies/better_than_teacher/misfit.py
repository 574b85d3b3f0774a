"""Teachers that have learned another covariance than that of the data (question 3).

The teacher is the linear teacher of N(0, Ĉ), students are trained on z_t of the data N(0, C), and
the result is compared with the data. C and Ĉ need not commute: operators are matrices in the
eigenbasis of Ĉ, where the teacher's are diagonal, and a merge at step j ends at

    B = G + (init - G) ρ(C_j),    G = c_m ⋯ c_1,    C_j = alpha_j² C + sigma_j² I.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.linear_teacher import LinearTeacher
from opmerge.metrics import gaussian_w2
from opmerge.plans.tree import Merge, Plan
from opmerge.problem import MergeRule
from opmerge.schedules import NoiseSchedule
from opmerge.training import GradientFlow, TrainingModel

__all__ = ["MisfitProblem", "rank_limited", "sample_covariance"]

Array = NDArray[np.float64]


def rank_limited(covariance: Array, rank: int, keep_trace: bool = False) -> Array:
    """The covariance with all but its largest eigenvalues at 0, or at their mean.

    The second is that of probabilistic PCA (Tipping & Bishop 1999).
    """
    values, vectors = np.linalg.eigh(covariance)
    if not 0 < rank <= len(values):
        raise InputError("rank", f"must be from 1 to {len(values)}", rank)
    rest = values[: len(values) - rank]
    values[: len(rest)] = rest.mean() if keep_trace and rest.size else 0.0
    limited: Array = (vectors * values) @ vectors.T
    return limited


def sample_covariance(covariance: Array, num_samples: int, seed: int) -> Array:
    """The second moments of independent samples of N(0, C); of rank n where n < d."""
    values, vectors = np.linalg.eigh(covariance)
    noise = np.random.default_rng(seed).standard_normal((num_samples, len(values)))
    samples = noise * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    return np.asarray(samples.T @ samples / num_samples)


@dataclass(frozen=True, eq=False)
class MisfitProblem:
    """Merging the steps of a teacher of N(0, Ĉ) into students of data N(0, C).

    Args:
        data_covariance: (d, d) C.
        teacher_covariance: (d, d) Ĉ.
        schedule: noise schedule with T steps.
        training: of one mode; its retention is taken as a function of the matrix C_t.
        merge_rule: where a student starts (THEORY 4).

    Raises:
        InputError: if the covariances differ in shape, or the training has several modes.
    """

    data_covariance: Array
    teacher_covariance: Array
    schedule: NoiseSchedule
    training: TrainingModel = field(default_factory=GradientFlow)
    merge_rule: MergeRule = "operator-copy"

    def __post_init__(self) -> None:
        if self.teacher_covariance.shape != self.data_covariance.shape:
            raise InputError(
                "teacher_covariance",
                f"must have shape {self.data_covariance.shape}, as data_covariance",
                self.teacher_covariance.shape,
            )
        if len(self.training.mode_weights) != 1:
            raise InputError("training", "must have a single mode", self.training.name)

    @cached_property
    def teacher(self) -> LinearTeacher:
        """The teacher, on the eigenvalues of Ĉ."""
        return LinearTeacher(self.schedule, np.maximum(self._eigen[0], 0.0))

    @cached_property
    def data(self) -> Array:
        """(d, d) C in the eigenbasis of Ĉ."""
        basis = self._eigen[1]
        data: Array = basis.T @ self.data_covariance @ basis
        return data

    @cached_property
    def retentions(self) -> Array:
        """(T + 1, d, d) ρ(C_t) in the eigenbasis of Ĉ; row 0 is never trained and is 0."""
        values, vectors = np.linalg.eigh(self.data)
        alphas, sigmas = self.schedule.alphas[1:, None], self.schedule.sigmas[1:, None]
        kept = self.training.retention(alphas**2 * np.maximum(values, 0.0) + sigmas**2)
        rows = np.einsum("ij,tj,kj->tik", vectors, kept, vectors)
        return np.concatenate([np.zeros((1, *self.data.shape)), rows])

    @property
    def teacher_to_data(self) -> float:
        """Wasserstein-2 distance of the teacher's output from the data N(0, C)."""
        return self._distance(np.diag(np.exp(self.teacher.log_products[0])))

    def student_to_data(self, plan: Plan) -> float:
        """Wasserstein-2 distance of a student's output from the data N(0, C).

        Raises:
            InputError: if the plan is for another number of steps.
        """
        if plan.num_steps != self.schedule.num_steps:
            raise InputError(
                "plan", f"must have {self.schedule.num_steps} steps, as the problem", plan.num_steps
            )
        steps = np.exp(self.teacher.log_steps)
        operators = {t: np.diag(steps[t]) for t in range(plan.num_steps, 0, -1)}
        for merge in plan.merges:
            children = [operators.pop(t) for t in merge.boundaries[:-1]]
            operators[merge.start] = self._merged(merge, children)
        return self._distance(_composite([operators[t] for t in sorted(operators, reverse=True)]))

    def _merged(self, merge: Merge, children: Sequence[Array]) -> Array:
        target = _composite(children)
        initial = self._initial(merge, children[0])
        merged: Array = target + (initial - target) @ self.retentions[merge.start]
        return merged

    def _initial(self, merge: Merge, first: Array) -> Array:
        if self.merge_rule == "operator-copy":
            return first
        alphas, sigmas = self.schedule.alphas, self.schedule.sigmas
        noise = sigmas / sigmas[merge.start]
        signal = alphas - alphas[merge.start] * noise
        identity = np.eye(len(first))
        estimate = (first - noise[merge.split] * identity) / signal[merge.split]
        return np.asarray(signal[merge.stop] * estimate + noise[merge.stop] * identity)

    def _distance(self, operator: Array) -> float:
        alpha, sigma = self.schedule.alphas[-1], self.schedule.sigmas[-1]
        inputs = alpha**2 * self.data + sigma**2 * np.eye(len(self.data))
        output, zero = operator @ inputs @ operator.T, np.zeros(len(self.data))
        return gaussian_w2(zero, (output + output.T) / 2, zero, (self.data + self.data.T) / 2)

    @cached_property
    def _eigen(self) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh(self.teacher_covariance)
        return values, vectors


def _composite(operators: Sequence[Array]) -> Array:
    """``c_m ⋯ c_1`` of operators in the order in which they act."""
    composite: Array = reduce(lambda product, operator: operator @ product, operators)
    return composite
