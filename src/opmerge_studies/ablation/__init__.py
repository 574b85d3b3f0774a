"""Optimisation time of a merge: whether it moves the transition, and whether plans change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Positive, Rising, TeacherSteps
from opmerge.spectra import resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import (
    PAPER_RULE,
    is_as_good,
    plan_row,
    scalar_problem,
    strategy_errors,
)
from opmerge_studies.shared.transition import crossings, growth_threshold

_LOWEST, _HIGHEST = 0.5, 3.0  # λ of the diagram; BOOT is best at one end, vanilla at the other
_PRECISION = 1e-6  # of the edges of the band


class AblationSettings(Settings):
    """Settings of the study."""

    merge_times: Rising[Positive] = option(
        (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 6.4, 8.0, 10.0, 14.0, 20.0, 30.0),
        "s; the paper's are 1, 3, 6.4 and 10",
    )
    steps: Rising[TeacherSteps] = option((64, 128), "T; the first is that of the diagram")
    num_eigenvalues: Annotated[int, Field(ge=4)] = option(
        40, "points in λ of the diagram, half of them from 1.01 to 1.3"
    )
    sources: tuple[str, ...] = option(("digits", "patches"), "real data whose plans are compared")
    kept_time: Positive = option(DEFAULT_MERGE_TIME, "s at which the plan that is kept is made")

    @classmethod
    def quick(cls) -> Self:
        """Six times, T = 64, digits: seconds."""
        times = (0.1, 1.0, 3.0, 6.4, 10.0, 30.0)
        return cls(merge_times=times, steps=(64,), num_eigenvalues=20, sources=("digits",))

    def eigenvalues(self) -> list[float]:
        """The λ of the diagram, ascending."""
        fine = self.num_eigenvalues // 2
        coarse = np.geomspace(_LOWEST, _HIGHEST, self.num_eigenvalues - fine)
        values = np.concatenate([coarse, 1 + np.geomspace(0.01, 0.3, fine)])
        return [float(value) for value in np.unique(values.round(6))]


def run(settings: AblationSettings, runner: Runner) -> dict[str, Any]:
    """Transition, diagram and real spectra at every s.

    Returns:
        ``tables``: ``transition`` (crossings and band by T and s), ``diagram`` (the best plan by λ
        and s) and ``sources`` (by source and s).
    """
    times = list(settings.merge_times)
    sizes = {"num_steps": settings.steps[0], "merge_times": [times]}
    marks = grid(num_steps=settings.steps, merge_time=times)
    points = grid(eigenvalue=settings.eigenvalues(), **sizes, kept_time=settings.kept_time)
    sources = grid(source=settings.sources, **sizes, kept_time=settings.kept_time)
    return {
        "tables": {
            "transition": runner.sweep(transition, marks, "finding the transition"),
            "diagram": runner.rows(plan_eigenvalue, points, "planning"),
            "sources": runner.rows(plan_source, sources, "planning for real spectra"),
        }
    }


def transition(num_steps: int, merge_time: float) -> dict[str, Any]:
    """The λ at which BOOT and vanilla cross, and those between which neither is best.

    ``boot_until`` and ``vanilla_from`` are found by bisection, so they are where one change takes
    place; the diagram shows whether there are others.
    """
    places = crossings(num_steps, GradientFlow(merge_time))

    def is_best(name: str, eigenvalue: float) -> bool:
        problem = scalar_problem(eigenvalue, num_steps, merge_time)
        return is_as_good(strategy_errors(problem, [name])[name], find_plan(problem).w2)

    return {
        "num_steps": num_steps,
        "merge_time": merge_time,
        "first_crossing": places[0] if places else None,
        "num_crossings": len(places),
        "boot_until": _last(lambda value: is_best("boot", value), _LOWEST, _HIGHEST),
        "vanilla_from": _last(lambda value: not is_best("vanilla", value), _LOWEST, _HIGHEST),
        "threshold": growth_threshold(num_steps),
    }


def plan_eigenvalue(
    eigenvalue: float, num_steps: int, merge_times: Sequence[float], kept_time: float
) -> list[dict[str, Any]]:
    """The best plan at a λ for each s, and what the plan made for ``kept_time`` errs there."""
    rows = _over_times(scalar_problem(eigenvalue, num_steps), merge_times, kept_time)
    return [{"eigenvalue": eigenvalue, **row} for row in rows]


def plan_source(
    source: str, num_steps: int, merge_times: Sequence[float], kept_time: float
) -> list[dict[str, Any]]:
    """The same for the spectrum of a source of data."""
    problem = Problem(resolve_spectrum(source), cosine_schedule(num_steps), merge_rule=PAPER_RULE)
    return [{"source": source, **row} for row in _over_times(problem, merge_times, kept_time)]


def _over_times(
    problem: Problem, merge_times: Sequence[float], kept_time: float
) -> list[dict[str, Any]]:
    kept = find_plan(replace(problem, training=GradientFlow(kept_time))).plan
    problems = {time: replace(problem, training=GradientFlow(time)) for time in merge_times}
    return [
        {"merge_time": time, **plan_row(here), "kept": evaluate(here, kept).w2}
        for time, here in problems.items()
    ]


def _last(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """The λ at which what holds at ``low`` ceases to, by bisection; None if it never does."""
    if not holds(low) or holds(high):
        return None
    while high - low > _PRECISION:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


_QUESTION = "Does the time that each merge is trained move the transition?"
STUDY = Study(__name__, _QUESTION, AblationSettings, run)
