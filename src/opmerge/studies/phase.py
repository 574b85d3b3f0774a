"""The phase diagram: which plan is best at which data variance, and where that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.studies.runner import Cell, Runner
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow

__all__ = ["Config", "crossings", "growth_threshold", "run"]

STRATEGIES = ("vanilla", "progressive", "consistency", "boot")

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_CHUNK = 8  # eigenvalues of a cell
_DENOISER_STRIDE = 8  # one phase only (THEORY 7.9), and plans take T times as long to trace
_SCAN = 400  # points between which a crossing is bracketed


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
    denoiser_steps: tuple[int, ...] = (64, 128, 256)
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
        if check_number("merge_time", self.merge_time) <= 0:
            raise InputError("merge_time", "must be > 0", self.merge_time)

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
    return [_plan_row(_problem(value, num_steps, merge_time, merge_rule)) for value in eigenvalues]


def transition(num_steps: int, merge_time: float) -> dict[str, Any]:
    """Where BOOT and vanilla cross under operator copy, and the threshold λ*(T)."""
    found = crossings(num_steps, merge_time)
    return {
        "num_steps": num_steps,
        "first_crossing": found[0] if found else None,
        "num_crossings": len(found),
        "last_crossing": found[-1] if found else None,
        "threshold": growth_threshold(num_steps),
    }


def crossings(num_steps: int, merge_time: float = DEFAULT_MERGE_TIME) -> list[float]:
    """The λ >= 1 at which sequential BOOT and vanilla err equally, under operator copy."""
    boot, vanilla = (build_strategy(name, num_steps) for name in ("boot", "vanilla"))

    def difference(eigenvalue: float) -> float:
        """Of the sizes of the excesses, relative to that of vanilla."""
        problem = _problem(eigenvalue, num_steps, merge_time)
        sizes = [abs(evaluate(problem, plan).excess[0]) for plan in (boot, vanilla)]
        return float((sizes[0] - sizes[1]) / sizes[1])

    points = 1 + np.geomspace(0.05, 40.0, _SCAN) / num_steps
    values = [difference(float(point)) for point in points]
    found: list[float] = []
    for below, above, left, right in zip(points, points[1:], values, values[1:], strict=False):
        if left * right < 0:
            found.append(float(brentq(difference, below, above, xtol=1e-12)))
    return found


def growth_threshold(num_steps: int) -> float:
    """λ*(T), from which on every operator A_t with t < T grows (THEORY 7.3).

    ``max_t sigma_t (sigma_t - sigma_{t-1}) / (alpha_t (alpha_{t-1} - alpha_t))`` over t < T;
    with the plain cosine schedule ``1 + 1 / cos(π / 2T)``.
    """
    schedule = cosine_schedule(num_steps)
    alphas, sigmas = schedule.alphas, schedule.sigmas
    t = np.arange(1, num_steps)
    ratios = sigmas[t] * (sigmas[t] - sigmas[t - 1]) / (alphas[t] * (alphas[t - 1] - alphas[t]))
    return float(ratios.max())


def _problem(
    eigenvalue: float, num_steps: int, merge_time: float, rule: MergeRule = "operator-copy"
) -> Problem:
    training = GradientFlow(merge_time)
    spectrum = eigenvalue_spectrum([eigenvalue])
    return Problem(spectrum, cosine_schedule(num_steps), training, merge_rule=rule)


def _plan_row(problem: Problem) -> dict[str, Any]:
    """The best plan at one λ: its error, its shape and the strategies' errors beside it."""
    best = find_plan(problem)
    named = {
        name: evaluate(problem, build_strategy(name, problem.num_steps)).w2 for name in STRATEGIES
    }
    return {
        "merge_rule": problem.merge_rule,
        "num_steps": problem.num_steps,
        "eigenvalue": float(problem.eigenvalues[0]),
        "best": best.w2,
        "lower_bound": best.lower_bound,
        **named,
        "shape": _shape(best.plan, best.w2, named),
        "merges": len(best.plan.merges),
        "trained_steps": len({merge.start for merge in best.plan.merges}),
        "plan": plan_phrase(best.plan),
    }


def _shape(plan: Plan, distance: float, named: dict[str, float]) -> str:
    """The strategy that is as good, or whether the plan trains at T only (a comb) or below too."""
    for name in ("boot", "vanilla"):
        if named[name] <= distance * (1 + _EQUAL):
            return name
    return "comb" if len({merge.start for merge in plan.merges}) == 1 else "tree"


def _with_band(crossing: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The crossing with the λ between which neither BOOT nor vanilla is best."""
    band = [
        row["eigenvalue"]
        for row in rows
        if row["num_steps"] == crossing["num_steps"]
        and row["merge_rule"] == "operator-copy"
        and row["shape"] not in ("boot", "vanilla")
    ]
    ends = (min(band), max(band)) if band else (None, None)
    return {**crossing, "band_from": ends[0], "band_to": ends[1]}
