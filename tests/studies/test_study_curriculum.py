"""The study `curriculum`: what it finds, and what its page says of it."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from study_records import rows

from opmerge.errors import InputError
from opmerge.planners.allocation import allocate
from opmerge.planners.brute_force import all_plans
from opmerge_studies.curriculum import PILOT, SPREAD_CASE, Config, case_problem
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.study import STUDIES

Record = dict[str, Any]

STUDY = STUDIES["curriculum"]
TINY = Config(
    steps=16,
    budgets=(20.0, 120.0),
    spread_budgets=(30.0, 300.0),
    strategies=("vanilla", "boot", "progressive", "hybrid:2"),
    small_steps=4,
    small_budgets=(10.0,),
)


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    assert json.loads(json.dumps(STUDY.run(TINY, Runner(folder, num_workers=1)))) == json.loads(
        json.dumps(record)
    )


def test_the_best_split_is_never_worse_than_a_schedule(record: Record) -> None:
    for row in record["tables"]["splits"]:
        for name in ("constant", "growing", "falling", "doubled last rounds"):
            assert row["best"] <= row[name] * (1 + 1e-6)
        assert row["lower_bound"] <= row["best"]
    assert all(r["lower_bound"] > 0 for r in rows(record, "splits", case="λ = 0.2", plan="boot"))


def test_at_equal_cost_one_merge_beats_boot(record: Record) -> None:
    """exp(-2 B / (T + 3)) beside exp(-2 B / 5(T - 1)), and initial errors within a factor 2."""
    for row in record["tables"]["frontier"]:
        assert row["vanilla"] < row["boot"]


def test_plans_cost_what_the_theory_says(record: Record) -> None:
    """T = 16: m + 3 = 19 for one merge, 15 times 5 for BOOT; over r = 2 for a factor e."""
    for name, cost in (("vanilla", 19.0), ("boot", 75.0)):
        row = rows(record, "plans", case="λ = 0.2", plan=name)[0]
        assert row["evaluations"] == cost
        assert row["per_fold"] == cost / 2
    cheapest = rows(record, "plans", case="λ = 5", plan="cheapest")[0]
    assert cheapest["per_fold"] < 19.0 / 2


def test_the_frontier_lies_on_or_above_the_bound_of_combs(record: Record) -> None:
    for row in rows(record, "frontier", case="λ = 0.2"):
        assert row["comb_bound"] <= row["best_comb"]
        assert row["comb_bound"] <= row["best"] * (1 + 1e-9)


def test_the_frontier_is_the_least_of_the_splits(record: Record) -> None:
    for row in record["tables"]["frontier"]:
        here = rows(record, "splits", case=row["case"], budget=row["budget"])
        assert row["best"] == min(split["best"] for split in here)
        assert row["equal"] == min(split["constant"] for split in here)


def test_all_plans_are_tried(record: Record) -> None:
    for row in record["tables"]["small"]:
        assert row["plans"] == 11
    row = rows(record, "small", eigenvalue=0.2)[0]
    problem = case_problem("λ = 0.2", 4)
    least = min(allocate(problem, plan, 10.0).w2 for plan in all_plans(4, 1))
    assert row["best"] == pytest.approx(least)
    assert row["is_comb"]


def test_the_pilot_is_told_beside_what_is_predicted(record: Record) -> None:
    assert {(r["plan"], r["iterations"]): r["measured"] for r in record["tables"]["pilot"]} == PILOT
    boot, vanilla = (
        rows(record, "pilot", plan=name, iterations=count)[0]
        for name, count in (("boot", 400), ("vanilla", 3200))
    )
    assert boot["spread_rates"] > vanilla["spread_rates"]
    assert boot["gradient_flow"] > 1e6 * vanilla["gradient_flow"]


def test_the_answer_says_what_the_record_says(record: Record) -> None:
    told = STUDY.answer(record)
    assert "at 8 of 8 budgets" in told.finding
    assert told.limits
    assert told.overturned_by
    altered = json.loads(json.dumps(record))
    altered["tables"]["frontier"][0]["vanilla"] = 9.0
    assert "at 7 of 8 budgets" in STUDY.answer(altered).finding
    page = unescape(STUDY.page(record))
    assert told.finding in page
    assert SPREAD_CASE in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": ()}, "`budgets` must be > 0, ascend and not be empty"),
        ({"spread_budgets": (2.0, 1.0)}, "`spread_budgets` must be > 0, ascend and not be empty"),
        ({"steps": 3}, "`steps` must be >= 4, got 3"),
        ({"small_steps": 12}, "`small_steps` must be from 3 to 9, got 12"),
        ({"strategies": ("vanilla",)}, "`strategies` must include boot"),
        (
            {"strategies": ("vanilla", "boot", "progressive", "b")},
            "`strategy` must be one of vanilla",
        ),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**settings)
    assert str(caught.value).startswith(message)
