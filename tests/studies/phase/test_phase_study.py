"""The study `phase`: BOOT up to λ = 1, vanilla from λ*(T) on, and a band of other plans between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from study_records import claims

from opmerge.errors import InputError
from opmerge.page.study import StudyPage
from opmerge.training import GradientFlow
from opmerge_studies.phase import STUDY, PhaseSettings
from opmerge_studies.shared.transition import crossings, growth_threshold

Record = dict[str, Any]

TINY = PhaseSettings(steps=(16, 32), num_eigenvalues=24, denoiser_steps=(16,))


def rows(record: Record, rule: str) -> list[Record]:
    return [row for row in record["tables"]["plans"] if row["merge_rule"] == rule]


def test_boot_is_best_up_to_1_and_vanilla_from_the_threshold_on(record: Record) -> None:
    """THEORY 7.2 and 7.3; the planner does not know them."""
    for row in rows(record, "operator-copy"):
        if row["eigenvalue"] <= 1:
            assert row["shape"] == "boot"
        if row["eigenvalue"] >= growth_threshold(row["num_steps"]):
            assert row["shape"] == "vanilla"
        assert row["best"] <= min(row[name] for name in ("boot", "vanilla", "progressive"))


def test_between_them_lies_a_band_of_other_plans(record: Record) -> None:
    for crossing in record["tables"]["crossings"]:
        assert 1 <= crossing["boot_to"] < crossing["band_from"] < crossing["band_to"]
        assert crossing["band_to"] < crossing["vanilla_from"]
        # Where BOOT and vanilla err equally neither is best: the band has begun by then.
        assert crossing["boot_to"] < crossing["first_crossing"] < crossing["band_to"]
        assert crossing["band_to"] < crossing["threshold"]


def test_under_denoiser_copy_there_is_no_transition(record: Record) -> None:
    """THEORY 7.9."""
    found = rows(record, "denoiser-copy")
    assert {row["shape"] for row in found} == {"boot"}
    assert min(row["eigenvalue"] for row in found) < 1 < max(row["eigenvalue"] for row in found)


@pytest.mark.parametrize(
    ("num_steps", "expected", "digits"),
    [(16, 1.140, 3), (64, 1.0365, 4), (128, 1.0185, 4), (256, 1.009365, 6)],
)
def test_crossings_are_those_of_the_theory(num_steps: int, expected: float, digits: int) -> None:
    """THEORY 7.5; T = 256 of which T = 256 is 1.0093646 there and here, rounded."""
    assert round(crossings(num_steps, GradientFlow())[0], digits) == expected


@pytest.mark.parametrize("num_steps", [4, 16, 64, 512])
def test_the_threshold_has_a_closed_form(num_steps: int) -> None:
    assert growth_threshold(num_steps) == pytest.approx(1 + 1 / math.cos(math.pi / 2 / num_steps))


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ()}, "`steps` must not be empty"),
        ({"steps": (64, 16)}, "`steps` must ascend, got (64, 16)"),
        ({"steps": (2,)}, "`steps.0` must be >= 4, got 2"),
        ({"denoiser_steps": (32, 16)}, "`denoiser_steps` must ascend, got (32, 16)"),
        ({"num_eigenvalues": 3}, "`num_eigenvalues` must be >= 10, got 3"),
        ({"merge_time": 0}, "`merge_time` must be > 0"),
        ({"merge_time": 1e3}, "`merge_time` must be <= 100"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PhaseSettings(**settings)
    assert str(caught.value).startswith(message)


# What the page claims and shows


def test_claims_count_the_points_of_the_record(record: Record, page: StudyPage) -> None:
    copied = [row for row in record["tables"]["plans"] if row["merge_rule"] == "operator-copy"]
    threshold = {steps: growth_threshold(steps) for steps in TINY.steps}
    of = {key: claim.count.of for key, claim in claims(page).items()}
    assert of["boot-best-to-one"] == sum(row["eigenvalue"] <= 1 for row in copied)
    assert of["vanilla-best-from-threshold"] == sum(
        row["eigenvalue"] >= threshold[row["num_steps"]] for row in copied
    )
    assert of["no-transition-under-denoiser-copy"] == 3
    assert of["plans-near-the-teacher"] == 2
    assert of["crossing-tends-to-one"] == 1
    gains = {
        row["num_steps"] for row in copied if 100 * row["best"] < min(row["boot"], row["vanilla"])
    }
    assert claims(page)["plans-near-the-teacher"].count.n == len(gains)
    assert {claim.key for claim in page.claims if not claim.holds} == {"plans-near-the-teacher"}


def test_the_page_tells_crossings_and_shows_every_figure(record: Record, page: StudyPage) -> None:
    assert page.finding.startswith("Sequential BOOT is best at ")
    assert page.html.count("<svg") == 4
    assert set(page.figures) == {
        "which-plan-is-best",
        "error-over-λ",
        "how-many-merges-the-best-plan-has",
        "the-crossing-tends-to-1",
    }
    for steps in TINY.steps:
        assert f"λ = {crossings(steps, GradientFlow())[0]:g}" in page.html


def test_a_plan_below_boot_refutes_a_claim(record: Record, page: StudyPage) -> None:
    altered = json.loads(json.dumps(record))
    altered["tables"]["plans"][0]["best"] /= 2
    before, after = (claims(each)["boot-best-to-one"].count for each in (page, STUDY.told(altered)))
    assert (after.n, after.of, after.holds) == (before.n - 1, before.of, False)


def test_a_record_without_crossings_and_denoisers_is_drawn(record: Record) -> None:
    altered = json.loads(json.dumps(record))
    for row in altered["tables"]["crossings"]:
        row.update(dict.fromkeys(("first_crossing", "last_crossing", "boot_to", "vanilla_from")))
    copied = [row for row in record["tables"]["plans"] if row["merge_rule"] == "operator-copy"]
    altered["tables"]["plans"] = copied
    page = STUDY.page(altered)
    unseen = {claim.key for claim in page.claims if claim.verdict == "not looked at"}
    assert unseen == {
        "neither-best-between",
        "crossing-tends-to-one",
        "no-transition-under-denoiser-copy",
    }
    assert page.html.count("<svg") == 3
    assert "nan" not in page.html
