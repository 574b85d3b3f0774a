"""Calibration: how linear a teacher is, what probes measure, and the model fitted to them."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler
from scipy.linalg import hadamard
from torch import Tensor, nn

from opmerge import (
    GammaRates,
    InputError,
    Spectrum,
    cosine_schedule,
    eigenvalue_spectrum,
)
from opmerge.cli import main
from opmerge.denoisers.inputs import Batch
from opmerge.denoisers.networks import make_dit, make_unet
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.distillation import (
    DDIM,
    DataInputs,
    DistillationConfig,
    MLPDenoiser,
    OptimizationConfig,
    Teacher,
)
from opmerge.forecast import LAW_PRIORS, forecast, read_calibration
from opmerge.loop import Draws
from opmerge.measure.calibration import (
    Calibration,
    _split,
    calibrate,
    fit_rates,
    law_prior,
)
from opmerge.measure.calibration_budget import size_within
from opmerge.measure.linearity import (
    Linearity,
    linearity,
    linearity_evaluations,
    require_basis,
)
from opmerge.measure.probes import (
    Probe,
    ProbeRunner,
    ProbeSettings,
    default_probes,
    measuring_evaluations,
    probe_plan,
)
from opmerge.measure.teacher_table import MeasuredTable, measure_table
from opmerge.plans import build_strategy
from opmerge.problem import MergeRule
from opmerge.settings.types import read_budget
from opmerge.store import digest

Run = Callable[..., tuple[int, str, str]]

LAMBDAS = np.array([3.0, 1.5, 0.9, 0.2])
STEPS = 8


def spectrum_of(eigenvalues: np.ndarray, mean: np.ndarray | None = None) -> Spectrum:
    size = len(eigenvalues)
    given = np.zeros(size) if mean is None else mean
    return replace(eigenvalue_spectrum(eigenvalues), mean=given, basis=np.eye(size), kind="full")


class Linear(nn.Module):
    """x̂ = weight_t z, a weight for each step and coordinate."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return self.weights[timesteps] * z


class Curved(nn.Module):
    """x̂ = z² coordinate by coordinate, of which no linear map of Gaussian z explains anything."""

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return z**2


def sampler() -> DDIM:
    return DDIM.from_schedule(cosine_schedule(STEPS), "sample")


def optimal_weights() -> Tensor:
    ddim = sampler()
    alphas, sigmas = ddim.alphas[:, None].double(), ddim.sigmas[:, None].double()
    values = torch.from_numpy(LAMBDAS)
    return (alphas * values / (alphas**2 * values + sigmas**2)).float()


def gaussian_inputs(count: int = 4000) -> DataInputs:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(count, 4, generator=generator) * torch.from_numpy(LAMBDAS).float().sqrt()
    return DataInputs(data)


def test_the_theorys_teacher_is_linear_by_both_measures() -> None:
    """To rounding: the network is float32. At T it says nothing at all: alpha_T = 0."""
    teacher = Teacher(Linear(optimal_weights()), sampler(), (4,))
    found = linearity(teacher, gaussian_inputs(), spectrum_of(LAMBDAS), num_samples=1000)
    assert found.steps == tuple(range(STEPS, 0, -1))
    assert found.affine[1:] == pytest.approx([1.0] * 7, abs=1e-9)
    assert found.spectral[1:] == pytest.approx([1.0] * 7, abs=1e-9)
    assert found.signal[0] < 1e-9
    assert found.notes == ()
    # of Gaussian data the variance of x̂ is Σ α² λ² / n
    alpha, sigma = math.cos(math.pi / 4), math.sin(math.pi / 4)
    variance = (alpha**2 * LAMBDAS**2 / (alpha**2 * LAMBDAS + sigma**2)).sum() / LAMBDAS.sum()
    assert found.signal[4] == pytest.approx(variance, rel=0.25)  # 500 samples: 6 % each, 4 sigma


def test_a_linear_teacher_that_is_not_optimal_is_told_apart() -> None:
    teacher = Teacher(Linear(0.5 * optimal_weights()), sampler(), (4,))
    found = linearity(teacher, gaussian_inputs(), spectrum_of(LAMBDAS), [4], 1000)
    assert found.affine == pytest.approx((1.0,), abs=1e-9)
    # x̂ is half of the prediction: what is left is as large as x̂ itself
    assert found.spectral == pytest.approx((0.0,), abs=0.02)  # the mean of 500 samples
    (note,) = found.notes
    assert note == (
        "the teacher is linear, but not as this spectrum says, at the steps 4 (0%) (in brackets: "
        "what the spectrum's denoiser explains); it may have been trained too little, or on data "
        "of another kind or scale, and merges that start there may come out otherwise than "
        "predicted"
    )


def test_a_step_has_one_note_and_a_silent_step_none() -> None:
    """Curved where no affine map explains 90 %; a denoiser of another spectrum where one does."""
    found = Linearity((4, 3, 2, 1), (0.5, 0.9, 0.95, 0.5), (0.4, 0.9, 0.89, 0.4), (1, 1, 1, 0.001))
    curved, other = found.notes
    assert "at the steps 4 (50%) (" in curved
    assert "at the steps 2 (89%) (" in other


def test_a_curved_teacher_is_not_linear_and_a_note_says_where() -> None:
    """cov(z², z) = 0 for Gaussians; 5 parameters on 500 samples explain about -1 % of the rest."""
    teacher = Teacher(Curved(), sampler(), (4,))
    found = linearity(teacher, gaussian_inputs(), spectrum_of(LAMBDAS), [4, 2], 1000)
    assert all(abs(score) < 0.1 for score in found.affine)
    (note,) = found.notes
    assert "at the steps 4 (" in note
    assert ", 2 (" in note
    # 5 samples fit 5 parameters exactly: only others can tell
    few = linearity(teacher, gaussian_inputs(), spectrum_of(LAMBDAS), [4], 10)
    assert few.affine[0] < 0.5


def test_a_mean_and_eigenvectors_that_leave_something_out() -> None:
    """Data around a mean, the two least eigenvalues left out of the spectrum as equal ones."""
    values, mean = np.array([3.0, 1.5, 0.4, 0.4]), np.array([1.0, -2.0, 0.5, 3.0])
    short = replace(
        eigenvalue_spectrum(values[:2]),
        mean=mean,
        basis=np.eye(4)[:2],
        kind="top-k",
        remaining_trace=0.8,
        remaining_dimensions=2,
    )
    ddim = sampler()
    alpha, sigma = ddim.alphas[4].double(), ddim.sigmas[4].double()
    gain = (
        alpha * torch.from_numpy(values) / (alpha**2 * torch.from_numpy(values) + sigma**2)
    ).float()
    centre = torch.from_numpy(mean).float()

    class Shifted(nn.Module):
        def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
            return centre + gain * (z - alpha * centre)

    inputs = DataInputs(gaussian_inputs().data + centre)
    found = linearity(Teacher(Shifted(), ddim, (4,)), inputs, short, [4], 1000)
    assert found.spectral == pytest.approx((1.0,), abs=1e-9)


def test_linearity_refuses_what_does_not_fit() -> None:
    teacher = Teacher(Curved(), sampler(), (4,))
    with pytest.raises(InputError, match="`num_samples` must be >= 10 for 4 values, got 9"):
        linearity(teacher, gaussian_inputs(), spectrum_of(LAMBDAS), num_samples=9)
    for wrong in (eigenvalue_spectrum(LAMBDAS), spectrum_of(LAMBDAS[:3])):
        with pytest.raises(InputError, match="`spectrum` must have eigenvectors of 4 values"):
            linearity(teacher, gaussian_inputs(), wrong)


class Design:
    """Eight states whose second moments are those of the law, exactly: rows of Hadamard's."""

    condition = None

    def __init__(self) -> None:
        rows = torch.from_numpy(hadamard(8)).float()
        self.x0 = rows[:, :4] * torch.from_numpy(LAMBDAS).float().sqrt()
        self.noise = rows[:, 4:]

    def draw(self, ddim: DDIM, starts: list[int], draws: Draws) -> Batch:
        return Batch(ddim.add_noise(self.x0, self.noise, starts[0]))

    def identity(self) -> str:
        return "design"


@pytest.mark.parametrize(
    ("start", "stop", "rule"),
    [(8, 0, "denoiser-copy"), (5, 2, "denoiser-copy"), (5, 2, "operator-copy")],
)
def test_a_probe_of_a_linear_student_is_the_theory(start: int, stop: int, rule: MergeRule) -> None:
    """Full-batch descent on x̂: deviations start as the theory's and end at (1 - 2 η n)^2N."""
    rate, iterations = 0.05, 20
    optimization = OptimizationConfig(
        optimizer="sgd",
        lr_scheduler="constant",
        lr_warmup_steps=0,
        max_grad_norm=0,
        learning_rate=1.0,
    )
    config = DistillationConfig(
        merge_rule=rule, loss_weighting="x-space", optimization=optimization
    )
    design: Any = Design()
    runner = ProbeRunner(
        Teacher(Linear(optimal_weights()), sampler(), (4,)),
        design,
        design,
        spectrum_of(LAMBDAS),
        config,
        Accelerator(cpu=True),
    )
    settings = ProbeSettings(start, stop, iterations, 4 * rate)  # the loss is a mean over 4 values
    *steps, probe = runner.run(settings)
    assert steps == [None] * iterations
    assert probe is not None
    assert probe.dimensions == 4
    angle = math.pi * start / (2 * STEPS)
    variances = math.cos(angle) ** 2 * LAMBDAS + math.sin(angle) ** 2
    assert probe.variances == pytest.approx(variances, abs=1e-6)
    assert sum(probe.before) == pytest.approx(probe.expected, rel=1e-3)
    kept = (1 - 2 * rate * variances) ** (2 * iterations)
    assert np.array(probe.after) == pytest.approx(np.array(probe.before) * kept, rel=1e-3, abs=1e-9)


def test_a_probe_is_a_plan_with_one_merge() -> None:
    plan = probe_plan(8, 5, 2)
    assert [merge.boundaries for merge in plan.merges] == [(5, 4, 3, 2)]
    assert [(tree.start, tree.stop) for tree in plan.students] == [
        (8, 7), (7, 6), (6, 5), (5, 2), (2, 1), (1, 0)
    ]  # fmt: skip
    assert len(probe_plan(3, 3, 0).students) == 1


def test_a_probe_of_students_trains_them_first() -> None:
    plan = probe_plan(8, 8, 0, 2)
    assert [merge.boundaries for merge in plan.merges] == [
        (8, 7, 6, 5, 4),
        (4, 3, 2, 1, 0),
        (8, 4, 0),
    ]
    uneven = probe_plan(9, 8, 3, 2)  # 8 → 6 → 3, as 5.5 is rounded to even
    assert [merge.boundaries for merge in uneven.merges] == [(8, 7, 6), (6, 5, 4, 3), (8, 6, 3)]
    assert [(tree.start, tree.stop) for tree in uneven.students] == [
        (9, 8), (8, 3), (3, 2), (2, 1), (1, 0)
    ]  # fmt: skip


def test_default_probes() -> None:
    probes = default_probes(32, 400, 1e-3)
    assert {(p.start, p.stop, p.students) for p in probes} == {
        (32, 0, 0), (32, 16, 0), (32, 24, 0), (16, 0, 0), (16, 8, 0), (8, 0, 0), (32, 30, 0),
        (16, 14, 0), (32, 0, 4), (16, 0, 2)
    }  # fmt: skip
    assert sum(p.num_iterations for p in probes) == 6 * (100 + 400) + 2 * 400 + 2 * 400
    slower = default_probes(32, 400, 1e-3, slower=True)
    assert slower[: len(probes)] == probes
    assert [(p.start, p.learning_rate) for p in slower[len(probes) :]] == [
        (32, 5e-4), (16, 5e-4), (8, 5e-4)
    ]  # fmt: skip
    for steps in range(4, 12):
        small = default_probes(steps, 8, 1e-3)
        assert len(set(small)) == len(small) >= 6
        assert all(p.start - p.stop >= 2 and 0 <= p.stop < p.start <= steps for p in small)
        for p in small:
            assert probe_plan(steps, p.start, p.stop, p.students).num_steps == steps


TRUTH = GammaRates(0.6, 25.0, 0.8, 400, 1e-3, 400, 1e-3, 0.7, 3e-5)


def synthetic(noise: float = 0.0, seed: int = 0, slower: bool = True) -> list[Probe]:
    """Probes of a network that follows the model exactly, up to log-normal errors."""
    rng = np.random.default_rng(seed)
    probes = []
    for settings in default_probes(32, 400, 1e-3, slower):
        if settings.students:  # the model is not for them
            continue
        angle = math.pi * settings.start / 64
        variances = math.cos(angle) ** 2 * LAMBDAS + math.sin(angle) ** 2
        before = 0.1 * (settings.start - settings.stop) * LAMBDAS / 100
        used = replace(
            TRUTH, num_iterations=settings.num_iterations, learning_rate=settings.learning_rate
        )
        after = before * (1 + 2 * used.scale_used * variances**0.8) ** -0.6 + TRUTH.floor
        after *= math.exp(noise * rng.standard_normal())
        rows = (tuple(array.tolist()) for array in (variances, before, after))
        probes.append(Probe(settings, *rows, 4, float(before.sum())))
    return probes


def test_a_fit_finds_the_truth() -> None:
    fit = fit_rates(synthetic(), 400, 1e-3)
    assert fit.residual < 1e-6
    for key in ("shape", "scale", "exponent", "learning_rate_exponent", "floor"):
        assert getattr(fit.training, key) == pytest.approx(getattr(TRUTH, key), rel=1e-3), key
    without = fit_rates(synthetic(slower=False), 400, 1e-3)
    assert "learning_rate_exponent" not in without.standard_errors
    assert without.training.learning_rate_exponent == 1.0
    assert without.training.shape == pytest.approx(0.6, rel=1e-3)
    assert without.predicted == pytest.approx([p.left for p in synthetic(slower=False)], rel=1e-4)


def test_standard_errors_are_the_spread_of_fits() -> None:
    """30 fits: their standard deviation is known to 13 %, so 40 % is three standard errors."""
    fits = [fit_rates(synthetic(0.02, seed), 400, 1e-3) for seed in range(30)]
    for key, logarithmic in (("shape", True), ("scale", True), ("exponent", False)):
        values = np.array([getattr(fit.training, key) for fit in fits])
        spread = (np.log(values) if logarithmic else values).std(ddof=1)
        claimed = np.sqrt(np.mean([fit.standard_errors[key] ** 2 for fit in fits]))
        assert claimed == pytest.approx(spread, rel=0.4), key


def test_what_the_probes_do_not_determine_has_no_standard_error() -> None:
    """All at one variance: the exponent multiplies log n = 0, and what is exact stays so."""
    flat = [replace(p, variances=(1.0,) * 4) for p in synthetic(slower=False)]
    assert math.isinf(fit_rates(flat, 400, 1e-3).standard_errors["exponent"])


def test_fits_that_cannot_be() -> None:
    with pytest.raises(InputError, match="`probes` must be at least 4, those for the floor apart"):
        fit_rates(synthetic()[:3], 400, 1e-3)
    floor = [probe for probe in synthetic() if probe.settings.tells_floor]
    with pytest.raises(InputError, match="got 3"):
        fit_rates([*synthetic()[:3], *floor], 400, 1e-3)
    still = [replace(p, before=(0.0,) * 4) for p in synthetic()]
    with pytest.raises(InputError, match="`probes` must start and end off their target"):
        fit_rates(still, 400, 1e-3)


def test_a_floor_is_never_negative() -> None:
    """Probes for the floor that end lower than the rates alone say."""
    lower = [
        replace(p, after=tuple(0.01 * b for b in p.before)) if p.settings.tells_floor else p
        for p in synthetic()
    ]
    assert fit_rates(lower, 400, 1e-3).training.floor == 0


def test_probes_are_measured_on_samples_that_they_did_not_read() -> None:
    inputs = DataInputs(torch.arange(10.0)[:, None], torch.arange(10))
    train, held_out = _split(inputs, 0)
    for part, size in ((train, 8), (held_out, 2)):
        assert len(part.data) == size
        assert part.condition is not None
        assert torch.equal(part.data[:, 0], part.condition.rows["class_labels"].float())
    assert sorted(torch.cat([train.data, held_out.data])[:, 0].tolist()) == list(range(10))


def small_config(**more: Any) -> DistillationConfig:
    optimization = OptimizationConfig(train_batch_size=32, learning_rate=1e-3)
    settings: dict[str, Any] = {
        "num_iterations": 24,
        "linear_part": "train",
        "target_reuse": 1,
        "optimization": optimization,
        **more,
    }
    return DistillationConfig(**settings)


def small_teacher(steps: int = 4) -> Teacher:
    torch.manual_seed(0)
    network = MLPDenoiser((4,), hidden_size=16, num_layers=1)
    for parameter in network.parameters():  # as built, its output is zero
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return Teacher(network, DDIM.from_schedule(cosine_schedule(steps), "sample"), (4,))


def small_spectrum() -> Spectrum:
    data = gaussian_inputs(200).data.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(data.T, bias=True))
    return replace(
        eigenvalue_spectrum(values[::-1]),
        mean=data.mean(axis=0),
        basis=vectors[:, ::-1].T.copy(),
        kind="full",
    )


Calls = list[tuple[int, int]]


def calibrate_small(
    folder: Path | None = None, stop_at: int | None = None, **more: Any
) -> tuple[Calibration, Calls]:
    calls: Calls = []

    def told(what: str, done: int, total: int) -> None:
        if what == "training probes":
            calls.append((done, total))
            if done == stop_at:
                raise KeyboardInterrupt

    calibration = calibrate(
        small_teacher(),
        gaussian_inputs(200),
        small_spectrum(),
        small_config(**more),
        Accelerator(cpu=True),
        default_probes(4, 24, 1e-3)[:4],
        folder,
        told,
    )
    return calibration, calls


small_calibration = cache(calibrate_small)


def test_a_calibration_is_a_function_of_its_seed() -> None:
    first, calls = small_calibration()
    assert calls == [(done, 60) for done in range(1, 61)]  # 2 merges of 6 and of 24 iterations
    again, _ = calibrate_small()
    assert again.to_dict() == first.to_dict()
    # a teacher's x̂ does not change while students are trained
    assert [p.before for p in first.probes[::2]] == [p.before for p in first.probes[1::2]]


def test_how_linear_the_teacher_is_is_told_before_the_first_probe() -> None:
    told: list[Linearity] = []

    def stop(linear: Linearity) -> None:
        told.append(linear)
        raise KeyboardInterrupt

    calls: Calls = []
    with pytest.raises(KeyboardInterrupt):
        calibrate(
            small_teacher(),
            gaussian_inputs(200),
            small_spectrum(),
            small_config(),
            Accelerator(cpu=True),
            progress=lambda what, done, total: calls.append((done, total)),
            tell=stop,
        )
    assert calls == [(done, 4) for done in range(4)]  # steps, and no probe
    assert told == [small_calibration()[0].linearity]


def test_an_interrupted_calibration_goes_on(tmp_path: Path) -> None:
    """Stopped in the third merge, then in the fourth: those before are read, to the same bits."""
    uninterrupted, _ = small_calibration()
    for stop_at in (32, 37):  # 6 + 24, 6, and 24 iterations
        with pytest.raises(KeyboardInterrupt):
            calibrate_small(tmp_path, stop_at)
    assert len(list((tmp_path / "probes").iterdir())) == 3
    resumed, calls = calibrate_small(tmp_path)
    assert resumed.to_dict() == uninterrupted.to_dict()
    assert calls == [(6, 60), (30, 60), *((done, 60) for done in range(36, 61))]


def test_a_damaged_probe_is_trained_again(tmp_path: Path) -> None:
    uninterrupted, _ = small_calibration()
    calibrate_small(tmp_path)
    files = sorted((tmp_path / "probes").iterdir())
    for file, text in zip(files, ("", "[]", '{"before": 1}', '{"before": ["x"]}'), strict=True):
        file.write_text(text, encoding="utf-8")
    again, calls = calibrate_small(tmp_path)
    assert again.to_dict() == uninterrupted.to_dict()
    assert len(calls) == 60


def test_a_probe_that_version_1_0_kept_is_read(tmp_path: Path) -> None:
    """It wrote the value alone; the name of the file says what it is of."""
    uninterrupted, _ = small_calibration()
    calibrate_small(tmp_path)
    for path in (tmp_path / "probes").iterdir():
        content = json.loads(path.read_text(encoding="utf-8"))
        assert digest(content["identity"]) == path.stem
        path.write_text(json.dumps(content["result"]) + "\n", encoding="utf-8")
    again, calls = calibrate_small(tmp_path)
    assert again.to_dict() == uninterrupted.to_dict()
    assert calls == [(6, 60), (30, 60), (36, 60), (60, 60)]


def runner(folder: Path, **changes: Any) -> ProbeRunner:
    parts = {
        "teacher": small_teacher(),
        "inputs": gaussian_inputs(50),
        "held_out": gaussian_inputs(20),
        "spectrum": small_spectrum(),
        "config": small_config(),
        "accelerator": Accelerator(cpu=True),
        **changes,
    }
    return ProbeRunner(**parts, folder=folder)


def other_spectra() -> list[Spectrum]:
    """Other eigenvalues, other eigenvectors, and fewer of them, with the trace of the others."""
    spectrum = small_spectrum()
    assert spectrum.basis is not None
    fewer = replace(
        spectrum,
        eigenvalues=spectrum.eigenvalues[:2],
        multiplicities=spectrum.multiplicities[:2],
        basis=spectrum.basis[:2],
        kind="top-k",
        remaining_trace=1.0,
        remaining_dimensions=2,
    )
    return [
        replace(spectrum, eigenvalues=2 * spectrum.eigenvalues),
        replace(spectrum, basis=np.eye(4)),
        fewer,
        replace(fewer, remaining_trace=2.0),
    ]


def other_teacher() -> Teacher:
    teacher = small_teacher()
    next(teacher.network.parameters()).data[0] += 1
    return teacher


def test_a_probe_is_kept_for_all_that_it_depends_on(tmp_path: Path) -> None:
    """A run with anything else trains its own; files tell them apart by name."""
    settings = ProbeSettings(4, 2, 1, 1e-3)
    optimization = small_config().optimization
    kept: list[dict[str, Any]] = [
        {},
        {"teacher": other_teacher()},
        {"inputs": gaussian_inputs(51)},
        {"held_out": gaussian_inputs(21)},
        *({"spectrum": spectrum} for spectrum in other_spectra()),
        {"config": small_config(merge_rule="operator-copy")},
        {"config": small_config(curriculum="linear")},
        {"config": small_config(optimization=optimization.replaced(seed=1))},
        {"config": small_config(optimization=optimization.replaced(train_batch_size=16))},
    ]
    for changes in kept:
        assert len(list(runner(tmp_path, **changes).run(settings))) == 2
    for other in ({"start": 3, "stop": 0}, {"num_iterations": 2}, {"learning_rate": 2e-3}):
        assert len(list(runner(tmp_path).run(replace(settings, **other)))) > 1
    assert len(list((tmp_path / "probes").iterdir())) == len(kept) + 3
    for changes in kept:
        assert len(list(runner(tmp_path, **changes).run(settings))) == 1
    # what says how a calibration goes on, and how it uses the probe, does not count
    told = optimization.replaced(checkpointing_steps=7, report_to="tensorboard")
    free = runner(tmp_path, config=small_config(num_iterations=400, optimization=told))
    (found,) = free.run(replace(settings, tells_floor=True))
    assert found is not None
    assert found.settings.tells_floor


def test_eigenvectors_are_digested_once_for_all_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be half a gigabyte. Probes that are kept read nothing else of them."""
    every = [ProbeSettings(4, 2, 1, 1e-3), ProbeSettings(3, 0, 1, 1e-3)]
    for settings in every:
        list(runner(tmp_path).run(settings))
    calls = []

    def counted(spectrum: Spectrum, size: int) -> tuple[np.ndarray, np.ndarray]:
        calls.append(size)
        return require_basis(spectrum, size)

    monkeypatch.setattr("opmerge.measure.probes.require_basis", counted)
    again = runner(tmp_path)
    assert [len(list(again.run(settings))) for settings in every] == [1, 1]
    assert calls == [4]


KILLED_AT_THE_THIRD = """
import os, signal, sys
from opmerge.cli import main

renamed = []

def hook(event, arguments):
    if event == "os.rename" and "/probes/" in str(arguments[1]):
        renamed.append(arguments)
        if len(renamed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
main(sys.argv[1:])
"""


def test_a_killed_calibration_goes_on_from_the_command_line(tmp_path: Path, run: Run) -> None:
    """SIGKILL while the third probe is written; what then comes is as if nothing had been."""
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    torch.manual_seed(0)
    network = MLPDenoiser((1, 8, 8), hidden_size=16, num_layers=1)
    nn.init.normal_(network.proj_out.weight)  # as built, its output is zero
    teacher = write_teacher_folder(tmp_path / "teacher", network, scheduler)
    given = ["calibrate", "digits", "--teacher", teacher, "--steps", 4, "--num_iterations", 8]
    given += ["--train_batch_size", 64, "--output_dir"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED_AT_THE_THIRD, *map(str, given), str(killed)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("probes/[!.]*")}
    assert len(kept) == 2
    for folder in (killed, whole):
        assert run(*given, folder)[0] == 0
    files = [json.loads((folder / "calibration.json").read_text()) for folder in (killed, whole)]
    assert files[0] == files[1]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_one_iteration_cannot_be_quartered(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()  # that there is a teacher is asked first, and what it is last
    folders = ("--teacher", tmp_path / "empty", "--output_dir", tmp_path / "new")
    status, out, err = run("calibrate", "digits", *folders, "--steps", 4, "--num_iterations", 1)
    assert (status, out) == (2, "")
    assert err.startswith("opmerge: `num_iterations` must be >= 2 to calibrate")
    assert len(default_probes(4, 2, 1e-3)) == 6


def test_a_calibration_says_what_it_is_for() -> None:
    """Of merges that share a network the probes, which do not, are the same."""
    alone, _ = small_calibration()
    shared, _ = calibrate_small(sharing="round")
    settings = shared.to_dict()["settings"]
    assert settings == alone.to_dict()["settings"] == small_config().what_decides(1)
    assert (settings["sharing"], settings["curriculum"]) == ("merge", "none")
    assert shared.probes == alone.probes
    (note,) = set(shared.notes) - set(alone.notes)
    assert note.startswith("the probes have a network each")
    gradual, _ = calibrate_small(curriculum="linear")
    assert gradual.to_dict()["settings"]["curriculum"] == "linear"
    assert any(note.startswith("the curriculum linear slows") for note in gradual.notes)
    # only merges of more than two operators are trained otherwise: 4 → 0, not 4 → 2
    same = [one == other for one, other in zip(gradual.probes, alone.probes, strict=True)]
    assert same == [False, False, True, True]


def test_a_calibration_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibration, _ = small_calibration()
    path = calibration.write(tmp_path / "calibration.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["training"] == calibration.training.to_dict()
    assert stored["teacher_sha256"] == small_teacher().digest
    assert [p["left"] for p in stored["probes"]] == [p.left for p in calibration.probes]
    arguments = ["plan", "eigenvalues:2,0.5", "--steps", "4", "--training", str(path), "--json"]
    arguments += ["--merge_rule", "denoiser-copy"]
    assert main(arguments) == 0
    printed, said = capsys.readouterr()
    assert json.loads(printed)["problem"]["training"] == calibration.training.to_dict()
    assert not said  # the teacher's T and schedule
    del stored["sha256"]  # as if it had been written so
    path.write_text(json.dumps({**stored, "training": {"model": "none"}}), encoding="utf-8")
    assert main(arguments) == 2
    assert "`training.model` must be one of" in capsys.readouterr().err


def test_a_calibration_says_where_it_is_used_for_other_steps(tmp_path: Path, run: Run) -> None:
    """The teacher is read at T = 4 of the cosine schedule."""
    path = small_calibration()[0].write(tmp_path / "calibration.json")
    rule = ("--merge_rule", "denoiser-copy", "--training", path)
    plan = ("plan", "eigenvalues:2,0.5", *rule, "--json", "--steps")
    status, out, err = run(*plan, 8)
    assert (status, json.loads(out)["problem"]["steps"]) == (0, 8)
    beyond = "what it predicts here its probes did not measure"
    assert err == f"opmerge: the calibration is for T = 4, not 8: {beyond}\n"
    status, out, err = run(*plan, 4, "--schedule", "equal-angle:2.0")
    assert (status, json.loads(out)["problem"]["schedule"]["name"]) == (0, "equal-angle")
    # alpha_t² = 1 / (1 + 2 tan²(π t / 8)) against cos²(π t / 8): furthest apart at t = 2
    assert err == (
        "opmerge: the calibration is for another schedule (alpha_2 = 0.7071, not 0.5774): "
        f"{beyond}; --schedule takes the folder of its teacher\n"
    )
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["schedule"], stored["sha256"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    status, out, err = run(*plan, 4)
    assert (status, out) == (2, "")
    assert err == (
        f"opmerge: `{path}` must say for which steps and schedule it was made; run `opmerge "
        "calibrate` again, which keeps finished probes\n"
    )


def test_a_calibration_forecasts(tmp_path: Path) -> None:
    """Its law and table are read again without the network, and foretell a plan of its probes."""
    calibration, _ = small_calibration()
    found = read_calibration(calibration.write(tmp_path / "calibration.json"))
    assert found.law == calibration.law_fit.law
    assert found.teacher_sha256 == small_teacher().digest
    evaluations = calibration.network_evaluations
    assert found.network_evaluations == sum(evaluations.values())
    # 4 merges of 4, 4, 2, 2 steps: batch 32, κ = 3; and 2000 states down m steps and three times x̂
    trained = 32 * sum(n * (m + 3) for n, m in ((6, 4), (24, 4), (6, 2), (24, 2)))
    measuring = 2000 * sum(m + 3 for m in (4, 4, 2, 2))
    assert evaluations["probes"] == trained + measuring
    found.check(settings=small_config().what_decides(1))
    plan = build_strategy("vanilla", 4)
    foretold = forecast(found.law, found.table, plan, [24])
    assert foretold.low < foretold.rms < foretold.high


def test_probes_with_a_solved_linear_part_start_without_it() -> None:
    """A merge of the whole: untrained is nearer than the first child, and the table non-linear."""
    solved, _ = calibrate_small(linear_part="solve")
    trained, _ = small_calibration()
    for probe, other in zip(solved.probes, trained.probes, strict=True):
        assert probe.before == other.before
        assert other.untrained == ()
        assert sum(probe.untrained) < sum(probe.before)
        assert probe.starts == probe.untrained
    assert (solved.table.table.is_nonlinear, trained.table.table.is_nonlinear) == (True, False)
    assert any(note.startswith("linear parts are solved") for note in solved.notes)


def test_a_table_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged one, or that of another teacher, is measured again."""
    calls = []

    def counted(*arguments: Any) -> MeasuredTable:
        calls.append(arguments)
        return measure_table(*arguments)

    monkeypatch.setattr("opmerge.measure.calibration.measure_table", counted)
    first, _ = calibrate_small(tmp_path)
    again, _ = calibrate_small(tmp_path)
    assert len(calls) == 1
    assert np.array_equal(again.table.table.products, first.table.table.products)
    assert again.table.network_evaluations == first.table.network_evaluations
    (tmp_path / "table.npz").write_bytes(b"torn")
    calibrate_small(tmp_path)
    assert len(calls) == 2


@pytest.mark.parametrize("budget", ["400000", "900it"])
def test_a_budget_is_kept_and_used(tmp_path: Path, budget: str) -> None:
    """The cost stays within it, and one iteration more of the longest would not."""
    arguments = (small_teacher(8), gaussian_inputs(200), small_spectrum())
    config = small_config()
    size = size_within(budget, *arguments, config, Accelerator(cpu=True), tmp_path)
    amount, unit = read_budget(budget)
    count = max(probe.num_iterations for probe in size.probes)
    states = size.probes[0].num_states
    assert size.probes == default_probes(8, count, 1e-3, num_states=states)
    measured = sum(measuring_evaluations(arguments[0], probe) for probe in size.probes)
    assert states == 2000 or 0.29 * amount < measured <= 0.3 * amount
    assert size.cost <= amount
    merges = sum(probe.num_iterations * probe.num_merges for probe in size.probes)
    if unit == "iterations":
        assert size.cost == merges
        more = default_probes(8, count + 1, 1e-3)
        assert sum(probe.num_iterations * probe.num_merges for probe in more) > amount
    else:
        # a fifth of it, less 32 samples in 4 groups and without, down from 7 nodes, over T
        assert size.table_samples == min(2000, (80_000 - 32 * 5 * 31) // 8)


def test_a_look_at_linearity_is_paid_from_a_tenth_of_the_budget(tmp_path: Path) -> None:
    """2,048 samples at each of the 8 steps, counted as the network is called."""
    teacher, inputs, spectrum = small_teacher(8), gaussian_inputs(3000), small_spectrum()
    seen: list[int] = []
    teacher.network.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    linearity(teacher, inputs, spectrum)
    assert sum(seen) == linearity_evaluations(teacher) == 8 * 2048
    given = teacher, inputs, spectrum, small_config(), Accelerator(cpu=True), tmp_path
    for budget, looks in (("163840", True), ("163839", False)):
        size = size_within(budget, *given, look=True)
        assert size.looks is looks
        assert size.cost <= float(budget)
        without = size_within(budget, *given)
        assert without.looks is False
        longest = [max(each.num_iterations for each in one.probes) for one in (size, without)]
        assert (longest[0] < longest[1]) is looks


def test_a_calibration_may_do_without_a_look(tmp_path: Path) -> None:
    probes = default_probes(4, 4, 1e-3)
    given = small_teacher(4), gaussian_inputs(50), small_spectrum(), small_config()
    found = calibrate(*given, Accelerator(cpu=True), probes, looks=False)
    assert found.linearity is None
    path = found.write(tmp_path / "calibration.json")
    assert read_calibration(path).law == found.law_fit.law


def test_a_time_is_timed_once(tmp_path: Path) -> None:
    """So that an interrupted calibration goes on with the probes that it began with."""
    arguments = (small_teacher(8), gaussian_inputs(200), small_spectrum(), small_config())
    given = (*arguments, Accelerator(cpu=True), tmp_path)
    assert size_within("1h", *given) == size_within("1h", *given)
    with pytest.raises(InputError, match=r"`budget` must be >= \d+ seconds to calibrate"):
        size_within("0.001s", *given)


def test_notes_name_what_is_missed() -> None:
    calibration, _ = small_calibration()
    named = [note for note in calibration.notes if "4 → 0, 24 iterations at 0.001" in note]
    assert named, "an untrained network is not the theory's teacher"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_iterations": (3, 4)}, "`num_iterations` must be one number to calibrate for"),
        ({"merge_seconds": 3.0}, "`num_iterations` must be one number to calibrate for"),
    ],
)
def test_settings_that_are_not_one_number(changes: dict[str, Any], message: str) -> None:
    arguments = gaussian_inputs(200), spectrum_of(LAMBDAS)
    with pytest.raises(InputError) as error:
        calibrate(small_teacher(), *arguments, small_config(**changes), Accelerator(cpu=True))
    assert str(error.value).startswith(message)


def test_too_few_steps_or_samples() -> None:
    rest = spectrum_of(LAMBDAS), small_config(), Accelerator(cpu=True)
    with pytest.raises(InputError, match="`steps` must be >= 4 to calibrate, got 3"):
        calibrate(small_teacher(3), gaussian_inputs(200), *rest)
    with pytest.raises(InputError, match="`data` must hold at least 5 samples, got 4"):
        calibrate(small_teacher(), gaussian_inputs(4), *rest)


@pytest.mark.parametrize("is_solved", [False, True])
def test_the_law_of_a_kind_of_which_none_is_known_says_so(is_solved: bool) -> None:
    ddim = DDIM.from_schedule(cosine_schedule(STEPS), "v_prediction")

    def prior_of(network: nn.Module) -> Any:
        return law_prior(Teacher(network, ddim, (1, 8, 8)), is_solved)

    unet = LAW_PRIORS["unet"]
    assert prior_of(MLPDenoiser((1, 8, 8))) is LAW_PRIORS["mlp-solved" if is_solved else "mlp"]
    assert prior_of(make_unet((1, 8, 8), (8, 8))) is unet
    for other in (make_dit((1, 8, 8), 8, 1), nn.Linear(8, 8)):
        found = prior_of(other)
        assert (found.centre, found.spreads) == (unet.centre, unet.spreads)
        assert found.source.startswith(unet.source)
        assert found.source.endswith(type(other).__name__)
