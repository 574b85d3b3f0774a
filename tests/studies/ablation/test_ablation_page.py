"""The page of the study `ablation`: what it claims, and what it shows."""

from __future__ import annotations

from typing import Any

from opmerge.page.claims import Claim
from opmerge.page.study import StudyPage
from opmerge_studies.ablation import STUDY, AblationSettings

Record = dict[str, Any]

TINY = AblationSettings(
    merge_times=(0.5, 3.0, 6.4),
    steps=(6,),
    num_eigenvalues=10,
    sources=("eigenvalues:0.2,0.9,6",),
    kept_time=3.0,
)


def claims(page: StudyPage) -> dict[str, Claim]:
    return {claim.key: claim for claim in page.claims}


def altered(record: Record, **tables: Any) -> StudyPage:
    return STUDY.page({**record, "tables": {**record["tables"], **tables}})


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
    page = altered(record, transition=moved)
    assert claims(page)["transition-stays"].verdict == "does not hold, 2 of 3"
    assert "shifts by 5.9 % in λ" in page.finding  # 1.064 / 1.005


def test_a_plan_that_does_not_serve_and_a_winner_that_changes_are_told(record: Record) -> None:
    first, *others = record["tables"]["sources"]
    changed = {**first, "kept": 1.2 * first["best"]}
    changed["boot"], changed["vanilla"] = first["vanilla"], first["boot"]
    page = altered(record, sources=[changed, *others])
    assert claims(page)["kept-plan-serves"].verdict == "does not hold, 2 of 3"
    assert claims(page)["winner-stays"].verdict == "does not hold, 0 of 1"
    assert "loses at most 20 %" in page.finding


def test_the_page_shows_every_figure(page: StudyPage) -> None:
    assert page.html.count("<svg") == 4
    assert "spectrum-of-eigenvalues-0-2-0-9-6" in page.figures


def test_no_source_and_no_crossing_leave_out_what_they_would_show(record: Record) -> None:
    blank = dict.fromkeys(("boot_until", "first_crossing", "vanilla_from"))
    unknown = [{**row, **blank} for row in record["tables"]["transition"]]
    page = altered(record, sources=[], transition=unknown)
    unseen = {claim.key for claim in page.claims if claim.verdict == "not looked at"}
    assert unseen == {
        "transition-stays",
        "plans-change-in-the-band-only",
        "winner-stays",
        "kept-plan-serves",
    }
    assert page.html.count("<svg") == 3
    assert "shifts by – in λ" in page.finding
