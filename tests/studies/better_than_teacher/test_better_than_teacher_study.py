"""The study `better-than-teacher`: what it finds, and what its page says of it."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_records import rows

from opmerge.errors import InputError
from opmerge_studies.better_than_teacher import STRATEGIES, Config, limited_covariance
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.study import STUDIES

Record = dict[str, Any]

STUDY = STUDIES["better-than-teacher"]
TINY = Config(
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
    assert json.loads(json.dumps(STUDY.run(TINY, Runner(folder, num_workers=1)))) == json.loads(
        json.dumps(record)
    )


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
        for name in STRATEGIES:
            first = rows(record, "times", **where_of(row), strategy=name)[0]["first"]
            if first is None or row["time"] < first * (1 - 1e-3):
                assert row[name] >= row["teacher"] * (1 - 1e-9)
            elif row["time"] > first * (1 + 1e-3):
                assert row[name] <= row["teacher"] * (1 + 1e-12)
        assert row["lower_bound"] <= row["best"] <= min(row[name] for name in STRATEGIES)


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
        nearer = min(row[name] / row["teacher"] for row in here for name in STRATEGIES)
        assert (nearer < 0.99) == is_helped, (limit, size, rule, nearer)


def test_an_exact_teacher_among_the_misfits_is_that_of_the_spectrum(record: Record) -> None:
    """Dense matrices there, scalars here; 1e-6 is the root of rounding over 64 directions."""
    for row in rows(record, "misfits", limit="exact", merge_rule="operator-copy"):
        scalar = rows(record, "spectra", num_steps=8, time=row["time"])[0]
        for name in ("teacher", *STRATEGIES):
            assert row[name] == pytest.approx(scalar[name], rel=1e-6)


def test_the_best_plan_on_a_spectrum_lies_between_bound_and_strategies(record: Record) -> None:
    for row in record["tables"]["spectra"]:
        assert row["lower_bound"] <= row["best"] <= min(row[name] for name in STRATEGIES)
    assert any(row["best"] < 0.95 * row["teacher"] for row in record["tables"]["spectra"])


def test_the_answer_says_what_the_record_says(record: Record) -> None:
    told = STUDY.answer(record)
    below = [r for r in rows(record, "times", merge_rule="operator-copy") if r["eigenvalue"] <= 1]
    assert f"in {len(below)} of {len(below)} cases with λ ≤ 1" in told.finding
    assert told.limits
    assert told.overturned_by
    assert told.finding in unescape(STUDY.page(record))
    altered = json.loads(json.dumps(record))
    entry = rows(altered, "times", merge_rule="operator-copy", eigenvalue=below[0]["eigenvalue"])[0]
    entry["first"] = None
    assert f"in {len(below) - 1} of {len(below)} cases" in STUDY.answer(altered).finding
    altered["tables"]["points"][0]["disagree"] = 3
    assert any("wrong at 3 of" in text for text in STUDY.answer(altered).evidence)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ()}, "`steps` must ascend and not be empty"),
        ({"steps": (2, 8)}, "`steps` must be >= 4, got 2"),
        ({"times": (0.0, 1.0)}, "`merge_time` must be finite and > 0, got 0.0"),
        ({"num_eigenvalues": 2}, "`num_eigenvalues` must be >= 6, got 2"),
        ({"ranks": (0,)}, "`ranks` must be >= 1, got 0"),
        ({"factors": (-1.0,)}, "`factors` must be > 0, got -1.0"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**settings)
    assert str(caught.value).startswith(message)


def test_unknown_limits_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        limited_covariance(np.eye(2), "blurred", 1.0, 0)
    assert str(caught.value).startswith("`limit` must be exact, biased, samples or a rank")
