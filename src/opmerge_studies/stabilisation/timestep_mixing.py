"""Cells of the study `stabilisation`: plans whose merges are all trained at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from opmerge.merging import evaluate
from opmerge.plans import Plan, Tree, build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow, TrainingModel
from opmerge_studies.shared.transition import crossings, scan_points, sign_changes
from opmerge_studies.stabilisation.mixing import mixed_excess

__all__ = [
    "CHAINS",
    "linear_problem",
    "mixing_combs",
    "mixing_crossings",
    "mixing_errors",
    "mixing_time",
]

CHAINS = ("boot", "consistency")
"""Strategies of more than one merge whose students follow one another."""

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_LARGEST_FACTOR = 2.0**20

Array = NDArray[np.float64]


def mixing_errors(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """Relative error of the strategies at each λ, their merges in turn and all at once."""
    problem = linear_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    columns = {
        "vanilla": evaluate(problem, build_strategy("vanilla", num_steps)).excess,
        **{name: evaluate(problem, build_strategy(name, num_steps)).excess for name in CHAINS},
        **{
            f"mixed_{name}": mixed_excess(problem, build_strategy(name, num_steps))
            for name in CHAINS
        },
    }
    errors = {name: np.abs(np.expm1(excess)) for name, excess in columns.items()}
    return [
        {
            "num_steps": num_steps,
            "merge_rule": merge_rule,
            "eigenvalue": float(eigenvalue),
            **{name: float(values[row]) for name, values in errors.items()},
        }
        for row, eigenvalue in reversed(list(enumerate(problem.eigenvalues)))
    ]


def mixing_crossings(num_steps: int, merge_time: float) -> dict[str, Any]:
    """The window of λ in which mixed BOOT is as good as vanilla, as its error passes through 0.

    Two errors are equal where their difference or their sum changes sign.
    """
    boot, vanilla = (build_strategy(name, num_steps) for name in ("boot", "vanilla"))

    def errors(eigenvalues: Array) -> tuple[Array, Array]:
        problem = linear_problem(eigenvalues.tolist(), num_steps, GradientFlow(merge_time))
        mixed = np.expm1(mixed_excess(problem, boot))[::-1]
        return mixed, np.expm1(evaluate(problem, vanilla).excess)[::-1]

    points = scan_points(num_steps)
    found = sorted(
        sign_changes(lambda values: np.subtract(*errors(values)), points)
        + sign_changes(lambda values: np.add(*errors(values)), points)
    )
    sequential = crossings(num_steps, GradientFlow(merge_time))
    return {
        "num_steps": num_steps,
        "sequential_crossing": sequential[0] if sequential else None,
        "num_crossings": len(found),
        "window_from": found[0] if found else None,
        "window_to": found[-1] if found else None,
    }


def mixing_time(
    num_steps: int,
    merge_time: float,
    merge_rule: MergeRule,
    strategy: str,
    turnovers: float | None,
    eigenvalues: Sequence[float],
) -> list[dict[str, Any]]:
    """How many times longer all merges must train at once to err as little as in turn.

    With ``turnovers`` targets read moving averages at the rate β = turnovers / s.
    """
    plan = build_strategy(strategy, num_steps)
    rate = None if turnovers is None else turnovers / merge_time
    rows = []
    for eigenvalue in eigenvalues:
        problem = linear_problem([eigenvalue], num_steps, GradientFlow(merge_time), merge_rule)
        goal = float(np.log(np.abs(np.expm1(evaluate(problem, plan).excess[0]))))
        at_once = _log_mixed(problem, plan, 1.0, rate)
        rows.append(
            {
                "num_steps": num_steps,
                "merge_rule": merge_rule,
                "strategy": strategy,
                "turnovers": turnovers,
                "eigenvalue": eigenvalue,
                "factor": _factor(problem, plan, goal, rate),
                "error_ratio": float(np.exp(at_once - goal)),
                "merges": len(plan.merges),
            }
        )
    return rows


def _log_mixed(problem: Problem, plan: Plan, factor: float, rate: float | None) -> float:
    """Log of the relative error when all merges train at once for ``factor`` times as long."""
    assert isinstance(problem.training, GradientFlow)
    longer = replace(problem, training=GradientFlow(factor * problem.training.time))
    return float(np.log(np.abs(np.expm1(mixed_excess(longer, plan, rate)[0]))))


def _factor(problem: Problem, plan: Plan, goal: float, rate: float | None) -> float | None:
    """The factor of time at which mixing reaches ``goal``; None if it does not."""
    above = 1.0
    while _log_mixed(problem, plan, above, rate) > goal:
        above *= 1.5
        if above > _LARGEST_FACTOR:
            return None
    if above == 1.0:
        return 1.0
    found: float = brentq(
        lambda factor: _log_mixed(problem, plan, factor, rate) - goal, above / 1.5, above
    )
    return found


def mixing_combs(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """The best of all combs at each λ, their merges in turn and all at once."""
    problem = linear_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    combs = list(_combs(num_steps))
    in_turn = np.abs([np.expm1(evaluate(problem, plan).excess) for plan in combs])
    at_once = np.abs([np.expm1(mixed_excess(problem, plan)) for plan in combs])
    named = {name: build_strategy(name, num_steps) for name in ("vanilla", "boot")}
    place = {name: combs.index(plan) for name, plan in named.items()}
    return [
        {
            "num_steps": num_steps,
            "merge_rule": merge_rule,
            "eigenvalue": float(eigenvalue),
            "combs": len(combs),
            "best_in_turn": _name(in_turn[:, row], place),
            "best_at_once": _name(at_once[:, row], place),
            "merges_in_turn": len(combs[int(in_turn[:, row].argmin())].merges),
            "merges_at_once": len(combs[int(at_once[:, row].argmin())].merges),
        }
        for row, eigenvalue in reversed(list(enumerate(problem.eigenvalues)))
    ]


def _combs(num_steps: int) -> list[Plan]:
    """All plans in which only the student at T is trained, block after block."""
    inner = range(num_steps - 2, 0, -1)
    return [
        Plan((Tree.chain(num_steps, (num_steps - 1, *chosen, 0)),))
        for count in range(len(inner) + 1)
        for chosen in combinations(inner, count)
    ]


def _name(errors: Array, place: Mapping[str, int]) -> str:
    for name, number in place.items():
        if errors[number] <= errors.min() * (1 + _EQUAL):
            return name
    return "neither"


def linear_problem(
    eigenvalues: Sequence[float],
    num_steps: int,
    training: TrainingModel,
    merge_rule: MergeRule = "operator-copy",
) -> Problem:
    """Eigenvalues under the plain cosine schedule."""
    spectrum = eigenvalue_spectrum(eigenvalues)
    return Problem(spectrum, cosine_schedule(num_steps), training, merge_rule=merge_rule)
