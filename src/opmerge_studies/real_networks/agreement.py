"""How well an order that was predicted agrees with the order that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import kendalltau, permutation_test, rankdata, spearmanr

__all__ = ["kendall_interval", "rank_agreement", "reversed_pairs", "spearman_interval"]

Array = NDArray[np.float64]
Interval = tuple[float, float]

_PERMUTATIONS = 50_000  # covers all orders of up to 8 plans
_ROUNDING = 1e-9  # of a coefficient that is ±1
_QUANTILE = float(ndtri(0.975))


def rank_agreement(predicted: ArrayLike, measured: ArrayLike) -> dict[str, Any]:
    """Spearman's ρ and Kendall's τ between one prediction and repeated measurements.

    Three questions of chance are kept apart. The spread over repetitions (seeds) tells how far
    training moves the coefficients of these plans. The p-value tells how often a random order of
    these plans would agree as well. The interval tells how far the coefficient might be from that
    of all plans, had these been drawn from them at random and been many: they are few and picked
    by hand, so it shows how little their number can say, and it proves nothing of plans that were
    not tried.

    Args:
        predicted: (n,) predicted errors of n >= 2 plans.
        measured: (r, n) measured errors in r >= 1 repetitions.

    Returns:
        ``spearman`` and ``kendall``, each with ``per_seed`` (r values), their ``mean``,
        ``of_means`` (of the mean errors) and its 95 % ``interval``, or None (see
        ``spearman_interval`` and ``kendall_interval``). Also one-sided p-values of ``of_means``:
        ``p_value`` of ρ, by permutation, exact for n <= 8, and ``kendall_p_value``, exact for
        n <= 33 without ties and normal otherwise.
    """
    values, rows = np.asarray(predicted, float), np.atleast_2d(np.asarray(measured, float))
    means = rows.mean(axis=0)
    kendall = kendalltau(values, means, alternative="greater")
    return {
        "spearman": _coefficients(spearmanr, spearman_interval, values, rows),
        "kendall": _coefficients(kendalltau, kendall_interval, values, rows),
        "p_value": _permutation_p_value(values, means),
        "kendall_p_value": float(kendall.pvalue),
    }


def spearman_interval(coefficient: float, count: int) -> Interval | None:
    """95 % interval of Spearman's ρ: ``tanh(artanh ρ ± 1.96 sqrt((1 + ρ²/2) / (n - 3)))``.

    Bonett & Wright 2000 (Psychometrika 65, 23-28), who find it accurate for |ρ| < 0.95.

    Args:
        coefficient: ρ of n pairs.
        count: n.

    Returns:
        Both ends; None for n <= 3 and for ρ = ±1, of which the formula says nothing.
    """
    return _fisher_interval(coefficient, 1.0 + coefficient**2 / 2.0, count - 3)


def kendall_interval(coefficient: float, count: int) -> Interval | None:
    """95 % interval of Kendall's τ: ``tanh(artanh τ ± 1.96 sqrt(0.437 / (n - 4)))``.

    Bonett & Wright 2000, after Fieller, Hartley & Pearson 1957; accurate for |τ| < 0.8.

    Args:
        coefficient: τ of n pairs.
        count: n.

    Returns:
        Both ends; None for n <= 4 and for τ = ±1, of which the formula says nothing.
    """
    return _fisher_interval(coefficient, 0.437, count - 4)


def _fisher_interval(coefficient: float, spread: float, freedom: int) -> Interval | None:
    if freedom < 1 or abs(coefficient) > 1.0 - _ROUNDING:
        return None
    centre, reach = np.arctanh(coefficient), _QUANTILE * np.sqrt(spread / freedom)
    return float(np.tanh(centre - reach)), float(np.tanh(centre + reach))


def _coefficients(
    statistic: Callable[[Array, Array], Any],
    interval: Callable[[float, int], Interval | None],
    predicted: Array,
    rows: Array,
) -> dict[str, Any]:
    *per_seed, of_means = (
        float(statistic(predicted, row).statistic) for row in (*rows, rows.mean(axis=0))
    )
    ends = interval(of_means, len(predicted))
    return {
        "per_seed": per_seed,
        "mean": float(np.mean(per_seed)),
        "of_means": of_means,
        "interval": ends and list(ends),
    }


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
    predicted: Sequence[float], low: ArrayLike, high: ArrayLike
) -> list[tuple[int, int]]:
    """Pairs (a, b) with a predicted better than b, and measured worse in every repetition.

    Args:
        predicted: (n,) predicted errors.
        low, high: (r, n) ends of what was measured in r repetitions; ends that overlap in one of
            them decide nothing.
    """
    lowest, highest = np.atleast_2d(np.asarray(low, float)), np.atleast_2d(np.asarray(high, float))
    pairs = combinations(np.argsort(np.asarray(predicted), kind="stable").tolist(), 2)
    return [
        (a, b)
        for a, b in pairs
        if predicted[a] < predicted[b] and bool((lowest[:, a] > highest[:, b]).all())
    ]
