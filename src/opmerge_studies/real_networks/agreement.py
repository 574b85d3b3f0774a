"""How well an order that was predicted agrees with the order that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import kendalltau, permutation_test, rankdata, spearmanr

_STATISTICS: Mapping[str, Any] = {"spearman": spearmanr, "kendall": kendalltau}
_PERMUTATIONS = 50_000  # covers all orders of up to 8 plans
_ROUNDING = 1e-9  # of a coefficient that is ±1
_QUANTILE = float(ndtri(0.975))
_FEWEST = 3  # plans whose order can be more than right or wrong


def agreement_of(kind: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How a kind of prediction agrees with what was measured, over the plans of a record.

    Returns:
        ``rank_agreement`` with the labels of the ``plans``; the same over the ``canonical``
        plans, or None if they are fewer than 3; and the ``reversed`` pairs of labels: of several
        seeds, those that every seed reverses, and of one, those that its intervals tell apart.
    """
    labels = np.array([entry["label"] for entry in entries])
    predicted = np.array([entry["predicted"][kind]["error"] for entry in entries])
    cells = [[seed["measured"]["paired_rms"] for seed in entry["per_seed"]] for entry in entries]
    value, low, high = (
        np.array([[cell[key] for cell in row] for row in cells], float).T
        for key in ("value", "low", "high")
    )
    if len(value) > 1:  # seeds tell more than the samples of each
        low = high = value

    def ranks(plans: NDArray[np.int_]) -> dict[str, Any]:
        agreement = rank_agreement(predicted[plans], value[:, plans])
        return {"plans": labels[plans].tolist(), **agreement}

    canonical = np.flatnonzero([entry["is_canonical"] for entry in entries])
    return {
        **ranks(np.arange(len(entries))),
        "canonical": ranks(canonical) if len(canonical) >= _FEWEST else None,
        "reversed": [labels[[*pair]].tolist() for pair in reversed_pairs(predicted, low, high)],
    }


def rank_agreement(predicted: ArrayLike, measured: ArrayLike) -> dict[str, Any]:
    """Spearman's ρ and Kendall's τ between one prediction and repeated measurements.

    Three questions of chance are kept apart. The spread over repetitions (seeds) tells how far
    training moves the coefficients of these plans; the p-value how often a random order of them
    would agree as well; the interval how far the coefficient might be from that of all plans, had
    these been drawn at random. They are few and picked by hand, so it proves nothing of others.

    ``predicted`` and ``measured``: (n,) and (r, n) errors of n >= 2 plans, in r >= 1 repetitions.

    Returns:
        ``spearman`` and ``kendall``, each with ``per_seed`` (r values), their ``mean``,
        ``of_means`` (of the mean errors) and its 95 % ``interval`` (``rank_interval``). Also
        one-sided p-values of ``of_means``: ``p_value`` of ρ, by permutation, exact for n <= 8,
        and ``kendall_p_value``, exact for n <= 33 without ties and normal otherwise.
    """
    values, rows = np.asarray(predicted, float), np.atleast_2d(np.asarray(measured, float))
    means = rows.mean(axis=0)
    ranks = rankdata(means)
    chance = permutation_test(
        (rankdata(values),),
        lambda order, axis: np.sum(order * ranks, axis=axis),  # ρ grows with it
        permutation_type="pairings",
        n_resamples=_PERMUTATIONS,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    coefficients: dict[str, Any] = {}
    for name, statistic in _STATISTICS.items():
        *per_seed, of_means = (float(statistic(values, row).statistic) for row in (*rows, means))
        interval = rank_interval(name, of_means, len(values))
        coefficients[name] = {
            "per_seed": per_seed,
            "mean": float(np.mean(per_seed)),
            "of_means": of_means,
            "interval": interval and list(interval),
        }
    return {
        **coefficients,
        "p_value": float(chance.pvalue),
        "kendall_p_value": float(kendalltau(values, means, alternative="greater").pvalue),
    }


def rank_interval(name: str, coefficient: float, count: int) -> tuple[float, float] | None:
    """95 % interval of a rank coefficient: ``tanh(artanh r ± 1.96 sqrt(v / (n - m)))``.

    For Spearman's ρ, v = 1 + ρ²/2 and m = 3, accurate for |ρ| < 0.95; for Kendall's τ, v = 0.437
    and m = 4, accurate for |τ| < 0.8 (Bonett & Wright 2000, Psychometrika 65, 23-28, the latter
    after Fieller, Hartley & Pearson 1957). There is none for n <= m and for r = ±1, of which the
    formula says nothing.
    """
    spread, lost = {"spearman": (1.0 + coefficient**2 / 2.0, 3), "kendall": (0.437, 4)}[name]
    if count <= lost or abs(coefficient) > 1.0 - _ROUNDING:
        return None
    centre, reach = np.arctanh(coefficient), _QUANTILE * np.sqrt(spread / (count - lost))
    return float(np.tanh(centre - reach)), float(np.tanh(centre + reach))


def reversed_pairs(predicted: ArrayLike, low: ArrayLike, high: ArrayLike) -> list[tuple[int, int]]:
    """Pairs (a, b) with a predicted better than b, and measured worse in every repetition.

    ``predicted`` is (n,), ``low`` and ``high`` are (r, n) ends of what was measured in r
    repetitions; ends that overlap in one of them decide nothing.
    """
    values, lowest, highest = np.asarray(predicted), np.atleast_2d(low), np.atleast_2d(high)
    return [
        (a, b)
        for a, b in combinations(np.argsort(values, kind="stable").tolist(), 2)
        if values[a] < values[b] and (lowest[:, a] > highest[:, b]).all()
    ]
