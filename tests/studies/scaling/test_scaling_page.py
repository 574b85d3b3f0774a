"""The page of the study `scaling`: what it claims, and what it shows."""

from __future__ import annotations

from typing import Any

from opmerge.page.study import StudyPage
from opmerge_studies.scaling import STUDY, ScalingSettings

Record = dict[str, Any]

TINY = ScalingSettings(
    steps=(8, 16, 32),
    certified_steps=(8, 16, 32),
    dimensions=(2, 4, 8),
    pareto_steps=(4, 5, 6),
    brute_force_steps=(3, 4, 5),
    base_steps=8,
    base_dimensions=2,
    repeats=2,
)


def with_fit(record: Record, **changes: float) -> Record:
    fits = [
        {**fit, **changes} if (fit["planner"], fit["varied"]) == ("interval", "T") else fit
        for fit in record["tables"]["fits"]
    ]
    return {**record, "tables": {**record["tables"], "fits": fits}}


def test_the_claimed_exponent_lies_inside_the_interval_or_not(record: Record) -> None:
    near = STUDY.page(with_fit(record, exponent=2.9, standard_error=0.1, low=2.5, high=3.3))
    far = STUDY.page(with_fit(record, exponent=2.1, standard_error=0.1, low=1.8, high=2.4))
    assert "T^2.90 ± 0.10" in near.finding
    cubic = [{claim.key: claim for claim in page.claims} for page in (near, far)]
    assert cubic[0]["interval-dp-cubic-in-steps"].verdict == "holds, 1 of 1"
    assert cubic[1]["interval-dp-cubic-in-steps"].verdict == "does not hold, 0 of 1"


def test_claims_count_the_sizes_that_both_planners_ran_at(record: Record, page: StudyPage) -> None:
    seconds = {
        (row["planner"], row["varied"], row["num_steps"], row["dimensions"]): row["seconds"]
        for row in record["tables"]["times"]
    }
    slower = [
        seconds["certified", *place] < time
        for (planner, *place), time in seconds.items()
        if planner == "interval"
    ]
    counts = {claim.key: (claim.count.n, claim.count.of) for claim in page.claims}
    assert counts["certified-is-faster"] == (sum(slower), 6)
    assert counts["certified-closes"] == (6, 6)
    assert counts["interval-dp-takes-its-tables"][1] == 6


def test_the_page_shows_every_figure_and_the_powers_only(page: StudyPage) -> None:
    assert page.html.count("<svg") == 3
    assert set(page.figures) == {
        "time-by-number-of-steps",
        "time-by-number-of-eigenvalues",
        "memory",
    }
    assert "brute-force, T = " not in page.html  # it has no exponent
    assert "pareto, T = 4 to 6: exponent" in page.html
