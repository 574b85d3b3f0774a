"""The study `curriculum`: what it finds, and what its page says of it."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_records import counts, rows

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.allocation import allocate
from opmerge.planners.brute_force import all_plans
from opmerge.plans import build_strategy
from opmerge_studies.curriculum import (
    PILOT,
    SPREAD_CASE,
    STUDY,
    CurriculumSettings,
    case_problem,
)
from opmerge_studies.curriculum.networks import AT_EQUAL_COST, LENGTH_LAW, theories

Record = dict[str, Any]

TINY = CurriculumSettings(
    steps=16,
    budgets=(20.0, 120.0),
    spread_budgets=(30.0, 300.0),
    strategies=("vanilla", "boot", "progressive", "hybrid:2"),
    spectra=("digits",),
    small_steps=4,
    small_budgets=(10.0,),
)


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


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


def test_networks_at_equal_cost_are_told_beside_theories(record: Record) -> None:
    """And the order of plans turns with the split in theory as it does in networks."""
    table = record["tables"]["equal_cost"]
    found = {(row["plan"], row["split"], row["evaluations"]): row for row in table}
    assert {key: row["measured"] for key, row in found.items()} == AT_EQUAL_COST
    for theory in ("measured", "spread_rates", "length_law"):
        even, length = (
            found["progressive", split, 2e6][theory] / found["boot", split, 2e6][theory]
            for split in ("even", "length")
        )
        assert even > 1 > length
    for row in table:
        assert row["best_split"] <= row["spread_rates"] * (1 + 1e-9)
    (vanilla,) = (row for key, row in found.items() if key[0] == "vanilla" and key[2] == 2e6)
    time = 2e6 / (128 * 400) / (32 + 3)
    problem = case_problem(SPREAD_CASE, 32)
    expected = evaluate(problem, build_strategy("vanilla", 32), [time]).w2
    assert vanilla["spread_rates"] == vanilla["best_split"] == pytest.approx(expected)


def test_long_merges_learn_slowly_in_the_law_with_length() -> None:
    """One merge of all steps: φ = π/2, so its rates are (π/2)^-1.63 = 0.479 of the fitted ones."""
    problem = case_problem(SPREAD_CASE, 8)
    plan, law = build_strategy("vanilla", 8), theories(problem, problem)["length_law"]
    slower = replace(problem, training=replace(LENGTH_LAW, scale=0.479 * LENGTH_LAW.scale))
    expected = evaluate(slower, plan, [3.0]).w2
    assert law(plan, np.array([3.0])) == pytest.approx(expected, rel=1e-3)


def test_whole_spectra_have_a_frontier(record: Record) -> None:
    for case, budgets in (("digits", TINY.budgets), (SPREAD_CASE, TINY.spread_budgets)):
        found = rows(record, "whole", case=case)
        assert [row["budget"] for row in found] == list(budgets)
        assert found[0]["w2"] > found[1]["w2"]
        for row in found:
            splits = rows(record, "splits", case=case, budget=row["budget"])
            least = min(split["best"] for split in splits)
            assert row["w2"] <= least * (1 + 1e-6)


def test_a_record_without_whole_spectra_still_draws(record: Record) -> None:
    before = copy.deepcopy(record)
    for name in ("whole", "equal_cost"):
        del before["tables"][name]
    for row in before["tables"]["pilot"]:
        del row["length_law"], row["best_split"]
    assert STUDY.page(before).html
    told = counts(STUDY.told(before))
    assert told["no-strategy-beats-the-frontier"] == (0, 0)
    assert told["one-merge-beats-boot"] == counts(STUDY.told(record))["one-merge-beats-boot"]


def test_claims_count_what_the_tables_hold(record: Record) -> None:
    tables = record["tables"]
    splits, small = tables["splits"], tables["small"]
    flow = [row for row in tables["frontier"] if row["case"] != SPREAD_CASE]
    spread = rows(record, "frontier", case=SPREAD_CASE)
    trees = [row for row in small if not row["is_comb"]]
    several = [
        row[name] >= row["constant"]
        for row in splits
        if row["case"] != "λ = 1.5"
        and abs(row["growing"] - row["constant"]) > 1e-9 * row["constant"]
        for name in ("growing", "falling", "doubled last rounds")
    ]
    gains = [
        row["comb_gain"]
        for case in ("λ = 0.2", "λ = 5")
        for row in rows(record, "plans", case=case)
        if row["comb_gain"] and row["plan"] != "vanilla"
    ]
    whole, networks = tables["whole"], tables["equal_cost"]
    ratios = {
        theory: np.log([row[theory] / row["measured"] for row in networks])
        for theory in ("length_law", "spread_rates")
    }
    off = {theory: np.exp(abs(logs - logs.mean())) for theory, logs in ratios.items()}
    named = ("vanilla", "boot", "progressive")
    expected = {
        "one-merge-beats-boot": [row["vanilla"] <= row["boot"] for row in flow],
        "combs-are-best": [row["is_comb"] for row in small],
        "trees-are-best-above-1-only": [row["eigenvalue"] > 1 for row in trees],
        "splits-are-proved": [row["lower_bound"] >= 0.999999 * row["best"] for row in splits],
        "splits-are-stationary": [row["residual"] <= 1e-5 for row in splits],
        "gain-is-the-divergence": [True] * len(gains),
        "equal-times-beat-schedules": several,
        "spread-rates-bring-plans-together": [row["boot"] < 2 * row["vanilla"] for row in spread],
        "no-strategy-beats-the-frontier": [
            row["w2"] <= 1.001 * min(row[name] for name in named) for row in whole
        ],
        "no-strategy-is-below-the-bound": [
            row["least_first_order"] >= row["lower_bound"] for row in whole
        ],
        "plans-are-near-the-bound": [
            row["lower_bound"] > 0.9 * row["first_order"] for row in whole
        ],
        "length-law-foretells-networks": (off["length_law"] < 1.25).tolist(),
        "spread-rates-foretell-networks": (off["spread_rates"] < 1.25).tolist(),
        "the-split-turns-the-order": [True] * 3,
    }
    assert counts(STUDY.told(record)) == {
        key: (sum(cases), len(cases)) for key, cases in expected.items()
    }
    assert counts(STUDY.told(record))["one-merge-beats-boot"] == (8, 8)


def test_other_numbers_refute_the_claims(record: Record) -> None:
    altered = copy.deepcopy(record)
    altered["tables"]["frontier"][0]["vanilla"] = 9.0
    altered["tables"]["small"][0]["is_comb"] = False
    told = counts(STUDY.told(altered))
    assert told["one-merge-beats-boot"] == (7, 8)
    assert told["combs-are-best"][0] == counts(STUDY.told(record))["combs-are-best"][0] - 1
    assert told["trees-are-best-above-1-only"] == (1, 2)


def test_the_page_tells_numbers_and_what_is_best_from_where(record: Record) -> None:
    page = STUDY.page(record)
    seen = [
        row["constant"] / row["best"]
        for row in rows(record, "splits", plan="boot")
        if row["case"] != "λ = 1.5" and row["best"] > 1e-6
    ]
    assert f"gains {max(seen):.2g} times on BOOT" in page.finding
    text = unescape(page.html)
    assert text.count("<svg") == len(page.figures) == 9
    assert text.count("<table") == 13
    for case in ("λ = 0.2", SPREAD_CASE):
        best = [row["best_plan"] for row in rows(record, "frontier", case=case)]
        assert f"{case}: with its best split the best of the plans tried is {best[0]} from" in text
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": ()}, "`budgets` must ascend and not be empty"),
        ({"spread_budgets": (2.0, 1.0)}, "`spread_budgets` must ascend and not be empty"),
        ({"small_budgets": (0.0, 1.0)}, "`small_budgets.0` must be > 0"),
        ({"steps": 3}, "`steps` must be >= 4, got 3"),
        ({"small_steps": 12}, "`small_steps` must be <= 9, got 12"),
        ({"strategies": ("vanilla",)}, "`strategies` must include boot"),
        (
            {"strategies": ("vanilla", "boot", "progressive", "b")},
            "`strategy` must be one of vanilla",
        ),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        CurriculumSettings(**settings)
    assert str(caught.value).startswith(message)
