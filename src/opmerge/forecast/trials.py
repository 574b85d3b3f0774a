"""What plans that were trained teach of the law: their errors join what was known before.

A law's draws say how unsure it is. Of a law ``v(ξ) = v + Dᵀ ξ / √n``, D their n differences from v
as vectors and ξ standard normal before any plan is trained, the most likely one minimises

    Σ_plans (log(forecast(v(ξ)) / measured) / scatter)² + ‖ξ‖²,

by Gauss-Newton. It is between the draws that were, and its own are narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.forecast.composition import squared_errors
from opmerge.forecast.law import FittedLaw, MergeLaw, draw_laws
from opmerge.forecast.table import TeacherTable
from opmerge.plans import Plan

_STEP = 1e-4  # of ξ, for derivatives
_LEAST_SCATTER = 0.05


@dataclass(frozen=True)
class Trial:
    """A plan that was trained, and what it left.

    Args:
        iterations: one a merge, in the order of execution.
        measured: paired error, the root mean square of ‖student - teacher‖ from equal noise.

    Raises:
        InputError: for an error that is not above 0.
    """

    plan: Plan
    iterations: tuple[int, ...]
    measured: float

    def __post_init__(self) -> None:
        if not check_number("measured", self.measured) > 0:
            raise InputError("measured", "must be above 0", self.measured)


def law_after(law: FittedLaw, table: TeacherTable, trials: Sequence[Trial]) -> FittedLaw:
    """The law when such plans are known to have left so much, with draws from what is still open.

    One without draws is sure of itself, and learns nothing.

    Args:
        table: of the teacher that the plans were trained from.

    Raises:
        InputError: for a plan of another number of steps, or not one number a merge.
    """
    if not (trials and law.draws):
        return law
    from scipy.optimize import least_squares

    count = len(table.sizes)
    mean = law.law.for_groups(count).to_vector()
    away = np.array([draw.for_groups(count).to_vector() - mean for draw in law.draws])
    root: Array = away.T / np.sqrt(len(away))
    scatter = max(law.scatter, _LEAST_SCATTER)

    def misses(points: Array) -> Array:
        """(trials, points) log(forecast / measured), in units of their scatter."""
        laws = [MergeLaw.from_vector(mean + root @ point) for point in points]
        rows = [
            0.5 * np.log(squared_errors(laws, table, each.plan, each.iterations))
            - np.log(each.measured)
            for each in trials
        ]
        return np.array(rows) / scatter

    def residuals(point: Array) -> Array:
        return np.concatenate([misses(point[None])[:, 0], point])

    def slopes(point: Array) -> Array:
        unit = np.eye(len(point))
        here, *moved = misses(np.array([point, *(point + _STEP * unit)])).T
        return np.concatenate([((np.array(moved) - here) / _STEP).T, unit])

    found = least_squares(residuals, np.zeros(len(away)), slopes)
    left = root @ np.linalg.inv(np.linalg.qr(found.jac, mode="r"))
    point = mean + root @ found.x
    told = f"{law.source}, and {len(trials)} trained plan{'s'[: len(trials) > 1]} of this network"
    return replace(law, law=MergeLaw.from_vector(point), draws=draw_laws(point, left), source=told)
