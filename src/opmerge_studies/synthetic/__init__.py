"""Synthetic data of one variance: how far the named strategies are from the best plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.planners import find_plan, interval_plan
from opmerge.planners.result import best_outcome
from opmerge.plans import build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import MergeRule
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared.runner import Cell, Runner
from opmerge_studies.shared.strategies import (
    CANONICAL,
    is_as_good,
    plan_shape,
    scalar_problem,
    strategy_errors,
)

__all__ = ["Config", "compare", "run"]


@dataclass(frozen=True)
class Config:
    """Settings of the study; the values of λ and T are those of arXiv 2505.16024.

    Args:
        eigenvalues: λ of the data, ascending.
        steps: numbers of teacher steps T, ascending.
        denoiser_steps: the T for which denoiser copy is computed too.
        strategies: names as ``build_strategy`` has them; ``boot`` and ``vanilla`` among them.
        merge_time: s.
        num_scanned: points in λ from 1.001 to 2.1 at which interval DP is held against the best
            plan, under operator copy.

    Raises:
        InputError: naming the setting that is out of range.
    """

    eigenvalues: tuple[float, ...] = (0.2, 0.5, 1.0, 1.02, 2.0, 5.0)
    steps: tuple[int, ...] = (64, 128, 256, 512)
    denoiser_steps: tuple[int, ...] = (64, 128, 256, 512)
    strategies: tuple[str, ...] = (*CANONICAL, "uniform:4", "temporal:8")
    merge_time: float = DEFAULT_MERGE_TIME
    num_scanned: int = 40

    def __post_init__(self) -> None:
        for key in ("eigenvalues", "steps", "denoiser_steps"):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                raise InputError(key, "must ascend", values)
        for key in ("steps", "denoiser_steps"):
            for value in getattr(self, key):
                if check_count(key, value) < 4:
                    raise InputError(key, "must be >= 4", value)
        for key in ("eigenvalues", "steps"):
            if not getattr(self, key):
                raise InputError(key, "must not be empty")
        for value in self.eigenvalues:
            if check_number("eigenvalues", value) <= 0:
                raise InputError("eigenvalues", "must be > 0", value)
        check_count("num_scanned", self.num_scanned)
        GradientFlow(self.merge_time)
        if not {"boot", "vanilla"} <= set(self.strategies):
            raise InputError("strategies", "must hold boot and vanilla", self.strategies)
        for name in self.strategies:
            build_strategy(name, min((*self.steps, *self.denoiser_steps)))

    @classmethod
    def quick(cls) -> Config:
        """T = 64 and 128: seconds."""
        return cls(steps=(64, 128), denoiser_steps=(64,), num_scanned=16)

    def scanned(self) -> list[float]:
        """The λ of the scan, evenly spaced in log (λ - 1)."""
        values = 1 + np.geomspace(0.001, 1.1, self.num_scanned)
        return [float(value) for value in values.round(6)]


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Plan and compare at every λ and T, under both merge rules.

    Returns:
        ``tables``: ``plans`` (the best plan and that of interval DP at each λ and T) and
        ``errors`` (a row for each strategy there, with its ratio to the best and its rank), and
        ``scan`` (plans again, over the λ between the phases).
    """
    planned = runner.sweep(compare, _cells(config, config.eigenvalues), "planning")
    operator_copy = replace(config, denoiser_steps=())
    scanned = runner.sweep(compare, _cells(operator_copy, config.scanned()), "scanning λ")
    return {
        "tables": {
            "plans": [result["plan"] for result in planned],
            "errors": [row for result in planned for row in result["errors"]],
            "scan": [result["plan"] for result in scanned],
        }
    }


def _cells(config: Config, eigenvalues: Sequence[float]) -> list[Cell]:
    return [
        {
            "eigenvalue": eigenvalue,
            "num_steps": num_steps,
            "merge_time": config.merge_time,
            "merge_rule": rule,
            "strategies": list(config.strategies),
        }
        for rule, steps in (
            ("operator-copy", config.steps),
            ("denoiser-copy", config.denoiser_steps),
        )
        for num_steps in steps
        for eigenvalue in eigenvalues
    ]


def compare(
    eigenvalue: float,
    num_steps: int,
    merge_time: float,
    merge_rule: MergeRule,
    strategies: Sequence[str],
) -> dict[str, Any]:
    """The best plan that is known, the plan of interval DP (Algorithm 1), and the strategies.

    Returns:
        ``plan``: a row of the table of plans; ``errors``: a row for each strategy. A strategy's
        ``rank`` is one more than the number of strategies that err less, beyond rounding.
    """
    problem = scalar_problem(eigenvalue, num_steps, merge_time, merge_rule)
    exact, interval = find_plan(problem), interval_plan(problem)
    best = best_outcome([exact.outcome, interval.outcome])
    errors = strategy_errors(problem, strategies)
    place = {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": eigenvalue}
    return {
        "plan": {
            **place,
            "best": best.w2,
            "lower_bound": exact.lower_bound,
            "interval": interval.w2,
            "interval_ratio": _ratio(interval.w2, best.w2),
            "shape": plan_shape(best.plan, best.w2, errors),
            "merges": len(best.plan.merges),
            "plan": plan_phrase(best.plan),
            "interval_plan": plan_phrase(interval.plan),
        },
        "errors": [
            {
                **place,
                "strategy": name,
                "w2": error,
                "ratio_to_best": _ratio(error, best.w2),
                "rank": 1 + sum(not is_as_good(error, other) for other in errors.values()),
            }
            for name, error in errors.items()
        ],
    }


def _ratio(distance: float, best: float) -> float | None:
    return distance / best if best > 0 else None
