"""The linear teacher: DDIM with the optimal denoiser of Gaussian data, one scalar per eigenvalue.

In the eigenbasis of the data covariance a DDIM step is multiplication by the scalar

    A_t = <v_{t-1}, v_t> / |v_t|²,    v_t = (alpha_t √λ, sigma_t),    |v_t|² = n_t,

and everything a planner needs is a sum of logarithms of such scalars (THEORY 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule

SMALLEST_EIGENVALUE = 1e-100
"""Stands for λ = 0, whose log-composites are infinite; every result is continuous there."""

# <v_i, v_j> is 0 from pure noise to clean data, and so is A_1 when T = 1; logarithms stay finite.
_RIGHT_ANGLE = 1e-300
_LARGEST_TANGENT = 1e100


@dataclass(frozen=True, eq=False)
class LinearTeacher:
    """The T-step DDIM teacher of data N(0, Λ), diagonal in the eigenbasis (THEORY 2).

    Operators are held as logarithms, cumulated from the noise side, because their products
    over intervals are then differences of two rows: row t for step t, column i for eigenvalue i.

    Raises:
        InputError: if the eigenvalues λ are not a finite non-negative vector (d,).
    """

    schedule: NoiseSchedule
    eigenvalues: Array

    def __post_init__(self) -> None:
        eigenvalues = np.array(self.eigenvalues, dtype=np.float64)
        if eigenvalues.ndim != 1 or eigenvalues.size == 0:
            raise InputError("eigenvalues", "must be a non-empty vector", eigenvalues.shape)
        for wrong in eigenvalues[~(np.isfinite(eigenvalues) & (eigenvalues >= 0))][:1]:
            raise InputError("eigenvalues", "must be finite and >= 0", float(wrong))
        np.maximum(eigenvalues, SMALLEST_EIGENVALUE, out=eigenvalues)
        eigenvalues.setflags(write=False)
        object.__setattr__(self, "eigenvalues", eigenvalues)

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return self.schedule.num_steps

    @cached_property
    def variances(self) -> Array:
        """(T+1, d) variances n_t = alpha_t² λ + sigma_t² of z_t."""
        alphas, sigmas = self.schedule.alphas[:, None], self.schedule.sigmas[:, None]
        return alphas**2 * self.eigenvalues + sigmas**2

    @cached_property
    def log_cosines(self) -> Array:
        """(T+1, d) log cos φ_t <= 0, φ_t the angle between v_{t-1} and v_t; row 0 is 0."""
        steps = np.arange(1, self.num_steps + 1)
        return np.vstack([np.zeros(len(self.eigenvalues)), self.log_cosine(steps - 1, steps)])

    @cached_property
    def log_steps(self) -> Array:
        """(T+1, d) log A_t; row 0 is 0.

        log1p of A_t - 1 = (λ alpha_t (alpha_{t-1} - alpha_t) - sigma_t (sigma_t - sigma_{t-1}))
        / n_t keeps full relative precision where A_t is close to 1.
        """
        alphas, sigmas = self.schedule.alphas[:, None], self.schedule.sigmas[:, None]
        growth = alphas[1:] * (alphas[:-1] - alphas[1:]) * self.eigenvalues
        decay = sigmas[1:] * (sigmas[1:] - sigmas[:-1])
        change = (growth - decay) / self.variances[1:]
        inner = alphas[1:] * alphas[:-1] * self.eigenvalues + sigmas[1:] * sigmas[:-1]
        whole = np.log(np.maximum(inner, _RIGHT_ANGLE)) - np.log(self.variances[1:])
        steps = np.where(np.abs(change) >= 0.5, whole, np.log1p(np.maximum(change, -0.5)))
        return np.vstack([np.zeros(len(self.eigenvalues)), steps])

    @cached_property
    def log_products(self) -> Array:
        """(T+1, d) log P(t, T): composites cumulated from the noise side; row T is 0."""
        products = np.zeros_like(self.log_steps)
        products[:-1] = np.cumsum(self.log_steps[:0:-1], axis=0)[::-1]
        return products

    def log_composite(self, stop: int | NDArray[np.intp], start: int | NDArray[np.intp]) -> Array:
        """log P(stop, start), the teacher's product of steps start, …, stop + 1: shape + (d,)."""
        return self.log_products[stop] - self.log_products[start]

    def log_cosine(self, stop: int | NDArray[np.intp], start: int | NDArray[np.intp]) -> Array:
        """Log cosine of the angle between v_stop and v_start: shape of the steps + (d,).

        A jump with the denoiser's own estimate is J(start→stop) = |v_stop|/|v_start| · cosine,
        and a composite is |v_stop|/|v_start| · Π cosines of its steps. About -230 at a right angle.
        """
        alphas, sigmas = self.schedule.alphas[:, None], self.schedule.sigmas[:, None]
        cross = alphas[stop] * sigmas[start] - alphas[start] * sigmas[stop]
        inner = alphas[stop] * alphas[start] * self.eigenvalues + sigmas[stop] * sigmas[start]
        tangent = np.sqrt(self.eigenvalues) * cross / np.maximum(inner, _RIGHT_ANGLE)
        return -0.5 * np.log1p(np.minimum(tangent, _LARGEST_TANGENT) ** 2)

    def jump_deficit(self, stop: int | NDArray[np.intp], start: int | NDArray[np.intp]) -> Array:
        """1 - J(start→stop) / P(stop, start) >= 0, how much one jump falls short: shape + (d,)."""
        ends = zip(np.ravel(stop), np.ravel(start), strict=True)
        steps = np.array([self.log_cosines[i + 1 : j + 1].sum(axis=0) for i, j in ends])
        steps = steps.reshape(*np.shape(stop), len(self.eigenvalues))
        return -np.expm1(self.log_cosine(stop, start) - steps)

    @cached_property
    def log_output(self) -> Array:
        """(d,) log of the standard deviation of the teacher's output, √n_T P(0, T)."""
        return 0.5 * np.log(self.variances[-1]) + self.log_products[0]

    @cached_property
    def log_data_ratio(self) -> Array:
        """(d,) log of the data's standard deviation over the teacher's output's.

        With sigma_0 = 0 this is -Σ log cos φ_t >= 0: the teacher itself shrinks (THEORY 2).
        """
        return 0.5 * np.log(self.eigenvalues) - self.log_output
