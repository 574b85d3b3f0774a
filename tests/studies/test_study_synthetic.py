"""The study `synthetic`, and what studies of merge plans share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from oracles import DirectTheory, Setting, best_students

from opmerge.errors import InputError
from opmerge.plans import Plan, build_strategy
from opmerge.schedules import cosine_schedule
from opmerge_studies.shared.strategies import is_as_good, plan_row, plan_shape, scalar_problem
from opmerge_studies.shared.study import STUDIES, Runner
from opmerge_studies.synthetic import Config, compare

Record = dict[str, Any]

STUDY = STUDIES["synthetic"]
TINY = Config(
    eigenvalues=(0.2, 1.0, 1.2, 5.0),
    steps=(4, 6),
    denoiser_steps=(6,),
    strategies=("vanilla", "progressive", "consistency", "boot"),
    merge_time=1.0,
    num_scanned=6,
)
PAPER = {  # THEORY 7, T = 64, s = 6.4: two independent programs
    0.2: {
        "vanilla": 1.5568e-6,
        "boot": 1.0074e-6,
        "consistency": 2.990e-2,
        "progressive": 6.251e-3,
    },
    1.0: {
        "vanilla": 5.1882e-8,
        "boot": 5.1399e-8,
        "consistency": 1.655e-6,
        "progressive": 1.5687e-7,
    },
    5.0: {
        "vanilla": 3.2557e-6,
        "boot": 4.6498e-6,
        "consistency": 1.7834e-5,
        "progressive": 4.4978e-6,
    },
}


def setting_of(row: Record) -> Setting:
    rule = row["merge_rule"]
    schedule = cosine_schedule(row["num_steps"])
    return Setting(schedule, (row["eigenvalue"],), time=TINY.merge_time, merge_rule=rule)


# What studies share


@pytest.mark.parametrize("eigenvalue", PAPER)
def test_strategies_err_as_two_independent_programs_say(eigenvalue: float) -> None:
    problem = scalar_problem(eigenvalue, 64)
    row = plan_row(problem)
    scale = float(problem.teacher.variances[-1, 0]) ** 0.5  # the table holds |b - P|, and n_T = 1
    assert scale == pytest.approx(1.0, rel=1e-15)
    for name, error in PAPER[eigenvalue].items():
        assert row[name] == pytest.approx(error, rel=2e-4)  # four digits are printed


def test_the_shape_of_a_plan_is_that_of_the_strategy_as_good_or_of_its_tree() -> None:
    errors = {"boot": 2.0, "vanilla": 3.0}
    boot, vanilla = build_strategy("boot", 6), build_strategy("vanilla", 6)
    assert plan_shape(vanilla, 2.0, errors) == "boot"  # errs no less: boot is as good
    assert plan_shape(boot, 2.0 * (1 + 1e-12), {**errors, "boot": 4.0, "vanilla": 2.0}) == "vanilla"
    comb = Plan.from_nested([[[4, 3, 2], 1]])
    tree = Plan.from_nested([[4, [3, 2], 1]])
    assert plan_shape(comb, 1.0, errors) == "comb"
    assert plan_shape(tree, 1.0, errors) == "tree"


def test_rounding_is_no_difference() -> None:
    assert is_as_good(1.0 + 1e-12, 1.0)
    assert not is_as_good(1.0 + 1e-6, 1.0)


# What the study computes


def test_the_best_plan_is_that_of_brute_force(record: Record) -> None:
    for row in record["tables"]["plans"] + record["tables"]["scan"]:
        optimum, _ = best_students(setting_of(row))
        assert row["best"] == pytest.approx(optimum, rel=1e-9)
        assert row["interval"] >= optimum * (1 - 1e-9)
        assert row["lower_bound"] <= optimum * (1 + 1e-9)


def test_the_strategies_err_as_direct_multiplication_says(record: Record) -> None:
    for row in record["tables"]["errors"]:
        plan = build_strategy(row["strategy"], row["num_steps"])
        theory = DirectTheory(setting_of(row))
        student, _ = theory.plan(plan.to_nested())
        assert row["w2"] == pytest.approx(float(theory.distances(student[None])[0]), rel=1e-9)


def test_ranks_order_the_strategies_and_equals_share_one(record: Record) -> None:
    for plan in record["tables"]["plans"]:
        rows = [
            row
            for row in record["tables"]["errors"]
            if all(row[key] == plan[key] for key in ("merge_rule", "num_steps", "eigenvalue"))
        ]
        assert len(rows) == len(TINY.strategies)
        for row in rows:
            better = [other for other in rows if other["w2"] < row["w2"] * (1 - 1e-8)]
            assert row["rank"] == 1 + len(better)
            assert row["ratio_to_best"] == pytest.approx(row["w2"] / plan["best"])


def test_the_papers_planner_misses_a_proved_optimum_between_the_phases() -> None:
    """Algorithm 1 as it is known here is no exact planner where signs differ."""
    row = compare(1.062179, 64, 6.4, "operator-copy", ("boot", "vanilla"))["plan"]
    assert row["lower_bound"] == pytest.approx(row["best"], rel=1e-9)
    assert row["interval_ratio"] > 4  # 4.2177, and no rounding comes near
    for eigenvalue in (0.5, 5.0):  # signs agree: there it is exact
        sure = compare(eigenvalue, 64, 6.4, "operator-copy", ("boot", "vanilla"))["plan"]
        assert sure["interval_ratio"] == pytest.approx(1.0, rel=1e-9)


# What it says


def test_the_finding_counts_what_the_tables_hold(record: Record) -> None:
    answer = STUDY.answer(record)
    scan = record["tables"]["scan"]
    missed = [row for row in scan if row["interval"] > row["best"] * (1 + 1e-9)]
    assert "BOOT is best at all 4 points with λ ≤ 1" in answer.finding
    assert "vanilla is best at all 2 points with λ ≥ 2" in answer.finding
    if missed:
        assert f"misses the best plan at {len(missed)} of {len(scan)} points" in answer.finding
    else:
        assert f"finds the best plan at all {len(scan)} points" in answer.finding
    assert any("Under denoiser copy BOOT is best at 4 of 4" in line for line in answer.evidence)


def test_another_record_gives_another_finding(record: Record) -> None:
    def worse(row: Record) -> Record:
        return {**row, "ratio_to_best": 1.5 * row["ratio_to_best"]}

    tables = record["tables"]
    altered = {
        **record,
        "tables": {
            **tables,
            "errors": [worse(row) for row in tables["errors"]],
            "scan": [{**row, "interval_ratio": 2.0} for row in tables["scan"]],
        },
    }
    finding = STUDY.answer(altered).finding
    assert "BOOT errs up to 50 % more than the best plan at λ ≤ 1" in finding
    assert "misses the best plan at 12 of 12 points, by up to 2 times" in finding


def test_the_page_shows_every_figure_and_the_claims(record: Record) -> None:
    page = STUDY.page(record)
    assert page.count("<svg") == 4
    assert STUDY.answer(record).finding.replace("'", "&#39;") in page


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.run(TINY, Runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (64, 32)}, "`steps` must ascend, got (64, 32)"),
        ({"steps": ()}, "`steps` must not be empty"),
        ({"denoiser_steps": (2,)}, "`denoiser_steps` must be >= 4, got 2"),
        ({"eigenvalues": (0.0, 1.0)}, "`eigenvalues` must be > 0, got 0.0"),
        ({"strategies": ("boot",)}, "`strategies` must hold boot and vanilla"),
        ({"merge_time": 0.0}, "`merge_time` must be finite and > 0, got 0.0"),
        ({"num_scanned": 0}, "`num_scanned` must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**changes)
    assert str(caught.value).startswith(message)
