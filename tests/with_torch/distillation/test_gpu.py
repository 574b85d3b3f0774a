"""What is different on an accelerator: ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from test_resume import (
    DATA,
    assert_same,
    distillation,
    finish,
    weights,
)
from torch import Tensor

from opmerge import build_strategy
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Student, Teacher, initial_noise
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.denoisers.teacher_training import TeacherConfig, train_teacher
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.pipeline import FewStepPipeline, load_student, save_student
from opmerge.distillation.sampling import draw_samples
from opmerge.loop import best_device, make_accelerator
from opmerge.measure.evaluation import evaluate_student
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.spectra import Spectrum

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.accelerator.is_available(),
        reason="no accelerator is seen; where there is one, run pytest -m gpu",
    ),
    pytest.mark.usefixtures("fresh_accelerator", "one_thread"),
    pytest.mark.filterwarnings("default"),  # what drivers warn of differs from machine to machine
]

SHAPE = (1, 8, 8)
IMAGES = torch.linspace(-9, 9, 32 * 64).reshape(32, *SHAPE).sin()
LABELS = torch.arange(32) % 2


def small(precision: str, **given: Any) -> OptimizationConfig:
    settings = {"train_batch_size": 16, "checkpointing_steps": 0, "ema_decay": 0.9, **given}
    return OptimizationConfig(**settings, mixed_precision=precision)  # type: ignore[arg-type]


def train(folder: Path, precision: str, network: Any = "mlp") -> Teacher:
    """A teacher of 4 steps, trained on the device, as its folder holds it: on the CPU."""
    optimization = small(precision, learning_rate=1e-3)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "block_out_channels": (8, 16)}
    config = TeacherConfig(network=network, num_iterations=30, optimization=optimization, **sizes)
    accelerator = make_accelerator(optimization, folder)
    assert accelerator.device.type == best_device().type
    records = list(train_teacher(config, IMAGES, LABELS, accelerator, folder))
    assert all(torch.isfinite(record.loss) for record in records)
    return load_teacher(folder / "teacher", 4)


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
@pytest.mark.parametrize("network", ["mlp", "unet"])
def test_teacher_and_student_are_trained_saved_and_sampled(
    tmp_path: Path, precision: str, network: str
) -> None:
    teacher, device = train(tmp_path, precision, network), best_device()
    optimization = small(precision, checkpointing_steps=10, learning_rate=1e-3)
    config = DistillationConfig(num_iterations=30, sharing="round", optimization=optimization)
    accelerator = make_accelerator(optimization, tmp_path)
    plan, inputs = build_strategy("progressive", 4), DataInputs(IMAGES, LABELS)
    run = Distillation(teacher, plan, inputs, config, accelerator, tmp_path)
    assert all(torch.isfinite(record.loss) for record in run.run())
    student = run.student()
    for name, weight in student.jumps[0].network.state_dict().items():
        assert (weight.device.type, weight.dtype) == (device.type, torch.float32)
        assert torch.isfinite(weight).all(), name
    moved = [
        not torch.equal(weight.cpu(), teacher.network.state_dict()[name])
        for name, weight in student.jumps[0].network.state_dict().items()
    ]
    assert any(moved)  # not every step of fp16 was left out
    loaded = load_student(save_student(student, tmp_path / "student"))
    assert_same(weights_of(loaded), [weight.cpu() for weight in weights_of(student)])
    samples = draw_samples(loaded.to(device), 10, 0, 4)
    assert samples.device.type == "cpu"
    assert torch.isfinite(samples).all()


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"torch_compile": True},
        {"lora_rank": 4, "sharing": "all"},
        {"lora_rank": 4, "torch_compile": True},
    ],
)
def test_options_of_large_networks_train_and_are_saved(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """In bf16, and with as much memory as is told: within a fifth, or 64 MiB of small networks."""
    teacher = train(tmp_path, "bf16", "unet")
    names = options.keys() & DistillationConfig.model_fields
    given = {name: options[name] for name in names}
    rest = {name: options[name] for name in options.keys() - names}
    optimization = small("bf16", learning_rate=1e-3, **rest)
    config = DistillationConfig(num_iterations=10, optimization=optimization, **given)
    accelerator = make_accelerator(optimization, tmp_path)
    inputs = DataInputs(IMAGES, LABELS)
    asked = (teacher, build_strategy("progressive", 4), inputs, config, accelerator)
    cost = estimate_cost(Distillation(*asked))
    assert cost.working_bytes is not None
    run = Distillation(*asked)
    torch.accelerator.reset_peak_memory_stats()
    assert all(torch.isfinite(record.loss) for record in run.run())
    most = torch.accelerator.max_memory_allocated()
    told = cost.memory_bytes + cost.working_bytes
    assert abs(most - told) < max(0.2 * told, 2**26)
    student = run.student()
    loaded = load_student(save_student(student, tmp_path / "student", teacher))
    noise = initial_noise(SHAPE, 4, 0)
    labels = torch.arange(4) % 2
    torch.testing.assert_close(
        loaded.sample(noise, labels),
        student.to(torch.device("cpu")).sample(noise, labels),
        rtol=1e-3,
        atol=1e-3,
    )


def weights_of(student: Student) -> list[Tensor]:
    return [w for jump in student.jumps for w in jump.network.state_dict().values()]


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_a_seed_is_a_student(tmp_path: Path, precision: str) -> None:
    """The same bits: one stream, and no operation of a perceptron that adds in any order.

    What else a process has trained does not count: how the loss of fp16 is scaled is begun anew.
    """
    found = []
    for name in ("one", "two"):
        run = distillation(
            tmp_path / name, network=MLPDenoiser, cpu=False, mixed_precision=precision
        )
        found.append(finish(run)[1])
        if precision == "fp16":
            run.accelerator.scaler.update(1.0)
    assert_same(*found)


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_a_run_goes_on_to_the_same_bits(tmp_path: Path, precision: str) -> None:
    """Everything that counts is in a checkpoint, the device's own random numbers included.

    Dropout takes from these in every call of the network, so that a run which went on with those
    of its beginning would end elsewhere. The bits are the same for the reason that a seed is a
    student.
    """
    changes: dict[str, Any] = {"cpu": False, "mixed_precision": precision}
    whole = finish(distillation(tmp_path / "whole", **changes))[1]
    for _ in itertools.islice(distillation(tmp_path / "cut", **changes).run(), 9):
        pass
    run = distillation(tmp_path / "cut", **changes)
    assert run.resume() == 8
    assert_same(finish(run)[1], whole)


def test_a_run_of_the_device_goes_on_on_the_cpu(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"network": MLPDenoiser}
    for _ in itertools.islice(distillation(tmp_path, cpu=False, **changes).run(), 9):
        pass
    AcceleratorState._reset_state(reset_partial_state=True)
    run = distillation(tmp_path, cpu=True, **changes)
    assert run.resume() == 8
    record = next(run.run())
    assert (record.step, record.loss.device.type) == (9, "cpu")
    assert torch.isfinite(record.loss)


def test_samples_of_the_device_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Noise is drawn on the CPU, so that only the networks' rounding differs.

    A sum of 64 products of order 1 in float32 is off by about 8 · 2^-24 = 5e-7, and five layers
    and four steps of that by 1e-5; ten times as much is allowed, and other noise is off by 1.
    """
    teacher, device = train(tmp_path, "no"), best_device()
    student = Student((teacher.steps()[0],), teacher.ddim, SHAPE, 2)
    noise = initial_noise(SHAPE, 10, 0, device=str(device))
    assert torch.equal(noise.cpu(), initial_noise(SHAPE, 10, 0))
    sampler: Teacher | Student
    for sampler in (teacher, student):
        ours, theirs = (draw_samples(each, 10, 0, 4) for each in (sampler, sampler.to(device)))
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    pipeline = FewStepPipeline.from_student(teacher_as_student(teacher)).to(device)
    labels = (torch.arange(10) % 2).to(device)
    found = pipeline.student().sample(noise, labels).cpu()
    torch.testing.assert_close(found, draw_samples(teacher, 10, 0, 10), rtol=1e-4, atol=1e-4)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(latents=noise, class_labels=labels, output_type="np").images
    expected = (found / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(images, expected, atol=1e-6)


def teacher_as_student(teacher: Teacher) -> Student:
    return Student(tuple(teacher.steps()), teacher.ddim, teacher.sample_shape, teacher.needs)


@pytest.mark.parametrize("kept", ["in memory", "in a file", "on the device"])
def test_it_does_not_matter_where_the_data_are(tmp_path: Path, kept: str) -> None:
    np.save(tmp_path / "data.npy", DATA.numpy())
    places: dict[str, Callable[[], Tensor]] = {
        "in memory": lambda: DATA,
        "in a file": lambda: torch.from_numpy(np.load(tmp_path / "data.npy", mmap_mode="c")),
        "on the device": lambda: DATA.to(best_device()),
    }
    changes: dict[str, Any] = {"network": MLPDenoiser, "cpu": False}
    run = distillation(tmp_path / "run", data=places[kept](), **changes)
    found = finish(run)[1]
    assert {weight.device.type for weight in weights(run)} == {best_device().type}
    assert_same(found, finish(distillation(tmp_path / "reference", **changes))[1])


def test_a_student_of_the_device_is_measured_against_a_teacher_of_the_cpu(tmp_path: Path) -> None:
    """Each draws where it is, from equal noise."""
    run = distillation(tmp_path, network=MLPDenoiser, cpu=False)
    teacher = Teacher(run.teacher.network, run.teacher.ddim, (4,)).to(torch.device("cpu"))
    finish(run)
    spectrum = Spectrum(
        np.arange(4.0, 0.0, -1.0), np.ones(4), np.zeros(4), np.eye(4), 16, "made", "none", "full"
    )
    found = evaluate_student(
        teacher, run.student(), 32, 0, spectrum=spectrum, reference=DATA, num_resamples=2
    )
    assert found.directions is not None
    assert sum(found.directions.errors) == pytest.approx(found.paired_error.value)
    assert {weight.device.type for weight in teacher.network.state_dict().values()} == {"cpu"}


def test_every_command_uses_the_device(run: Any, tmp_path: Path) -> None:
    teacher, teach = tmp_path / "teacher", ("--hidden_size", 16, "--num_layers", 1)
    short = ("--train_batch_size", 16, "--num_iterations", 8, "--output_dir")
    assert run("train-teacher", "digits", *teach, *short, tmp_path)[0] == 0
    given = ("digits", "--teacher", teacher, "--steps", 4)
    boot = ("distill", *given, "--plan", "boot", *short)
    status, out, _ = run(*boot, tmp_path / "run", "--dry_run")
    assert status == 0
    assert "expected duration" in out
    assert run(*boot, tmp_path / "run")[0] == 0
    student = tmp_path / "run" / "student"
    assert run("sample", student, "--output", tmp_path / "s.png", "--num_samples", 4)[0] == 0
    measure = ("evaluate-student", student, "--teacher", teacher, "--source", "digits")
    status, out, _ = run(*measure, "--num_samples", 8, "--json")
    assert status == 0
    assert json.loads(out)["num_samples"] == 8
    assert run("calibrate", *given, *short, tmp_path / "calibration")[0] == 0
