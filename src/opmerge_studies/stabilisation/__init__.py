"""Averaged weights and timestep mixing: do they move the transition or the best plan?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, MergeRule, Positive, Rising, TeacherSteps
from opmerge.training import DEFAULT_MERGE_TIME, EMAFlow, GradientFlow, TrainingModel
from opmerge_studies.shared import Runner, Study, grid, rows_of
from opmerge_studies.shared.simulation import descent, train_plan
from opmerge_studies.shared.strategies import CANONICAL, cosine_problem
from opmerge_studies.shared.transition import crossings
from opmerge_studies.stabilisation.mixing import (
    CHAINS,
    mixing_combs,
    mixing_crossings,
    mixing_errors,
    mixing_time,
)

__all__ = ["SPECTRA", "STUDY", "StabilisationSettings", "run"]

SPECTRA: Mapping[str, tuple[float, ...]] = {
    "0.01 to 0.9": tuple(np.geomspace(0.01, 0.9, 12).tolist()),
    "0.01 to 20": tuple(np.geomspace(0.01, 20.0, 12).tolist()),
    "2.1 to 20": tuple(np.geomspace(2.1, 20.0, 6).tolist()),
    "1.2 alone": (1.2,),
    "1.05 to 1.6": (1.05, 1.1, 1.3, 1.6),
}
"""Eigenvalues by name: below the transition, across it, above it, and inside its band."""

_RULES: tuple[MergeRule, ...] = ("operator-copy", "denoiser-copy")


class StabilisationSettings(Settings):
    """Settings of the study."""

    steps: Rising[TeacherSteps] = option((16, 64, 128), "T")
    turnovers: Rising[Positive] = option(
        (2.0, 4.0, 8.0, 16.0, 32.0, 64.0), "time constants β s of the moving average in one merge"
    )
    iterations: Rising[Count] = option(
        (64, 256, 1024, 4096), "N of descent in a merge, whose average is simulated"
    )
    num_eigenvalues: Annotated[int, Field(ge=10)] = option(
        120, "points in λ from 0.05 to 20 at which mixing is computed"
    )
    catch_up_eigenvalues: Rising[Positive] = option(
        (0.2, 0.5, 0.9, 1.0, 2.0, 5.0), "λ at which the time is sought that mixing needs to make up"
    )
    comb_steps: Annotated[int, Field(ge=3, le=14)] = option(
        11, "T for which all combs are tried, mixed"
    )
    merge_time: Annotated[float, Field(gt=0, le=40)] = option(DEFAULT_MERGE_TIME, "s")

    @classmethod
    def quick(cls) -> Self:
        """T = 16 and 64 at fewer points: seconds."""
        return cls(
            steps=(16, 64),
            turnovers=(2.0, 8.0, 32.0),
            iterations=(64, 256, 1024),
            num_eigenvalues=40,
            catch_up_eigenvalues=(0.2, 1.0, 5.0),
            comb_steps=8,
        )


def run(settings: StabilisationSettings, runner: Runner) -> dict[str, Any]:
    """Repeat the search for crossings and plans with averages, and with all steps trained at once.

    Returns:
        ``tables``: ``ema_crossings``, ``ema_plans``, ``ema_simulation``; ``mixing`` (errors over
        λ), ``mixing_crossings``, ``mixing_time`` (how much longer mixing takes), ``mixing_combs``.
    """
    steps, time, rates = settings.steps, settings.merge_time, settings.turnovers
    eigenvalues = [np.geomspace(0.05, 20.0, settings.num_eigenvalues).round(9).tolist()]
    by_rule = {"merge_time": time, "merge_rule": _RULES, "eigenvalues": eigenvalues}
    crossed = grid(num_steps=steps, merge_time=time, turnovers=(None, *rates))
    planned = grid(num_steps=steps, merge_time=time, turnovers=rates, spectrum=SPECTRA)
    simulated = grid(
        num_steps=steps[0],
        merge_time=time,
        turnovers=rates[len(rates) // 2],
        num_iterations=settings.iterations,
    )
    targets = {"strategy": CHAINS, "turnovers": (None, rates[-1])}
    made_up = {**by_rule, **targets, "eigenvalues": [list(settings.catch_up_eigenvalues)]}
    mixed, plain = grid(num_steps=steps, **by_rule), grid(num_steps=steps, merge_time=time)
    combs = grid(num_steps=settings.comb_steps, **by_rule)
    sweep, rows = runner.sweep, runner.rows
    return {
        "tables": {
            "ema_crossings": sweep(ema_crossings, crossed, "finding crossings"),
            "ema_plans": sweep(ema_plan, planned, "planning with averages"),
            "ema_simulation": rows(ema_simulation, simulated, "simulating averages"),
            "mixing": rows(mixing_errors, mixed, "mixing timesteps"),
            "mixing_crossings": sweep(mixing_crossings, plain, "finding crossings of mixing"),
            "mixing_time": rows(mixing_time, grid(num_steps=steps, **made_up), "catching up"),
            "mixing_combs": rows(mixing_combs, combs, "trying all combs"),
        }
    }


def ema_crossings(num_steps: int, merge_time: float, turnovers: float | None) -> dict[str, Any]:
    """The crossings of BOOT and vanilla with averaged weights, and with flow as long as counts.

    ``effective_time`` is the s of flow that leaves the same retention at n_T = 1.
    """
    training = _training(merge_time, turnovers)
    retention = float(training.retention(np.ones(1))[0])
    effective = -0.5 * float(np.log(retention))
    places = crossings(num_steps, training)
    shorter = crossings(num_steps, GradientFlow(effective))
    return {
        "num_steps": num_steps,
        "turnovers": turnovers,
        "retention": retention,
        "effective_time": effective,
        "num_crossings": len(places),
        "first_crossing": places[0] if places else None,
        "last_crossing": places[-1] if places else None,
        "crossing_of_shorter_flow": shorter[0] if shorter else None,
    }


def ema_plan(num_steps: int, merge_time: float, turnovers: float, spectrum: str) -> dict[str, Any]:
    """The best plan with and without averaged weights, and what it costs to mistake one's plan.

    ``regret`` is the error, with averages, of the plan that is best without, relative to the best;
    ``gap`` bounds what any plan could be better than the best found.
    """
    flow = cosine_problem(SPECTRA[spectrum], num_steps, GradientFlow(merge_time))
    averaged = replace(flow, training=_training(merge_time, turnovers))
    without, with_average = find_plan(flow), find_plan(averaged)
    mistaken = evaluate(averaged, without.plan).w2
    return {
        "num_steps": num_steps,
        "spectrum": spectrum,
        "turnovers": turnovers,
        "w2_without": without.w2,
        "w2": with_average.w2,
        "gap": with_average.gap,
        "regret": mistaken / with_average.w2 - 1.0,
        "same_plan": without.plan == with_average.plan,
        "merges_without": len(without.plan.merges),
        "merges": len(with_average.plan.merges),
        "plan": plan_phrase(with_average.plan),
    }


def ema_simulation(
    num_steps: int, merge_time: float, turnovers: float, num_iterations: int
) -> list[dict[str, Any]]:
    """Descent in N steps with the average kept, against the closed form of averaged flow.

    ``difference`` is the largest over λ, relative to the error of the whole student.
    """
    problem = cosine_problem((0.05, 0.5, 1.5, 5.0), num_steps, _training(merge_time, turnovers))
    decay = float(np.exp(-turnovers / num_iterations))
    averaged = descent(merge_time / num_iterations, num_iterations, decay=decay)

    def difference(strategy: str) -> float:
        plan = build_strategy(strategy, num_steps)
        ratio = train_plan(problem, plan, averaged).ratio(problem)[0]
        predicted = np.expm1(evaluate(problem, plan).excess)
        return float(np.abs((ratio - 1.0) / predicted - 1.0).max())

    return rows_of(
        {"strategy": CANONICAL, "difference": [*map(difference, CANONICAL)]},
        num_steps=num_steps,
        turnovers=turnovers,
        num_iterations=num_iterations,
    )


def _training(merge_time: float, turnovers: float | None) -> TrainingModel:
    if turnovers is None:
        return GradientFlow(merge_time)
    return EMAFlow(merge_time, turnovers / merge_time)


STUDY = Study(
    __name__,
    "Do weight averaging or timestep mixing shift the best plan?",
    StabilisationSettings,
    run,
)
