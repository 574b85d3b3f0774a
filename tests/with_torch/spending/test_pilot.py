"""Successive halving, against what its budget allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opmerge.spending.pilot import successive_halving


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9, unique=True))
def test_the_best_of_exact_scores_is_left_and_the_budget_is_kept(errors: list[int]) -> None:
    spent: list[float] = []

    def score(candidate: int, budget: float) -> float:
        spent.append(budget)
        return candidate

    assert successive_halving(errors, 120.0, score) == min(errors)
    assert sum(spent) == pytest.approx(120.0 if len(errors) > 1 else 0.0)


def test_a_later_round_may_turn_an_earlier_one() -> None:
    """With 4 candidates and 16 to spend, 2 each at first and 4 each then: late learners pass."""
    curves = {"quick": {2: 1.0, 4: 0.9}, "late": {2: 2.0, 4: 0.1}, "slow": {2: 3.0}, "no": {2: 9.0}}

    def score(candidate: str, budget: float) -> float:
        return curves[candidate][round(budget)]

    assert successive_halving(list(curves), 16.0, score) == "late"
    assert successive_halving(list(curves)[:1], 16.0, score) == "quick"


def test_of_equals_the_first_is_left() -> None:
    assert successive_halving(["a", "b", "c"], 6.0, lambda candidate, budget: 1.0) == "a"
