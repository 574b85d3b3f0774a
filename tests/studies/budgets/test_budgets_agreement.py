"""How far forecasts agree with measurements: planted numbers, counted by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from opmerge import build_strategy
from opmerge.forecast import Forecast
from opmerge_studies.budgets import PLANNED, Contender
from opmerge_studies.budgets.agreement import agreement_rows, regret_rows, spearman
from opmerge_studies.budgets.page import standing


def contender(
    name: str, rms: float, student_steps: int = 1, budget: float = 1e3, spread: float = 1.2
) -> Contender:
    """A plan that is forecast so, by two draws of which the one is larger by the spread."""
    expected = Forecast(rms, rms / spread, rms * spread, (rms, rms * spread))
    plan = build_strategy("vanilla", 4, student_steps)
    names = tuple(name.split("; "))
    return Contender(names, student_steps, budget, plan, (5,) * student_steps, 900.0, expected)


def cells(*measured: float) -> list[dict[str, Any]]:
    """What was measured of a contender, by seed."""
    return [{"measured": {"value": value}} for value in measured]


FIELD = [contender(name, rms) for name, rms in (("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", 8.0))]


def test_an_order_by_hand() -> None:
    """Ranks 1, 2, 3, 4 against 1, 2, 4, 3: ρ = 1 - 6·2/(4·15) = 0.8; then all reversed.

    Without scatter, draws differ by the same in all plans, so every pair is told apart: of 6 pairs
    5 are right, and none.
    """
    measured = [cells(1.1, 9.0), cells(2.0, 8.0), cells(5.6, 7.0), cells(5.0, 6.0)]
    rows, wrong = agreement_rows(FIELD, measured, [3, 4], scatter=0.0)
    assert [(row["seed"], row["student_steps"], row["plans"], row["pairs"]) for row in rows] == [
        (3, "1", 4, 6), (4, "1", 4, 6)
    ]  # fmt: skip
    assert [row["spearman"] for row in rows] == pytest.approx([0.8, -1.0])
    assert [row["spearman_at_cost"] for row in rows] == pytest.approx([0.8, -1.0])
    assert [(row["apart"], row["right"]) for row in rows] == [(6, 5), (6, 0)]
    # forecasts over measured: 1/1.1, 1, 1/1.4, 1.6
    assert (rows[0]["close"], rows[0]["covered"]) == (2, 2)
    assert rows[0]["ratio_50"] == pytest.approx((1 / 1.1 + 1) / 2)
    assert (rows[1]["close"], rows[1]["covered"]) == (0, 0)  # 1/9, 1/4, 4/7, 8/6
    # with both seeds only c and d change places
    assert wrong == [
        {
            "better": "c (K = 1, 1000)",
            "worse": "d (K = 1, 1000)",
            "forecast_better": 4.0,
            "forecast_worse": 8.0,
            "measured_better": pytest.approx(6.3),
            "measured_worse": pytest.approx(5.5),
        }
    ]


def test_pairs_within_the_interval_of_their_ratio_are_not_told_apart() -> None:
    """A scatter of log 2 a plan: the 90 % interval of a ratio reaches over exp(1.64·√2·log 2) = 5.

    Of ratios 2, 4, 8 only 8 is beyond.
    """
    measured = [cells(value) for value in (1.0, 2.0, 4.0, 8.0)]
    rows, wrong = agreement_rows(FIELD, measured, [0], scatter=0.6931)
    assert (rows[0]["apart"], rows[0]["right"]) == (1, 1)
    assert wrong == []


def test_several_student_steps_are_counted_apart_and_together() -> None:
    """Within a budget the order is right; over both the dearer plans are measured worse."""
    field = [
        *(contender(name, rms, 1, 1e3) for name, rms in (("a", 4.0), ("b", 5.0), ("c", 6.0))),
        *(contender(name, rms, 1, 2e3) for name, rms in (("a", 1.0), ("b", 2.0), ("c", 3.0))),
        contender("a", 0.5, 2),
    ]
    measured = [cells(value) for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5)]
    rows, _ = agreement_rows(field, measured, [0], scatter=0.0)
    one, two, every = rows
    assert [row["student_steps"] for row in rows] == ["1", "2", "all"]
    assert one["spearman_at_cost"] == pytest.approx(1.0)
    # ranks 4 5 6 1 2 3 against 1 … 6: ρ = 1 - 6·54/(6·35)
    assert one["spearman"] == pytest.approx(1 - 6 * 54 / 210)
    assert (one["apart"], one["right"]) == (15, 6)
    assert (two["plans"], two["pairs"], two["spearman"]) == (1, 0, None)
    assert (every["plans"], every["apart"], every["right"]) == (7, 21, 12)


def test_fewer_than_three_plans_have_no_rank_correlation() -> None:
    assert spearman([1.0, 2.0], [1.0, 2.0]) is None
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert spearman([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)


def row(names: str, measured: float, budget: float = 1e3, seed: int = 0) -> dict[str, Any]:
    split = names.split("; ")
    return {
        **{"student_steps": 1, "budget": budget, "seed": seed, "plan": split[0], "names": names},
        **{"is_hand": split != [PLANNED], "is_planned": PLANNED in split},
        **{"forecast": 1.0, "measured": measured},
    }


def test_regret_is_over_the_best_measured_hand_plan() -> None:
    """2.1 over 2.0: 5 %; a plan of the planner's that is a hand plan as well counts as both."""
    rows = [
        *(row("vanilla", 4.0), row("boot", 2.0), row(PLANNED, 2.1)),
        *(row("boot", 3.0, 2e3), row("vanilla; planner", 1.5, 2e3)),
        *(row("boot", 1.0, seed=1), row(PLANNED, 0.5, seed=1)),
    ]
    spent = [{"student_steps": 1, "budget": 2e3, "seed": 0, "measured": 1.8, "planning": 400.0}]
    found = regret_rows(rows, spent)
    assert [(each["budget"], each["seed"], each["best_hand"]) for each in found] == [
        (1e3, 0, "boot"), (1e3, 1, "boot"), (2e3, 0, "vanilla")
    ]  # fmt: skip
    assert [each["regret"] for each in found] == pytest.approx([0.05, -0.5, 0.0])
    assert [each["vanilla"] for each in found] == [4.0, None, 1.5]
    assert [each["run_regret"] for each in found] == [None, None, pytest.approx(0.2)]
    assert found[2]["run_planning"] == pytest.approx(0.2)


def test_the_planners_plan_stands_by_its_interval() -> None:
    """Beside that of the best hand plan, whatever the others are; it may be that plan itself."""
    ends = {  # by K: planner, best hand plan, another
        1: [(0.8, 0.9), (0.91, 1.1), (0.1, 9.0)],
        2: [(0.8, 0.95), (0.94, 1.1), (2.0, 2.1)],
        3: [(1.2, 1.3), (1.0, 1.1), (0.5, 2.0)],
    }
    names = ["planner", "boot", "vanilla"]
    place = {"budget": 1e4, "seed": 0}
    cells = [
        {**place, "student_steps": k, "plan": name, "is_planned": name == "planner"}
        | {"measured_low": low, "measured_high": high}
        for k, intervals in ends.items()
        for name, (low, high) in zip(names, intervals, strict=True)
    ]
    same = {"plan": "boot", "is_planned": True, "measured_low": 1.0, "measured_high": 1.1}
    cells.append({**place, "student_steps": 4, **same})
    regret = pd.DataFrame(
        [{**place, "student_steps": k, "best_hand": "boot"} for k in (1, 2, 3, 4)]
    )
    assert list(standing(regret, pd.DataFrame(cells))) == ["best", "tied", "worse", "tied"]
