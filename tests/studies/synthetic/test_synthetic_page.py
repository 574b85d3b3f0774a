"""The page of the study `synthetic`: what it claims, and what it shows."""

from __future__ import annotations

from typing import Any

from opmerge.page.study import StudyPage
from opmerge_studies.synthetic import STUDY, SyntheticSettings

Record = dict[str, Any]

TINY = SyntheticSettings(
    eigenvalues=(0.2, 1.0, 1.2, 5.0),
    steps=(4, 6),
    denoiser_steps=(6,),
    strategies=("vanilla", "progressive", "consistency", "boot"),
    merge_time=1.0,
    num_scanned=6,
)


def counts(page: StudyPage) -> dict[str, tuple[int, int]]:
    return {claim.key: (claim.count.n, claim.count.of) for claim in page.claims}


def test_claims_count_what_the_tables_hold(record: Record, page: StudyPage) -> None:
    scan = record["tables"]["scan"]
    missed = sum(row["interval"] > row["best"] * (1 + 1e-9) for row in scan)
    assert counts(page) == {
        "boot-best-to-one": (4, 4),
        "vanilla-best-from-two": (2, 2),
        "optimum-outperforms": (48, 48),
        "interval-dp-exact-in-the-phases": (6, 6),
        "interval-dp-exact-between": (12 - missed, 12),
        "interval-dp-outperforms": (48, 48),
        "boot-best-under-denoiser-copy": (4, 4),
    }
    assert f"misses the best plan at {missed} of 12 points" in page.finding


def test_another_record_refutes_them(record: Record) -> None:
    tables = record["tables"]
    errors = [{**row, "ratio_to_best": 1.5 * row["ratio_to_best"]} for row in tables["errors"]]
    errors[0] = {**errors[0], "w2": errors[0]["w2"] / 2}
    scan = [{**row, "interval_ratio": 2.0} for row in tables["scan"]]
    page = STUDY.page({**record, "tables": {**tables, "errors": errors, "scan": scan}})
    refuted = {claim.key for claim in page.claims if not claim.holds}
    assert refuted == {claim.key for claim in page.claims} - {"interval-dp-exact-in-the-phases"}
    assert counts(page)["interval-dp-outperforms"] == (47, 48)
    assert counts(page)["interval-dp-exact-between"] == (0, 12)
    assert "vanilla errs at most 50 % more than the best plan" in page.finding
    assert "at 12 of 12 points, by up to 2 times" in page.finding


def test_every_strategy_has_its_figure_and_its_column(page: StudyPage) -> None:
    assert page.html.count("<svg") == 4
    assert set(page.figures) == {
        "strategies-under-operator-copy",
        "strategies-under-denoiser-copy",
        "the-paper-s-planner",
        "more-teacher-steps",
    }
    for name in TINY.strategies:
        assert page.html.count(f'<th scope="col">{name}</th>') == 2


def test_one_t_and_no_denoisers_leave_out_their_figures(record: Record) -> None:
    tables = {
        name: [row for row in rows if (row["merge_rule"], row["num_steps"]) == ("operator-copy", 6)]
        for name, rows in record["tables"].items()
    }
    tables["errors"] = [
        {**row, "ratio_to_best": None} if row["eigenvalue"] == 0.2 else row
        for row in tables["errors"]
    ]
    page = STUDY.page({**record, "tables": tables})
    assert page.html.count("<svg") == 2
    assert counts(page)["boot-best-to-one"] == (1, 1)  # none where the best plan errs by 0
    assert counts(page)["boot-best-under-denoiser-copy"] == (0, 0)
    assert "nan" not in page.html
