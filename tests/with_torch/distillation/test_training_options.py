"""Options of a training: memory against time, half precision, compiled networks, looks at it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor, nn

from opmerge import build_strategy, cosine_schedule
from opmerge.denoisers.denoiser import as_condition
from opmerge.denoisers.families import class_rows
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.sampling import draw_samples
from opmerge.distillation.timing import Pace
from opmerge.distillation.validation import Validation
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T, CLASSES = 4, 3


def unet() -> Any:
    torch.manual_seed(0)
    network = make_unet((1, 8, 8), (32, 32), num_classes=CLASSES)
    nn.init.normal_(network.conv_out.weight, std=0.05)
    return network


def perceptron() -> Any:
    torch.manual_seed(0)
    network = MLPDenoiser((1, 8, 8), hidden_size=32, num_layers=1, num_classes=CLASSES)
    nn.init.normal_(network.proj_out.weight, std=0.1)
    return network


def distillation(make: Any = unet, folder: Path | None = None, **settings: Any) -> Distillation:
    names = settings.keys() & DistillationConfig.model_fields
    given = {name: settings.pop(name) for name in names}
    optimization = OptimizationConfig(
        **{"train_batch_size": 8, "learning_rate": 1e-3, "checkpointing_steps": 0, **settings}
    )
    config = DistillationConfig(
        **{"num_iterations": 3, "linear_part": "train", **given}, optimization=optimization
    )
    teacher = Teacher(
        make(),
        DDIM.from_schedule(cosine_schedule(T), "v_prediction"),
        (1, 8, 8),
        class_rows(CLASSES),
    )
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(16, 1, 8, 8, generator=generator)
    inputs = DataInputs(data, as_condition(torch.arange(16) % CLASSES))
    AcceleratorState._reset_state()  # of the precision of the test before
    accelerator = make_accelerator(optimization, cpu=True)
    plan = build_strategy("boot", T)
    return Distillation(teacher, plan, inputs, config, accelerator, folder)


def outcome(run: Distillation) -> tuple[list[float], list[Tensor]]:
    losses = [float(record.loss) for record in run.run()]
    return losses, list(run.student().jumps[0].network.state_dict().values())


def test_activations_that_are_made_again_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, again = (distillation(gradient_checkpointing=which) for which in (False, True))
    working = []
    for run in (plain, again):
        monkeypatch.setattr(run, "pace", lambda report: Pace(0.0, 0.0, 1.0))
        working.append(estimate_cost(run).working_bytes)
    assert working[1] < 0.8 * working[0]
    (losses, weights), (same_losses, same_weights) = outcome(plain), outcome(again)
    assert losses == same_losses
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    assert plain.identity() == again.identity()  # a run may go on with or without


def test_a_network_that_cannot_make_activations_again_is_refused() -> None:
    with pytest.raises(InputError, match=r"`gradient_checkpointing` must be left out: MLPDenoiser"):
        next(distillation(perceptron, gradient_checkpointing=True).run())


def test_half_precision_reads_conditions() -> None:
    """bf16 has 8 bits: losses of the first merge differ by so much, and labels are told."""
    full, half = (distillation(mixed_precision=which, num_iterations=8) for which in ("no", "bf16"))
    losses, _ = outcome(full)
    half_losses, half_weights = outcome(half)
    assert half_losses != losses
    assert half_losses[:8] == pytest.approx(losses[:8], rel=0.05)
    assert all(weight.dtype == torch.float32 for weight in half_weights)
    student = half.student()
    noise = torch.randn(2, 1, 8, 8)
    one, other = (student.sample(noise, torch.full((2,), label)) for label in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_moments_of_8_bits_need_their_package(
    monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(InputError) as error:
        next(distillation(use_8bit_adam=True, optimizer=optimizer).run())
    assert str(error.value).startswith("`use_8bit_adam` needs the package bitsandbytes")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="must come with the optimizer adamw or adam, got sgd"):
        OptimizationConfig(use_8bit_adam=True, optimizer="sgd")
    told = OptimizationConfig(use_8bit_adam=True).what_decides(1)
    assert told != OptimizationConfig().what_decides(1)
    assert "use_8bit_adam" not in OptimizationConfig().what_decides(1)


def test_compiled_networks_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by dynamo and run as traced, which needs no compiler; teacher and student both."""
    compiled: list[str] = []
    plain = nn.Module.compile

    def traced(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        plain(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    losses, weights = outcome(distillation(perceptron))
    found, same = outcome(distillation(perceptron, torch_compile=True))
    assert found == pytest.approx(losses, rel=1e-5)
    for one, other in zip(weights, same, strict=True):
        torch.testing.assert_close(one, other)
    assert compiled == ["MLPDenoiser"] * (1 + T - 1)


def test_looks_change_nothing_and_see_what_would_be_saved(tmp_path: Path) -> None:
    """The last look is at the student itself; the first at hardly more than the teacher."""
    settings: dict[str, Any] = {"ema_decay": 0.5, "num_iterations": 4}
    quiet = outcome(distillation(**settings))
    run = distillation(**settings)
    validation = Validation(run, tmp_path / "validation")
    seen, last = {}, None
    for record in run.run():
        network = run._training[0].network  # type: ignore[index]
        is_training = network.training
        look = validation.look(record.step)
        assert network.training == is_training
        assert look.grid == tmp_path / "validation" / f"step-{record.step}.png"
        seen[record.step] = look.paired_rms
        with run.standing() as student:
            last = draw_samples(student, 8, 0, 8)
            assert student.jumps[0].stop == T - 2 - record.stage
    loud = list(run.student().jumps[0].network.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(quiet[1], loud, strict=True))
    assert torch.equal(draw_samples(run.student(), 8, 0, 8), last)
    student, teacher = (draw_samples(each, 64, 0, 16) for each in (run.student(), run.teacher))
    by_hand = (student - teacher).flatten(1).square().sum(1).mean().sqrt()
    assert seen[4 * (T - 1)] == pytest.approx(float(by_hand), rel=1e-6)
    with Image.open(tmp_path / "validation" / "step-4.png") as picture:
        assert picture.size == (64, 64)  # 8 by 8 images of 8 pixels a side


def test_looks_go_to_the_log_and_to_the_tracker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffusers import DDIMScheduler
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from opmerge.cli import main
    from opmerge.denoisers.teacher_folder import write_teacher_folder

    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    teacher = write_teacher_folder(tmp_path / "teacher", make_unet((1, 8, 8), (32, 32)), scheduler)
    folder = tmp_path / "run"
    asked = ("distill", "digits", "--teacher", teacher, "--plan", "vanilla", "--steps", 2)
    asked += ("--output_dir", folder, "--num_iterations", 6, "--train_batch_size", 4)
    looks = ("--validation_steps", 3, "--report_to", "tensorboard")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([str(word) for word in (*asked, *looks)]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["paired_rms"] for line in lines if "paired_rms" in line}
    assert sorted(logged) == [3, 6]
    assert sorted(path.name for path in (folder / "validation").iterdir()) == [
        "step-3.png",
        "step-6.png",
    ]
    events = EventAccumulator(str(next(folder.rglob("events*")).parent))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [3, 6]
    scalars = [event.value for event in events.Scalars("paired_rms")]
    np.testing.assert_allclose(scalars, [logged[3], logged[6]], rtol=1e-6)
    capsys.readouterr()
    status = main([str(word) for word in (*asked, "--validation_prompts", tmp_path)])
    assert status == 2
    assert "must come with --validation_steps" in capsys.readouterr().err
