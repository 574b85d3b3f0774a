"""The study `stabilisation`: averaged weights, timestep mixing, and what the page says of them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.page.study import StudyPage, Told
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.stabilisation import (
    STUDY,
    StabilisationSettings,
    mixed_excess,
    mixing_combs,
)

Record = dict[str, Any]

TINY = StabilisationSettings(
    steps=(8, 16),
    turnovers=(2.0, 16.0),
    iterations=(64, 256),
    num_eigenvalues=12,
    catch_up_eigenvalues=(0.3, 1.0, 4.0),
    comb_steps=6,
)


def test_an_average_is_a_shorter_time(record: Record) -> None:
    """Its crossing is that of flow for as long as counts, and hardly elsewhere than without."""
    for row in record["tables"]["ema_crossings"]:
        assert row["effective_time"] <= 6.4 + 1e-12
        assert row["first_crossing"] == pytest.approx(row["crossing_of_shorter_flow"], abs=1e-10)
    plain = {
        row["num_steps"]: row["first_crossing"]
        for row in record["tables"]["ema_crossings"]
        if row["turnovers"] is None
    }
    assert plain[16] == pytest.approx(1.140, abs=5e-4)
    for row in record["tables"]["ema_crossings"]:
        # first order in ρ drops out of a crossing; ρ is 0.16 at most, and λ - 1 about 2/T
        assert abs(row["first_crossing"] - plain[row["num_steps"]]) < 1e-3


def test_plans_survive_averaging(record: Record) -> None:
    """A regret is never negative beyond what the best found may lack, and plain plans are kept."""
    for row in record["tables"]["ema_plans"]:
        assert row["regret"] >= -row["gap"] - 1e-9
        assert row["same_plan"] <= (row["regret"] <= 1e-12)
        if row["spectrum"] in ("0.01 to 0.9", "2.1 to 20"):
            assert row["same_plan"]
        if row["turnovers"] == 16.0:
            assert row["regret"] < 1e-3


def test_averages_are_simulated(record: Record) -> None:
    """Four times the iterations: at most about a third of the difference."""
    by_count = {
        count: max(
            row["difference"]
            for row in record["tables"]["ema_simulation"]
            if row["num_iterations"] == count
        )
        for count in TINY.iterations
    }
    assert by_count[256] < by_count[64] / 2.5


def test_mixing_loses_everywhere(record: Record) -> None:
    for row in record["tables"]["mixing"]:
        if row["merge_rule"] == "operator-copy":
            assert row["mixed_boot"] > 100 * row["boot"]
            assert row["mixed_boot"] > row["vanilla"]


def test_the_window_of_mixed_boot_is_where_its_error_passes_through_zero(
    record: Record,
) -> None:
    for row in record["tables"]["mixing_crossings"]:
        assert row["num_crossings"] == 2
        edges = np.array([row["window_from"], row["window_to"]])
        assert edges[0] < edges[1]
        beyond = [0.999 * edges[0], edges.mean(), 1.001 * edges[1]]
        schedule = cosine_schedule(row["num_steps"])
        boot, vanilla = (build_strategy(name, row["num_steps"]) for name in ("boot", "vanilla"))
        wins = []
        for eigenvalue in beyond:
            spectrum = eigenvalue_spectrum([eigenvalue])
            problem = Problem(spectrum, schedule, GradientFlow(6.4), "operator-copy")
            mixed = abs(np.expm1(mixed_excess(problem, boot)[0]))
            wins.append(bool(mixed < abs(np.expm1(evaluate(problem, vanilla).excess[0]))))
        assert wins == [False, True, False]


def test_the_time_found_makes_up(record: Record) -> None:
    """At the factor found, mixed students err as much as students trained in turn."""
    for row in record["tables"]["mixing_time"]:
        assert row["error_ratio"] > 1
        assert 1 < row["factor"] < row["num_steps"]
        schedule, plan = (
            cosine_schedule(row["num_steps"]),
            build_strategy(row["strategy"], row["num_steps"]),
        )
        spectrum = eigenvalue_spectrum([row["eigenvalue"]])
        rate = None if row["turnovers"] is None else row["turnovers"] / 6.4
        in_turn = Problem(spectrum, schedule, GradientFlow(6.4), row["merge_rule"])
        longer = replace(in_turn, training=GradientFlow(6.4 * row["factor"]))
        goal = abs(np.expm1(evaluate(in_turn, plan).excess[0]))
        assert abs(np.expm1(mixed_excess(longer, plan, rate)[0])) == pytest.approx(goal, rel=1e-6)


def test_averaged_targets_take_longer(record: Record) -> None:
    keys = ("num_steps", "merge_rule", "strategy", "eigenvalue")
    plain = {
        tuple(row[key] for key in keys): row["factor"]
        for row in record["tables"]["mixing_time"]
        if row["turnovers"] is None
    }
    for row in record["tables"]["mixing_time"]:
        if row["turnovers"] is not None:
            assert row["factor"] > plain[tuple(row[key] for key in keys)]


def test_all_combs_are_tried() -> None:
    """2^(T-2) of them; in turn BOOT is best below 1 and vanilla above λ*, at once vanilla."""
    rows = mixing_combs(4, 6.4, "operator-copy", [0.3, 4.0])
    assert [row["combs"] for row in rows] == [4, 4]
    assert [(row["best_in_turn"], row["merges_in_turn"]) for row in rows] == [
        ("boot", 3),
        ("vanilla", 1),
    ]
    assert [(row["best_at_once"], row["merges_at_once"]) for row in rows] == [("vanilla", 1)] * 2


# What it says


@pytest.fixture(scope="module")
def drawn(record: Record) -> StudyPage:
    return STUDY.page(record)


def claims(page: Told) -> dict[str, tuple[bool, int, int]]:
    """Of each claim: whether it holds, in how many cases, of how many."""
    return {claim.key: (claim.holds, claim.count.n, claim.count.of) for claim in page.claims}


def test_the_record_confirms_all(drawn: StudyPage) -> None:
    """2 T at 2 rates; 5 spectra at the slower for 2 T; 4 plans; 12 λ, 11 outside."""
    assert claims(drawn) == {
        "averaging-keeps-crossing": (True, 4, 4),
        "average-is-shorter-flow": (True, 4, 4),
        "averaging-keeps-plans": (True, 10, 10),
        "averages-tend-to-theory": (True, 4, 4),
        "mixed-boot-loses": (True, 24, 24),
        "mixing-takes-longer": (True, 24, 24),
        "sharing-could-pay": (True, 24, 24),
        "vanilla-is-best-mixed": (True, 22, 22),
    }


def test_contrary_rows_refute_each_claim(record: Record, drawn: StudyPage) -> None:
    """One case each: a crossing that is elsewhere is that of no shorter flow either."""
    contrary = deepcopy(record)
    tables = contrary["tables"]
    averaged = next(row for row in tables["ema_crossings"] if row["turnovers"] is not None)
    averaged["first_crossing"] += 0.05
    next(row for row in tables["ema_plans"] if row["turnovers"] == 16.0)["regret"] = 2e-3
    next(row for row in tables["ema_simulation"] if row["num_iterations"] == 256)["difference"] = 9
    tables["mixing"][0]["mixed_boot"] = 0.0
    plain = [row for row in tables["mixing_time"] if row["turnovers"] is None]
    plain[0]["factor"], plain[1]["factor"] = 1.0, 15.0
    next(row for row in tables["mixing_combs"] if row["eigenvalue"] == 20.0).update(
        {"best_at_once": "boot"}
    )
    page = STUDY.told(contrary)
    assert claims(page) == {key: (False, n - 1, of) for key, (_, n, of) in claims(drawn).items()}
    assert "shifts by at most 0.05 in λ" in page.finding
    assert "more than vanilla at 23 of 24 (λ, T)" in page.finding


def test_a_record_may_lack_crossings_and_times(record: Record) -> None:
    lacking = deepcopy(record)
    for row in lacking["tables"]["ema_crossings"]:
        row["first_crossing"] = None
    for row in lacking["tables"]["mixing_time"]:
        row["factor"] = None if row["num_steps"] == 16 else row["factor"]
    page = STUDY.page(lacking)
    unseen = [claim.key for claim in page.claims if not claim.count.of]
    assert unseen == ["averaging-keeps-crossing", "average-is-shorter-flow"]
    assert "averaging-the-transition" not in page.figures
    assert claims(page)["mixing-takes-longer"] == (True, 24, 24)
    assert claims(page)["sharing-could-pay"] == (False, 12, 24)


def test_numbers_are_those_of_the_record(record: Record, drawn: StudyPage) -> None:
    tables = record["tables"]
    same = sum(row["same_plan"] for row in tables["ema_plans"])
    assert f"the best in {same} of 20 cases" in drawn.finding
    assert "more than vanilla at 24 of 24 (λ, T)" in drawn.finding
    factors = [row["factor"] for row in tables["mixing_time"] if row["turnovers"] is None]
    assert f"takes {min(factors):.2g} to {max(factors):.2g} times as long" in drawn.finding
    assert drawn.html.count("<svg") == drawn.html.count("<table") == len(drawn.figures) == 6


# That it resumes, and what it refuses


def test_a_resumed_run_gives_the_same_record(tmp_path: Path) -> None:
    small = TINY.replaced(steps=(8,), turnovers=(4.0,), catch_up_eigenvalues=(0.5,), comb_steps=4)
    first = STUDY.record(small, STUDY.runner(tmp_path, num_workers=1))
    for path in sorted((tmp_path / "cells").iterdir())[::3]:
        path.unlink()
    assert STUDY.record(small, STUDY.runner(tmp_path, num_workers=1)) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": (64, 16)}, "`steps` must ascend and not be empty, got (64, 16)"),
        ({"steps": (3,)}, "`steps.0` must be >= 4, got 3"),
        ({"turnovers": (0.0,)}, "`turnovers.0` must be > 0"),
        ({"comb_steps": 20}, "`comb_steps` must be <= 14, got 20"),
        ({"num_eigenvalues": 5}, "`num_eigenvalues` must be >= 10, got 5"),
        ({"merge_time": 50.0}, "`merge_time` must be <= 40"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        StabilisationSettings(**change)
    assert str(refusal.value).startswith(message)
