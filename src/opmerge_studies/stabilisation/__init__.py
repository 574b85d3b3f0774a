"""Averaged weights and timestep mixing: do they move the transition or the best plan?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import MergeRule
from opmerge.training import DEFAULT_MERGE_TIME, EMAFlow, GradientFlow, TrainingModel
from opmerge_studies.shared.runner import Cell, Runner
from opmerge_studies.shared.simulation import Descent, train_plan
from opmerge_studies.shared.transition import crossings
from opmerge_studies.stabilisation.timestep_mixing import (
    CHAINS,
    linear_problem,
    mixing_combs,
    mixing_crossings,
    mixing_errors,
    mixing_time,
)

__all__ = ["SPECTRA", "Config", "run"]

SPECTRA: Mapping[str, tuple[float, ...]] = {
    "0.01 to 0.9": tuple(np.geomspace(0.01, 0.9, 12).tolist()),
    "0.01 to 20": tuple(np.geomspace(0.01, 20.0, 12).tolist()),
    "2.1 to 20": tuple(np.geomspace(2.1, 20.0, 6).tolist()),
    "1.2 alone": (1.2,),
    "1.05 to 1.6": (1.05, 1.1, 1.3, 1.6),
}
"""Eigenvalues by name: below the transition, across it, above it, and inside its band."""

_STRATEGIES = ("vanilla", "progressive", "consistency", "boot")
_RULES: tuple[MergeRule, ...] = ("operator-copy", "denoiser-copy")


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        steps: numbers of steps T, ascending.
        turnovers: time constants β s of the moving average in one merge, ascending.
        iterations: of descent in a merge, whose average is simulated, ascending.
        num_eigenvalues: points in λ from 0.05 to 20 at which mixing is computed.
        catch_up_eigenvalues: λ at which the time is sought that mixing needs to make up.
        comb_steps: T for which all combs are tried, mixed.
        merge_time: s.

    Raises:
        InputError: naming the setting that is out of range.
    """

    steps: tuple[int, ...] = (16, 64, 128)
    turnovers: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    iterations: tuple[int, ...] = (64, 256, 1024, 4096)
    num_eigenvalues: int = 120
    catch_up_eigenvalues: tuple[float, ...] = (0.2, 0.5, 0.9, 1.0, 2.0, 5.0)
    comb_steps: int = 11
    merge_time: float = DEFAULT_MERGE_TIME

    def __post_init__(self) -> None:
        for key in ("steps", "turnovers", "iterations", "catch_up_eigenvalues"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
        for value in self.steps:
            if check_count("steps", value) < 4:
                raise InputError("steps", "must be >= 4", value)
        for value in self.iterations:
            check_count("iterations", value)
        if check_count("num_eigenvalues", self.num_eigenvalues) < 10:
            raise InputError("num_eigenvalues", "must be >= 10", self.num_eigenvalues)
        if not 3 <= check_count("comb_steps", self.comb_steps) <= 14:
            raise InputError("comb_steps", "must be from 3 to 14", self.comb_steps)
        for key in ("turnovers", "catch_up_eigenvalues"):
            for number in getattr(self, key):
                if check_number(key, number) <= 0:
                    raise InputError(key, "must be > 0", number)
        if not 0 < check_number("merge_time", self.merge_time) <= 40:
            raise InputError("merge_time", "must be > 0 and <= 40", self.merge_time)

    @classmethod
    def quick(cls) -> Config:
        """T = 16 and 64 at fewer points: seconds."""
        return cls(
            steps=(16, 64),
            turnovers=(2.0, 8.0, 32.0),
            iterations=(64, 256, 1024),
            num_eigenvalues=40,
            catch_up_eigenvalues=(0.2, 1.0, 5.0),
            comb_steps=8,
        )


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Repeat the search for crossings and plans with averages, and with all steps trained at once.

    Returns:
        ``tables``: ``ema_crossings``, ``ema_plans``, ``ema_simulation``; ``mixing`` (errors over
        λ), ``mixing_crossings``, ``mixing_time`` (how much longer mixing takes), ``mixing_combs``.
    """
    return {"tables": {**_ema_tables(config, runner), **_mixing_tables(config, runner)}}


def _ema_tables(config: Config, runner: Runner) -> dict[str, Any]:
    time = config.merge_time
    averages = [
        {"num_steps": steps, "merge_time": time, "turnovers": turnovers}
        for steps in config.steps
        for turnovers in (None, *config.turnovers)
    ]
    planned: list[Cell] = [
        {**cell, "spectrum": name} for cell in averages if cell["turnovers"] for name in SPECTRA
    ]
    simulated: list[Cell] = [
        {
            "num_steps": config.steps[0],
            "merge_time": time,
            "turnovers": config.turnovers[len(config.turnovers) // 2],
            "num_iterations": iterations,
        }
        for iterations in config.iterations
    ]
    rows = runner.sweep(ema_simulation, simulated, "simulating averages")
    return {
        "ema_crossings": runner.sweep(ema_crossings, averages, "finding crossings"),
        "ema_plans": runner.sweep(ema_plan, planned, "planning with averages"),
        "ema_simulation": [row for chunk in rows for row in chunk],
    }


def _mixing_tables(config: Config, runner: Runner) -> dict[str, Any]:
    time = config.merge_time
    eigenvalues = np.geomspace(0.05, 20.0, config.num_eigenvalues).round(9).tolist()
    settings = [
        {"num_steps": steps, "merge_time": time, "merge_rule": rule}
        for steps in config.steps
        for rule in _RULES
    ]
    errors = runner.sweep(
        mixing_errors,
        [{**setting, "eigenvalues": eigenvalues} for setting in settings],
        "mixing timesteps",
    )
    marks: list[Cell] = [{"num_steps": steps, "merge_time": time} for steps in config.steps]
    late: list[Cell] = [
        {
            **setting,
            "strategy": strategy,
            "turnovers": turnovers,
            "eigenvalues": list(config.catch_up_eigenvalues),
        }
        for setting in settings
        for strategy in CHAINS
        for turnovers in (None, max(config.turnovers))
    ]
    factors = runner.sweep(mixing_time, late, "catching up")
    combs: list[Cell] = [
        {
            "num_steps": config.comb_steps,
            "merge_time": time,
            "merge_rule": rule,
            "eigenvalues": eigenvalues,
        }
        for rule in _RULES
    ]
    best = runner.sweep(mixing_combs, combs, "trying all combs")
    return {
        "mixing": [row for chunk in errors for row in chunk],
        "mixing_crossings": runner.sweep(mixing_crossings, marks, "finding crossings of mixing"),
        "mixing_time": [row for chunk in factors for row in chunk],
        "mixing_combs": [row for chunk in best for row in chunk],
    }


def ema_crossings(num_steps: int, merge_time: float, turnovers: float | None) -> dict[str, Any]:
    """Where BOOT and vanilla cross with averaged weights, and with flow for as long as counts.

    ``effective_time`` is the s of flow that leaves the same retention at n_T = 1.
    """
    training = _training(merge_time, turnovers)
    retention = float(training.retention(np.ones(1))[0])
    effective = -0.5 * float(np.log(retention))
    found = crossings(num_steps, training)
    shorter = crossings(num_steps, GradientFlow(effective))
    return {
        "num_steps": num_steps,
        "turnovers": turnovers,
        "retention": retention,
        "effective_time": effective,
        "num_crossings": len(found),
        "first_crossing": found[0] if found else None,
        "last_crossing": found[-1] if found else None,
        "crossing_of_shorter_flow": shorter[0] if shorter else None,
    }


def ema_plan(num_steps: int, merge_time: float, turnovers: float, spectrum: str) -> dict[str, Any]:
    """The best plan with and without averaged weights, and what it costs to mistake one's plan.

    ``regret`` is the error, with averages, of the plan that is best without, relative to the best;
    ``gap`` bounds what any plan could be better than the best found.
    """
    flow = linear_problem(SPECTRA[spectrum], num_steps, GradientFlow(merge_time))
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
    problem = linear_problem((0.05, 0.5, 1.5, 5.0), num_steps, _training(merge_time, turnovers))
    rate = merge_time / num_iterations
    decay = float(np.exp(-turnovers / num_iterations))
    rows = []
    for strategy in _STRATEGIES:
        plan = build_strategy(strategy, num_steps)
        trained = train_plan(problem, plan, Descent(rate, num_iterations, decay=decay))
        error = trained.operators[0] * np.exp(-problem.teacher.log_products[0]) - 1.0
        predicted = np.expm1(evaluate(problem, plan).excess)
        rows.append(
            {
                "num_steps": num_steps,
                "turnovers": turnovers,
                "num_iterations": num_iterations,
                "strategy": strategy,
                "difference": float(np.abs(error / predicted - 1.0).max()),
            }
        )
    return rows


def _training(merge_time: float, turnovers: float | None) -> TrainingModel:
    if turnovers is None:
        return GradientFlow(merge_time)
    return EMAFlow(merge_time, turnovers / merge_time)
