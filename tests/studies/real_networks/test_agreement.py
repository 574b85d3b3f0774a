"""Rank agreement of a predicted and a measured order: by hand, by brute force, by simulation."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from opmerge_studies.real_networks.agreement import (
    agreement_of,
    rank_agreement,
    rank_interval,
    reversed_pairs,
)


def test_rank_agreement_by_hand() -> None:
    """One neighbouring pair of four exchanged: ρ = 1 - 6·2/(4·15) = 0.8, τ = (5 - 1)/6.

    Of 24 orders the right one and 3 exchanges of neighbours agree as well: p = 4/24.
    """
    predicted = [1e-6, 1e-5, 1e-4, 1.0]
    found = rank_agreement(predicted, [[1, 2, 4, 3], [1, 2, 3, 5.5]])
    assert found["spearman"]["per_seed"] == pytest.approx([0.8, 1.0])
    assert found["kendall"]["per_seed"] == pytest.approx([2 / 3, 1.0])
    assert found["spearman"]["mean"] == pytest.approx(0.9)
    assert found["spearman"]["of_means"] == pytest.approx(1.0)  # 1, 2, 3.5, 4.25
    assert found["p_value"] == pytest.approx(1 / 24)
    assert found["kendall_p_value"] == pytest.approx(1 / 24)
    for order, count in (([1, 2, 4, 3], 4), ([4, 3, 2, 1], 24)):
        found = rank_agreement(predicted, order)
        assert found["p_value"] == pytest.approx(count / 24)
        assert found["kendall_p_value"] == pytest.approx(count / 24)


def test_p_values_count_the_orders_that_agree_as_well() -> None:
    """Of all 120 orders of 5 plans; ρ and τ count differently."""
    predicted, measured = np.arange(5.0), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    found = rank_agreement(predicted, measured)
    shares = []
    for statistic in (spearmanr, kendalltau):
        seen = statistic(predicted, measured).statistic - 1e-9
        every = [statistic(predicted, order).statistic for order in permutations(range(5))]
        shares.append(np.mean(np.array(every) >= seen))
    assert shares[0] != shares[1]
    assert [found["p_value"], found["kendall_p_value"]] == pytest.approx(shares, rel=1e-12)


def test_published_intervals() -> None:
    """Bonett's R package statpsych (``ci.spear``), and real-statistics.com for τ = -55/105."""
    y = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19]
    x = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51]
    found = rank_agreement(y, x)["spearman"]
    assert found["of_means"] == pytest.approx(0.8699639, abs=1e-7)
    assert found["interval"] == pytest.approx([0.5840951, 0.9638297], abs=1e-7)
    assert rank_interval("kendall", -55 / 105, 15) == pytest.approx((-0.74968, -0.18863), abs=1e-5)


@pytest.mark.parametrize(("count", "low", "high"), [(8, 0.94, 1.0), (20, 0.93, 0.97)])
def test_intervals_cover_the_truth_of_a_normal_law(count: int, low: float, high: float) -> None:
    """ρ = 6/π arcsin(r/2), τ = 2/π arcsin r. Of 4000 draws 95 % ± 1 % (3σ) are to be covered;
    another 1 % is left to the approximation, and of few pairs it may cover more.
    """
    rng, r, draws = np.random.default_rng(0), 0.6, 4000
    x, noise = rng.standard_normal((2, draws, count))
    y = r * x + np.sqrt(1 - r**2) * noise
    ranks = [values.argsort(axis=1).argsort(axis=1) for values in (x, y)]
    squares = ((ranks[0] - ranks[1]) ** 2).sum(axis=1)
    rho = 1 - 6 * squares / (count * (count**2 - 1))
    signs = [np.sign(values[:, :, None] - values[:, None, :]) for values in (x, y)]
    tau = (signs[0] * signs[1]).sum(axis=(1, 2)) / (count * (count - 1))
    for name, found, truth in (
        ("spearman", rho, 6 / np.pi * np.arcsin(r / 2)),
        ("kendall", tau, 2 / np.pi * np.arcsin(r)),
    ):
        ends = [pair for value in found.tolist() if (pair := rank_interval(name, value, count))]
        assert low < np.mean([one < truth < other for one, other in ends]) < high
        assert len(ends) > 0.99 * draws


def test_too_few_plans_have_no_interval() -> None:
    for name, most in (("spearman", 3), ("kendall", 4)):
        assert rank_interval(name, 0.5, most) is None
        assert rank_interval(name, 0.5, most + 1) is not None
    found = rank_agreement([1, 2, 3, 4], [1, 2, 4, 3])
    assert found["kendall"]["interval"] is None
    assert len(found["spearman"]["interval"]) == 2
    for sign in (1, -1):
        found = rank_agreement(range(9), [sign * value for value in range(9)])
        assert found["spearman"]["interval"] is found["kendall"]["interval"] is None


def test_pairs_are_reversed_in_every_repetition_or_not() -> None:
    predicted = [3.0, 1.0, 2.0]
    assert reversed_pairs(predicted, low=[1.0, 2.1, 4.0], high=[2.0, 3.0, 5.0]) == [(1, 0), (2, 0)]
    assert reversed_pairs(predicted, low=[1.0, 2.0, 1.5], high=[2.0, 3.0, 5.0]) == []
    assert reversed_pairs([1.0, 1.0], low=[2.0, 0.0], high=[2.0, 0.0]) == []
    # plan 1 is worse than plan 0 in both, although by less than the seeds differ; plan 2 is not
    both = [[1.0, 1.1, 1.2], [2.0, 2.1, 1.9]]
    assert reversed_pairs(predicted, both, both) == [(1, 0)]


def test_only_what_every_seed_says_is_reversed() -> None:
    """b is predicted best; measured, a is below b in both seeds, whose ranges overlap."""

    def entry(name: str, predicted: float, values: list[float], reach: float) -> dict[str, Any]:
        measured = [{"value": v, "low": v - reach, "high": v + reach} for v in values]
        return {
            "label": name,
            "is_canonical": name != "d",
            "predicted": {"spectrum": {"error": predicted}},
            "per_seed": [{"measured": {"paired_rms": each}} for each in measured],
        }

    def found(count: int, reach: float) -> dict[str, Any]:
        values = {"a": [1.0, 2.0], "b": [1.1, 2.1], "c": [1.2, 1.9], "d": [1.3, 2.2]}
        predicted = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}
        return agreement_of(
            "spectrum", [entry(key, predicted[key], values[key][:count], reach) for key in values]
        )

    assert found(2, reach=9.0)["reversed"] == [["b", "a"]]
    assert found(1, reach=0.01)["reversed"] == [["b", "a"], ["c", "a"]]
    assert found(1, reach=0.06)["reversed"] == [["c", "a"]]
    canonical = found(1, reach=0.01)["canonical"]
    assert canonical["plans"] == ["a", "b", "c"]
    # ranks 3, 1, 2 against 1, 2, 3: ρ = 1 - 6·6/24; with d behind in both, 1 - 6·6/60
    assert canonical["spearman"]["of_means"] == pytest.approx(-0.5)
    assert found(1, reach=0.01)["spearman"]["of_means"] == pytest.approx(0.4)
