"""The phase diagram: which plan is best at which data variance, and where that changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from opmerge.settings.base import Settings, option
from opmerge.settings.types import MergeRule, NonEmpty, Ordered, TeacherSteps
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import plan_row, scalar_problem
from opmerge_studies.shared.transition import crossings, growth_threshold

_DENOISER_STRIDE = 8  # one phase only (THEORY 7.9), and plans take T times as long to trace
_STEPS = (64, 128, 256, 512)


class PhaseSettings(Settings):
    steps: Annotated[tuple[TeacherSteps, ...], NonEmpty, Ordered] = option(_STEPS, "T")
    num_eigenvalues: Annotated[int, Field(ge=10)] = option(
        200, "points in λ from 0.05 to 20, half of them from 0.95 to 2.1"
    )
    denoiser_steps: Annotated[tuple[TeacherSteps, ...], Ordered] = option(
        _STEPS, "T for which denoiser copy is computed too, on every eighth λ"
    )
    merge_time: Annotated[float, Field(gt=0, le=100)] = option(
        DEFAULT_MERGE_TIME, "s; errors underflow beyond 100"
    )

    @classmethod
    def quick(cls) -> Self:
        return cls(steps=(64, 128), num_eigenvalues=60, denoiser_steps=(64,))

    def eigenvalues(self) -> list[float]:
        """The λ of the diagram, ascending."""
        fine = self.num_eigenvalues // 2
        coarse = np.geomspace(0.05, 20.0, self.num_eigenvalues - fine)
        values = np.concatenate([coarse, np.geomspace(0.95, 2.1, fine)])
        return [float(value) for value in np.unique(values.round(6))]


def run(settings: PhaseSettings, runner: Runner) -> dict[str, Any]:
    """Tables ``plans`` (best and strategies at each λ, T and rule) and ``crossings`` (by T)."""
    cells, values = partial(grid, merge_time=settings.merge_time), settings.eigenvalues()
    copied = cells(merge_rule="operator-copy", num_steps=settings.steps, eigenvalue=values)
    rule, few = "denoiser-copy", values[::_DENOISER_STRIDE]
    denoised = cells(merge_rule=rule, num_steps=settings.denoiser_steps, eigenvalue=few)
    plans = runner.sweep(plan_eigenvalue, [*copied, *denoised], "planning")
    crossed = runner.sweep(transition, cells(num_steps=settings.steps), "finding crossings")
    return {"tables": {"plans": plans, "crossings": [_with_band(row, plans) for row in crossed]}}


def plan_eigenvalue(
    num_steps: int, merge_rule: MergeRule, merge_time: float, eigenvalue: float
) -> dict[str, Any]:
    """The best plan and the strategies at one λ."""
    place = {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": eigenvalue}
    return {**place, **plan_row(scalar_problem(eigenvalue, num_steps, merge_time, merge_rule))}


def transition(num_steps: int, merge_time: float) -> dict[str, Any]:
    """The λ at which BOOT and vanilla cross under operator copy, and the threshold λ*(T)."""
    places = crossings(num_steps, GradientFlow(merge_time))
    return {
        "num_steps": num_steps,
        "first_crossing": places[0] if places else None,
        "num_crossings": len(places),
        "last_crossing": places[-1] if places else None,
        "threshold": growth_threshold(num_steps),
    }


def _with_band(crossing: dict[str, Any], plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The crossing with the points between which the band, where neither is best, begins and ends.

    BOOT is best up to ``boot_to`` and a plan of the band at ``band_from``, the next point; at
    ``band_to`` still, and vanilla from ``vanilla_from`` on.
    """
    place = (crossing["num_steps"], "operator-copy")
    here = [row for row in plans if (row["num_steps"], row["merge_rule"]) == place]
    values = [None, *(row["eigenvalue"] for row in here), None]
    inside = [n for n, row in enumerate(here, start=1) if row["shape"] not in ("boot", "vanilla")]
    ends = (inside[0] - 1, inside[0], inside[-1], inside[-1] + 1) if inside else (0,) * 4
    names = ("boot_to", "band_from", "band_to", "vanilla_from")
    return {**crossing, **{name: values[n] for name, n in zip(names, ends, strict=True)}}


_QUESTION = "Which plan is best at which data variance λ, and where does it change?"
STUDY = Study(__name__, _QUESTION, PhaseSettings, run)
