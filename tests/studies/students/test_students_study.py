"""The study `students`: what each student step is worth, and where it should be."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from oracles import DirectTheory, Setting, best_students
from study_records import counts

from opmerge.errors import InputError
from opmerge.page.study import StudyPage
from opmerge.plans import build_strategy
from opmerge.schedules import cosine_schedule
from opmerge_studies.students import STUDY, StudentsSettings, plan_students
from opmerge_studies.students.page import page

Record = dict[str, Any]

TINY = StudentsSettings(
    sources=("eigenvalues:0.4", "eigenvalues:5", "eigenvalues:0.3,4"),
    student_steps=(1, 2, 3),
    merge_times=(1.0, 3.0),
    num_steps=6,
)


def setting_of(row: Record, objective: str | None = None) -> Setting:
    values = sorted(map(float, row["source"].removeprefix("eigenvalues:").split(",")), reverse=True)
    return Setting(
        cosine_schedule(TINY.num_steps),
        tuple(values),
        (1,) * len(values),
        time=row["merge_time"],
        objective=objective or row["objective"],  # type: ignore[arg-type]
    )


# What the study computes


def test_the_best_student_is_that_of_brute_force(record: Record) -> None:
    for row in record["tables"]["students"]:
        optimum, _ = best_students(setting_of(row), row["student_steps"])
        assert row["best"] == pytest.approx(optimum, rel=1e-9)
        assert row["lower_bound"] <= optimum * (1 + 1e-9)


def test_uniform_students_err_as_direct_multiplication_says(record: Record) -> None:
    for row in record["tables"]["students"]:
        theory = DirectTheory(setting_of(row))
        for name in ("vanilla", "progressive", "consistency", "boot"):
            plan = build_strategy(name, TINY.num_steps, row["student_steps"])
            student, _ = theory.plan(plan.to_nested())
            assert row[name] == pytest.approx(float(theory.distances(student[None])[0]), rel=1e-9)
            assert row["best"] <= row[name] * (1 + 1e-9)
        assert row["best"] <= row["moved"] * (1 + 1e-9)


def test_what_is_kept_of_the_teacher_and_where_is_told(record: Record) -> None:
    for row in record["tables"]["students"]:
        edges = [int(edge) for edge in row["boundaries"].split()]
        assert (edges[0], edges[-1]) == (TINY.num_steps, 0)
        assert len(edges) == row["student_steps"] + 1
        single = sum(start - stop == 1 for start, stop in pairwise(edges))
        assert row["kept_steps"] == single  # a window of one step is the teacher's own


def test_the_other_objective_is_that_of_the_same_plan(record: Record) -> None:
    """With one step and one eigenvalue the same plan is often best for both objectives."""
    rows = {
        (row["source"], row["merge_time"], row["objective"], row["student_steps"]): row
        for row in record["tables"]["students"]
    }
    same = 0
    for (source, time, objective, count), row in rows.items():
        other = rows[source, time, "data" if objective == "teacher" else "teacher", count]
        assert row["other"] >= other["best"] * (1 - 1e-9)
        same += row["plan"] == other["plan"] and row["boundaries"] == other["boundaries"]
        if row["plan"] == other["plan"] and row["boundaries"] == other["boundaries"]:
            assert row["other"] == pytest.approx(other["best"], rel=1e-9)
    assert same > 0


def test_extra_steps_stand_on_the_side_that_is_hard_to_train() -> None:
    """n_t rises with t for λ < 1 and falls for λ > 1, and the retention is exp(-2 s n_t)."""
    low, high = (plan_students(f"eigenvalues:{value}", 6.4, "teacher", 32, 4) for value in (0.5, 5))
    assert low["boundaries"] == "32 3 2 1 0"
    assert min(int(edge) for edge in high["boundaries"].split()[1:-1]) > 16
    one = plan_students("eigenvalues:0.5", 6.4, "teacher", 32, 1)
    assert min(low["boot"], low["vanilla"]) > 10 * one["best"]  # uniform windows hurt: 3.7e-5, 7e-7


# What it says


@pytest.fixture(scope="module")
def drawn(record: Record) -> StudyPage:
    return STUDY.page(record)


def test_claims_and_finding_count_what_the_table_holds(record: Record, drawn: StudyPage) -> None:
    rows = record["tables"]["students"]
    main = [row for row in rows if row["objective"] == "teacher" and row["merge_time"] == 3.0]
    one = {row["source"]: row["best"] for row in main if row["student_steps"] == 1}
    several = [row for row in main if row["student_steps"] > 1]
    names = ("vanilla", "progressive", "consistency", "boot")
    hurt = [row for row in several if min(row[name] for name in names) > one[row["source"]]]
    assert f"on uniform windows {len(hurt)} of {len(several)} students" in drawn.finding
    assert "for λ = 5" in drawn.finding
    nearest = {
        source: min(
            row["best"] / row["teacher_to_data"]
            for row in rows
            if row["source"] == source and row["objective"] == "data"
        )
        for source in one
    }
    assert counts(drawn) == {
        "more-steps-help": (sum(row["best"] < one[row["source"]] for row in several), 6),
        "uniform-no-better": (6, 6),
        "boundaries-carry-the-gain": (
            sum(row["moved"] <= 1.05 * row["best"] for row in several),
            6,
        ),
        "nearer-than-teacher": (sum(ratio < 1 - 1e-9 for ratio in nearest.values()), 3),
    }


def test_contrary_rows_refute_claims(record: Record, drawn: StudyPage) -> None:
    """A uniform student of several steps that beats the planner's; one that one step beats."""
    contrary = deepcopy(record)
    for row in contrary["tables"]["students"]:
        if row["objective"] == "teacher" and row["source"] == "eigenvalues:5":
            if row["student_steps"] == 2:
                row.update({"vanilla": row["best"] / 2, "moved": row["best"] * 1.1})
            if row["student_steps"] == 3:
                row.update({"best": 1e9, "moved": 1e9, "boot": 2e9})
    before, after = counts(drawn), counts(STUDY.told(contrary))
    for key, lost in (
        ("more-steps-help", 1),
        ("uniform-no-better", 2),
        ("boundaries-carry-the-gain", 1),
    ):
        assert after[key] == (before[key][0] - lost, 6)


def test_every_figure_and_table_is_there(record: Record, drawn: StudyPage) -> None:
    assert drawn.html.count("<svg") == len(drawn.figures) == 5
    assert drawn.html.count("<table") == 4
    assert drawn.finding in drawn.html


def test_students_of_one_step_alone_have_no_windows() -> None:
    rows = [plan_students("eigenvalues:5", 1.0, target, 6, 1) for target in ("teacher", "data")]
    settings = TINY.replaced(sources=("eigenvalues:5",), student_steps=(1,), merge_times=(1.0,))
    record = {"tables": {"students": rows}, "settings": settings.model_dump(mode="json")}
    assert len(list(page(record).sections)) == 2


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "`sources` must not be empty"),
        ({"student_steps": (2, 1)}, "`student_steps` must ascend and not be empty"),
        ({"student_steps": (0, 1)}, "`student_steps.0` must be >= 1, got 0"),
        ({"num_steps": 8}, "`student_steps` must be < the 8 steps of the teacher"),
        ({"merge_times": (-1.0,)}, "`merge_times.0` must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        StudentsSettings(**changes)
    assert str(caught.value).startswith(message)
