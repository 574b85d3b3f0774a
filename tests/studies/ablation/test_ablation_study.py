"""The study `ablation`: the transition does not depend on the optimisation time of a merge."""

from __future__ import annotations

from math import cos, pi, sin
from pathlib import Path
from typing import Any

import pytest
from oracles import DirectTheory, Setting, best_students
from scipy.optimize import brentq
from study_records import claims

from opmerge.errors import InputError
from opmerge.page.study import StudyPage
from opmerge.plans import build_strategy
from opmerge.schedules import cosine_schedule
from opmerge_studies.ablation import (
    STUDY,
    AblationSettings,
    plan_eigenvalue,
    plan_source,
    transition,
)

Record = dict[str, Any]

TINY = AblationSettings(
    merge_times=(0.5, 3.0, 6.4),
    steps=(6,),
    num_eigenvalues=10,
    sources=("eigenvalues:0.2,0.9,6",),
    kept_time=3.0,
)


def first_order_crossing(num_steps: int, low: float, high: float) -> float:
    """λ where Σ (1/A_t - 1) = ±(Π 1/A_t - 1) over t < T: BOOT and vanilla to first order in ρ."""

    def step(eigenvalue: float, t: int) -> float:
        now, before = (0.5 * pi * u / num_steps for u in (t, t - 1))
        inner = cos(before) * cos(now) * eigenvalue + sin(before) * sin(now)
        return inner / (cos(now) ** 2 * eigenvalue + sin(now) ** 2)

    def difference(eigenvalue: float) -> float:
        inverses = [1 / step(eigenvalue, t) for t in range(1, num_steps)]
        product = 1.0
        for inverse in inverses:
            product *= inverse
        return abs(sum(inverse - 1 for inverse in inverses)) - abs(product - 1)

    return float(brentq(difference, low, high, xtol=1e-13))


def test_the_crossing_is_that_of_first_order_in_the_retention() -> None:
    """THEORY 7.5: 1.140 at T = 16; the time drops out where the retention is small."""
    expected = first_order_crossing(16, 1.13, 1.142)
    assert expected == pytest.approx(1.140, abs=5e-4)
    assert transition(16, 30.0)["first_crossing"] == pytest.approx(expected, rel=1e-9)
    early = transition(16, 0.1)["first_crossing"]  # ρ = 0.82: second order counts
    assert early == pytest.approx(expected, rel=1e-3)
    assert abs(early / expected - 1) > 1e-7


@pytest.mark.parametrize("merge_time", [0.5, 6.4])
def test_the_edges_of_the_band_are_where_brute_force_has_them(merge_time: float) -> None:
    found = transition(6, merge_time)
    for edge, name, sign in (("boot_until", "boot", -1), ("vanilla_from", "vanilla", 1)):
        for side in (sign, -sign):
            eigenvalue = found[edge] + 0.02 * side
            setting = Setting(cosine_schedule(6), (eigenvalue,), time=merge_time)
            theory = DirectTheory(setting)
            student, _ = theory.plan(build_strategy(name, 6).to_nested())
            error = float(theory.distances(student[None])[0])
            is_best = error <= best_students(setting)[0] * (1 + 1e-9)
            assert is_best == (side == sign)


def test_the_band_lies_between_one_and_the_threshold(record: Record) -> None:
    """THEORY 7.2 and 7.3: BOOT is best for λ <= 1, vanilla for λ >= 1 + 1 / cos(π / 2T)."""
    for row in record["tables"]["transition"]:
        assert row["threshold"] == pytest.approx(1 + 1 / cos(pi / (2 * row["num_steps"])))
        assert 1 <= row["boot_until"] < row["vanilla_from"] <= row["threshold"] + 1e-6
    threshold = 1 + 1 / cos(pi / 12)
    for row in record["tables"]["diagram"]:
        if row["eigenvalue"] <= 1:
            assert row["shape"] == "boot"
        if row["eigenvalue"] >= threshold:
            assert row["shape"] == "vanilla"


def test_the_plan_that_is_kept_is_the_best_at_its_own_time_only(record: Record) -> None:
    for row in record["tables"]["diagram"] + record["tables"]["sources"]:
        assert row["kept"] >= row["best"] * (1 - 1e-9)
        if row["merge_time"] == TINY.kept_time:
            assert row["kept"] == pytest.approx(row["best"], rel=1e-12)


def test_keeping_the_plan_of_another_time_costs_in_the_band() -> None:
    """The best plan tunes its excess to 0 for one retention, so at another it must miss."""
    early, own = plan_eigenvalue(1.063194, 64, (0.1, 6.4), 6.4)
    assert early["kept"] > 1.01 * early["best"]
    assert own["kept"] == pytest.approx(own["best"], rel=1e-12)


def test_a_source_is_planned_as_brute_force_does() -> None:
    for row in plan_source("eigenvalues:0.2,0.9,6", 6, (0.5, 3.0), 3.0):
        setting = Setting(cosine_schedule(6), (6.0, 0.9, 0.2), (1, 1, 1), time=row["merge_time"])
        assert row["best"] == pytest.approx(best_students(setting)[0], rel=1e-9)


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_times": (3.0, 1.0)}, "`merge_times` must ascend and not be empty"),
        ({"merge_times": (0.0,)}, "`merge_times.0` must be > 0"),
        ({"steps": ()}, "`steps` must ascend and not be empty"),
        ({"steps": (2,)}, "`steps.0` must be >= 4, got 2"),
        ({"num_eigenvalues": 3}, "`num_eigenvalues` must be >= 4, got 3"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        AblationSettings(**changes)
    assert str(caught.value).startswith(message)


# What the page claims and shows


def altered(record: Record, **tables: Any) -> Record:
    return {**record, "tables": {**record["tables"], **tables}}


def test_claims_count_the_points_of_the_record(record: Record, page: StudyPage) -> None:
    below = [row for row in record["tables"]["diagram"] if row["eigenvalue"] <= 1]
    boot_wins = {row["boot"] < row["vanilla"] for row in record["tables"]["sources"]}
    assert claims(page)["boot-best-to-one"].verdict == f"holds, {len(below)} of {len(below)}"
    assert claims(page)["transition-stays"].verdict == "holds, 3 of 3"
    assert claims(page)["plans-change-in-the-band-only"].holds
    assert claims(page)["winner-stays"].count.n == (len(boot_wins) == 1)
    assert claims(page)["kept-plan-serves"].count.of == 3
    assert page.finding.startswith("Between s = 0.5 and 6.4 the crossing of BOOT and vanilla")


def test_a_transition_that_moves_is_told(record: Record) -> None:
    moved = [
        {**row, "first_crossing": row["first_crossing"] * (1 + 0.01 * row["merge_time"])}
        for row in record["tables"]["transition"]
    ]
    page = STUDY.told(altered(record, transition=moved))
    assert claims(page)["transition-stays"].verdict == "does not hold, 2 of 3"
    assert "shifts by 5.9 % in λ" in page.finding  # 1.064 / 1.005


def test_a_plan_that_does_not_serve_and_a_winner_that_changes_are_told(record: Record) -> None:
    first, *others = record["tables"]["sources"]
    changed = {**first, "kept": 1.2 * first["best"]}
    changed["boot"], changed["vanilla"] = first["vanilla"], first["boot"]
    page = STUDY.told(altered(record, sources=[changed, *others]))
    assert claims(page)["kept-plan-serves"].verdict == "does not hold, 2 of 3"
    assert claims(page)["winner-stays"].verdict == "does not hold, 0 of 1"
    assert "loses at most 20 %" in page.finding


def test_the_page_shows_every_figure(page: StudyPage) -> None:
    assert page.html.count("<svg") == 4
    assert "spectrum-of-eigenvalues-0-2-0-9-6" in page.figures


def test_no_source_and_no_crossing_leave_out_what_they_would_show(record: Record) -> None:
    blank = dict.fromkeys(("boot_until", "first_crossing", "vanilla_from"))
    unknown = [{**row, **blank} for row in record["tables"]["transition"]]
    page = STUDY.page(altered(record, sources=[], transition=unknown))
    unseen = {claim.key for claim in page.claims if claim.verdict == "not looked at"}
    assert unseen == {
        "transition-stays",
        "plans-change-in-the-band-only",
        "winner-stays",
        "kept-plan-serves",
    }
    assert page.html.count("<svg") == 3
    assert "shifts by – in λ" in page.finding
