"""The phase transition: the λ at which sequential BOOT and vanilla err equally."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

from opmerge.arrays import Array
from opmerge.merging import evaluate
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.training import TrainingModel
from opmerge_studies.shared.strategies import cosine_problem

_SCAN = 400


def crossings(num_steps: int, training: TrainingModel) -> list[float]:
    """The λ > 1 at which sequential BOOT and vanilla err equally, ascending: three for T >= 3.

    Under operator copy, with the plain cosine schedule and the teacher as the target. Both train
    at T alone, so all that they see of training is its retention at n_T = 1 (THEORY 7.5).
    """
    boot, vanilla = (build_strategy(name, num_steps) for name in ("boot", "vanilla"))

    def log_ratio(eigenvalues: Array) -> Array:
        problem = cosine_problem(eigenvalues, num_steps, training)
        return _log_errors(problem, boot) - _log_errors(problem, vanilla)

    scan = scan_points(num_steps)
    found = sign_changes(log_ratio, scan)
    if len(found) < 3:  # two of them may lie within one step of the scan
        finer = np.union1d(scan, _between_crossings(num_steps))
        found = max(found, sign_changes(log_ratio, finer), key=len)
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


def scan_points(num_steps: int) -> Array:
    """λ from 1 + 0.05/T to 1 + 40/T, where transitions lie: their distance from 1 falls as 1/T."""
    return 1.0 + np.geomspace(0.05, 40.0, _SCAN) / num_steps


def _between_crossings(num_steps: int) -> Array:
    """λ between the first and the second, and between the second and the third crossing.

    For many steps they lie at 1 + π²/4T + 2L, L = -q, 0 and q (THEORY 7.5), these at L = ∓q/2.
    """
    q = np.pi**2 / (4 * num_steps**1.5) * np.sqrt(np.pi**2 / 32 - 0.25)
    return np.array([-q, q]) + 1.0 + np.pi**2 / (4 * num_steps)


def sign_changes(function: Callable[[Array], Array], points: Array) -> list[float]:
    """Zeros of an elementwise function between ascending neighbours where its sign differs."""
    signed = list(zip(points.tolist(), function(points).tolist(), strict=True))
    return [
        float(brentq(lambda point: float(function(np.array([point]))[0]), below, above, xtol=1e-12))
        for (below, left), (above, right) in pairwise(signed)
        if left * right < 0
    ]


def _log_errors(problem: Problem, plan: Plan) -> Array:
    """Log of the relative error at each distinct eigenvalue, ascending; its modes together."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(np.expm1(evaluate(problem, plan).excess)))
    weights = problem.training.mode_weights
    squares: Array = logsumexp(2.0 * logs.reshape(-1, len(weights)), b=weights, axis=1)
    return 0.5 * squares[::-1]
