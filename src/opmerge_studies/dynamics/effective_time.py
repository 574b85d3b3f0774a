"""The optimisation time s that suits a way of training best, and how well the theory then fits."""

from __future__ import annotations

from typing import Any

import numpy as np

from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow

__all__ = ["RESOLVED", "fit_times"]

RESOLVED = 1e-9
"""Error of a weight, relative to the weight, above which rounding plays no part."""

_SHORTEST = 1e-6  # of a fitted time

_FIT = (
    "fitted_time",
    "r_squared",
    "exponent",
    "least_time",
    "greatest_time",
    "sign_changes",
    "merges",
    "median_factor",
    "worst_factor",
    "best_foretold",
    "contests",
)


def fit_times(ends: list[dict[str, Any]], merges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each way of training, the s that suits it best, and how well."""
    keys = ("optimiser", "learning_rate", "batch_size", "num_iterations")
    ways = list(dict.fromkeys(tuple(row[key] for key in keys) for row in ends))
    fits = []
    for way in ways:
        setting = dict(zip(keys, way, strict=True))
        chosen = [
            [row for row in rows if all(row[key] == setting[key] for key in keys)]
            for rows in (ends, merges)
        ]
        fits.append({**setting, **_fit(*chosen)})
    return fits


def _fit(ends: list[dict[str, Any]], merges: list[dict[str, Any]]) -> dict[str, Any]:
    """Least squares of -ln|ρ| = 2 s n over all merges and λ, and what it predicts of the ends.

    ``exponent`` is p of -ln|ρ| ∝ n^p, 1 in theory. Empty where all merges ended at rounding.
    """
    if not merges:
        return dict.fromkeys(_FIT) | {"merges": 0}
    retention = np.array([row["retention"] for row in merges])
    doubled = 2.0 * np.array([row["variance"] for row in merges])
    learned = -np.log(np.abs(retention))
    time = float(doubled @ learned / (doubled @ doubled))
    residual = np.sum((learned - time * doubled) ** 2)
    total = np.sum((learned - learned.mean()) ** 2)
    positive = learned > 0
    exponent = np.polyfit(np.log(doubled[positive]), np.log(learned[positive]), 1)[0]
    each = learned / doubled
    return {
        "fitted_time": time,
        "r_squared": float(1.0 - residual / total),
        "exponent": float(exponent),
        "least_time": float(each.min()),
        "greatest_time": float(each.max()),
        "sign_changes": float(np.mean(retention < 0)),
        "merges": len(merges),
        **_prediction(ends, time),
    }


def _prediction(ends: list[dict[str, Any]], time: float) -> dict[str, Any]:
    """How well the closed form with this s foretells the errors, and which strategy is best."""
    settings = dict.fromkeys((row["num_steps"], row["eigenvalue"]) for row in ends)
    factors: list[float] = []
    right = 0
    contests = 0
    for num_steps, eigenvalue in settings:
        problem = Problem(
            eigenvalue_spectrum([eigenvalue]),
            cosine_schedule(num_steps),
            GradientFlow(max(time, _SHORTEST)),
        )
        rows = [r for r in ends if (r["num_steps"], r["eigenvalue"]) == (num_steps, eigenvalue)]
        measured = {row["strategy"]: row["error"] for row in rows}
        predicted = {
            name: float(
                np.abs(np.expm1(evaluate(problem, build_strategy(name, num_steps)).excess[0]))
            )
            for name in measured
        }
        clear = [name for name in measured if measured[name] > RESOLVED]
        factors += [abs(np.log(measured[name] / predicted[name])) for name in clear]
        if len(clear) == len(measured):
            contests += 1
            right += min(measured, key=measured.__getitem__) == min(
                predicted, key=predicted.__getitem__
            )
    return {
        "median_factor": float(np.exp(np.median(factors))) if factors else None,
        "worst_factor": float(np.exp(max(factors))) if factors else None,
        "best_foretold": right,
        "contests": contests,
    }
