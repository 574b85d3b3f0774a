"""A merge problem: teacher + training model + merge rule + objective, and the loss of an excess."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

import numpy as np

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.linear_teacher import LinearTeacher
from opmerge.schedules import NoiseSchedule
from opmerge.settings.types import DEFAULT_MERGE_RULE, MergeRule, Objective
from opmerge.spectra import Spectrum
from opmerge.training import GradientFlow, TrainingModel


@dataclass(frozen=True, eq=False)
class Problem:
    """In which order should T teacher steps be merged, for these eigenvalues?

    Equal eigenvalues are joined into one with their multiplicity; zero eigenvalues stand at
    ``SMALLEST_EIGENVALUE``. Everything is computed in d columns, one for each distinct eigenvalue
    and mode of the training model (``mode_weights``), modes of one eigenvalue side by side. They
    are independent directions for all that follows: a mode has its share of the multiplicity.

    Raises:
        InputError: for an unknown merge rule or objective.
    """

    spectrum: Spectrum
    schedule: NoiseSchedule
    training: TrainingModel = field(default_factory=GradientFlow)
    merge_rule: MergeRule = DEFAULT_MERGE_RULE
    """Where a student starts (THEORY 4)."""
    objective: Objective = "teacher"
    """What the result is measured against (THEORY 6)."""

    def __post_init__(self) -> None:
        for argument, choices in (("merge_rule", MergeRule), ("objective", Objective)):
            allowed, value = get_args(choices), getattr(self, argument)
            if value not in allowed:
                raise InputError(argument, f"must be one of {', '.join(allowed)}", value)

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return self.schedule.num_steps

    @cached_property
    def teacher(self) -> LinearTeacher:
        """The linear teacher on the eigenvalues of the columns."""
        return LinearTeacher(self.schedule, np.repeat(self._distinct[0], self._num_modes))

    @property
    def eigenvalues(self) -> Array:
        """(d,) eigenvalue of each column, descending."""
        return self.teacher.eigenvalues

    @cached_property
    def multiplicities(self) -> Array:
        """(d,) how many directions share each column, times the weight of its mode."""
        return np.outer(self._distinct[1], self.training.mode_weights).ravel()

    @property
    def distinct_eigenvalues(self) -> Array:
        """(number of distinct eigenvalues,) descending."""
        return self.eigenvalues[:: self._num_modes]

    @property
    def distinct_multiplicities(self) -> Array:
        """(number of distinct eigenvalues,) how many directions share each."""
        return self._distinct[1]

    def by_eigenvalue(self, values: Array) -> Array:
        """Sums over the modes of each distinct eigenvalue of (…, d) values of the columns."""
        return values.reshape(*values.shape[:-1], -1, self._num_modes).sum(axis=-1)

    @cached_property
    def _num_modes(self) -> int:
        return len(self.training.mode_weights)

    @cached_property
    def _distinct(self) -> tuple[Array, Array]:
        spectrum, rest = self.spectrum, self.spectrum.remaining_dimensions
        eigenvalues, multiplicities = spectrum.eigenvalues, spectrum.multiplicities
        if rest:
            eigenvalues = np.append(eigenvalues, spectrum.remaining_trace / rest)
            multiplicities = np.append(multiplicities, rest)
        distinct, inverse = np.unique(eigenvalues, return_inverse=True)
        counts = np.bincount(inverse, weights=multiplicities).astype(np.float64)
        return distinct[::-1].copy(), counts[::-1].copy()

    @cached_property
    def retentions(self) -> Array:
        """(T+1, d) retention of a student at step t; row 0 is never trained and is 0.

        Raises:
            InputError: if the training model gives a value outside [0, 1].
        """
        variances, count = self.teacher.variances, self._num_modes
        retentions = np.zeros_like(variances)
        for mode in range(count):
            columns = slice(mode, None, count)
            retentions[1:, columns] = self.training.retention(variances[1:, columns], mode)
        for wrong in retentions[~((retentions >= 0) & (retentions <= 1))][:1]:
            raise InputError("training", "must give retentions from 0 to 1", float(wrong))
        return retentions

    @cached_property
    def target_excess(self) -> Array:
        """(d,) excess e = log(b / P) at which the loss is zero: 0 for the teacher's output."""
        if self.objective == "teacher":
            return np.zeros_like(self.eigenvalues)
        return self.teacher.log_data_ratio

    @cached_property
    def log_scale(self) -> Array:
        """(d,) log of √(w n_T) P(0, T), the factor between relative and absolute error."""
        return 0.5 * np.log(self.multiplicities) + self.teacher.log_output

    def errors(self, excess: Array) -> Array:
        """Squared W2 per column, ``w n_T P² (exp(e) - exp(target))²``, of (…, d) excesses e.

        With the teacher as target this is ``w n_T P² expm1(e)²`` (THEORY 6).
        """
        return (self._deviation(excess) - self._deviation(self.target_excess)) ** 2

    def _deviation(self, excess: Array) -> Array:
        """√(w n_T) P expm1(e), where P may be too small for float64 and exp(e) too large."""
        small = np.minimum(excess, 1.0)
        near = np.exp(self.log_scale) * np.expm1(small)
        far = np.exp(self.log_scale + excess) - np.exp(self.log_scale)
        return np.where(excess < 1.0, near, far)

    def distance(self, excess: Array) -> float:
        """Wasserstein-2 distance of a student with this excess (d,), not squared."""
        return float(np.sqrt(self.errors(excess).sum()))

    @cached_property
    def teacher_errors(self) -> Array:
        """Squared W2 of the teacher's output from the data N(0, Λ), per distinct eigenvalue."""
        return self.by_eigenvalue(self._deviation(self.teacher.log_data_ratio) ** 2)

    @property
    def teacher_to_data(self) -> float:
        """Wasserstein-2 distance of the teacher's output from the data N(0, Λ)."""
        return float(np.sqrt(self.teacher_errors.sum()))
