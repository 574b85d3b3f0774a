"""Linear parts: the solver against numpy, students of linear teachers, and the student's folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opmerge import Plan, build_strategy, cosine_schedule
from opmerge.denoisers import linear_part
from opmerge.denoisers.denoiser import Estimate
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.linear_part import (
    LinearDenoiser,
    LinearPart,
    Regression,
    leading_directions,
)
from opmerge.denoisers.models import Jump, Student, Teacher, initial_noise
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.executor import Distillation, settled
from opmerge.distillation.pipeline import FewStepPipeline, load_student, save_student
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T, D = 6, 5
SHAPE = (1, 2, 3)


def pairs(count: int, num_features: int = D, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Of a linear map with an offset, and noise; float64."""
    generator = torch.Generator().manual_seed(count)
    mixing, matrix = torch.randn(2, num_features, num_features, generator=generator).double()
    z = torch.randn(count, num_features, generator=generator).double() @ mixing + 1
    rest = torch.randn(count, num_features, generator=generator).double()
    return z, z @ matrix.T - 2 + noise * rest


def solved(z: Tensor, y: Tensor, directions: Tensor | None = None) -> LinearPart:
    """From uneven batches, whose pairs are numbered on."""
    regression = Regression(directions, lambda sums: sums)
    for part in zip(z.split(7), y.split(7), torch.arange(len(z)).split(7), strict=True):
        regression.add(*part)
    return regression.solve()


def ridge_of_numpy(z: Any, y: Any, ridge: float) -> tuple[Any, Any]:
    """Least squares with √(N ρ τ) times the identity as further rows, after centring."""
    means = z.mean(0), y.mean(0)
    size = np.sqrt(len(z) * ridge * z.var(0).mean())
    rows = np.vstack([z - means[0], size * np.eye(z.shape[1])])
    wanted = np.vstack([y - means[1], np.zeros((z.shape[1], y.shape[1]))])
    matrix = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    return matrix, means[1] - matrix @ means[0]


@pytest.mark.parametrize(("count", "noise"), [(400, 0.3), (9, 100.0)])
def test_the_ridge_regression_is_that_of_numpy(count: int, noise: float) -> None:
    """With the ridge that errs least on one pair of five: small for many pairs, large for few."""
    z, y = pairs(count, noise=noise)
    held = np.arange(count) % 5 == 4
    arrays, errors = (z.numpy(), y.numpy()), {}
    ridges = [10.0**power for power in range(-8, 3)]
    for ridge in ridges:
        matrix, offset = ridge_of_numpy(*(each[~held] for each in arrays), ridge)
        errors[ridge] = ((arrays[1] - arrays[0] @ matrix.T - offset)[held] ** 2).sum()
    best = min(ridges, key=errors.__getitem__)
    assert (best <= 1e-2) == (count == 400)
    matrix, offset = ridge_of_numpy(*arrays, best)
    found = solved(z, y)
    np.testing.assert_allclose(found.matrix, matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found(z.float()), arrays[0] @ matrix.T + offset, atol=1e-3)


def test_all_directions_are_the_whole_matrix() -> None:
    z, y = pairs(60)
    directions = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]
    whole, along = solved(z, y), solved(z, y, directions)
    assert along.directions is not None
    torch.testing.assert_close(along(z.float()), whole(z.float()), rtol=1e-5, atol=1e-5)


def test_a_gain_stands_for_the_rest() -> None:
    """y = M z in two directions and -0.7 z across them is found exactly, from fewer numbers."""
    z, _ = pairs(400, 6)
    u = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).double())[0]
    first = u[:, :2].T
    matrix = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    y = z @ first.T @ matrix.T @ first - 0.7 * (z - z @ first.T @ first) + 4
    found = solved(z, y, first)
    torch.testing.assert_close(found(z.float()), y.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(float(found.gain), -0.7, rtol=1e-5, atol=1e-5)


def test_leading_directions_are_principal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([9.0, 6.0, 4.0, *[0.1] * 9])
    rows = torch.randn(200, 12, generator=generator) * scales + 5
    assert leading_directions([rows], lambda sums: sums) is None  # a whole matrix is small enough
    monkeypatch.setattr(linear_part, "WHOLE_MATRIX", 11)
    found = leading_directions(list(rows.reshape(200, 3, 4).split(64)), lambda sums: sums, 3)
    assert found is not None
    _, _, principal = np.linalg.svd(rows.numpy() - rows.numpy().mean(0))
    projections = found.numpy().T @ found.numpy(), principal[:3].T @ principal[:3]
    np.testing.assert_allclose(*projections, atol=1e-6)


class Affine(nn.Module):
    """x̂ = w_t z + c_t: a teacher that is linear but for an offset."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weights = nn.Parameter(torch.rand(T + 1, D, generator=generator))
        self.offsets = nn.Parameter(torch.randn(T + 1, D, generator=generator))

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return self.weights[timesteps] * z + self.offsets[timesteps]


def run_of(
    teacher: Teacher, plan: Plan, data: Tensor, folder: Path | None = None, **given: Any
) -> Distillation:
    """A small run that solves."""
    optimization = OptimizationConfig(train_batch_size=40, checkpointing_steps=0)
    settings = {"num_iterations": 4, "linear_part": "solve", "target_reuse": 1, **given}
    config = DistillationConfig(**settings, optimization=optimization)
    accelerator = make_accelerator(optimization, cpu=True)
    return Distillation(teacher, plan, DataInputs(data), config, accelerator, folder)


def affine_teacher() -> Teacher:
    return Teacher(Affine(), DDIM.from_schedule(cosine_schedule(T), "sample"), (D,))


@pytest.mark.parametrize("rule", ["denoiser-copy", "operator-copy"])
@pytest.mark.parametrize("sharing", ["merge", "round"])
@pytest.mark.parametrize(
    "strategy", ["vanilla", "boot", "consistency", "progressive", "uniform:2", "hybrid:2"]
)
def test_a_linear_teacher_is_reproduced_without_training(
    strategy: str, sharing: str, rule: str
) -> None:
    """By every plan, to float32 rounding: all that a merge composes is affine."""
    teacher, data = affine_teacher(), torch.randn(64, D)
    run = run_of(teacher, build_strategy(strategy, T), data, sharing=sharing, merge_rule=rule)
    noise = torch.randn(8, D)
    untrained = [jump.network for jump in run.student().jumps]
    torch.testing.assert_close(run.solve().sample(noise), teacher.sample(noise), rtol=0, atol=2e-4)
    weights = untrained[0].state_dict()["weights"]
    assert all(torch.equal(j.network.state_dict()["weights"], weights) for j in run.student().jumps)


def test_a_student_of_linear_parts_is_only_had_where_they_are_solved() -> None:
    run = run_of(affine_teacher(), build_strategy("boot", T), torch.ones(4, D), linear_part="train")
    with pytest.raises(InputError, match="`linear_part` must be solve"):
        run.solve()


def test_the_network_learns_what_is_left() -> None:
    """x̂ of the student at first is the solved one, and the loss is that of its rest.

    In the first iteration the weighted square error of net + A z + b is that of a training that
    starts there, on the same batch.
    """
    teacher, data = perceptron(), torch.randn(64, D)
    plan = build_strategy("vanilla", T)
    student = run_of(teacher, plan, data, loss_weighting="x-space").solve()
    run = run_of(teacher, plan, data, loss_weighting="x-space")
    first = next(iter(run.run()))
    whole = run_of(teacher, plan, data, linear_part="train", loss_weighting="x-space")
    (part,) = whole.targets.parts(plan.merges, 0, 0)
    missed = part.target - student.jumps[0].denoiser(part.batch.z, T).x0
    torch.testing.assert_close(first.loss, (missed**2).mean())
    assert first.loss < (part.target - teacher.denoiser(part.batch.z, T).x0).square().mean()


def perceptron(shape: tuple[int, ...] = (D,)) -> Teacher:
    torch.manual_seed(0)
    network = MLPDenoiser(shape, hidden_size=16, num_layers=1)
    nn.init.normal_(network.proj_out.weight, std=0.3)
    return Teacher(network, DDIM.from_schedule(cosine_schedule(T), "v_prediction"), shape)


def test_training_sees_the_batches_that_it_would_see_anyway() -> None:
    """Their inputs in their order, with one use of a target and with two."""
    teacher, data, plan = perceptron(), torch.randn(64, D), build_strategy("vanilla", T)
    for reuse in (1, 2):
        seen: dict[str, list[Tensor]] = {}
        for choice in ("train", "solve"):
            run = run_of(teacher, plan, data, linear_part=choice, target_reuse=reuse)
            inputs = seen.setdefault(choice, [])
            estimate = run.targets.estimate

            def watched(
                network: Any, merges: Any, batch: Any, inputs: Any = inputs, ask: Any = estimate
            ) -> Tensor:
                if torch.is_grad_enabled():
                    inputs.append(batch.z)
                asked: Tensor = ask(network, merges, batch)
                return asked

            run.targets.estimate = watched  # type: ignore[method-assign]
            list(run.run())
        assert torch.equal(torch.stack(seen["train"]), torch.stack(seen["solve"]))


def test_auto_solves_for_perceptrons_alone() -> None:
    perceptrons = perceptron().network
    unet = make_unet((1, 8, 8), (8, 8))
    auto = DistillationConfig()
    assert settled(auto, perceptrons).linear_part == "solve"
    assert settled(auto, unet).linear_part == settled(auto, Affine()).linear_part == "train"
    assert settled(DistillationConfig(curriculum="linear"), perceptrons).linear_part == "train"
    assert settled(DistillationConfig(linear_part="solve"), unet).linear_part == "solve"
    assert settled(DistillationConfig(linear_part="train"), perceptrons).linear_part == "train"
    decides = [settled(auto, network).what_decides(1) for network in (perceptrons, unet)]
    assert decides[0] == {**decides[1], "linear_part": "solve"}
    assert decides[1] == auto.what_decides(1)  # as before there was a choice


def test_estimates_fit_the_state_with_a_network_and_without() -> None:
    """z = alpha x̂ + sigma ε̂ holds whatever is added, at one step and at one each."""
    ddim, z = perceptron().ddim, torch.randn(6, D)
    parts = {
        start: LinearPart(torch.randn(D, D), torch.randn(D), torch.tensor(0.5)) for start in (2, 5)
    }
    steps = torch.tensor([5, 2, 2, 5, 5, 2])
    for inner in (None, perceptron().denoiser):
        denoiser = LinearDenoiser(inner, ddim, parts)
        mixed: Estimate = denoiser(z, steps)
        for step in (2, 5):
            alone = denoiser(z, step)
            back = ddim.alphas[step] * alone.x0 + ddim.sigmas[step] * alone.noise
            torch.testing.assert_close(back, z)
            torch.testing.assert_close(mixed.x0[steps == step], alone.x0[steps == step])
            expected = z @ (parts[step].matrix.T + 0.5 * torch.eye(D)) + parts[step].offset
            if inner is not None:
                expected = expected + inner(z, step).x0
            torch.testing.assert_close(alone.x0, expected)


def solved_student(monkeypatch: pytest.MonkeyPatch, whole: bool) -> Student:
    """Three jumps by two networks, one without a linear part."""
    if not whole:
        monkeypatch.setattr(linear_part, "WHOLE_MATRIX", 4)
        monkeypatch.setattr(leading_directions, "__defaults__", (3,))
    plan = Plan.from_nested([[6, 5], [4, 3], 2, 1])
    return run_of(perceptron(SHAPE), plan, torch.randn(32, *SHAPE)).solve()


@pytest.mark.parametrize("whole", [True, False])
def test_a_students_folder_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Loaded, as a pipeline, and in a loop of diffusers' own form over scheduler and networks."""
    student = solved_student(monkeypatch, whole)
    has = [isinstance(jump.denoiser, LinearDenoiser) for jump in student.jumps]
    assert has == [True, True, False, False]
    folder = save_student(student, tmp_path / "student")
    noise = initial_noise(SHAPE, 3, seed=0)
    expected = student.sample(noise)
    assert torch.equal(load_student(folder).sample(noise), expected)
    pipeline = FewStepPipeline.from_student(load_student(folder))  # with memory of its own
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(latents=noise, output_type="pt").images
    assert torch.equal(images, (expected / 2 + 0.5).clamp(0, 1))
    again = save_student(load_student(folder), tmp_path / "again")
    name = "scheduler/linear_part.safetensors"
    assert (again / name).read_bytes() == (folder / name).read_bytes()
    z, scheduler = noise, JumpScheduler.from_pretrained(folder, subfolder="scheduler")
    with torch.no_grad():
        for jump, timestep in zip(scheduler.jumps, scheduler.timesteps, strict=True):
            network = getattr(pipeline, jump["network"])
            said = network(scheduler.scale_model_input(z, timestep), timestep)
            z = scheduler.step(said, timestep, z).prev_sample
    assert torch.equal(z, expected)


def test_a_config_without_the_linear_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_student(solved_student(monkeypatch, True), tmp_path / "student")
    scheduler = JumpScheduler.from_config(JumpScheduler.load_config(folder / "scheduler"))
    with pytest.raises(InputError, match=r"must come with linear_part\.safetensors"):
        scheduler.step(torch.zeros(1, *SHAPE), scheduler.timesteps[0], torch.zeros(1, *SHAPE))
    (folder / "scheduler" / "linear_part.safetensors").unlink()
    with pytest.raises(InputError, match="must be a whole folder of a student"):
        load_student(folder)


def test_a_student_without_is_written_as_before(tmp_path: Path) -> None:
    teacher = perceptron(SHAPE)
    jump = Jump(teacher.denoiser, T, 0, 0)
    folder = save_student(Student((jump,), teacher.ddim, SHAPE), tmp_path / "student")
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert "linear_part" not in config["jumps"][0]
    assert [path.name for path in (folder / "scheduler").iterdir()] == ["scheduler_config.json"]


def test_a_moved_student_takes_its_linear_parts_along(monkeypatch: pytest.MonkeyPatch) -> None:
    student = solved_student(monkeypatch, True)
    moved = student.to(torch.device("meta"))
    assert moved.sample(torch.empty(2, *SHAPE, device="meta")).device.type == "meta"
    first = student.jumps[0].denoiser
    other = first.using(replace(student).jumps[1].network)
    assert other.network is student.jumps[1].network is not first.network
