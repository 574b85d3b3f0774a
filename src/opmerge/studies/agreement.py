"""How well an order that was predicted agrees with the order that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, permutation_test, rankdata, spearmanr

__all__ = ["rank_agreement", "reversed_pairs"]

Array = NDArray[np.float64]

_PERMUTATIONS = 50_000  # covers all orders of up to 8 plans


def rank_agreement(predicted: ArrayLike, measured: ArrayLike) -> dict[str, Any]:
    """Spearman's ρ and Kendall's τ between one prediction and repeated measurements.

    The repetitions (seeds) tell how far training and measurement move the numbers. They say
    nothing about other plans, of which there are too few for a bootstrap; what can be said of
    chance is the p-value: how often a random order of the plans would agree as well.

    Args:
        predicted: (n,) predicted errors of n >= 2 plans.
        measured: (r, n) measured errors in r >= 1 repetitions.

    Returns:
        ``spearman`` and ``kendall``, each with ``per_seed`` (r values), their ``mean`` and
        ``of_means`` (of the mean errors), and ``p_value``: one-sided, of ρ of the mean errors,
        by permutation, exact for n <= 8.
    """
    values, rows = np.asarray(predicted, float), np.atleast_2d(np.asarray(measured, float))
    found: dict[str, Any] = {
        name: _over_seeds(
            [float(statistic(values, row).statistic) for row in (*rows, rows.mean(0))]
        )
        for name, statistic in (("spearman", spearmanr), ("kendall", kendalltau))
    }
    return {**found, "p_value": _permutation_p_value(values, rows.mean(axis=0))}


def _over_seeds(coefficients: list[float]) -> dict[str, Any]:
    *per_seed, of_means = coefficients
    return {"per_seed": per_seed, "mean": float(np.mean(per_seed)), "of_means": of_means}


def _permutation_p_value(predicted: Array, measured: Array) -> float:
    """ρ grows with the inner product of the ranks, so that is what is permuted."""
    ranks = rankdata(measured)
    result = permutation_test(
        (rankdata(predicted),),
        lambda order, axis: np.sum(order * ranks, axis=axis),
        permutation_type="pairings",
        n_resamples=_PERMUTATIONS,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def reversed_pairs(
    predicted: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> list[tuple[int, int]]:
    """Pairs (a, b) with a predicted better than b, whose measured ranges say the opposite.

    Args:
        predicted: (n,) predicted errors.
        low, high: (n,) smallest and largest error measured; ranges that overlap decide nothing.
    """
    pairs = combinations(np.argsort(np.asarray(predicted), kind="stable").tolist(), 2)
    return [(a, b) for a, b in pairs if predicted[a] < predicted[b] and low[a] > high[b]]
