"""Synthetic data of one variance: how far the named strategies are from the best plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from opmerge.errors import InputError
from opmerge.planners import find_plan, interval_plan
from opmerge.planners.result import best_outcome
from opmerge.plans import build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import MergeRule
from opmerge.settings.base import Settings
from opmerge.settings.types import Count, NonEmpty, Ordered, Positive, TeacherSteps
from opmerge.training import DEFAULT_MERGE_TIME
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import (
    CANONICAL,
    is_as_good,
    plan_shape,
    scalar_problem,
    strategy_errors,
)

__all__ = ["STUDY", "SyntheticSettings", "compare", "run"]

_STEPS = (64, 128, 256, 512)


class SyntheticSettings(Settings):
    """Settings of the study; the values of λ and T are those of arXiv 2505.16024."""

    eigenvalues: Annotated[tuple[Positive, ...], NonEmpty, Ordered] = Field(
        (0.2, 0.5, 1.0, 1.02, 2.0, 5.0), description="λ of the data"
    )
    steps: Annotated[tuple[TeacherSteps, ...], NonEmpty, Ordered] = Field(_STEPS, description="T")
    denoiser_steps: Annotated[tuple[TeacherSteps, ...], Ordered] = Field(
        _STEPS, description="T for which denoiser copy is computed too"
    )
    strategies: tuple[str, ...] = Field(
        (*CANONICAL, "uniform:4", "temporal:8"),
        description="names as `build_strategy` has them, boot and vanilla among them",
    )
    merge_time: Positive = Field(DEFAULT_MERGE_TIME, description="s")
    num_scanned: Count = Field(
        40, description="λ from 1.001 to 2.1 at which interval DP is held against the best plan"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not {"boot", "vanilla"} <= set(self.strategies):
            raise InputError("strategies", "must hold boot and vanilla", self.strategies)
        for name in self.strategies:
            build_strategy(name, min((*self.steps, *self.denoiser_steps)))
        return self

    @classmethod
    def quick(cls) -> Self:
        """T = 64 and 128: seconds."""
        return cls(steps=(64, 128), denoiser_steps=(64,), num_scanned=16)

    def scanned(self) -> list[float]:
        """The λ of the scan, evenly spaced in log (λ - 1)."""
        values = 1 + np.geomspace(0.001, 1.1, self.num_scanned)
        return [float(value) for value in values.round(6)]


def run(settings: SyntheticSettings, runner: Runner) -> dict[str, Any]:
    """Plan and compare at every λ and T, under both merge rules.

    Returns:
        ``tables``: ``plans`` (the best plan and that of interval DP at each λ and T) and
        ``errors`` (a row for each strategy there, with its ratio to the best and its rank), and
        ``scan`` (plans again, over the λ between the phases, under operator copy).
    """

    def cells(
        rule: str, steps: Sequence[int], eigenvalues: Sequence[float]
    ) -> list[dict[str, Any]]:
        return grid(
            merge_rule=rule,
            num_steps=steps,
            eigenvalue=eigenvalues,
            merge_time=settings.merge_time,
            strategies=[list(settings.strategies)],
        )

    points = cells("operator-copy", settings.steps, settings.eigenvalues)
    points += cells("denoiser-copy", settings.denoiser_steps, settings.eigenvalues)
    between = cells("operator-copy", settings.steps, settings.scanned())
    planned = runner.sweep(compare, points, "planning")
    scanned = runner.sweep(compare, between, "scanning λ")
    return {
        "tables": {
            "plans": [result["plan"] for result in planned],
            "errors": [row for result in planned for row in result["errors"]],
            "scan": [result["plan"] for result in scanned],
        }
    }


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


STUDY = Study(
    __name__,
    "How far are the named strategies from the best plan, by λ and T?",
    SyntheticSettings,
    run,
)
