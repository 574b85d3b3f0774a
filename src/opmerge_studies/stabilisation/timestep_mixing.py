"""Cells of the study `stabilisation`: plans whose merges are all trained at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from opmerge.merging import evaluate
from opmerge.plans import Plan, Tree, build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.training import GradientFlow
from opmerge_studies.shared.strategies import cosine_problem, is_as_good, scalar_problem
from opmerge_studies.shared.transition import crossings, scan_points, sign_changes
from opmerge_studies.stabilisation.mixing import mixed_excess

__all__ = ["CHAINS", "mixing_combs", "mixing_crossings", "mixing_errors", "mixing_time"]

CHAINS = ("boot", "consistency")
"""Strategies of more than one merge whose students follow one another."""

_LARGEST_FACTOR = 2.0**20

Array = NDArray[np.float64]


def mixing_errors(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """Relative error of the strategies at each λ, their merges in turn and all at once."""
    problem = cosine_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    plans = {name: build_strategy(name, num_steps) for name in ("vanilla", *CHAINS)}
    excess = {name: evaluate(problem, plan).excess for name, plan in plans.items()}
    excess |= {f"mixed_{name}": mixed_excess(problem, plans[name]) for name in CHAINS}
    errors = {name: np.abs(np.expm1(values)) for name, values in excess.items()}
    return [
        {
            "num_steps": num_steps,
            "merge_rule": merge_rule,
            "eigenvalue": float(problem.eigenvalues[row]),
            **{name: float(values[row]) for name, values in errors.items()},
        }
        for row in reversed(range(len(problem.eigenvalues)))
    ]


def mixing_crossings(num_steps: int, merge_time: float) -> dict[str, Any]:
    """The window of λ in which mixed BOOT is as good as vanilla, as its error passes through 0.

    Two errors are equal where their difference or their sum changes sign.
    """
    boot, vanilla = (build_strategy(name, num_steps) for name in ("boot", "vanilla"))
    training, points = GradientFlow(merge_time), scan_points(num_steps)

    def errors(eigenvalues: Array) -> tuple[Array, Array]:
        problem = cosine_problem(eigenvalues, num_steps, training)
        mixed, in_turn = mixed_excess(problem, boot), evaluate(problem, vanilla).excess
        return np.expm1(mixed)[::-1], np.expm1(in_turn)[::-1]

    window = sorted(
        sign_changes(lambda values: np.subtract(*errors(values)), points)
        + sign_changes(lambda values: np.add(*errors(values)), points)
    )
    return {
        "num_steps": num_steps,
        "sequential_crossing": next(iter(crossings(num_steps, training)), None),
        "num_crossings": len(window),
        "window_from": window[0] if window else None,
        "window_to": window[-1] if window else None,
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
        problem = scalar_problem(eigenvalue, num_steps, merge_time, merge_rule)
        in_turn = _log_error(evaluate(problem, plan).excess)

        def lost(factor: float, problem: Problem = problem, in_turn: float = in_turn) -> float:
            """Log of the error at once, in so many times the time, over that in turn."""
            longer = replace(problem, training=GradientFlow(factor * merge_time))
            return _log_error(mixed_excess(longer, plan, rate)) - in_turn

        above = 1.0
        while lost(above) > 0 and above <= _LARGEST_FACTOR:
            above *= 1.5
        factor = 1.0 if above == 1.0 else None
        if 1.0 < above <= _LARGEST_FACTOR:
            factor = float(brentq(lost, above / 1.5, above))
        rows.append(
            {
                "num_steps": num_steps,
                "merge_rule": merge_rule,
                "strategy": strategy,
                "turnovers": turnovers,
                "eigenvalue": eigenvalue,
                "factor": factor,
                "error_ratio": float(np.exp(lost(1.0))),
                "merges": len(plan.merges),
            }
        )
    return rows


def _log_error(excess: Array) -> float:
    """Log of the relative error at the only eigenvalue."""
    return float(np.log(np.abs(np.expm1(excess[0]))))


def mixing_combs(
    num_steps: int, merge_time: float, merge_rule: MergeRule, eigenvalues: Sequence[float]
) -> list[dict[str, Any]]:
    """The best of all combs at each λ, their merges in turn and all at once.

    A comb trains the student at T alone, block after block.
    """
    problem = cosine_problem(eigenvalues, num_steps, GradientFlow(merge_time), merge_rule)
    inner = range(num_steps - 2, 0, -1)
    combs = [
        Plan((Tree.chain(num_steps, (num_steps - 1, *chosen, 0)),))
        for count in range(len(inner) + 1)
        for chosen in combinations(inner, count)
    ]
    in_turn = np.abs([np.expm1(evaluate(problem, comb).excess) for comb in combs])
    at_once = np.abs([np.expm1(mixed_excess(problem, comb)) for comb in combs])
    places = {name: combs.index(build_strategy(name, num_steps)) for name in ("vanilla", "boot")}

    def best(errors: Array) -> str:
        """The named comb that errs as little as any, or ``neither``."""
        equal = (name for name, i in places.items() if is_as_good(errors[i], errors.min()))
        return next(equal, "neither")

    return [
        {
            "num_steps": num_steps,
            "merge_rule": merge_rule,
            "eigenvalue": float(problem.eigenvalues[row]),
            "combs": len(combs),
            "best_in_turn": best(in_turn[:, row]),
            "best_at_once": best(at_once[:, row]),
            "merges_in_turn": len(combs[int(in_turn[:, row].argmin())].merges),
            "merges_at_once": len(combs[int(at_once[:, row].argmin())].merges),
        }
        for row in reversed(range(len(problem.eigenvalues)))
    ]
