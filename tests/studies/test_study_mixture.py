"""The study `mixture`: a tiny run, what its record must satisfy, and what its page then says."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.mixture import Config
from opmerge_studies.mixture.cells import REGIMES, STRATEGIES, dimension_mixture
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.study import STUDIES

Record = dict[str, Any]

STUDY = STUDIES["mixture"]
TINY = Config(
    num_steps=6,
    exhaustive_steps=5,
    separations=(0.0, 1.0),
    student_steps=(1, 2, 3),
    exhaustive_students=2,
    num_distances=8,
    signals=(0.0, 0.02, 0.4),
    num_nodes=257,
    num_samples=256,
    num_seeds=4,
)


# ------------------------------------------------------------------------- what it finds


def test_no_one_step_plan_is_below_the_affine_bound(record: Record) -> None:
    """45 trees for T = 5 (little Schröder); the bound by a teacher and a regression of its own."""
    rows = [row for row in record["tables"]["best"] if row["student_steps"] == 1]
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        assert row["plans"] == 45
        assert row["bound"] * (1 - 1e-9) <= row["best"] <= 1.01 * row["bound"]
        assert row["best"] <= min(row[name] for name in STRATEGIES)
        assert max(row[name] for name in STRATEGIES) <= row["worst"]
        assert row["bound"] == pytest.approx(_affine_distance(row), rel=1e-4)


def _affine_distance(row: Record) -> float:
    """The nearest affine map's error: DDIM written out once more, on a fine grid of z_T."""
    start = z = np.linspace(-9, 9, 20_001)
    masses = norm.pdf(start) / norm.pdf(start).sum()
    means = np.array([-row["separation"], row["separation"]])
    variances = np.array(REGIMES[row["regime"]])
    schedule = cosine_schedule(5)
    for t in range(5, 0, -1):
        a, s = schedule.alphas[t], schedule.sigmas[t]
        noisy = a**2 * variances + s**2
        density = norm.pdf(z[:, None], a * means, np.sqrt(noisy))
        shares = density / density.sum(axis=1, keepdims=True)
        denoised = (shares * (means + a * variances / noisy * (z[:, None] - a * means))).sum(axis=1)
        z = schedule.alphas[t - 1] * denoised + schedule.sigmas[t - 1] * (z - a * denoised) / s
    slope = masses @ (start * z)
    return float(np.sqrt(masses @ (z - masses @ z - slope * start) ** 2))


def test_best_of_all_plans_bounds_the_others(record: Record) -> None:
    """Among plans of K trees none is below the best; equal windows and planners are among them."""
    for row in record["tables"]["best"]:
        for name in (*STRATEGIES, "interval", "gaussian", "equal_windows"):
            assert row["best"] * (1 - 1e-12) <= row[name] <= row["worst"] * (1 + 1e-12)
        assert row["equal_windows"] <= min(row[name] for name in STRATEGIES) * (1 + 1e-12)
    two = [row for row in record["tables"]["best"] if row["student_steps"] == 2]
    for row in two:
        chosen = [
            place
            for place in record["tables"]["handovers"]
            if all(place[key] == row[key] for key in ("regime", "separation", "merge_rule"))
        ]
        assert sorted(place["handover"] for place in chosen) == [1, 2, 3, 4]
        by_step = {place["handover"]: place["error"] for place in chosen}
        assert row["equal_windows"] == by_step[2]  # 5 → 2 → 0: the longer window first
        least = min(chosen, key=lambda place: float(place["error"]))
        assert least["error"] == row["best"]
        assert row["handovers"] == f"5 → {least['handover']} → 0"


def test_floor_and_optimisation_of_single_merges(record: Record) -> None:
    """One merge, one student: floor² + optimisation² = error², and floor is what is left at
    the end of training; W2 is the error, for all maps here increase."""
    found = {
        (row["regime"], row["separation"], row["merge_rule"]): row
        for row in record["tables"]["strategies"]
        if row["plan"] == "vanilla" and row["student_steps"] == 1
    }
    for merge in record["tables"]["merges"]:
        if merge["plan"] == "vanilla" and merge["student_steps"] == 1:
            row = found.pop((merge["regime"], merge["separation"], merge["merge_rule"]))
            whole = math.hypot(merge["floor"], merge["optimisation"])
            assert row["error"] == pytest.approx(whole, rel=1e-9)
            assert row["approximation"] == pytest.approx(merge["floor"], rel=1e-9)
            assert row["w2"] == pytest.approx(row["error"], rel=1e-6)
            assert row["local"] == pytest.approx(whole, rel=1e-12)
    assert not found


def test_components_that_coincide_are_one_gaussian(record: Record) -> None:
    """Two equal components at ±1e-4: the theory at half the training time (Σ π_k² = ½)."""
    for variance in (0.2, 5.0):
        row = next(r for r in record["tables"]["distances"] if r["variance"] == variance)
        assert row["separation"] == pytest.approx(1e-4)
        problem = Problem(eigenvalue_spectrum([variance]), cosine_schedule(6), GradientFlow(3.2))
        for name in ("boot", "vanilla"):
            expected = evaluate(problem, build_strategy(name, 6)).w2
            assert row[name] == pytest.approx(expected, rel=1e-4)
        assert row["bound"] < 1e-10
    assert (row["boot"] > row["vanilla"]) == (variance > 1)


def test_a_little_signal_lowers_the_floor_but_not_the_error(record: Record) -> None:
    """alpha_T = 0: floor and affine bound are one; 0.02: the form can fit more, gradient flow
    with eigenvalues of order alpha_T² leaves it; 0.4: it learns some of it."""
    for row in record["tables"]["signals"]:
        if row["signal"] == 0:
            assert row["floor"] == pytest.approx(row["affine"], rel=1e-9)
        else:
            assert row["floor"] < 0.9 * row["affine"]
            assert row["vanilla"] >= row["floor"]
        if row["signal"] == 0.02:
            assert row["vanilla"] == pytest.approx(row["affine"], rel=0.02)


def test_composites(record: Record) -> None:
    """2^m paths at most, all of them effective at alpha_T = 0; more steps, more of each."""
    for row in record["tables"]["composites"]:
        assert row["paths"] == 2.0 ** (row["start"] - row["stop"])
        assert 1 <= row["effective_paths"] <= row["paths"] * (1 + 1e-9)
        assert row["gain"] <= row["largest_gain"] * 1.05
        if (row["start"], row["stop"]) == (6, 5):
            assert row["effective_paths"] == pytest.approx(2.0)
            assert row["floor"] < 1e-12
            assert row["gates"] == 1


def test_samples_have_intervals(record: Record) -> None:
    """Vanilla over itself is 1 on every seed; where windows of two steps leave one order, so is
    every strategy."""
    rows = record["tables"]["dimensions"]
    assert {(row["mixture"], row["dimension"]) for row in rows} == {
        ("ring of 8", 2),
        ("two spectra", 8),
    }
    for row in rows:
        if row["plan"] == "vanilla" or row["student_steps"] == 3:
            assert (row["ratio"], row["ratio_half_width"]) == pytest.approx((1.0, 0.0), abs=1e-12)
        assert row["error_half_width"] > 0
    ring = dimension_mixture("ring of 8")
    assert ring.covariance == pytest.approx((0.1 + 1.5**2 / 2) * np.eye(2))
    spectra = dimension_mixture("two spectra")
    assert np.prod(spectra.variances, axis=0) == pytest.approx(np.ones(8))


# -------------------------------------------------------------------------- what it says


def test_finding_carries_the_numbers(record: Record) -> None:
    one = [row for row in record["tables"]["best"] if row["student_steps"] == 1]
    finding = STUDY.answer(record).finding
    vanilla = 100 * max(row["vanilla"] / row["bound"] - 1 for row in one)
    assert finding.startswith("From pure noise every one-step student of a mixture is affine")
    assert f"vanilla within {vanilla:.2g} %" in finding
    two = [row for row in record["tables"]["best"] if row["student_steps"] == 2]
    place = max(row["equal_windows"] / row["best"] for row in two)
    assert f"at most {place:.3g}" in finding


def test_other_numbers_say_other_things(record: Record) -> None:
    """Were the best plan 20 % above the floor, and errors already small at K = 3 when trained to
    the end, the page would have to say so."""
    changed = copy.deepcopy(record)
    for row in changed["tables"]["best"]:
        row["best"] = 1.2 * row["bound"] if row["student_steps"] == 1 else row["best"]
    for row in changed["tables"]["strategies"]:
        row["approximation"] = 0.1 * row["error"] if row["student_steps"] > 1 else row["error"]
    answer = STUDY.answer(changed)
    assert "errs by up to 20 % more" in answer.finding
    assert "what training leaves is the larger part from K = 2 on" in " ".join(answer.evidence)
    for row in changed["tables"]["handovers"]:
        row["error"] = row["handover"] if row["regime"] == "wide" else -row["handover"]
    assert "Narrow components want it" not in " ".join(STUDY.answer(changed).evidence)


def test_page(record: Record) -> None:
    """Every section has its figure with what is seen in it; no number is missing."""
    page = STUDY.page(record)
    assert page.count("<svg") == 9
    assert "At one step vanilla is within" in page
    assert not re.search(r"\b(nan|inf)\b", page, re.IGNORECASE)


def test_interrupted_run_goes_on(record: Record, folder: Path) -> None:
    """Half of the cells are gone; the same record comes out."""
    cells = sorted((folder / "cells").glob("*.json"))
    for path in cells[::8]:
        path.unlink()
    again = STUDY.run(TINY, Runner(folder, num_workers=1))
    assert again == record


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exhaustive_steps": 9}, "`exhaustive_steps` must be <= 8, got 9"),
        ({"num_nodes": 10}, "`num_nodes` must be >= 65, got 10"),
        ({"exhaustive_students": 9}, "`exhaustive_students` must be <= exhaustive_steps, got 9"),
        ({"separations": (-1.0,)}, "`separations` must be one or more, all >= 0"),
        ({"student_steps": (2, 1)}, "`student_steps` must ascend from 1"),
        ({"student_steps": (1, 16)}, "`student_steps` must be < num_steps"),
        ({"signals": (0.1,)}, "`signals` must ascend from 0"),
        ({"signals": (0.0, 1.0)}, "`signals` must be < 1"),
        ({"merge_time": 0.0}, "`merge_time` must be > 0, got 0.0"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Config(**settings)
    assert message in str(error.value)
