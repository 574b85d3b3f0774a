"""Plans on the covariance of latents, with bootstrap intervals, by the linear theory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import xlogy

from opmerge.arrays import Array
from opmerge.linear_teacher import SMALLEST_EIGENVALUE
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.settings.types import MergeRule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.shared import rows_of
from opmerge_studies.shared.strategies import CANONICAL, cosine_problem, plan_row

FORMS = ("diagonal", "full")
"""Variances of single latents taken for eigenvalues, as in arXiv 2505.16024, or the eigenvalues."""

STRATEGIES = (*CANONICAL, "uniform:4", "temporal:8")
PLANNED = "certified"
"""What the planner's plan is called beside the strategies."""

_ENDS = (0.025, 0.975)


def contending_plans(problem: Problem, planned: Plan | None = None) -> dict[str, Plan]:
    """The named strategies, and last the plan that the planner finds, or found."""
    named = {name: build_strategy(name, problem.num_steps) for name in STRATEGIES}
    return {**named, PLANNED: planned or find_plan(problem).plan}


def by_direction(problem: Problem, values: Array, eigenvalues: Array) -> Array:
    """Values of a problem's columns, for each of these eigenvalues, which are all among them."""
    place = np.searchsorted(-problem.eigenvalues, -np.maximum(eigenvalues, SMALLEST_EIGENVALUE))
    return np.asarray(values[place])


def continuum_ratio(eigenvalues: Array) -> float:
    """W2 of vanilla over that of BOOT under operator copy, for T → ∞ and little retention.

    Their errors in a direction are in proportion to ``|1 - x|`` and ``x |ln x|``, x = √λ (THEORY
    7.5): BOOT errs less where ``Σ (1 - x)² > Σ (x ln x)²``. A direction without variance counts
    fully for vanilla, which starts from a step that leaves noise in it, and nothing for BOOT.
    """
    roots = np.sqrt(eigenvalues)
    return float(np.linalg.norm(1 - roots) / np.linalg.norm(xlogy(roots, roots)))


def describe_latents(
    path: str, digest: str, num_resamples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Both forms of the covariance of (N, d) latents in a file, with intervals over images.

    Returns:
        ``spectra``, a row a form, and ``eigenvalues``, a row a form and rank.
    """
    summary, listed = [], []
    for form, spectra in _resampled(path, num_resamples, seed).items():
        small = spectra <= 1
        shares = {
            "largest": spectra[:, 0],
            "share_small": small.mean(axis=1),
            "variance_small": (spectra * small).sum(axis=1) / spectra.sum(axis=1),
        }
        row: dict[str, Any] = {"form": form}
        for key, values in shares.items():
            row |= {key: float(values[0]), **_interval(values[1:], f"{key}_")}
        summary.append(row)
        low, high = np.quantile(spectra[1:], _ENDS, axis=0)
        columns = {"eigenvalue": spectra[0], "low": low, "high": high}
        listed += rows_of({"rank": range(1, 1 + len(low)), **columns}, form=form)
    return {"spectra": summary, "eigenvalues": listed}


def compare_plans(
    path: str,
    digest: str,
    num_steps: int,
    merge_time: float,
    merge_rule: MergeRule,
    num_resamples: int,
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """W2 in latent space of strategies and of the certified plan, in both forms.

    The plan is found once, for the latents as they are; it and the strategies are evaluated again
    on the covariance of each resample. In the linear theory teacher and student are positive
    multiples of the same noise in every direction, so W2 is their paired error as well.

    Returns:
        ``plans``, a row a form and plan, and ``winners``, a row a form.
    """
    plans, winners = [], []
    for form, spectra in _resampled(path, num_resamples, seed).items():
        problem = cosine_problem(spectra[0], num_steps, GradientFlow(merge_time), merge_rule)
        best = find_plan(problem)
        row = plan_row(problem, STRATEGIES, best)
        every = contending_plans(problem, best.plan)
        errors = _errors(problem, every, spectra)
        best_named = min(STRATEGIES, key=lambda name: float(row[name]))
        plans += [
            {
                "form": form,
                "plan": name,
                "w2": float(values[0]),
                **_interval(values[1:]),
                "merges": len(every[name].merges),
            }
            for name, values in errors.items()
        ]
        winners.append(
            {
                "form": form,
                **_contest({name: errors[name] for name in CANONICAL}),
                "continuum": continuum_ratio(spectra[0]),
                "best_named": best_named,
                "gain": row[best_named] / best.w2,
                **{key: row[key] for key in ("lower_bound", "best", "shape")},
                "best_plan": row["plan"],
            }
        )
    return {"plans": plans, "winners": winners}


def _contest(errors: Mapping[str, Array]) -> dict[str, Any]:
    """The winner, the runner-up, and their ratio on the same resamples."""
    winner, second, *_ = sorted(errors, key=lambda name: float(errors[name][0]))
    ratios = errors[second] / errors[winner]
    ends = _interval(ratios[1:], "ratio_")
    least = np.min(list(errors.values()), axis=0)
    return {
        "winner": winner,
        "second": second,
        "ratio": float(ratios[0]),
        **ends,
        "wins": float(np.mean((errors[winner] <= least)[1:])),
        "is_separated": ends["ratio_low"] > 1,
    }


def _errors(problem: Problem, plans: Mapping[str, Plan], spectra: Array) -> dict[str, Array]:
    """(1 + resamples,) W2 of each plan on every spectrum, all of them in one evaluation."""
    every = replace(problem, spectrum=eigenvalue_spectrum(spectra.ravel()))
    errors = {}
    for name, plan in plans.items():
        squares = every.errors(evaluate(every, plan).excess) / every.multiplicities
        errors[name] = np.sqrt(by_direction(every, squares, spectra).sum(axis=1))
    return errors


def _resampled(path: str, num_resamples: int, seed: int) -> dict[str, Array]:
    """(1 + resamples, d) descending eigenvalues by form: of all latents, then of each resample."""
    stored = np.load(path, allow_pickle=False).astype(np.float64)
    latents = stored.reshape(len(stored), -1)
    rng, spectra, count = np.random.default_rng(seed), [], len(latents)
    for number in range(1 + num_resamples):
        drawn = rng.multinomial(count, np.full(count, 1 / count)) if number else np.ones(count)
        covariance = np.cov(latents.T, aweights=drawn, ddof=0).reshape(latents.shape[1], -1)
        spectra.append([covariance.diagonal().copy(), np.linalg.eigvalsh(covariance)])
    descending = np.sort(np.swapaxes(spectra, 0, 1))[..., ::-1]
    return dict(zip(FORMS, np.maximum(descending, 0.0), strict=True))


def _interval(values: Array, prefix: str = "") -> dict[str, float]:
    """Percentile bootstrap interval of 95 %."""
    low, high = np.quantile(values, _ENDS)
    return {f"{prefix}low": float(low), f"{prefix}high": float(high)}
