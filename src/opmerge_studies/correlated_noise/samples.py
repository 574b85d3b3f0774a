"""Students trained on samples: laws with one covariance, and noise that does not commute with it.

The linear teacher and the mean student know of a law only its covariance; what batches add to
the spread of students is computed exactly (``opmerge_studies.shared.batches``) and simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, reduce
from typing import Any

import numpy as np
from scipy.linalg import expm

from opmerge.arrays import Array
from opmerge.plans import Plan, build_strategy
from opmerge.schedules import cosine_schedule
from opmerge.training import GradientDescent
from opmerge_studies.correlated_noise.problems import digits_samples, geodesic_rotation
from opmerge_studies.shared import batches
from opmerge_studies.shared.matrices import MatrixProblem, evaluate_matrices

KURTOSES = {"gaussian": 0.0, "laplace": 3.0, "uniform": -1.2}
"""Excess kurtosis of each coordinate, independent in the data's eigenbasis."""
LAWS = (*KURTOSES, "digits")

_BATCH = 4  # samples of one iteration: few, so that what they add is large
_DIMENSIONS = 6  # leading principal components of digits
_ANGLE = 45.0
_NUM_STEPS = 8
_RATE, _ITERATIONS = 0.05, 40
_DATA_SET = 50  # samples of a data set that is used again and again
_MERGED = (2, 4, 6, 8)  # steps at which a student of a single merge reads
_PLANS = ("boot", "vanilla", "progressive", "consistency")

Row = dict[str, Any]


def batch_training(law: str, num_replicates: int, seed: int) -> dict[str, list[Row]]:
    """Train on samples of a law, many times over.

    ``merges``: mean squared gap of single merges j → 0 over that of the mean student, on batches
    and on small data sets. ``plans``: error of the mean student against the closed form, with the
    distance in standard errors, and what batches add.
    """
    training = SampledTraining(law, num_replicates, np.random.default_rng(seed))
    return {
        "merges": [{"law": law, **training.merge_row(step)} for step in _MERGED],
        "plans": [{"law": law, **training.plan_row(name)} for name in _PLANS],
    }


@cache
def sampled_problem() -> MatrixProblem:
    """The problem of every law, for it holds covariances alone: that of the data is diagonal."""
    turn = geodesic_rotation(_DIMENSIONS, _ANGLE, np.random.default_rng(0))
    noise = turn * np.geomspace(2.0, 0.5, _DIMENSIONS) @ turn.T
    data = np.diag((_principal_digits() ** 2).mean(axis=0))
    training = GradientDescent(_RATE, _ITERATIONS)
    return MatrixProblem(data, noise, cosine_schedule(_NUM_STEPS), training)


@dataclass(frozen=True, eq=False)
class SampledTraining:
    """Students of ``sampled_problem`` trained side by side, each on samples of its own of a law."""

    law: str
    num_replicates: int
    rng: np.random.Generator

    def inputs(self, step: int, count: int) -> Array:
        """(replicates, count, d) samples of z_t."""
        problem, shape = sampled_problem(), (self.num_replicates, count, _DIMENSIONS)
        alpha, sigma = problem.schedule.alphas[step], problem.schedule.sigmas[step]
        noise = self.rng.standard_normal(shape) @ np.linalg.cholesky(problem.noise_covariance).T
        return np.asarray(alpha * self._data(shape) + sigma * noise)

    def _data(self, shape: tuple[int, ...]) -> Array:
        if self.law == "digits":
            return _principal_digits()[self.rng.integers(len(_principal_digits()), size=shape[:-1])]
        samplers: dict[str, Callable[..., Any]] = {
            "gaussian": self.rng.standard_normal,
            "laplace": partial(self.rng.laplace, 0.0, 0.5**0.5),
            "uniform": partial(self.rng.uniform, -(3**0.5), 3**0.5),
        }
        deviations = np.sqrt(np.diag(sampled_problem().data_covariance))
        return np.asarray(samplers[self.law](shape) * deviations)

    def cumulant(self, step: int) -> batches.Cumulant:
        """Fourth cumulant of z_t: alpha_t⁴ times that of the data, for the noise has none."""
        problem = sampled_problem()
        alpha = problem.schedule.alphas[step]
        if self.law == "digits":
            return batches.sample_cumulant(alpha * _principal_digits())
        variances = alpha**2 * np.diag(problem.data_covariance)
        return batches.independent_cumulant(np.eye(_DIMENSIONS), variances, KURTOSES[self.law])

    def trained(self, gap: Array, step: int) -> Array:
        """(replicates, d, d) gaps B - G after descent on batches, a new one each iteration."""
        for _ in range(_ITERATIONS):
            batch = self.inputs(step, _BATCH)
            gap = gap - 2.0 * _RATE / _BATCH * (gap @ batch.swapaxes(1, 2) @ batch)
        return gap

    def merge_row(self, step: int) -> Row:
        """A student step → 0 of one merge of teacher steps."""
        covariance, time = sampled_problem().covariance(step), _RATE * _ITERATIONS
        steps = _teacher_steps()
        gap = steps[step] - _product(steps[step:0:-1])
        decay = np.eye(_DIMENSIONS) - 2.0 * _RATE * covariance
        size = _squares(gap @ np.linalg.matrix_power(decay, _ITERATIONS), covariance)
        way = (_RATE, _ITERATIONS, _BATCH)
        expected = batches.expected_square(covariance, self.cumulant(step), *way)
        simulated = _squares(self.trained(gap, step), covariance) / size
        inputs = self.inputs(step, _DATA_SET)
        sets = gap @ expm(-2.0 * time * inputs.swapaxes(1, 2) @ inputs / _DATA_SET)
        flow = _squares(gap @ expm(-2.0 * time * covariance), covariance)
        return {
            "step": step,
            "expected": float(np.trace(gap @ expected @ gap.T) / size),
            "measured": float(simulated.mean()),
            "standard_error": float(simulated.std(ddof=1) / np.sqrt(len(simulated))),
            "data_set": float((_squares(sets, covariance) / flow).mean()),
        }

    def plan_row(self, name: str) -> Row:
        """A whole plan, every merge on batches of its own."""
        problem, plan = sampled_problem(), build_strategy(name, _NUM_STEPS)
        predicted, covariance = evaluate_matrices(problem, plan), problem.covariance(_NUM_STEPS)
        gaps = self._student(plan) - _product(_teacher_steps()[:0:-1])
        mean = gaps.mean(axis=0)
        noise = gaps.var(axis=0, ddof=1).sum() / self.num_replicates
        off = mean - predicted.difference
        return {
            "plan": name,
            "predicted": predicted.paired_error,
            "mean_student": float(np.sqrt(_squares(mean, covariance))),
            "off_in_standard_errors": float(np.sqrt((off**2).sum() / noise)),
            "root_mean_square": float(np.sqrt(_squares(gaps, covariance).mean())),
        }

    def _student(self, plan: Plan) -> Array:
        """(replicates, d, d) operators of a one-step student."""
        shape = (self.num_replicates, _DIMENSIONS, _DIMENSIONS)
        operators = {t: np.broadcast_to(step, shape) for t, step in enumerate(_teacher_steps())}
        for merge in plan.merges:
            children = [operators.pop(t) for t in merge.boundaries[:-1]]
            target = _product(children)
            operators[merge.start] = target + self.trained(children[0] - target, merge.start)
        return operators[_NUM_STEPS]


@cache
def _principal_digits() -> Array:
    """(n, d) digits in their leading principal components."""
    _, _, axes = np.linalg.svd(digits_samples(), full_matrices=False)
    return np.asarray(digits_samples() @ axes[:_DIMENSIONS].T)


@cache
def _teacher_steps() -> list[Array]:
    """Teacher steps A_t at t = 1 … T in the coordinates of the data; index 0 is unused."""
    problem = sampled_problem()
    factors = np.exp(problem.teacher.log_steps)
    return [problem.frame * factor @ problem.inverse_frame for factor in factors]


def _product(operators: list[Array]) -> Array:
    """``c_m ⋯ c_1`` of operators in the order in which they act."""
    return reduce(lambda product, operator: operator @ product, operators)


def _squares(gaps: Array, covariance: Array) -> Array:
    """(…,) ``tr(D C Dᵀ)``, the expected squared error of gaps (…, d, d) on inputs of Cov C."""
    return np.asarray(np.einsum("...ij,jk,...ik->...", gaps, covariance, gaps))
