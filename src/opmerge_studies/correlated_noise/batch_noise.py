"""Students trained on samples: laws with one covariance, and noise that does not commute with it.

The linear teacher and the mean student know of a law only its covariance; what batches add to
the spread of students is computed exactly (``opmerge_studies.shared.batches``) and simulated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.plans import Plan, build_strategy
from opmerge.schedules import cosine_schedule
from opmerge.training import GradientDescent
from opmerge_studies.correlated_noise.matrices import MatrixProblem, evaluate_matrices
from opmerge_studies.correlated_noise.noise_families import digits_samples, geodesic_rotation
from opmerge_studies.shared.batches import (
    Cumulant,
    expected_square,
    independent_cumulant,
    sample_cumulant,
)

__all__ = ["BATCH", "KURTOSES", "LAWS", "SampledTraining", "batch_training"]

LAWS = ("gaussian", "laplace", "uniform", "digits")
"""Laws of the data; the first three have independent coordinates in the data's eigenbasis."""

KURTOSES = {"gaussian": 0.0, "laplace": 3.0, "uniform": -1.2}
"""Excess kurtosis of each coordinate."""

BATCH = 4
"""Samples of one iteration: few, so that what they add is large."""

_DIMENSIONS = 6  # leading principal components of digits
_ANGLE = 45.0
_NUM_STEPS = 8
_DESCENT = GradientDescent(learning_rate=0.05, num_iterations=40)
_DATA_SET = 50  # samples of a data set that is used again and again
_MERGED = (2, 4, 6, 8)  # steps at which a student of a single merge reads
_PLANS = ("boot", "vanilla", "progressive", "consistency")

Array = NDArray[np.float64]
Row = dict[str, Any]


def batch_training(law: str, num_replicates: int, seed: int) -> dict[str, list[Row]]:
    """Train on samples of a law, many times over.

    Returns:
        ``merges``: for single merges j → 0, the mean squared gap over that of the mean student,
        expected and simulated on batches, and simulated on small data sets by gradient flow.
        ``plans``: the error of the mean student against the closed form, with the distance in
        standard errors, and how much batches add to the root mean squared error.
    """
    training = SampledTraining(law, num_replicates, np.random.default_rng(seed))
    return {
        "merges": [{"law": law, **training.merge_row(step)} for step in _MERGED],
        "plans": [{"law": law, **training.plan_row(name)} for name in _PLANS],
    }


@dataclass(frozen=True, eq=False)
class SampledTraining:
    """Replicates of training on samples of one law, in coordinates where its covariance is Diag.

    Args:
        law: of ``LAWS``.
        num_replicates: students trained side by side, each on samples of its own.
        rng: of all samples.
    """

    law: str
    num_replicates: int
    rng: np.random.Generator

    @cached_property
    def samples(self) -> Array:
        """(n, d) digits in their leading principal components."""
        centred = digits_samples()
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        leading: Array = centred @ axes[:_DIMENSIONS].T
        return leading

    @cached_property
    def problem(self) -> MatrixProblem:
        """The same for every law: it holds covariances alone."""
        turn = geodesic_rotation(_DIMENSIONS, _ANGLE, np.random.default_rng(0))
        noise = turn * np.geomspace(2.0, 0.5, _DIMENSIONS) @ turn.T
        data = np.diag((self.samples**2).mean(axis=0))
        return MatrixProblem(data, noise, cosine_schedule(_NUM_STEPS), _DESCENT)

    @cached_property
    def steps(self) -> list[Array]:
        """Teacher steps A_t at t = 1 … T in the coordinates of the data; index 0 is unused."""
        frame, factors = self.problem.frame, np.exp(self.problem.teacher.log_steps)
        return [frame * factor @ np.linalg.inv(frame) for factor in factors]

    def covariance(self, step: int) -> Array:
        """C_t."""
        alpha, sigma = self._levels(step)
        problem = self.problem
        return alpha**2 * problem.data_covariance + sigma**2 * problem.noise_covariance

    def inputs(self, step: int, count: int) -> Array:
        """(replicates, count, d) samples of z_t."""
        shape = (self.num_replicates, count, _DIMENSIONS)
        alpha, sigma = self._levels(step)
        noise = (
            self.rng.standard_normal(shape) @ np.linalg.cholesky(self.problem.noise_covariance).T
        )
        return alpha * self._draw(shape) + sigma * noise

    def cumulant(self, step: int) -> Cumulant:
        """Fourth cumulant of z_t: alpha_t⁴ times that of the data, for the noise has none."""
        alpha, _ = self._levels(step)
        if self.law == "digits":
            return sample_cumulant(alpha * self.samples)
        variances = alpha**2 * np.diag(self.problem.data_covariance)
        return independent_cumulant(np.eye(_DIMENSIONS), variances, KURTOSES[self.law])

    def trained(self, gap: Array, step: int) -> Array:
        """(replicates, d, d) gaps B - G after descent on batches, a new one each iteration."""
        for _ in range(_DESCENT.num_iterations):
            batch = self.inputs(step, BATCH)
            pulled = gap @ batch.swapaxes(1, 2) @ batch
            gap = gap - 2.0 * _DESCENT.learning_rate / BATCH * pulled
        return gap

    def merge_row(self, step: int) -> Row:
        """A student step → 0 of one merge of teacher steps."""
        covariance = self.covariance(step)
        gap = self.steps[step] - self._composite(step)
        decay = np.eye(_DIMENSIONS) - 2.0 * _DESCENT.learning_rate * covariance
        mean = gap @ np.linalg.matrix_power(decay, _DESCENT.num_iterations)
        square = expected_square(
            covariance,
            self.cumulant(step),
            _DESCENT.learning_rate,
            _DESCENT.num_iterations,
            BATCH,
        )
        size = _squares(mean, covariance)
        batches = _squares(self.trained(gap, step), covariance) / size
        time = _DESCENT.learning_rate * _DESCENT.num_iterations
        flow = _squares(gap @ _flow(covariance, time), covariance)
        own = self.inputs(step, _DATA_SET)
        sets = gap @ _flow(own.swapaxes(1, 2) @ own / _DATA_SET, time)
        return {
            "step": step,
            "expected": float(np.trace(gap @ square @ gap.T) / size),
            "measured": float(batches.mean()),
            "standard_error": _standard_error(batches),
            "data_set": float((_squares(sets, covariance) / flow).mean()),
        }

    def plan_row(self, name: str) -> Row:
        """A whole plan, every merge on batches of its own."""
        plan = build_strategy(name, _NUM_STEPS)
        predicted = evaluate_matrices(self.problem, plan)
        gaps = self._student(plan) - self._composite(_NUM_STEPS)
        covariance = self.covariance(_NUM_STEPS)
        off = gaps.mean(axis=0) - predicted.difference
        noise = gaps.var(axis=0, ddof=1).sum() / self.num_replicates
        return {
            "plan": name,
            "predicted": predicted.paired_error,
            "mean_student": float(np.sqrt(_squares(gaps.mean(axis=0), covariance))),
            "off_in_standard_errors": float(np.sqrt((off**2).sum() / noise)),
            "root_mean_square": float(np.sqrt(_squares(gaps, covariance).mean())),
        }

    def _student(self, plan: Plan) -> Array:
        """(replicates, d, d) operators of a one-step student."""
        shape = (self.num_replicates, _DIMENSIONS, _DIMENSIONS)
        operators = {
            step: np.broadcast_to(self.steps[step], shape) for step in range(1, _NUM_STEPS + 1)
        }
        for merge in plan.merges:
            first, *others = (operators.pop(step) for step in merge.boundaries[:-1])
            target = first
            for operator in others:
                target = operator @ target
            operators[merge.start] = target + self.trained(first - target, merge.start)
        return operators[_NUM_STEPS]

    def _composite(self, start: int) -> Array:
        composite = np.eye(_DIMENSIONS)
        for step in range(start, 0, -1):
            composite = self.steps[step] @ composite
        return composite

    def _levels(self, step: int) -> tuple[float, float]:
        schedule = self.problem.schedule
        return float(schedule.alphas[step]), float(schedule.sigmas[step])

    def _draw(self, shape: tuple[int, ...]) -> Array:
        """Samples of the data."""
        if self.law == "digits":
            return self.samples[self.rng.integers(len(self.samples), size=shape[:-1])]
        draws: dict[str, Callable[[], Array]] = {
            "gaussian": lambda: self.rng.standard_normal(shape),
            "laplace": lambda: self.rng.laplace(scale=0.5**0.5, size=shape),
            "uniform": lambda: self.rng.uniform(-(3**0.5), 3**0.5, size=shape),
        }
        return draws[self.law]() * np.sqrt(np.diag(self.problem.data_covariance))


def _squares(gaps: Array, covariance: Array) -> Array:
    """(…,) ``tr(D C Dᵀ)``, the expected squared error of gaps (…, d, d) on inputs of Cov C."""
    squares: Array = np.einsum("...ij,jk,...ik->...", gaps, covariance, gaps)
    return squares


def _flow(covariances: Array, time: float) -> Array:
    """(…, d, d) ``exp(-2 s C)``."""
    values, vectors = np.linalg.eigh(covariances)
    left = np.exp(-2.0 * time * values)[..., None, :]
    retention: Array = vectors * left @ vectors.swapaxes(-1, -2)
    return retention


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
