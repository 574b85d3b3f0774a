"""The study `spectra`: real data in the eigenbasis, and what a diagonal model of them costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import DirectTheory, Setting, best_students
from sklearn.datasets import load_digits

from opmerge.errors import InputError
from opmerge.page.study import StudyPage
from opmerge.plans import build_strategy
from opmerge.schedules import cosine_schedule
from opmerge_studies.spectra import STUDY, SpectraSettings, describe_source, plan_source

Record = dict[str, Any]

TIME = 3.0
VARIANCE, COVARIANCE = 0.9, 0.81  # eigenvalues 9 * 0.9 - 8 * 0.09 below
SIZE = 9
NAMES = ("vanilla", "progressive", "consistency", "boot", "uniform:4", "temporal:8")


@pytest.fixture(scope="module")
def correlated(folder: Path) -> str:
    """Samples whose covariance is exactly 0.09 I + 0.81 · 1 1ᵀ: every pixel has variance 0.9."""
    covariance = (VARIANCE - COVARIANCE) * np.eye(SIZE) + COVARIANCE
    root = np.linalg.cholesky(covariance)
    samples = np.sqrt(SIZE) * np.vstack([root.T, -root.T])  # 1/n Σ x xᵀ = root rootᵀ, mean 0
    path = folder / "correlated.npy"
    np.save(path, samples)
    return str(path)


@pytest.fixture(scope="module")
def settings(correlated: str) -> SpectraSettings:
    return SpectraSettings(sources=(correlated, "digits"), steps=(6,), merge_times=(1.0, TIME))


@pytest.fixture(scope="module")
def record(settings: SpectraSettings, folder: Path) -> Record:
    return STUDY.record(settings, STUDY.runner(folder, num_workers=1))


def true_setting(time: float) -> Setting:
    large = VARIANCE + (SIZE - 1) * COVARIANCE
    small = VARIANCE - COVARIANCE
    return Setting(cosine_schedule(6), (large, small), (1, SIZE - 1), time=time)


def error_of(setting: Setting, name: str) -> float:
    theory = DirectTheory(setting)
    student, _ = theory.plan(build_strategy(name, 6).to_nested())
    return float(theory.distances(student[None])[0])


def test_the_diagonal_of_correlated_pixels_sees_no_large_variance(correlated: str) -> None:
    summary = describe_source(correlated)["summary"]
    assert summary["eigenbasis_largest"] == pytest.approx(7.38)  # 0.9 + 8 · 0.81
    assert summary["eigenbasis_share_small"] == pytest.approx(8 / 9)
    assert summary["eigenbasis_variance_small"] == pytest.approx(8 * 0.09 / 8.1)
    assert summary["diagonal_largest"] == pytest.approx(0.9)
    assert summary["diagonal_share_small"] == summary["diagonal_variance_small"] == 1.0


def test_the_best_plan_and_that_of_the_diagonal_err_as_brute_force_says(correlated: str) -> None:
    """On the diagonal λ = 0.9 nine times, so BOOT is its plan (THEORY 7.2)."""
    for row in plan_source(correlated, (6,), (1.0, TIME)):
        true = true_setting(row["merge_time"])
        diagonal = Setting(cosine_schedule(6), (VARIANCE,), (SIZE,), time=row["merge_time"])
        assert row["best"] == pytest.approx(best_students(true)[0], rel=1e-8)
        assert row["predicted"] == pytest.approx(error_of(diagonal, "boot"), rel=1e-8)
        assert row["transferred"] == pytest.approx(error_of(true, "boot"), rel=1e-8)
        assert row["diagonal_choice"] == "boot"
        assert row["choice_w2"] == pytest.approx(row["boot"], rel=1e-12)


def test_the_shares_of_digits_are_those_of_numpy() -> None:
    pixels = load_digits().data / 8.0 - 1.0
    values = np.linalg.eigvalsh(np.cov(pixels.T, bias=True))
    described = describe_source("digits")
    summary = described["summary"]
    assert summary["eigenbasis_largest"] == pytest.approx(values[-1], rel=1e-10)
    assert summary["eigenbasis_share_small"] == pytest.approx((values <= 1).mean())
    assert summary["eigenbasis_variance_small"] == pytest.approx(
        values[values <= 1].sum() / values.sum(), rel=1e-10
    )
    assert summary["diagonal_largest"] == pytest.approx(pixels.var(axis=0).max(), rel=1e-12)
    listed = {
        form: [row["eigenvalue"] for row in described["eigenvalues"] if row["form"] == form]
        for form in ("eigenbasis", "diagonal")
    }
    assert sum(listed["diagonal"]) == pytest.approx(sum(listed["eigenbasis"]), rel=1e-10)  # trace


def test_no_plan_errs_less_than_the_best_and_bounds_are_below(record: Record) -> None:
    for row in record["tables"]["plans"]:
        for key in (*NAMES, "transferred", "choice_w2"):
            assert row["best"] <= row[key] * (1 + 1e-9)
        assert row["lower_bound"] == pytest.approx(row["best"], rel=1e-8)
        assert row["predicted_bound"] <= row["predicted"]


# What it says


def test_claims_count_sources_and_plans(record: Record, page: StudyPage) -> None:
    plans = record["tables"]["plans"]
    assert {claim.key: (claim.count.n, claim.count.of) for claim in page.claims} == {
        "diagonal-sees-no-variance-above-one": (2, 2),
        "diagonal-chooses-boot": (4, 4),
        "boot-errs-least-of-the-named": (sum(row["boot"] == least_named(row) for row in plans), 4),
        "hybrids-gain-half": (
            sum(1.5 <= least_named(row) / row["best"] <= 2.5 for row in plans),
            4,
        ),
        "best-plans-are-proved": (4, 4),
    }


def least_named(row: Record) -> float:
    return min(row[name] for name in NAMES)


def test_the_finding_tells_the_largest_gain_and_loss(record: Record, page: StudyPage) -> None:
    plans = record["tables"]["plans"]
    loss = max(row["transferred"] / row["best"] for row in plans)
    gain = max(least_named(row) / row["best"] for row in plans)
    assert f"errs up to {gain:.2f} times as much as the best plan" in page.finding
    assert f"made for the diagonal up to {loss:.2f} times" in page.finding
    assert "no variance lies above 1 for 2 of 2 sources" in page.finding
    assert "digits: the best named strategy errs 1.00 to 1.00 times" in page.html


def test_a_diagonal_that_sees_is_told(record: Record) -> None:
    tables = record["tables"]
    sources = [{**row, "diagonal_share_small": 0.5} for row in tables["sources"]]
    page = STUDY.told({**record, "tables": {**tables, "sources": sources}})
    assert page.claims[0].verdict == "does not hold, 0 of 2"


def test_the_page_shows_every_figure(page: StudyPage) -> None:
    assert page.html.count("<svg") == 3
    assert set(page.figures) == {"spectra", "gain-of-the-best-plan", "what-the-diagonal-promises"}
    assert "correlated.npy has 18 samples" not in page.html  # for 9 dimensions they are enough


def test_a_resumed_run_gives_the_same_record(
    record: Record, settings: SpectraSettings, folder: Path
) -> None:
    sorted((folder / "cells").iterdir())[0].unlink()
    assert STUDY.record(settings, STUDY.runner(folder, num_workers=1)) == record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "`sources` must not be empty"),
        ({"steps": (64, 32)}, "`steps` must ascend and not be empty"),
        ({"steps": (1,)}, "`steps.0` must be >= 2, got 1"),
        ({"merge_times": (0.0,)}, "`merge_times.0` must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SpectraSettings(**changes)
    assert str(caught.value).startswith(message)
