"""The phase diagram: which plan is best at which data variance, and where that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.problem import MergeRule
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared.runner import Cell, Runner
from opmerge_studies.shared.strategies import plan_row, scalar_problem
from opmerge_studies.shared.transition import crossings, growth_threshold

__all__ = ["Config", "run"]


_CHUNK = 8  # eigenvalues of a cell
_LONGEST = 100.0
_DENOISER_STRIDE = 8  # one phase only (THEORY 7.9), and plans take T times as long to trace


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        steps: numbers of steps T, ascending.
        num_eigenvalues: points in λ from 0.05 to 20, half of them from 0.95 to 2.1.
        denoiser_steps: the T for which denoiser copy is computed too, on every eighth λ.
        merge_time: s.

    Raises:
        InputError: naming the setting that is out of range.
    """

    steps: tuple[int, ...] = (64, 128, 256, 512)
    num_eigenvalues: int = 200
    denoiser_steps: tuple[int, ...] = (64, 128, 256, 512)
    merge_time: float = DEFAULT_MERGE_TIME

    def __post_init__(self) -> None:
        for key in ("steps", "denoiser_steps"):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                raise InputError(key, "must ascend", values)
            for value in values:
                if check_count(key, value) < 4:
                    raise InputError(key, "must be >= 4", value)
        if not self.steps:
            raise InputError("steps", "must not be empty")
        if check_count("num_eigenvalues", self.num_eigenvalues) < 10:
            raise InputError("num_eigenvalues", "must be >= 10", self.num_eigenvalues)
        if not 0 < check_number("merge_time", self.merge_time) <= _LONGEST:
            bounds = f"must be > 0 and <= {_LONGEST:g}: errors underflow beyond"
            raise InputError("merge_time", bounds, self.merge_time)

    @classmethod
    def quick(cls) -> Config:
        """T = 64 and 128 at 60 eigenvalues: seconds."""
        return cls(steps=(64, 128), num_eigenvalues=60, denoiser_steps=(64,))

    def eigenvalues(self) -> list[float]:
        """The λ of the diagram, ascending."""
        fine = self.num_eigenvalues // 2
        coarse = self.num_eigenvalues - fine
        values = np.concatenate([np.geomspace(0.05, 20.0, coarse), np.geomspace(0.95, 2.1, fine)])
        return [float(value) for value in np.unique(values.round(6))]


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Plan every (λ, T, merge rule), and find where strategies cross.

    Returns:
        ``tables``: ``plans`` (best plan and strategies at each λ) and ``crossings`` (of each T).
    """
    eigenvalues = config.eigenvalues()
    cells: list[Cell] = []
    for rule, stride in (("operator-copy", 1), ("denoiser-copy", _DENOISER_STRIDE)):
        for num_steps in config.steps if stride == 1 else config.denoiser_steps:
            values = eigenvalues[::stride]
            cells += [
                {
                    "num_steps": num_steps,
                    "merge_rule": rule,
                    "merge_time": config.merge_time,
                    "eigenvalues": values[first : first + _CHUNK],
                }
                for first in range(0, len(values), _CHUNK)
            ]
    planned = runner.sweep(plan_eigenvalues, cells, "planning")
    marks = [{"num_steps": steps, "merge_time": config.merge_time} for steps in config.steps]
    found = runner.sweep(transition, marks, "finding crossings")
    rows = [row for chunk in planned for row in chunk]
    return {"tables": {"plans": rows, "crossings": [_with_band(row, rows) for row in found]}}


def plan_eigenvalues(
    num_steps: int, merge_rule: MergeRule, merge_time: float, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """The best plan and the strategies at each λ."""
    rows = []
    for value in eigenvalues:
        problem = scalar_problem(value, num_steps, merge_time, merge_rule)
        place = {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": value}
        rows.append({**place, **plan_row(problem)})
    return rows


def transition(num_steps: int, merge_time: float) -> dict[str, Any]:
    """Where BOOT and vanilla cross under operator copy, and the threshold λ*(T)."""
    found = crossings(num_steps, GradientFlow(merge_time))
    return {
        "num_steps": num_steps,
        "first_crossing": found[0] if found else None,
        "num_crossings": len(found),
        "last_crossing": found[-1] if found else None,
        "threshold": growth_threshold(num_steps),
    }


def _with_band(crossing: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The crossing with the points between which the band, where neither is best, begins and ends.

    BOOT is best up to ``boot_to`` and a plan of the band at ``band_from``, the next point; at
    ``band_to`` still, and vanilla from ``vanilla_from`` on.
    """
    here = [
        row
        for row in rows
        if row["num_steps"] == crossing["num_steps"] and row["merge_rule"] == "operator-copy"
    ]
    inside = [n for n, row in enumerate(here) if row["shape"] not in ("boot", "vanilla")]
    ends = (inside[0] - 1, inside[0], inside[-1], inside[-1] + 1) if inside else ()
    values = [here[n]["eigenvalue"] if 0 <= n < len(here) else None for n in ends] or [None] * 4
    names = ("boot_to", "band_from", "band_to", "vanilla_from")
    return {**crossing, **dict(zip(names, values, strict=True))}
