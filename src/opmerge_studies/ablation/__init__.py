"""Optimisation time of a merge: whether it moves the transition, and whether plans change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.strategies import is_as_good, plan_row, scalar_problem, strategy_errors
from opmerge_studies.shared.transition import crossings, growth_threshold

__all__ = ["Config", "plan_eigenvalues", "plan_source", "run", "transition"]

_LOWEST, _HIGHEST = 0.5, 3.0  # λ of the diagram; BOOT is best at one end, vanilla at the other
_PRECISION = 1e-6  # of the edges of the band
_CHUNK = 4  # eigenvalues of a cell


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        merge_times: s, ascending; the paper's are 1, 3, 6.4 and 10.
        steps: numbers of teacher steps T, ascending; the first is that of the diagram.
        num_eigenvalues: points in λ of the diagram, half of them from 1.01 to 1.3.
        sources: real data whose plans are compared.
        kept_time: the s at which the plan that is kept is made.

    Raises:
        InputError: naming the setting that is out of range.
    """

    merge_times: tuple[float, ...] = (
        *(0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0),
        *(4.5, 6.4, 8.0, 10.0, 14.0, 20.0, 30.0),
    )
    steps: tuple[int, ...] = (64, 128)
    num_eigenvalues: int = 40
    sources: tuple[str, ...] = ("digits", "patches")
    kept_time: float = DEFAULT_MERGE_TIME

    def __post_init__(self) -> None:
        for key in ("merge_times", "steps"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
        for time in (*self.merge_times, self.kept_time):
            GradientFlow(time)
        for num_steps in self.steps:
            if check_count("steps", num_steps) < 4:
                raise InputError("steps", "must be >= 4", num_steps)
        if check_count("num_eigenvalues", self.num_eigenvalues) < 4:
            raise InputError("num_eigenvalues", "must be >= 4", self.num_eigenvalues)

    @classmethod
    def quick(cls) -> Config:
        """Six times, T = 64, digits: seconds."""
        times = (0.1, 1.0, 3.0, 6.4, 10.0, 30.0)
        return cls(merge_times=times, steps=(64,), num_eigenvalues=20, sources=("digits",))

    def eigenvalues(self) -> list[float]:
        """The λ of the diagram, ascending."""
        fine = self.num_eigenvalues // 2
        coarse = np.geomspace(_LOWEST, _HIGHEST, self.num_eigenvalues - fine)
        values = np.concatenate([coarse, 1 + np.geomspace(0.01, 0.3, fine)])
        return [float(value) for value in np.unique(values.round(6))]


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Transition, diagram and real spectra at every s.

    Returns:
        ``tables``: ``transition`` (crossings and band by T and s), ``diagram`` (the best plan by λ
        and s) and ``sources`` (by source and s).
    """
    marks = [
        {"num_steps": num_steps, "merge_time": time}
        for num_steps in config.steps
        for time in config.merge_times
    ]
    times = {"merge_times": list(config.merge_times), "kept_time": config.kept_time}
    sizes = {"num_steps": config.steps[0], **times}
    values = config.eigenvalues()
    chunks = [
        {"eigenvalues": values[first : first + _CHUNK], **sizes}
        for first in range(0, len(values), _CHUNK)
    ]
    sources = [{"source": source, **sizes} for source in config.sources]
    diagram = runner.sweep(plan_eigenvalues, chunks, "planning")
    planned = runner.sweep(plan_source, sources, "planning for real spectra")
    return {
        "tables": {
            "transition": runner.sweep(transition, marks, "finding the transition"),
            "diagram": [row for rows in diagram for row in rows],
            "sources": [row for rows in planned for row in rows],
        }
    }


def transition(num_steps: int, merge_time: float) -> dict[str, Any]:
    """Where BOOT and vanilla cross, and the λ between which neither is best.

    ``boot_until`` and ``vanilla_from`` are found by bisection, so they are where one change takes
    place; the diagram shows whether there are others.
    """
    found = crossings(num_steps, GradientFlow(merge_time))

    def is_best(name: str, eigenvalue: float) -> bool:
        problem = scalar_problem(eigenvalue, num_steps, merge_time)
        return is_as_good(strategy_errors(problem, [name])[name], find_plan(problem).w2)

    return {
        "num_steps": num_steps,
        "merge_time": merge_time,
        "first_crossing": found[0] if found else None,
        "num_crossings": len(found),
        "boot_until": _last(lambda value: is_best("boot", value), _LOWEST, _HIGHEST),
        "vanilla_from": _last(lambda value: not is_best("vanilla", value), _LOWEST, _HIGHEST),
        "threshold": growth_threshold(num_steps),
    }


def plan_eigenvalues(
    eigenvalues: Sequence[float], num_steps: int, merge_times: Sequence[float], kept_time: float
) -> list[dict[str, Any]]:
    """The best plan at each λ and s, and what the plan made for ``kept_time`` errs there."""
    return [
        {"eigenvalue": value, **row}
        for value in eigenvalues
        for row in _over_times(scalar_problem(value, num_steps), merge_times, kept_time)
    ]


def plan_source(
    source: str, num_steps: int, merge_times: Sequence[float], kept_time: float
) -> list[dict[str, Any]]:
    """The same for the spectrum of a source of data."""
    problem = Problem(resolve_spectrum(source), cosine_schedule(num_steps))
    return [{"source": source, **row} for row in _over_times(problem, merge_times, kept_time)]


def _over_times(
    problem: Problem, merge_times: Sequence[float], kept_time: float
) -> list[dict[str, Any]]:
    kept = find_plan(replace(problem, training=GradientFlow(kept_time))).plan
    rows = []
    for time in merge_times:
        here = replace(problem, training=GradientFlow(time))
        rows.append({"merge_time": time, **plan_row(here), "kept": evaluate(here, kept).w2})
    return rows


def _last(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """The λ at which what holds at ``low`` ceases to, by bisection; None if it never does."""
    if not holds(low) or holds(high):
        return None
    while high - low > _PRECISION:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
