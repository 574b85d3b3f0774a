"""What an iteration of a merge costs, in network evaluations; the one place that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.settings.distillation import MOST_REUSE

STUDENT_PASSES = 3.0
"""κ: a student's forward and backward pass, in forward passes (THEORY 9)."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class IterationCost:
    """Evaluations of a whole batch in an iteration of a merge of m children.

    ``batch · ((m + s)/R(m) + κ)``: a target takes the m children, and one more forward pass of the
    copied network where the linear part is solved (s = 1, else 0); it is used R(m) times.

    Args:
        batch: samples of an iteration, over all processes.
        reuse: R, or ``"auto"`` for min(m, 16).
        is_linear_solved: whether the linear part of each merge is solved in closed form.
        student_passes: κ.

    Raises:
        InputError: for a value out of range.
    """

    batch: int = 128
    reuse: int | Literal["auto"] = 1
    is_linear_solved: bool = False
    student_passes: float = STUDENT_PASSES

    def __post_init__(self) -> None:
        check_count("batch", self.batch)
        if self.reuse != "auto":
            check_count("reuse", self.reuse)
        if check_number("student_passes", self.student_passes) <= 0:
            raise InputError("student_passes", "must be > 0", self.student_passes)

    @classmethod
    def of_iterations(cls) -> IterationCost:
        """1 an iteration, whatever it does: for budgets that count iterations."""
        return _Iterations(batch=1, student_passes=1.0)

    def uses(self, children: ArrayLike) -> Array:
        """R(m), elementwise."""
        counts = np.asarray(children, dtype=np.float64)
        if self.reuse == "auto":
            return np.minimum(counts, MOST_REUSE)
        return np.full(counts.shape, float(self.reuse))

    def target_evaluations(self, children: ArrayLike) -> Array:
        """Evaluations of a batch of targets, ``batch · (m + s)``, elementwise."""
        counts = np.asarray(children, dtype=np.float64)
        return self.batch * (counts + float(self.is_linear_solved))

    def per_iteration(self, children: ArrayLike) -> Array:
        """Evaluations of an iteration of merges of m children, elementwise, in the long run."""
        passes = self.batch * self.student_passes
        return self.target_evaluations(children) / self.uses(children) + passes

    def total(self, children: ArrayLike, iterations: ArrayLike) -> float:
        """Evaluations of merges with N whole iterations: ``batch · (⌈N/R⌉ (m + s) + κ N)``."""
        counts = np.asarray(iterations, dtype=np.float64)
        targets = np.ceil(counts / self.uses(children)) * self.target_evaluations(children)
        return float((targets + self.batch * self.student_passes * counts).sum())


class _Iterations(IterationCost):
    """Targets cost nothing, and the student's passes 1."""

    def target_evaluations(self, children: ArrayLike) -> Array:
        return np.zeros(np.shape(children))
