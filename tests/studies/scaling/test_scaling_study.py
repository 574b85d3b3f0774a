"""The study `scaling`: how time and memory of the planners grow. No time itself is asserted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opmerge.errors import InputError
from opmerge.page.study import StudyPage
from opmerge_studies.scaling import (
    STUDY,
    ScalingSettings,
    fit_exponent,
    measure,
    natural_problem,
)
from opmerge_studies.shared.transition import growth_threshold

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


@given(
    exponent=st.floats(-4, 4),
    factor=st.floats(1e-6, 1e6),
    sizes=st.lists(st.integers(1, 4000), min_size=3, max_size=8, unique=True),
)
def test_a_power_law_gives_its_exponent_without_error(
    exponent: float, factor: float, sizes: list[int]
) -> None:
    costs = [factor * size**exponent for size in sizes]
    fit = fit_exponent(sizes, costs)
    assert fit["exponent"] == pytest.approx(exponent, abs=1e-9)
    assert fit["standard_error"] == pytest.approx(0.0, abs=1e-6)  # the root of rounding
    assert fit["low"] <= fit["exponent"] <= fit["high"]


def test_the_interval_of_an_exponent_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([64, 128, 256, 512])
    repeats = 2000
    covered = 0
    for _ in range(repeats):
        costs = sizes**3.0 * np.exp(0.1 * rng.standard_normal(4))
        fit = fit_exponent(sizes, costs)
        covered += fit["low"] <= 3 <= fit["high"]
    assert covered / repeats == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / repeats) ** 0.5)


def test_the_standard_error_is_that_of_the_normal_equations() -> None:
    sizes, costs = np.array([2.0, 3.0, 7.0, 11.0]), np.array([1.0, 4.0, 30.0, 200.0])
    x, y = np.log(sizes), np.log(costs)
    design = np.stack([x, np.ones(4)], axis=1)
    solution, (residual,), _, _ = np.linalg.lstsq(design, y)
    variance = residual / 2 * np.linalg.inv(design.T @ design)[0, 0]
    fit = fit_exponent(sizes, costs)
    assert fit["exponent"] == pytest.approx(solution[0], rel=1e-12)
    assert fit["standard_error"] == pytest.approx(variance**0.5, rel=1e-12)


@pytest.mark.parametrize("dimensions", [1, 4, 16, 100])
def test_the_problem_has_no_eigenvalue_between_the_phases(dimensions: int) -> None:
    values = natural_problem(12, dimensions).eigenvalues
    assert len(values) == dimensions
    assert not ((values > 1) & (values < growth_threshold(12))).any()
    assert (values > 1).sum() == dimensions // 16


def test_interval_dp_allocates_what_it_says_of_its_tables() -> None:
    """Two tables of (T+1)² d numbers of 8 bytes are the most of its memory."""
    row = measure("interval", "T", 96, 32, 1)
    assert row["table_bytes"] == 2 * 8 * 97**2 * 32
    assert row["table_bytes"] <= row["traced_bytes"] <= 1.5 * row["table_bytes"]


def test_memory_of_interval_dp_grows_as_its_tables_do(record: Record) -> None:
    fits = {(fit["planner"], fit["varied"]): fit for fit in record["tables"]["fits"]}
    assert len(fits) == 7
    big = [measure("interval", "T", steps, 16, 1)["traced_bytes"] for steps in (64, 128, 256)]
    exponent = fit_exponent((64, 128, 256), big)["exponent"]
    assert exponent == pytest.approx(2.0, abs=0.1)  # (T+1)² and what grows less


def test_every_size_is_measured_once(record: Record) -> None:
    rows = record["tables"]["times"]
    assert len(rows) == 3 * 5 + 2 * 3
    for row in rows:
        assert row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["traced_bytes"] > 0
        if row["planner"] in ("certified", "scalar", "brute-force", "pareto"):
            assert row["gap"] <= 1e-9  # these problems have no λ in (1, λ*)


def test_a_resumed_run_keeps_what_was_measured(record: Record, folder: Path) -> None:
    """Times differ from run to run, so an equal record shows that nothing was measured again."""
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": (64, 32, 16)}, "`steps` must ascend"),
        ({"steps": (64, 128)}, "`steps` must hold at least 3 sizes"),
        ({"dimensions": (1, 2, 3)}, "`dimensions.0` must be >= 2, got 1"),
        ({"repeats": 0}, "`repeats` must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ScalingSettings(**changes)
    assert str(caught.value).startswith(message)


# What the page claims and shows


def with_fit(record: Record, **changes: float) -> Record:
    fits = [
        {**fit, **changes} if (fit["planner"], fit["varied"]) == ("interval", "T") else fit
        for fit in record["tables"]["fits"]
    ]
    return {**record, "tables": {**record["tables"], "fits": fits}}


def test_the_claimed_exponent_lies_inside_the_interval_or_not(record: Record) -> None:
    near = STUDY.told(with_fit(record, exponent=2.9, standard_error=0.1, low=2.5, high=3.3))
    far = STUDY.told(with_fit(record, exponent=2.1, standard_error=0.1, low=1.8, high=2.4))
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
