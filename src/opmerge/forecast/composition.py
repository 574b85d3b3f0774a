"""How the errors of merges combine into that of a whole plan, without a free parameter.

Of a deviation training leaves E[r] along it (*aligned*) and E[r²] - E[r]² beside it (*scattered*).
For a merge j → i whose first child lands on k, with ``g = c(j, k) W_k / (c(j, i) W_i)``, the first
child's aligned error A, that of the students behind E, their scattered ones O and O_E, all in
units of x̂ of this jump and by group of directions (THEORY 10):

    before = D + (1 - g) A - E,    A' = g A + E + E[r] before,
    O'² = ((g + (1-g) E[r]) O)² + O_E² (1 - 2 E[r] + E[r²])
          + (E[r²] - E[r]²) before² + E[r²] (D(j;k,i)² - D²).

D is the part of the deviation that lies along what the teacher's own step would be asked for. Were
the parts of a deviation learned at independent rates, and alike in sign, this would be exact but
for ``(1-g)² (E[r²] - E[r]²) O²``, which is a thousandth of what plans leave.

What the students of several windows leave has no common sign (``benchmarks/deviations.py``): it
adds up in squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.forecast.law import FittedLaw, MergeLaw, kept, progress, waiting
from opmerge.forecast.table import TeacherTable
from opmerge.plans import Merge, Plan

_INTERVAL = 0.9
_LEAST = 1e-12


@dataclass(frozen=True)
class Forecast:
    """The paired error that a plan is expected to have, with a 90 % interval.

    Args:
        rms: root mean square of ‖student - teacher‖ from equal noise, all values together.
        low: of the interval.
        high: of the interval.
        draws: (number of draws,) rms by each of the law's draws: two plans are told apart by the
            ratios of theirs.
    """

    rms: float
    low: float
    high: float
    draws: tuple[float, ...]

    @classmethod
    def of(cls, law: FittedLaw, squared: Array) -> Forecast:
        """That of squared paired errors, (1 + number of draws,): of the law, then of its draws."""
        errors = np.sqrt(squared)
        draws = errors[1:] if law.draws else errors
        rng = np.random.default_rng(0)  # the scatter, beside what the draws differ by
        spread = np.exp(law.scatter * rng.standard_normal((256, 1))) * draws
        tail = (1 - _INTERVAL) / 2
        low, high = np.quantile(spread, [tail, 1 - tail])
        return cls(float(errors[0]), float(low), float(high), tuple(draws.tolist()))


def forecast(
    law: FittedLaw, table: TeacherTable, plan: Plan, iterations: Sequence[float]
) -> Forecast:
    """What a plan leaves when its merges train for so many iterations, in execution order.

    Raises:
        InputError: for a plan of another number of steps, or not one number a merge.
    """
    return Forecast.of(law, squared_errors((law.law, *law.draws), table, plan, iterations))


def squared_errors(
    laws: Sequence[MergeLaw], table: TeacherTable, plan: Plan, iterations: Sequence[float]
) -> Array:
    """(number of laws,) squared paired errors of a plan."""
    return group_errors(laws, table, plan, iterations).sum(axis=1)


def group_errors(
    laws: Sequence[MergeLaw], table: TeacherTable, plan: Plan, iterations: Sequence[float]
) -> Array:
    """(number of laws, G) those squared errors by group of directions.

    Raises:
        InputError: for a plan of another number of steps, or not one number a merge.
    """
    if plan.num_steps != table.num_steps:
        raise InputError("plan", f"must have {table.num_steps} steps", plan.num_steps)
    if len(iterations) != len(plan.merges):
        requirement = f"must be {len(plan.merges)}, one a merge"
        raise InputError("iterations", requirement, len(iterations))
    standing = _Standing(laws, table, plan.free_step or plan.num_steps)
    for merge, count in zip(plan.merges, iterations, strict=True):
        standing.train(merge, float(count))
    free = 0.0 if plan.free_step is None else table.free_error(plan.free_step)
    return standing.at_output() + free


class _Standing:
    """Errors of the students in place, for several laws at once, by the step where each starts.

    The first network reads at the step ``first``.
    """

    def __init__(self, laws: Sequence[MergeLaw], table: TeacherTable, first: int) -> None:
        laws = [law.for_groups(len(table.sizes)) for law in laws]
        self._table, self._first = table, first
        self._rates = np.array([law.rates for law in laws])
        names = ("first", "behind", "shape", "length_exponent", "share_exponent", "onset")
        self._of = {name: np.array([[getattr(law, name)] for law in laws]) for name in names}
        self._at: dict[int, tuple[int, Array, Array]] = {}  # stop, aligned, squared scattered

    def train(self, merge: Merge, iterations: float) -> None:
        """Put a merge's student in the place of its children."""
        table, start, stop = self._table, merge.start, merge.stop
        j, i = table.node_at(start), table.node_at(stop)
        is_teacher_step = merge.split == start - 1
        k = j if is_teacher_step else table.node_at(merge.split)
        zero = np.zeros_like(self._rates)
        _, aligned, scattered = self._at.pop(start, (0, zero, zero))
        unit = np.maximum(table.carry[j, i] * table.gains[i], _LEAST)  # of x̂, at the output
        gain = np.minimum(table.carry[j, k] * table.gains[k] / unit, 1.0)  # unused if k = j
        behind, scattered_behind, share = self._behind_of(merge, unit)

        whole, own = table.deviation(j, j, i), table.deviation(j, k, i)
        along = np.sqrt(own)
        if not is_teacher_step:
            inner = whole + own - table.deviation(j, j, k)
            along = np.clip(inner / (2 * np.sqrt(whole) + _LEAST), 0.0, np.sqrt(own))

        left, left_squared = self._left(start, stop, iterations, share)
        before = along + (1 - gain) * aligned - behind
        carried = gain + (1 - gain) * left
        beside = left_squared * (own - along**2) + (left_squared - left**2) * before**2
        self._at[start] = (
            stop,
            gain * aligned + behind + left * before,
            carried**2 * scattered
            + scattered_behind * (1 - 2 * left + left_squared)
            + np.maximum(beside, 0.0),
        )

    def _behind_of(self, merge: Merge, unit: Array) -> tuple[Array, Array, float]:
        """Aligned and squared scattered errors of the students behind the first child, in units of
        the merge's x̂; and the share of the steps behind that they stand for."""
        table, aligned, squared, steps = self._table, 0.0, 0.0, 0
        for step in merge.boundaries[1:-1]:
            if step not in self._at:
                continue
            stop, own, scattered = self._at.pop(step)
            end = table.node_at(stop)
            weight = table.carry[table.node_at(step), end] * table.gains[end] / unit
            aligned, squared = aligned + weight * own, squared + weight**2 * scattered
            steps += step - stop
        zero = np.zeros_like(self._rates)
        return zero + aligned, zero + squared, steps / (merge.split - merge.stop)

    def _left(self, start: int, stop: int, iterations: float, share: float) -> tuple[Array, Array]:
        """E[r] and E[r²], (number of laws, G)."""
        schedule = self._table.schedule
        angles = np.arctan2(schedule.sigmas[[start, stop]], schedule.alphas[[start, stop]])
        angle = max(float(angles[0] - angles[1]), _LEAST)
        shares = self._table.shares(self._table.node_at(start), self._table.node_at(stop))
        factor = self._of["first"] if start == self._first else 1.0
        factor = factor * np.exp(self._of["behind"] * share) * shares ** self._of["share_exponent"]
        x = progress(self._rates, factor, self._of["length_exponent"], angle, iterations)
        return kept(self._of["shape"], x, waiting(shares, self._of["onset"], iterations))

    def at_output(self) -> Array:
        """(number of laws, G) squared error of the output: windows' own, carried there."""
        table, squared = self._table, np.zeros_like(self._rates)
        for start, (stop, aligned, scattered) in self._at.items():
            end = table.node_at(stop)
            weight = table.carry[table.node_at(start), end] * table.gains[end]
            squared = squared + weight**2 * (aligned**2 + scattered)
        return squared
