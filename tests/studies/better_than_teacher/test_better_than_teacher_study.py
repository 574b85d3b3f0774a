"""The study `better-than-teacher`: what it finds, and what its page says of it."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from study_records import rows

from opmerge.errors import InputError
from opmerge.page.claims import Count
from opmerge_studies.better_than_teacher import STUDY, BetterThanTeacherSettings
from opmerge_studies.shared.strategies import CANONICAL

Record = dict[str, Any]

TINY = BetterThanTeacherSettings(
    steps=(8, 16),
    num_eigenvalues=8,
    times=(0.5, 1.0, 2.0, 6.4),
    sources=("digits",),
    misfit_steps=8,
    ranks=(24,),
    factors=(0.8, 1.5),
    sample_sizes=(128,),
    num_seeds=2,
)


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


def test_the_condition_agrees_with_the_distances(record: Record) -> None:
    assert sum(row["disagree"] for row in record["tables"]["points"]) == 0


def test_up_to_1_every_strategy_overtakes_and_boot_is_first(record: Record) -> None:
    for row in rows(record, "times", merge_rule="operator-copy"):
        if row["eigenvalue"] <= 1:
            assert row["first"] is not None
            assert row["until"] is None
            boot = rows(record, "times", **{**where_of(row), "strategy": "boot"})[0]
            assert boot["first"] <= row["first"]
        if row["eigenvalue"] >= 2.1:
            assert row["first"] is None


def where_of(row: Record) -> Record:
    return {key: row[key] for key in ("merge_rule", "num_steps", "eigenvalue")}


def test_times_and_points_agree(record: Record) -> None:
    """From the first time on the student is nearer; 1e-3 keeps points on a boundary apart."""
    for row in rows(record, "points", merge_rule="operator-copy"):
        for name in CANONICAL:
            first = rows(record, "times", **where_of(row), strategy=name)[0]["first"]
            if first is None or row["time"] < first * (1 - 1e-3):
                assert row[name] >= row["teacher"] * (1 - 1e-9)
            elif row["time"] > first * (1 + 1e-3):
                assert row[name] <= row["teacher"] * (1 + 1e-12)
        assert row["lower_bound"] <= row["best"] <= min(row[name] for name in CANONICAL)


def test_copied_denoisers_never_overtake(record: Record) -> None:
    found = rows(record, "times", merge_rule="denoiser-copy")
    assert found
    assert all(row["first"] is None for row in found)


def test_misfits_are_overtaken_in_the_direction_of_their_error(record: Record) -> None:
    """Too narrow a teacher by overshoot, too wide a one by shrinking (denoiser copy)."""
    for limit, size, rule, is_helped in (
        ("rank, rest 0", 24, "operator-copy", True),
        ("rank, rest 0", 24, "denoiser-copy", False),
        ("biased", 1.5, "denoiser-copy", True),
        ("biased", 0.8, "denoiser-copy", False),
    ):
        here = rows(record, "misfits", limit=limit, size=size, merge_rule=rule)
        nearer = min(row[name] / row["teacher"] for row in here for name in CANONICAL)
        assert (nearer < 0.99) == is_helped, (limit, size, rule, nearer)


def test_an_exact_teacher_among_the_misfits_is_that_of_the_spectrum(record: Record) -> None:
    """Dense matrices there, scalars here; 1e-6 is the root of rounding over 64 directions."""
    for row in rows(record, "misfits", limit="exact", merge_rule="operator-copy"):
        scalar = rows(record, "spectra", num_steps=8, time=row["time"])[0]
        for name in ("teacher", *CANONICAL):
            assert row[name] == pytest.approx(scalar[name], rel=1e-6)


def test_the_best_plan_on_a_spectrum_lies_between_bound_and_strategies(record: Record) -> None:
    for row in record["tables"]["spectra"]:
        assert row["lower_bound"] <= row["best"] <= min(row[name] for name in CANONICAL)
    assert any(row["best"] < 0.95 * row["teacher"] for row in record["tables"]["spectra"])


def test_claims_count_what_the_tables_hold(record: Record) -> None:
    claims = {claim.key: claim for claim in STUDY.told(record).claims}
    assert all(claim.holds for claim in claims.values())
    operators = rows(record, "times", merge_rule="operator-copy")
    below = [row for row in operators if row["eigenvalue"] <= 1]
    above = [row for row in operators if row["eigenvalue"] > 2.1]  # λ*(8) = 2.02
    assert claims["overtakes-below-one"].count == Count(len(below), len(below))
    assert claims["never-above-threshold"].count.of == len(above)
    points = record["tables"]["points"]
    assert claims["condition-exact"].count.of == len(points) * len(CANONICAL)
    # rank 24 with rest 0 and 0.8; beside them the optimal teacher and 1.5
    assert claims["overshoot-helps-narrow"].count == Count(2, 2)
    assert claims["shrinking-helps-wide"].count == Count(4, 4)


def test_claims_fail_where_the_record_is_another(record: Record) -> None:
    altered = json.loads(json.dumps(record))
    whole = STUDY.told(record).claims[1].count.of
    rows(altered, "times", merge_rule="operator-copy", eigenvalue=1.0)[0]["first"] = None
    altered["tables"]["points"][0]["disagree"] = 3
    for row in rows(altered, "misfits", merge_rule="denoiser-copy", limit="exact"):
        row["boot"] = 0.9 * row["teacher"]
    for row in altered["tables"]["spectra"]:
        row["best"] = 2.0 * row["teacher"]
    for row in rows(altered, "times", merge_rule="denoiser-copy"):
        row["first"] = 7.0
    page = STUDY.told(altered)
    claims = {claim.key: claim.count for claim in page.claims}
    assert claims["overtakes-below-one"] == Count(whole - 1, whole)
    assert claims["condition-exact"].n == claims["condition-exact"].of - 3
    assert claims["shrinking-helps-wide"] == Count(3, 4)
    assert claims["plans-gain-more"].n == claims["copied-denoisers-never"].n == 0
    assert f"in {whole - 1} of {whole} cases with λ ≤ 1" in page.finding


def test_the_page_shows_every_part_whatever_is_found(record: Record) -> None:
    page = STUDY.page(record)
    assert page.html.count("<svg") == len(page.figures) == page.html.count("<table") == 4
    assert page.finding in unescape(page.html)
    assert "nan" not in page.html
    altered = json.loads(json.dumps(record))
    for row in altered["tables"]["times"]:
        row["first"] = row["until"] = row["perfect"] = None
    altered["tables"]["misfits"] = rows(altered, "misfits", limit="exact")
    page = STUDY.page(altered)
    assert "nan" not in page.html
    assert len(page.figures) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ()}, "`steps` must ascend and not be empty"),
        ({"steps": (2, 8)}, "`steps.0` must be >= 4, got 2"),
        ({"misfit_steps": 2}, "`misfit_steps` must be >= 4, got 2"),
        ({"times": (0.0, 1.0)}, "`times.0` must be > 0"),
        ({"num_eigenvalues": 2}, "`num_eigenvalues` must be >= 6, got 2"),
        ({"ranks": (0,)}, "`ranks.0` must be >= 1, got 0"),
        ({"factors": (-1.0,)}, "`factors.0` must be > 0"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        BetterThanTeacherSettings(**settings)
    assert str(caught.value).startswith(message)
