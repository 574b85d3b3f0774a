"""The optimisation time s that suits a way of training best, and how well the theory then fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge_studies.shared.strategies import scalar_problem

RESOLVED = 1e-9
"""Error of a weight, relative to the weight, above which rounding plays no part."""

_SHORTEST = 1e-6  # of a fitted time
_WAY = ("optimiser", "learning_rate", "batch_size", "num_iterations")
_FIT = (
    *("fitted_time", "r_squared", "exponent", "least_time", "greatest_time", "sign_changes"),
    *("merges", "median_factor", "worst_factor", "best_foretold", "contests"),
)

Row = dict[str, Any]


def fit_times(ends: Sequence[Row], merges: Sequence[Row]) -> list[Row]:
    """For each way of training, the s that suits it best, from whole students and their merges.

    Returns:
        A row for each way: ``fitted_time`` s of -ln|ρ| = 2 s n by least squares over all merges
        and λ, its ``r_squared``, ``exponent`` p of -ln|ρ| ∝ n^p (1 in theory), and how well the
        closed form with this s foretells the ends. Empty where all merges ended at rounding.
    """
    ways: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = {}
    for place, rows in enumerate((ends, merges)):
        for row in rows:
            ways.setdefault(tuple(row[key] for key in _WAY), ([], []))[place].append(row)
    return [{**dict(zip(_WAY, way, strict=True)), **_fit(*rows)} for way, rows in ways.items()]


def _fit(ends: list[Row], merges: list[Row]) -> Row:
    if not merges:
        return dict.fromkeys(_FIT) | {"merges": 0}
    retention = np.array([row["retention"] for row in merges])
    doubled = 2.0 * np.array([row["variance"] for row in merges])
    learned = -np.log(np.abs(retention))
    time = float(doubled @ learned / (doubled @ doubled))
    residual = np.sum((learned - time * doubled) ** 2)
    positive = learned > 0
    exponent = np.polyfit(np.log(doubled[positive]), np.log(learned[positive]), 1)[0]
    return {
        "fitted_time": time,
        "r_squared": float(1.0 - residual / np.sum((learned - learned.mean()) ** 2)),
        "exponent": float(exponent),
        "least_time": float((learned / doubled).min()),
        "greatest_time": float((learned / doubled).max()),
        "sign_changes": float(np.mean(retention < 0)),
        "merges": len(merges),
        **_prediction(ends, time),
    }


def _prediction(ends: list[Row], time: float) -> Row:
    """How well the closed form with this s foretells the errors, and which strategy is best."""
    errors: dict[tuple[int, float], dict[str, float]] = {}
    for row in ends:
        place = (row["num_steps"], row["eigenvalue"])
        errors.setdefault(place, {})[row["strategy"]] = row["error"]
    factors, foretold = [], []
    for (num_steps, eigenvalue), measured in errors.items():
        problem = scalar_problem(eigenvalue, num_steps, max(time, _SHORTEST))
        excess = {
            name: evaluate(problem, build_strategy(name, num_steps)).excess[0] for name in measured
        }
        predicted = {name: float(np.abs(np.expm1(value))) for name, value in excess.items()}
        clear = [name for name, error in measured.items() if error > RESOLVED]
        factors += [abs(np.log(measured[name] / predicted[name])) for name in clear]
        if len(clear) == len(measured):
            best = min(measured, key=measured.__getitem__)
            foretold.append(best == min(predicted, key=predicted.__getitem__))
    return {
        "median_factor": float(np.exp(np.median(factors))) if factors else None,
        "worst_factor": float(np.exp(max(factors))) if factors else None,
        "best_foretold": sum(foretold),
        "contests": len(foretold),
    }
