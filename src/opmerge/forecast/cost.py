"""What an iteration of a merge costs, in network evaluations; the one place that says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.arrays import Array
from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.plans.tree import Merge, Plan
from opmerge.settings.distillation import MOST_REUSE

if TYPE_CHECKING:
    from opmerge.forecast.table import TeacherTable

STUDENT_PASSES = 3.0
"""κ: a student's forward and backward pass, in forward passes (THEORY 9)."""

WHOLE_MATRIX = 1024
"""Values of a sample up to which a linear part is a whole matrix."""

NUM_DIRECTIONS = 256
"""Leading directions in which it is a matrix where there are more; one gain is for the rest."""

PAIRS_PER_REGRESSOR = 8
"""From which a linear part is solved at least: of fewer it keeps much of their own noise, merge
after merge."""

UNGUIDED = range(0)
"""The steps at which a teacher without guidance takes a second pass."""


def operator_passes(boundaries: Sequence[int], guided_steps: range) -> NDArray[np.int64]:
    """(m,) forward passes of each operator between steps, noise side first.

    A guided step of the teacher takes two, a student one. Operators of one step are the teacher's.
    """
    starts, stops = np.array(boundaries[:-1]), np.array(boundaries[1:])
    is_guided = (starts >= guided_steps.start) & (starts < guided_steps.stop)
    return 1 + ((starts - stops == 1) & is_guided)


def num_regressors(num_values: float) -> int:
    """Of a linear part on samples of so many values, the constant among them."""
    return 1 + (int(num_values) if num_values <= WHOLE_MATRIX else NUM_DIRECTIONS)


def fewest_targets(num_values: float, batch: int) -> int:
    """Batches of targets from which a linear part is solved at least."""
    return math.ceil(PAIRS_PER_REGRESSOR * num_regressors(num_values) / batch)


def most_iterations(is_within: Callable[[int], bool], fewest: int = 1) -> int:
    """The most iterations within a budget, which pays for the fewest: by doubling and halving."""
    low, high = fewest, 2 * fewest
    while is_within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_within(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class IterationCost:
    """Evaluations of a whole batch in an iteration of a merge of m children.

    ``batch · ((m + g + s)/R(m) + κ)``: a target takes the m children, of which the g guided steps
    of the teacher take two passes each, and one more forward pass of the copied network where the
    linear part is solved (s = 1, else 0); it is used R(m) times.

    Args:
        batch: samples of an iteration, over all processes.
        reuse: R, or ``"auto"`` for min(m, 16).
        is_linear_solved: whether the linear part of each merge is solved in closed form.
        student_passes: κ.
        guided_steps: of the teacher, which take two passes.
        fewest: batches of targets that a merge makes at least (``fewest_targets``).

    Raises:
        InputError: for a value out of range.
    """

    batch: int = 128
    reuse: int | Literal["auto"] = 1
    is_linear_solved: bool = False
    student_passes: float = STUDENT_PASSES
    guided_steps: range = UNGUIDED
    fewest: int = 0

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

    @classmethod
    def of_runs(
        cls,
        table: TeacherTable,
        batch: int,
        reuse: int | Literal["auto"],
        guided_steps: range = UNGUIDED,
        is_solved: bool | None = None,
    ) -> IterationCost:
        """That of runs which a table is for, whose linear parts are solved if it says so, unless
        the kind of network is known and says whether it ``is_solved``."""
        if is_solved is None:
            is_solved = table.is_nonlinear
        fewest = fewest_targets(table.num_dimensions, batch) if is_solved else 0
        return cls(batch, reuse, is_solved, guided_steps=guided_steps, fewest=fewest)

    def uses(self, children: ArrayLike) -> Array:
        """R(m), elementwise."""
        counts = np.asarray(children, dtype=np.float64)
        if self.reuse == "auto":
            return np.minimum(counts, MOST_REUSE)
        return np.full(counts.shape, float(self.reuse))

    def guided(self, merges: Iterable[Merge]) -> Array:
        """(M,) g of merges: their children that are guided steps of the teacher."""
        passes = (operator_passes(merge.boundaries, self.guided_steps) for merge in merges)
        return np.array([(each - 1).sum() for each in passes], dtype=np.float64)

    def teacher_passes(self, start: int, stop: int) -> int:
        """Forward passes of the teacher's steps start, …, stop + 1."""
        return int(operator_passes(range(start, stop - 1, -1), self.guided_steps).sum())

    def target_evaluations(self, children: ArrayLike, guided: ArrayLike = 0.0) -> Array:
        """Evaluations of a batch of targets, ``batch · (m + g + s)``, elementwise."""
        counts = np.asarray(children, dtype=np.float64) + np.asarray(guided, dtype=np.float64)
        return self.batch * (counts + float(self.is_linear_solved))

    def per_iteration(self, children: ArrayLike, guided: ArrayLike = 0.0) -> Array:
        """Evaluations of an iteration of merges of m children, elementwise, in the long run."""
        passes = self.batch * self.student_passes
        return self.target_evaluations(children, guided) / self.uses(children) + passes

    def total(self, children: ArrayLike, iterations: ArrayLike, guided: ArrayLike = 0.0) -> float:
        """Evaluations of merges with N whole iterations: ``batch · (n (m + g + s) + κ N)``, of
        n = ⌈N/R⌉ batches of targets, or the fewest."""
        counts = np.asarray(iterations, dtype=np.float64)
        batches = np.maximum(np.ceil(counts / self.uses(children)), self.fewest)
        targets = batches * self.target_evaluations(children, guided)
        return float((targets + self.batch * self.student_passes * counts).sum())

    def least(self, num_steps: int, student_steps: int) -> float:
        """What no plan of K students costs less than: an iteration of one merge, of all steps but
        the K - 1 that other students keep."""
        merged = num_steps - student_steps + 1
        return self.total([merged], [1]) if merged > 1 else 0.0

    def of_plan(self, plan: Plan, iterations: ArrayLike) -> float:
        """``total`` of a plan's merges."""
        children = [merge.num_children for merge in plan.merges]
        return self.total(children, iterations, self.guided(plan.merges))


class _Iterations(IterationCost):
    """Targets cost nothing, and the student's passes 1."""

    def target_evaluations(self, children: ArrayLike, guided: ArrayLike = 0.0) -> Array:
        return np.zeros(np.shape(children))
