"""The study `guidance`: what the record holds is the theory's, and the page counts it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from study_records import claims

from opmerge import cosine_schedule
from opmerge.errors import InputError
from opmerge.guided_teacher import GuidedProblem, evaluate_guided
from opmerge.page.study import StudyPage
from opmerge.planners.brute_force import all_plans
from opmerge.plans import build_strategy
from opmerge.training import GradientFlow
from opmerge_studies.guidance import STUDY, GuidanceSettings, transition
from opmerge_studies.shared.transition import crossings

Record = dict[str, Any]

TINY = GuidanceSettings(
    steps=5, strategy_steps=16, scales=(1.0, 4.0), shares=(0.01, 0.3), num_eigenvalues=4
)


def a_problem(row: Record, rule: str, steps: int, value: float, **given: Any) -> GuidedProblem:
    share, training = row["share"], GradientFlow(TINY.merge_time)
    variances = [(1 - share) * value], [share * value]
    scale = given.pop("scale", row["scale"])
    return GuidedProblem(
        cosine_schedule(steps), *variances, scale, training, merge_rule=rule, **given
    )


def test_boot_and_vanilla_err_alike_where_they_cross(record: Record) -> None:
    rows = record["tables"]["transitions"]
    assert len(rows) == 4
    for row in rows:
        given = row, "operator-copy", TINY.strategy_steps
        boot, vanilla = (
            [
                evaluate_guided(a_problem(*given, factor * row["crossing"]), plan).paired_error
                for factor in (0.999, 1.0, 1.001)
            ]
            for plan in (build_strategy(name, TINY.strategy_steps) for name in ("boot", "vanilla"))
        )
        assert boot[1] == pytest.approx(vanilla[1], rel=1e-6)
        assert (boot[0] < vanilla[0], boot[2] > vanilla[2]) == (True, True)


def test_without_means_the_crossing_is_that_of_the_paper() -> None:
    """THEORY 7.5; a share that weighs less than training leaves of the rest, squared."""
    found = transition(16, 1e-20, 1.0, TINY.merge_time)["crossing"]
    assert found == pytest.approx(crossings(16, GradientFlow())[0], rel=1e-6)


def test_the_best_plan_is_the_best_of_all(record: Record) -> None:
    rows = record["tables"]["plans"]
    assert len(rows) == 2 * 2 * 2 * 4
    for row in rows[::3]:
        problem = a_problem(row, row["merge_rule"], TINY.steps, row["eigenvalue"])
        plans = [*all_plans(TINY.steps)]
        errors = [evaluate_guided(problem, plan).paired_error for plan in plans]
        assert row["best"] == pytest.approx(min(errors), rel=1e-9)
        assert row["boot"] == pytest.approx(errors[plans.index(build_strategy("boot", 5))])
        plain = a_problem(row, row["merge_rule"], TINY.steps, row["eigenvalue"], scale=1.0)
        without = [evaluate_guided(plain, plan).paired_error for plan in plans]
        assert row["unguided"] == pytest.approx(errors[int(np.argmin(without))])
        started = a_problem(row, row["merge_rule"], TINY.steps, row["eigenvalue"], start="teacher")
        least = min(evaluate_guided(started, plan).paired_error for plan in plans)
        assert row["from_teacher"] == pytest.approx(least, rel=1e-9)
        assert 0 <= row["means"] <= 1
        if row["scale"] == 1:
            assert row["unguided"] == pytest.approx(row["best"])


def test_digits_have_the_variances_of_their_classes(record: Record) -> None:
    for row in record["tables"]["digits"]:
        assert 0.3 < row["share"] < 0.6
        assert 0.9 < row["commuting"] <= 1
        assert row["best"] <= min(row[name] for name in ("boot", "vanilla", "progressive"))


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Any) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 9}, "`steps` must be <= 8, got 9"),
        ({"scales": (0.5, 2.0)}, "`scales.0` must be >= 1, got 0.5"),
        ({"scales": (3.0, 1.0)}, "`scales` must ascend and not be empty"),
        ({"shares": (0.1, 1.0)}, "`shares.1` must be < 1, got 1.0"),
        ({"num_eigenvalues": 1}, "`num_eigenvalues` must be >= 4, got 1"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        GuidanceSettings(**settings)
    assert str(caught.value).startswith(message)


def test_claims_count_the_cases_of_the_record(record: Record, page: StudyPage) -> None:
    rows = record["tables"]["plans"]
    of = {key: claim.count.of for key, claim in claims(page).items()}
    copied = [row for row in rows if row["merge_rule"] == "denoiser-copy"]
    assert of["crossing-moves-up"] == 2
    assert of["boot-best-without-guidance"] == sum(row["scale"] == 1 for row in copied)
    assert of["boot-best-under-guidance"] == sum(row["scale"] > 1 for row in copied)
    assert of["plans-for-none-will-do"] == sum(row["scale"] > 1 for row in rows)
    worse = [row for row in copied if row["scale"] > 1 and row["boot"] > row["best"] * (1 + 1e-9)]
    found = claims(page)["boot-best-under-guidance"].count
    assert found.of - found.n == len(worse) > 0
    assert page.html.count("<svg") == 3


def test_a_crossing_that_falls_refutes_a_claim(record: Record, page: StudyPage) -> None:
    altered = json.loads(json.dumps(record))
    altered["tables"]["transitions"][-1]["crossing"] = 0.5
    before, after = (
        claims(each)["crossing-moves-up"].count for each in (page, STUDY.told(altered))
    )
    assert (after.n, after.of) == (before.n - 1, before.of)


def test_a_record_without_crossings_is_drawn(record: Record) -> None:
    altered = json.loads(json.dumps(record))
    for row in altered["tables"]["transitions"]:
        row.update(crossing=None, crossings=0)
    page = STUDY.page(altered)
    assert claims(page)["crossing-moves-up"].verdict == "not looked at"
    assert "nan" not in page.html
