"""The study `mixture`: a tiny run, what its record must satisfy, and what its page then says."""

from __future__ import annotations

import copy
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from study_records import claims, counts

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.page.study import StudyPage
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.mixture import REGIMES, STUDY, MixtureSettings, dimension_mixture
from opmerge_studies.shared.strategies import CANONICAL

Record = dict[str, Any]

TINY = MixtureSettings(
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
        assert row["best"] <= min(row[name] for name in CANONICAL)
        assert max(row[name] for name in CANONICAL) <= row["worst"]
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
        for name in (*CANONICAL, "interval", "gaussian", "equal_windows"):
            assert row["best"] * (1 - 1e-12) <= row[name] <= row["worst"] * (1 + 1e-12)
        assert row["equal_windows"] <= min(row[name] for name in CANONICAL) * (1 + 1e-12)
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
        spectrum, schedule = eigenvalue_spectrum([variance]), cosine_schedule(6)
        problem = Problem(spectrum, schedule, GradientFlow(3.2), "operator-copy")
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
    finding = STUDY.told(record).finding
    vanilla = 100 * max(row["vanilla"] / row["bound"] - 1 for row in one)
    assert finding.startswith("From pure noise every one-step student of a mixture is affine")
    assert f"vanilla {vanilla:.2g} %" in finding
    two = [row for row in record["tables"]["best"] if row["student_steps"] == 2]
    place = max(row["equal_windows"] / row["best"] for row in two)
    assert f"at most {place:.3g}" in finding


def test_claims_count_what_the_tables_hold(record: Record) -> None:
    """Twelve cases of one step, twelve of two; three dozen strategies at the most steps."""
    best = record["tables"]["best"]
    one = [row for row in best if row["student_steps"] == 1]
    two = [row for row in best if row["student_steps"] == 2]
    named = [row for row in record["tables"]["strategies"] if row["plan"] in CANONICAL]
    last = [row for row in named if row["student_steps"] == 3]
    expected = {
        "one-step-is-affine": [row["best"] <= 1.05 * row["bound"] for row in one],
        "vanilla-leads-at-one-step": [
            row["vanilla"] == min(row[name] for name in CANONICAL) for row in one
        ],
        "training-limits-many-steps": [2 * r["approximation"] ** 2 < r["error"] ** 2 for r in last],
        "end-of-training-helps": [row["approximation"] < 1.000001 * row["error"] for row in named],
        "place-outweighs-order": [
            row["equal_windows"] ** 2 > row["best"] * max(row[name] for name in CANONICAL)
            for row in two
        ],
        "interval-dp-is-best": [row["interval"] < 1.000001 * row["best"] for row in best],
        "lead-survives-distance": [False, True],
        "weak-signal-is-not-learned": [
            row["affine"] - row["vanilla"] < 0.5 * (row["affine"] - row["floor"])
            for row in record["tables"]["signals"]
            if row["signal"] == 0.02
        ],
        "handover-follows-width": [True, True],
    }
    assert counts(STUDY.told(record)) == {
        key: (sum(cases), len(cases)) for key, cases in expected.items()
    }


def test_other_numbers_refute_the_claims(record: Record) -> None:
    """Were the best plan 20 % above the floor or below it, or handovers the other way round."""
    for key in ("one-step-is-affine", "handover-follows-width"):
        assert claims(STUDY.told(record))[key].holds
    for factor in (0.99, 1.2):
        changed = copy.deepcopy(record)
        changed["tables"]["best"][0]["best"] = factor * changed["tables"]["best"][0]["bound"]
        assert claims(STUDY.told(changed))["one-step-is-affine"].count.n == 11
    for row in changed["tables"]["handovers"]:
        row["error"] = row["handover"] if row["regime"] == "wide" else 9 - row["handover"]
    assert claims(STUDY.told(changed))["handover-follows-width"].count.n == 0


def test_where_the_lead_changes_is_told(record: Record, page: StudyPage) -> None:
    """At λ = 0.2 BOOT leads at first; the row from which on vanilla does, and the one before."""
    rows = [row for row in record["tables"]["distances"] if row["variance"] == 0.2]
    place = [row["boot"] < row["vanilla"] for row in rows].index(False)
    before, after = rows[place - 1]["separation"], rows[place]["separation"]
    assert f"between ±{before:.3g} and ±{after:.3g}" in unescape(page.html)


def test_page(page: StudyPage) -> None:
    """Every section has its figure with what is seen in it; no number is missing."""
    assert page.html.count("<svg") == len(page.figures) == 9
    assert page.html.count("<table") == 7
    assert "At one step vanilla is within" in page.html
    assert not re.search(r"\b(nan|inf)\b", page.html, re.IGNORECASE)


def test_interrupted_run_goes_on(record: Record, folder: Path) -> None:
    """Half of the cells are gone; the same record comes out."""
    cells = sorted((folder / "cells").glob("*.json"))
    for path in cells[::8]:
        path.unlink()
    again = STUDY.record(TINY, STUDY.runner(folder, num_workers=1))
    assert again == record


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exhaustive_steps": 9}, "`exhaustive_steps` must be <= 8, got 9"),
        ({"num_nodes": 10}, "`num_nodes` must be >= 65, got 10"),
        ({"exhaustive_students": 9}, "`exhaustive_students` must be <= exhaustive_steps, got 9"),
        ({"separations": (-1.0,)}, "`separations.0` must be >= 0"),
        ({"separations": ()}, "`separations` must not be empty"),
        ({"student_steps": (2, 1)}, "`student_steps` must ascend and not be empty"),
        ({"student_steps": (2, 3)}, "`student_steps` must ascend from 1"),
        ({"student_steps": (1, 16)}, "`student_steps` must be < num_steps"),
        ({"signals": (0.1, 0.2)}, "`signals` must ascend from 0"),
        ({"signals": (0.0, 1.0)}, "`signals.1` must be in [0, 1), got 1.0"),
        ({"merge_time": 0.0}, "`merge_time` must be > 0"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        MixtureSettings(**settings)
    assert message in str(error.value)
