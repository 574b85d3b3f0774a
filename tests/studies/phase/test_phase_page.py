"""The page of the study `phase`: what it claims, and what it shows."""

from __future__ import annotations

import json
from typing import Any

from opmerge.page.claims import Claim
from opmerge.page.study import StudyPage
from opmerge.training import GradientFlow
from opmerge_studies.phase import STUDY, PhaseSettings
from opmerge_studies.shared.transition import crossings, growth_threshold

Record = dict[str, Any]

TINY = PhaseSettings(steps=(16, 32), num_eigenvalues=24, denoiser_steps=(16,))


def claims(page: StudyPage) -> dict[str, Claim]:
    return {claim.key: claim for claim in page.claims}


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
    before, after = (claims(each)["boot-best-to-one"].count for each in (page, STUDY.page(altered)))
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
