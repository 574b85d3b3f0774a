"""The study `correlated-noise`: what its record claims, and what its page makes of it."""

from __future__ import annotations

import json
import math
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.page.claims import Count
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum, resolve_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.correlated_noise import STUDY, CorrelatedNoiseSettings, half_angle
from opmerge_studies.correlated_noise.problems import (
    digits_problem,
    drawn_problem,
    geodesic_rotation,
    matrix_comb,
    plane_problem,
)
from opmerge_studies.correlated_noise.samples import (
    KURTOSES,
    LAWS,
    SampledTraining,
    batch_training,
    sampled_problem,
)
from opmerge_studies.shared.matrices import MatrixProblem, evaluate_matrices

Record = dict[str, Any]

TINY = CorrelatedNoiseSettings(
    num_steps=8,
    oracle_steps=(3, 4),
    angles=(0, 15, 90),
    num_dimensions=4,
    num_rotations=2,
    correlations=(0.0, 0.3),
    num_draws=30,
    num_replicates=150,
)


# What it finds


def test_theories_are_exact_where_axes_agree_and_off_between(record: Record) -> None:
    for row in record["tables"]["plane"]:
        for theory in ("generalised", "data_basis"):
            off = abs(math.log(row[theory] / row["w2"]))
            if row["angle"] in (0, 90):
                assert off < 1e-9
            elif row["plan"] == "boot":
                assert off > 0.1
        assert row["w2"] <= row["paired"] * (1 + 1e-9)
    rotations = record["tables"]["rotations"]
    assert all(r["generalised"] == pytest.approx(r["w2"]) for r in rotations if r["angle"] == 0)


def test_commuting_rows_are_those_of_scalar_problems(record: Record) -> None:
    """At 0° direction i is the problem of μ = λ/ς trained for s ς, √ς as large."""
    row = next(r for r in record["tables"]["plane"] if (r["case"], r["plan"]) == ("above", "boot"))
    squares = 0.0
    for eigenvalue, scale in ((8.0, 2.0), (3.0, 0.5)):
        spectrum, training = eigenvalue_spectrum([eigenvalue / scale]), GradientFlow(6.4 * scale)
        problem = Problem(spectrum, cosine_schedule(8), training, "operator-copy")
        squares += scale * evaluate(problem, build_strategy("boot", 8)).w2 ** 2
    assert row["angle"] == 0
    assert row["w2"] == pytest.approx(math.sqrt(squares))


def test_no_choice_beats_the_best_of_all_plans(record: Record) -> None:
    rows = record["tables"]["oracle"]
    for row in rows:
        assert row["num_plans"] == {3: 3, 4: 11}[row["num_steps"]]  # little Schröder numbers
        for chosen in ("comb", "named", "generalised", "data_basis", "isotropic"):
            assert row[chosen] >= 0
        if row["angle"] in (0, 90):  # exact there, so what it picks is the best up to ties
            assert row["generalised"] < 1e-9
    far = [row for row in rows if row["comb"] > 0.01]
    assert [(row["case"], row["angle"], row["num_steps"]) for row in far] == [("below", 90, 4)]


def test_where_combs_fail_scalar_theory_says_so() -> None:
    """At 90° all commutes and one μ is 0.8/0.5 = 1.6: in the band (1, λ*) of THEORY 7.4."""
    problem = plane_problem((0.8, 0.1), 90.0, 4, 6.4)
    assert problem.eigenvalues.tolist() == pytest.approx([1.6, 0.05])
    best = build_strategy("vanilla", 4)
    comb, tree = matrix_comb(problem).plan, Plan.from_nested([[4, [3, 2], 1]])
    assert evaluate_matrices(problem, comb).w2 <= evaluate_matrices(problem, best).w2
    assert evaluate_matrices(problem, tree).w2 < 0.5 * evaluate_matrices(problem, comb).w2


def test_optima_are_beaten_by_w2_and_hardly_by_paired_error(record: Record) -> None:
    draws = record["tables"]["draws"]
    assert len(draws) == 2 * 2 * 3
    own = {(r["merge_rule"], r["case"], r["merge_time"]): r for r in draws}
    vanilla = own["operator-copy", "above", 0.3]
    assert vanilla["optimum"] == "vanilla"
    assert vanilla["beaten"] > 0
    assert vanilla["largest_ratio"] > 1.1
    assert own["operator-copy", "below", 6.4]["beaten_paired"] == 0
    assert own["denoiser-copy", "above", 6.4]["optimum"] == "boot"


def test_the_crossing_of_aligned_axes_solves_the_equation(record: Record) -> None:
    row = record["tables"]["crossings"][0]
    scale = row["exact"]
    data = np.diag([scale * math.sqrt(2), scale / math.sqrt(2)])
    problem = MatrixProblem(data, np.diag([2.0, 0.5]), cosine_schedule(8))
    boot, vanilla = (
        evaluate_matrices(problem, build_strategy(name, 8)).w2 for name in ("boot", "vanilla")
    )
    assert boot == pytest.approx(vanilla, rel=1e-4)
    assert row["data_basis"] == pytest.approx(scale, rel=1e-5)
    crossings = {r["isotropic"] for r in record["tables"]["crossings"]}
    assert max(crossings) - min(crossings) < 1e-5


def test_the_angle_of_half_the_error_falls_with_the_root_of_time() -> None:
    """sin²θ = ln 2 / (2 s Δς) up to what is no exponential: half the angle at 4 s."""
    short, long = (half_angle("above", 16, time)["angle"] for time in (6.4, 25.6))
    assert short / long == pytest.approx(2.0, rel=0.1)
    assert half_angle("above", 16, 25.6)["rule"] == pytest.approx(long, rel=0.03)


def test_digits_without_correlation_are_the_study_of_spectra(record: Record) -> None:
    spectrum = resolve_spectrum("digits")
    expected = evaluate(
        Problem(spectrum, cosine_schedule(8), merge_rule="operator-copy"),
        build_strategy("vanilla", 8),
    ).w2
    rows = [r for r in record["tables"]["digits"] if r["correlation"] == 0]
    found = next(r for r in rows if r["plan"] == "vanilla")
    for key in ("w2", "paired", "generalised", "data_basis", "isotropic"):
        assert found[key] == pytest.approx(expected, rel=1e-6)
    noise = digits_problem(0.3, 8, 1.0).noise_covariance
    assert noise[0, 9] == pytest.approx(0.3**2)  # one row and one column apart
    assert noise[0, 8] == noise[0, 1] == pytest.approx(0.3)
    assert noise[0, 2] == pytest.approx(0.09)


def test_the_mean_student_is_the_closed_form_whatever_the_law(record: Record) -> None:
    plans = record["tables"]["plans"]
    assert len({row["predicted"] for row in plans if row["plan"] == "boot"}) == 1
    assert all(row["off_in_standard_errors"] < 4 for row in plans)
    # an error of the form must be seen: the mean alone of 150 students has that much noise
    assert all(row["root_mean_square"] > row["predicted"] for row in plans)


def test_simulated_batches_agree_with_fourth_moments(record: Record) -> None:
    rows = record["tables"]["merges"]
    quantile = float(ndtri(1 - 1e-4 / len(rows)))  # of all rows at once, for normal means
    for row in rows:
        assert abs(row["measured"] - row["expected"]) < (quantile + 1) * row["standard_error"]
    at = {(row["law"], row["step"]): row["expected"] for row in rows}
    assert at["laplace", 2] > at["gaussian", 2] > at["uniform", 2]
    assert {round(at[law, 8], 12) for law in KURTOSES} == {round(at["gaussian", 8], 12)}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("step", [1, 4, 8])
def test_samples_have_the_moments_that_theory_has(law: str, step: int) -> None:
    """E|z|² = tr C and E|z|⁴ = 2 tr C² + (tr C)² + tr κ(I), to 4 standard errors of 200,000."""
    training = SampledTraining(law, 10_000, np.random.default_rng(0))
    squares = (training.inputs(step, 20) ** 2).sum(axis=-1).ravel()
    covariance = sampled_problem().covariance(step)
    second = np.trace(covariance)
    fourth = 2 * np.trace(covariance @ covariance) + second**2
    fourth += np.trace(training.cumulant(step)(np.eye(len(covariance))))
    for values, expected in ((squares, second), (squares**2, fourth)):
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - expected) < 4 * error


def test_training_on_samples_repeats_with_its_seed() -> None:
    first, again = (batch_training("laplace", 3, 5) for _ in range(2))
    assert first == again
    assert batch_training("laplace", 3, 6) != first


@pytest.mark.parametrize("angle", [10.0, 45.0, 90.0])
@pytest.mark.parametrize("size", [2, 5])
def test_no_vector_turns_further_than_the_angle(angle: float, size: int) -> None:
    """The eigenvalues of exp(θ K) are e^{±iθκ}, |κ| <= 1, one of them 1."""
    turn = geodesic_rotation(size, angle, np.random.default_rng(0))
    np.testing.assert_allclose(turn @ turn.T, np.eye(size), atol=1e-14)
    widest = np.abs(np.angle(np.linalg.eigvals(turn))).max()
    assert np.degrees(widest) == pytest.approx(angle)


@pytest.mark.parametrize("seed", range(20))
def test_drawn_pairs_lie_on_one_side(seed: int) -> None:
    threshold = 1 + 1 / math.cos(math.pi / 8)
    assert drawn_problem("below", 4, 1.0, "operator-copy", seed).eigenvalues.max() < 1
    assert drawn_problem("above", 4, 1.0, "operator-copy", seed).eigenvalues.min() > threshold


def test_a_resumed_run_gives_the_same_record(record: Record, folder: Path) -> None:
    cells = sorted((folder / "cells").iterdir())
    cells[0].unlink()
    assert STUDY.record(TINY, STUDY.runner(folder, num_workers=1)) == record


# What the page says of it


def test_claims_count_what_the_tables_hold(record: Record) -> None:
    claims = {claim.key: claim for claim in STUDY.told(record).claims}
    holding = {key for key, claim in claims.items() if claim.holds}
    assert claims.keys() - holding == {"scalar-plans-near-best", "vanilla-optimal"}
    oracle = record["tables"]["oracle"]
    theories = ("generalised", "data_basis", "isotropic")
    near = sum(row[name] <= 0.01 for row in oracle for name in theories)
    assert claims["scalar-plans-near-best"].count == Count(near, 3 * len(oracle))
    above = [
        row
        for row in record["tables"]["draws"]
        if (row["merge_rule"], row["case"]) == ("operator-copy", "above")
    ]
    assert claims["vanilla-optimal"].count == Count(90 - sum(r["beaten"] for r in above), 90)
    # 0.8, 0.1 at 90° is the pair with a μ in the band, at either T, and 0.5, 2 the pair without
    assert claims["combs-near-best"].count.of < len(oracle)


def test_claims_fail_where_the_record_is_another(record: Record) -> None:
    altered = json.loads(json.dumps(record))
    altered["tables"]["plans"][0]["off_in_standard_errors"] = 12.0
    for row in altered["tables"]["oracle"]:
        row["comb"] = 0.25
    page = STUDY.told(altered)
    claims = {claim.key: claim.count for claim in page.claims}
    assert claims["mean-student-is-closed-form"] == Count(15, 16)
    assert claims["combs-near-best"].n == 0
    assert "at most 12 standard errors off" in page.finding
    assert "matrices at 0." in page.finding


def test_the_page_stands_where_nothing_is_found(record: Record) -> None:
    altered = json.loads(json.dumps(record))
    for row in altered["tables"]["half_angles"]:
        row["angle"] = None
    for row in altered["tables"]["crossings"]:
        row["exact"] = None
    page = unescape(STUDY.page(altered).html)
    assert "less than half of the error before 45° in 0 of 12" in page
    assert "– to – at 0 of 3 (exact)" in page


def test_the_page_shows_every_part(record: Record) -> None:
    page = STUDY.page(record)
    assert page.html.count("<svg") == len(page.figures) == 6
    assert page.html.count("<table") == 7
    assert "nan" not in page.html
    assert "<script" not in page.html


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 1}, "`num_steps` must be >= 2, got 1"),
        ({"oracle_steps": (4, 12)}, "`oracle_steps` must ascend from 2 to 9 at most"),
        ({"num_draws": 0}, "`num_draws` must be >= 1, got 0"),
        ({"num_replicates": 1}, "`num_replicates` must be >= 2, got 1"),
        ({"angles": (5, 0)}, "`angles` must ascend"),
        ({"angles": (0, 120)}, "`angles` must begin at 0 and stay <= 90"),
        ({"correlations": (0.0, 1.0)}, "`correlations` must begin at 0 and stay <= 0.95"),
        ({"merge_time": 0}, "`merge_time` must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CorrelatedNoiseSettings(**change)
