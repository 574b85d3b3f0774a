"""Synthetic data of one variance: how far the named strategies are from the best plan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from pydantic import model_validator

from opmerge.errors import InputError
from opmerge.planners import find_plan, interval_plan
from opmerge.planners.result import best_outcome
from opmerge.plans import build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, MergeRule, NonEmpty, Ordered, Positive, TeacherSteps
from opmerge.training import DEFAULT_MERGE_TIME
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import (
    CANONICAL,
    is_as_good,
    plan_shape,
    scalar_problem,
    strategy_errors,
)

_STEPS = (64, 128, 256, 512)


class SyntheticSettings(Settings):
    """Settings of the study; the values of λ and T are those of arXiv 2505.16024."""

    eigenvalues: Annotated[tuple[Positive, ...], NonEmpty, Ordered] = option(
        (0.2, 0.5, 1.0, 1.02, 2.0, 5.0), "λ of the data"
    )
    steps: Annotated[tuple[TeacherSteps, ...], NonEmpty, Ordered] = option(_STEPS, "T")
    denoiser_steps: Annotated[tuple[TeacherSteps, ...], Ordered] = option(
        _STEPS, "T for which denoiser copy is computed too"
    )
    strategies: tuple[str, ...] = option(
        (*CANONICAL, "uniform:4", "temporal:8"),
        "names as `build_strategy` has them, boot and vanilla among them",
    )
    merge_time: Positive = option(DEFAULT_MERGE_TIME, "s")
    num_scanned: Count = option(
        40, "λ from 1.001 to 2.1 at which interval DP is held against the best plan"
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
        return cls(steps=(64, 128), denoiser_steps=(64,), num_scanned=16)

    def scanned(self) -> list[float]:
        """The λ of the scan, evenly spaced in log (λ - 1)."""
        values = 1 + np.geomspace(0.001, 1.1, self.num_scanned)
        return [float(value) for value in values.round(6)]


def run(settings: SyntheticSettings, runner: Runner) -> dict[str, Any]:
    """Tables ``plans`` (the best and that of interval DP at each λ, T and rule), ``errors`` (each
    strategy there, with its ratio to the best and its rank) and ``scan`` (plans again, over the λ
    between the phases, under operator copy).
    """
    cells = partial(grid, strategies=[list(settings.strategies)], merge_time=settings.merge_time)
    copied = {"merge_rule": "operator-copy", "num_steps": settings.steps}
    denoised = {"merge_rule": "denoiser-copy", "num_steps": settings.denoiser_steps}
    values = settings.eigenvalues
    points = [*cells(**copied, eigenvalue=values), *cells(**denoised, eigenvalue=values)]
    between = cells(**copied, eigenvalue=settings.scanned())
    planned = runner.tables(compare, points, "planning")
    scanned = runner.tables(compare, between, "scanning λ")
    return {"tables": {**planned, "scan": scanned["plans"]}}


def compare(
    eigenvalue: float,
    num_steps: int,
    merge_time: float,
    merge_rule: MergeRule,
    strategies: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """The best plan that is known, the plan of interval DP (Algorithm 1), and the strategies.

    A strategy's ``rank`` is one more than the number of strategies that err less, beyond rounding.
    """
    problem = scalar_problem(eigenvalue, num_steps, merge_time, merge_rule)
    exact, interval = find_plan(problem), interval_plan(problem)
    best = best_outcome([exact.outcome, interval.outcome])
    errors = strategy_errors(problem, strategies)
    place = {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": eigenvalue}

    def over(distance: float) -> float | None:
        return distance / best.w2 if best.w2 > 0 else None

    plan = {
        **place,
        "best": best.w2,
        "lower_bound": exact.lower_bound,
        "interval": interval.w2,
        "interval_ratio": over(interval.w2),
        "shape": plan_shape(best.plan, best.w2, errors),
        "merges": len(best.plan.merges),
        "plan": plan_phrase(best.plan),
        "interval_plan": plan_phrase(interval.plan),
    }
    rows = [
        {
            **place,
            "strategy": name,
            "w2": error,
            "ratio_to_best": over(error),
            "rank": 1 + sum(not is_as_good(error, other) for other in errors.values()),
        }
        for name, error in errors.items()
    ]
    return {"plans": [plan], "errors": rows}


_QUESTION = "How far are the named strategies from the best plan, by λ and T?"
STUDY = Study(__name__, _QUESTION, SyntheticSettings, run)
