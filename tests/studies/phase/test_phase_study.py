"""The study `phase`: BOOT up to λ = 1, vanilla from λ*(T) on, and a band of other plans between."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from opmerge.errors import InputError
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
