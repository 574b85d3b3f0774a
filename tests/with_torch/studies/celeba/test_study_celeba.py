"""The study `celeba`: images encoded, plans on the covariance of their latents, outputs decoded."""

from __future__ import annotations

import copy
import io
from base64 import b64decode
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL
from oracles import DirectTheory, Setting, best_students
from PIL import Image
from study_records import rows

from opmerge import build_strategy, cosine_schedule, evaluate
from opmerge.data import open_source
from opmerge.errors import InputError
from opmerge.latents import PCAEncoder, fit_pca, load_encoder
from opmerge.page.study import Told
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import OptimizationConfig
from opmerge.settings.networks import TeacherConfig, VAEConfig
from opmerge.training import GradientFlow
from opmerge_studies.celeba import STUDY, CelebaSettings
from opmerge_studies.celeba.encodings import decoded_outputs
from opmerge_studies.celeba.page import error_figure
from opmerge_studies.celeba.plans import (
    PLANNED,
    STRATEGIES,
    by_direction,
    compare_plans,
    continuum_ratio,
    describe_latents,
)
from opmerge_studies.shared import Runner
from opmerge_studies.shared.strategies import cosine_problem

Record = dict[str, Any]

pytestmark = pytest.mark.usefixtures("one_thread")

TIMES = (0.5, 6.4)


def small(**settings: Any) -> CelebaSettings:
    optimization = OptimizationConfig(train_batch_size=16, checkpointing_steps=0)
    given: dict[str, Any] = {
        "source": "patches",
        "source_options": SourceOptions(patch_size=8, stride=24),
        "num_latents": 5,
        "seeds": (0, 1),
        "base_channels": 4,
        "vae": VAEConfig(num_iterations=20, optimization=optimization),
        "steps": 12,  # too many for brute force
        "merge_times": TIMES,
        "num_resamples": 20,
        "num_samples": 64,
        **settings,
    }
    return CelebaSettings(**given)


TINY = small()


def run(settings: CelebaSettings, folder: Path) -> Record:
    return STUDY.record(settings, Runner(folder, warn=print, num_workers=1))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of runs that may share what does not depend on their settings."""
    return tmp_path_factory.mktemp("others")


# Theory on latents


@pytest.fixture(scope="module")
def correlated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Latents whose covariance is exactly 0.09 I + 0.81 · 1 1ᵀ: λ = 0.09 + 3 · 0.81, 0.09, 0.09."""
    root = np.linalg.cholesky(0.09 * np.eye(3) + 0.81)
    rows = np.sqrt(3) * np.vstack([root.T, -root.T])
    path = tmp_path_factory.mktemp("latents") / "correlated.npy"
    np.save(path, np.tile(rows, (50, 1)))
    return str(path)


def test_both_forms_of_a_known_covariance(correlated: str) -> None:
    diagonal, full = describe_latents(correlated, "", 20, 0)["spectra"]
    assert diagonal["largest"] == pytest.approx(0.9)
    assert diagonal["share_small"] == diagonal["variance_small"] == 1.0
    assert full["largest"] == pytest.approx(2.52)
    assert full["share_small"] == pytest.approx(2 / 3)
    assert full["variance_small"] == pytest.approx(0.18 / 2.7)
    assert full["largest_low"] < 2.52 < full["largest_high"]


def test_intervals_of_a_variance_are_as_wide_as_statistics_says(tmp_path: Path) -> None:
    """The variance of n normal values has standard error λ √(2 / n)."""
    count, path = 2000, tmp_path / "normal.npy"
    np.save(path, np.random.default_rng(0).standard_normal((count, 1)))
    found = describe_latents(str(path), "", 400, 1)["spectra"][0]
    expected = 2 * 1.96 * found["largest"] * np.sqrt(2 / count)
    # Ends of a bootstrap of 400 are off by about 8 % of its width, the fourth moment by as much.
    assert found["largest_high"] - found["largest_low"] == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("time", TIMES)
def test_errors_in_latents_are_those_of_the_oracle(correlated: str, time: float) -> None:
    found = compare_plans(correlated, "", 6, time, "operator-copy", 4, 0)
    settings = {
        "diagonal": Setting(cosine_schedule(6), (0.9,), (3,), time=time),
        "full": Setting(cosine_schedule(6), (2.52, 0.09), (1, 2), time=time),
    }
    for form, setting in settings.items():
        told = {row["plan"]: row for row in found["plans"] if row["form"] == form}
        for name in STRATEGIES:
            student, _ = DirectTheory(setting).plan(build_strategy(name, 6).to_nested())
            expected = float(DirectTheory(setting).distances(student[None])[0])
            assert told[name]["w2"] == pytest.approx(expected, rel=1e-8), (form, name)
        assert told[PLANNED]["w2"] == pytest.approx(best_students(setting)[0], rel=1e-8)


def test_all_resamples_at_once_are_each_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "normal.npy"
    np.save(path, np.random.default_rng(0).standard_normal((30, 4)) * [2, 1, 0.5, 0.1])
    rows = compare_plans(str(path), "", 8, 1.0, "operator-copy", 5, 0)["plans"]
    found = next(row for row in rows if row["form"] == "full" and row["plan"] == "boot")
    rng, latents = np.random.default_rng(0), np.load(path)
    again = []
    for _ in range(5):
        drawn = np.repeat(latents, rng.multinomial(30, np.full(30, 1 / 30)), axis=0)
        spectrum = np.linalg.eigvalsh(np.cov(drawn.T, bias=True))
        problem = cosine_problem(spectrum, 8, GradientFlow(1.0))
        again.append(evaluate(problem, build_strategy("boot", 8)).w2)
    expected = np.quantile(again, [0.025, 0.975])
    np.testing.assert_allclose([found["low"], found["high"]], expected, rtol=1e-9)


def test_the_winner_is_told_apart_only_where_resamples_agree(tmp_path: Path) -> None:
    """At λ = 1.0365 and T = 64 BOOT and vanilla err alike (THEORY 7.5); at 0.2 they do not."""
    results = {}
    for variance in (0.2, 1.0365):
        path = tmp_path / f"{variance}.npy"
        rows = np.random.default_rng(0).standard_normal((200, 1))
        np.save(path, (rows - rows.mean()) / rows.std() * np.sqrt(variance))
        found = compare_plans(str(path), "", 64, 6.4, "operator-copy", 40, 0)
        results[variance] = found["winners"][1]
    assert results[0.2]["winner"] == "boot"
    assert results[0.2]["is_separated"]
    assert results[0.2]["wins"] == 1.0
    assert not results[1.0365]["is_separated"]
    assert results[1.0365]["wins"] < 1


@pytest.mark.parametrize(
    "eigenvalues", [(0.2,), (5.0,), (20.0, 0.3, 0.0), (3.0, 0.05, 0.05, 0.05, 0.0)]
)
def test_many_steps_err_as_the_sums_over_directions_say(eigenvalues: tuple[float, ...]) -> None:
    """THEORY 7.5 in the limit; at T = 512 it is off by less than a hundredth."""
    problem = cosine_problem(np.array(eigenvalues), 512, GradientFlow(6.4))
    vanilla, boot = (evaluate(problem, build_strategy(n, 512)).w2 for n in ("vanilla", "boot"))
    assert continuum_ratio(np.array(eigenvalues)) == pytest.approx(vanilla / boot, rel=0.01)


# Decoded outputs


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[PCAEncoder, Any]:
    """PCA of all of 36 pixels, so that decoding is a rotation, and the latents of its images."""
    source = open_source("patches", SourceOptions(patch_size=6, stride=24))
    encoder = fit_pca(source, 36)
    rows = np.concatenate(list(source.batches()))
    latents, _ = encoder.encode(torch.from_numpy(rows).view(-1, 1, 6, 6).float())
    path = tmp_path_factory.mktemp("linear") / "latents.npy"
    np.save(path, latents.numpy())
    return encoder, open_source(str(path))


def test_decoded_errors_of_a_linear_encoder_are_those_of_its_latents(linear: Any) -> None:
    """A rotation keeps lengths; and over n draws errors are as predicted within 5 σ."""
    encoder, latents = linear
    count = 400
    found = decoded_outputs(encoder, latents, 8, TIMES, count, 3)
    values = np.concatenate(list(latents.batches()))
    spectrum = np.linalg.eigvalsh(np.cov(values.T, bias=True))
    for row in found["rows"]:
        assert row["paired_rms"] * 6 == pytest.approx(row["latent_rms"], rel=2e-3), row["plan"]
        assert row["paired_low"] < row["paired_rms"] < row["paired_high"]
        if row["plan"] == PLANNED:
            continue
        problem = cosine_problem(spectrum, 8, GradientFlow(row["merge_time"]))
        outcome = evaluate(problem, build_strategy(row["plan"], 8))
        deviation = np.sqrt(2 * np.sum(outcome.errors**2) / count)  # of a mean of Σ error_k χ²
        assert abs(row["latent_rms"] ** 2 - outcome.w2**2) < 5 * deviation


def test_pictures_show_students_of_the_same_noise_and_where_they_differ(linear: Any) -> None:
    encoder, latents = linear
    found = decoded_outputs(encoder, latents, 8, (0.5,), 40, 3)["pictures"]
    names = [(row["plan"], row["factor"] is None) for row in found]
    plans = (*STRATEGIES, PLANNED)
    assert names == [("teacher", True), *((p, first) for p in plans for first in (True, False))]
    images = [np.asarray(Image.open(io.BytesIO(b64decode(row["png"])))) / 127.5 for row in found]
    assert images[0].shape == (6, 18)
    for student, error, row in zip(images[1::2], images[2::2], found[2::2], strict=True):
        inside = (np.abs(student - 1) < 0.98) & (np.abs(images[0] - 1) < 0.98) & (error < 1.98)
        difference = row["factor"] * np.abs(student - images[0])
        # One grey level is 1 / 127.5; differences have two half ones, times the factor.
        limit = (row["factor"] + 0.5) / 127.5 + 1e-3
        assert np.abs(difference - error)[inside].max() < limit


def test_values_of_columns_go_back_to_their_directions() -> None:
    eigenvalues = np.array([2.0, 0.5, 0.5, 0.0])
    problem = cosine_problem(eigenvalues, 4, GradientFlow(1.0))
    found = by_direction(problem, problem.eigenvalues, eigenvalues)
    np.testing.assert_allclose(found, eigenvalues, atol=1e-99)


# The study


def test_trained_encoders_are_made_once_a_seed_and_pca_once(record: Record) -> None:
    rows = record["tables"]["encoders"]
    assert [(row["encoder"], row["seed"]) for row in rows] == [
        ("ms-ssim-vae", 0),
        ("ms-ssim-vae", 1),
        ("mse-vae", 0),
        ("mse-vae", 1),
        ("pca", 0),
    ]
    assert rows[0]["mse"] != rows[1]["mse"]
    assert {row["pca_mse"] for row in rows} == {rows[-1]["mse"]}
    assert {row["num_latents"] for row in rows} == {5}
    for row in rows[2:4]:
        assert row["mse"] > row["pca_mse"]  # 20 iterations


def test_every_plan_is_there_in_every_setting(record: Record) -> None:
    tables = record["tables"]
    assert len(tables["plans"]) == 5 * 2 * 2 * 2 * 7  # encodings, rules, times, forms, plans
    assert len(tables["winners"]) == 5 * 2 * 2 * 2
    assert len(tables["pixels"]) == 5 * 2 * 7
    for row in tables["winners"]:
        assert row["lower_bound"] <= row["best"] * (1 + 1e-9)
        assert row["gain"] >= 1 - 1e-9
    assert {row["seed"] for row in record["pictures"]} == {0}


def test_boot_errs_least_where_every_eigenvalue_is_at_most_1(record: Record) -> None:
    """THEORY 7.2, on real latents: those that 20 iterations of training make are small."""
    small_ones = [
        (row["encoder"], row["seed"])
        for row in rows(record, "spectra", form="full")
        if row["largest"] <= 1
    ]
    assert small_ones
    for row in rows(record, "winners", form="full", merge_rule="operator-copy", merge_time=6.4):
        if (row["encoder"], row["seed"]) in small_ones:
            assert row["winner"] == "boot"


def test_an_interrupted_run_goes_on_and_finds_the_same(record: Record, folder: Path) -> None:
    weights = sorted(folder.glob("encoders/*/*/vae/*.safetensors"))
    assert len(weights) == 4
    before = [path.stat().st_mtime_ns for path in weights]
    sorted((folder / "cells").iterdir())[0].unlink()
    next(folder.glob("encoders/*/pca-0/outputs.json")).write_text("{torn")
    assert run(TINY, folder) == record
    assert [path.stat().st_mtime_ns for path in weights] == before


def test_other_settings_make_other_encoders(others: Path) -> None:
    config = small(encoders=("mse-vae",), seeds=(1,), mse_kl_weight=0.1, merge_times=(1.0,))
    first = run(config, others)
    other = run(config.replaced(mse_kl_weight=0.0), others)
    errors = [each["tables"]["encoders"][0]["mse"] for each in (first, other)]
    assert errors[0] != errors[1]


def test_saved_encoders_and_samples_of_latents(folder: Path, record: Record, others: Path) -> None:
    saved = next(folder.glob("encoders/*/mse-vae-0/vae"))
    found = {}
    for kind in ("means", "samples"):
        config = small(encoders=(str(saved),), latents=kind, seeds=(0,), merge_times=(1.0,))
        found[kind] = run(config, others)
    labels = {kind: each["tables"]["encoders"] for kind, each in found.items()}
    assert [row["latents"] for row in labels["means"]] == ["means", "means"]
    assert [row["latents"] for row in labels["samples"]] == ["samples", "means"]  # PCA has none
    assert load_encoder(saved).num_latents == 5
    largest = {
        kind: next(r["largest"] for r in each["tables"]["spectra"] if r["form"] == "diagonal")
        for kind, each in found.items()
    }
    assert largest["samples"] > largest["means"] + 0.2  # of nearly untrained variances, about 1


def test_diffusers_own_autoencoder_is_an_encoder(others: Path, tmp_path: Path) -> None:
    """Its latents, 2 of (4, 4) for 8 × 8 pixels, are planned for and decoded as any other's."""
    torch.manual_seed(0)
    network = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=2,
        scaling_factor=2.0,
    )
    network.save_pretrained(tmp_path / "kl" / "vae")  # as in the folder of a pipeline
    config = small(encoders=(str(tmp_path / "kl"),), seeds=(0,), merge_times=(1.0,))
    tables = run(config, others)["tables"]
    row = tables["encoders"][0]
    assert (row["num_latents"], row["latents"], row["pca_ms_ssim"]) == (32, "means", None)
    latents = np.load(next(others.glob("encoders/*/kl-*/latents.npy")))
    images = next(iter(open_source("patches", config.source_options).batches()))[:1]
    with torch.no_grad():
        pixels = torch.from_numpy(images).float().view(1, 1, 8, 8)
        expected = 2.0 * network.eval().encode(pixels).latent_dist.mean
    np.testing.assert_allclose(latents[:1], expected.numpy(), rtol=1e-5, atol=1e-6)
    for table in ("spectra", "winners", "plans", "pixels"):
        assert row["encoder"] in {entry["encoder"] for entry in tables[table]}


@pytest.fixture(scope="module")
def trained(others: Path) -> Record:
    """Networks on the 5 latents of PCA, which decodes linearly."""
    optimization = OptimizationConfig(train_batch_size=16, checkpointing_steps=0)
    config = small(
        encoders=("pca",),
        seeds=(0,),
        merge_times=(1.0,),
        neural=True,
        neural_steps=8,
        teacher=TeacherConfig(
            hidden_size=16, num_layers=1, num_iterations=20, optimization=optimization
        ),
        budgets=(6e4,),
    )
    return run(config, others)


def test_networks_on_latents_cost_the_same_in_total(trained: Record) -> None:
    networks, table = trained["networks"], trained["tables"]["networks"]
    assert (networks["encoder"], networks["steps"], networks["network"]) == (
        "pca",
        8,
        "MLPDenoiser",
    )
    names = {name for row in table for name in row["names"].split("; ")}
    assert {"vanilla", "boot", "boot, even split", "uniform:4", "planner"} <= names
    assert {row["seed"] for row in table} == {0}
    for row in table:
        # What is left over does not pay for one more iteration, of at most 8 + 3 evaluations.
        assert 6e4 - 128 * 11 * row["merges"] <= row["cost"] <= 6e4
        assert row["measured_low"] <= row["measured"] <= row["measured_high"]


def test_errors_of_a_pixel_are_those_of_latents_where_decoding_is_linear(trained: Record) -> None:
    """PCA's rows are orthonormal: over 64 pixels, of 5 latents, lengths are kept."""
    for row in trained["tables"]["networks"]:
        assert row["paired_rms"] * 8 == pytest.approx(row["measured"], rel=1e-4)
        assert row["paired_low"] < row["paired_rms"] < row["paired_high"]


def test_the_page_tells_who_errs_least_at_equal_cost(trained: Record) -> None:
    altered = copy.deepcopy(trained)
    page = unescape(STUDY.page(altered).html)
    assert "Networks on latents, equal total cost" in page
    pictures = [row["plan"] for row in altered.pop("network_pictures")]
    assert pictures[0] == "teacher"
    altered["network_pictures"] = []
    assert page.count("<img") == STUDY.page(altered).html.count("<img") + len(pictures)
    for winner, verdict in (("boot", "holds, 2 of 2"), ("vanilla", "does not hold, 0 of 2")):
        for row in altered["tables"]["networks"]:
            names = row["names"].split("; ")
            row["measured"] = row["paired_rms"] = 0.5 if winner in names[0] else 1.0
            row["is_planned"] = names[0] == "uniform:4"
            if row["is_planned"]:
                row["measured"] = 0.52 if winner == "boot" else 0.53
        told = verdicts(STUDY.told(altered))
        assert told["boot-least-networks"] == told["boot-least-networks-decoded"] == verdict
        planned = "holds, 1 of 1" if winner == "boot" else "does not hold, 0 of 1"
        assert told["planner-least-networks"] == planned


def test_without_pictures_the_record_holds_none_and_nothing_else_changes(
    trained: Record, others: Path
) -> None:
    config = CelebaSettings.model_validate(trained["settings"]).replaced(pictures=False)
    bare = run(config, others)
    assert "png" not in str(bare)
    assert bare["tables"] == trained["tables"]
    page = STUDY.page(bare)
    assert "<img" not in page.html
    assert page.finding == STUDY.told(trained).finding


# The page


def verdicts(told: Told) -> dict[str, str]:
    return {claim.key: claim.verdict for claim in told.claims}


def test_claims_count_encodings_and_say_otherwise_when_they_are_others(record: Record) -> None:
    altered = copy.deepcopy(record)
    for row in altered["tables"]["winners"]:
        row["winner"], row["second"] = "vanilla", "boot"
    page = STUDY.told(altered)
    told = verdicts(page)
    for key, count in (("diagonal", 5), ("full", 5), ("denoiser-copy", 10)):
        assert told[f"boot-least-{key}"] == f"does not hold, 0 of {count}"
    main = rows(altered, "winners", merge_rule="operator-copy", merge_time=6.4)
    above = [row["continuum"] > 1 for row in main]
    assert told["sums-tell"].endswith(f", {above.count(False)} of 10")
    assert "in 0 by the full covariance (" in page.finding
    for row in altered["tables"]["winners"]:
        row["winner"] = "boot" if row["continuum"] > 1 else "vanilla"
    told = verdicts(STUDY.told(altered))
    assert told["sums-tell"] == "holds, 10 of 10"
    boot = sum(row["winner"] == "boot" for row in main if row["form"] == "full")
    assert told["boot-least-full"].endswith(f", {boot} of 5")


def test_who_wins_in_pixels_is_set_beside_who_wins_in_latents(record: Record) -> None:
    altered = copy.deepcopy(record)
    for row in altered["tables"]["pixels"]:
        if row["plan"] == "vanilla":
            row["paired_rms"] = 0.0001 * row["paired_rms"]
    for winner, verdict in (("boot", "does not hold, 0 of 5"), ("vanilla", "holds, 5 of 5")):
        for row in altered["tables"]["winners"]:
            row["winner"] = winner
        told = STUDY.told(altered)
        assert verdicts(told)["latents-tell-pixels"] == verdict
        assert verdicts(told)["boot-least-decoded"] == "does not hold, 0 of 5"
        assert str(told.grounds["Evidence"]).count(", decoded: vanilla errs least, ") == 5


def test_claims_on_spectra_and_encoders(record: Record) -> None:
    altered = copy.deepcopy(record)
    spectra = rows(altered, "spectra", form="full")
    for number, row in enumerate(spectra):
        row["share_small"] = 0.5 + (0.01 if number else 0.0)
    for number, row in enumerate(altered["tables"]["encoders"]):
        row["ms_ssim"], row["pca_ms_ssim"] = 0.9, 0.8 if number != 2 else None
    told = verdicts(STUDY.told(altered))
    assert told["most-small"] == "does not hold, 4 of 5"
    assert told["ahead-of-pca"] == "holds, 3 of 3"  # of four, one has other latents than PCA


def test_the_page_shows_figures_grids_and_the_finding(record: Record) -> None:
    page = STUDY.page(record)
    text = unescape(page.html)
    assert text.count("<svg") == 3
    assert page.finding in text
    shown = text.count("<img")
    # Held out and three encoders; a teacher and seven error maps in each of six grids at least.
    assert 4 + 6 * 8 <= shown <= 4 + 6 * 15
    assert "200,000 images at 64 × 64" in text
    trained = record["tables"]["encoders"][0]["num_parameters"]
    assert f"<td>{trained:,}</td>" in text


def test_students_left_out_of_a_grid_are_named_below_it(record: Record) -> None:
    altered = copy.deepcopy(record)
    for row in altered["tables"]["pixels"]:
        row["paired_rms"] = 1e-9 if row["plan"] in ("boot", PLANNED) else 10.0
    page = STUDY.page(altered).html
    told = "look equal and are left out: boot, certified."
    assert page.count(told) == 6
    grid = page[page.index(told) : page.index("</section>", page.index(told))]
    assert grid.count("<img") == 1 + 5 + 7  # teacher, five students, and every error map


def test_figures_hold_the_numbers(record: Record) -> None:
    latents = pd.DataFrame(
        rows(record, "plans", merge_rule="operator-copy", merge_time=6.4, seed=0)
    )
    latents["called"] = latents.encoder
    axes = error_figure(latents, ("w2", "low", "high"), "title", "words").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == PLANNED
    filled = {each.get_label(): each[0].get_xydata() for each in axes.containers}
    for encoder in ("ms-ssim-vae", "mse-vae", "pca"):
        own = latents[(latents.encoder == encoder) & (latents.form == "full")].set_index("plan").w2
        drawn = {names[round(y)]: x for x, y in filled[encoder]}
        for plan, ratio in drawn.items():
            assert ratio == pytest.approx(own[plan] / own[PLANNED])


# Its settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ()}, "`source` must be given, each of them once, got ()"),
        ({"encoders": ("pca", "pca")}, "`encoders` must be given, each of them once"),
        ({"seeds": ()}, "`seeds` must be given"),
        ({"latents": "modes"}, "`latents` must be one of means, samples, got modes"),
        ({"num_latents": 1}, "`num_latents` must be >= 2, got 1"),
        ({"steps": 1}, "`steps` must be >= 2, got 1"),
        ({"num_resamples": 1}, "`num_resamples` must be >= 2, got 1"),
        (
            {"vae": VAEConfig(base_channels=8)},
            "`vae.base_channels` is not used here, got 8; set base_channels instead",
        ),
        (
            {"vae": VAEConfig(num_latents=8)},
            "`vae.num_latents` is not used here, got 8; set num_latents instead",
        ),
        (
            {"vae": VAEConfig(loss="mse")},
            "`vae.loss` is not used here, got mse; set encoders instead",
        ),
        (
            {"vae": VAEConfig(optimization=OptimizationConfig(seed=3))},
            "`vae.optimization.seed` is not used here, got 3; set seeds instead",
        ),
        ({"mse_kl_weight": -1.0}, "`mse_kl_weight` must be >= 0, got -1"),
        ({"merge_times": (6.4, 0.5)}, "`merge_times` must ascend and not be empty"),
        ({"merge_times": (0.0, 0.5)}, "`merge_times.0` must be > 0, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        small(**changes)
    assert str(caught.value).startswith(message)
