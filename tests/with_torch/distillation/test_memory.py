"""What a training holds in memory, told beforehand, against what torch's profiler counts."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DModel
from torch.profiler import ProfilerActivity, profile

from opmerge import build_strategy, cosine_schedule
from opmerge.denoisers.denoiser import as_condition
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.timing import Pace
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

T = 4


def most_alive(run: Distillation) -> int:
    """Bytes that torch's allocator gave out at the most while a plan is run, teacher apart."""
    gc.collect()  # what is freed later would count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        for _ in run.run():
            pass
    now = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def distillation(network: Any, shape: tuple[int, ...], **settings: Any) -> Distillation:
    strategy = settings.pop("strategy", "vanilla")
    names = settings.keys() & DistillationConfig.model_fields
    given = {name: settings.pop(name) for name in names}
    config = DistillationConfig(
        num_iterations=2,
        linear_part="train",
        optimization=OptimizationConfig(**{"train_batch_size": 16, **settings}),
        **{"target_reuse": 1, **given},
    )
    torch.manual_seed(0)
    ddim = DDIM.from_schedule(cosine_schedule(T), "v_prediction")
    classes = network.config["num_class_embeds" if len(shape) == 3 else "num_classes"]
    labels = None if classes is None else as_condition(torch.arange(64) % classes)
    inputs = DataInputs(torch.randn(64, *shape), labels)
    AcceleratorState._reset_state()  # of the precision of the test before
    accelerator = make_accelerator(config.optimization, cpu=True)
    plan = build_strategy(strategy, T)
    return Distillation(Teacher(network, ddim, shape), plan, inputs, config, accelerator)


def unet() -> UNet2DModel:
    return make_unet((3, 16, 16), (32, 64), num_classes=3)


def wide_perceptron() -> MLPDenoiser:
    return MLPDenoiser((8,), hidden_size=512, num_layers=2)


@pytest.mark.parametrize(
    ("make", "shape", "settings"),
    [
        (unet, (3, 16, 16), {}),
        (unet, (3, 16, 16), {"mixed_precision": "bf16", "ema_decay": 0.9}),
        (unet, (3, 16, 16), {"train_batch_size": 4, "gradient_accumulation_steps": 4}),
        (unet, (3, 16, 16), {"optimizer": "sgd", "target_reuse": 2}),
        (wide_perceptron, (8,), {"train_batch_size": 4}),
        (wide_perceptron, (8,), {"strategy": "boot"}),
        (wide_perceptron, (8,), {"strategy": "boot", "lora_rank": 4}),
        (unet, (3, 16, 16), {"lora_rank": 4, "ema_decay": 0.9}),
    ],
)
def test_a_run_takes_as_much_memory_as_is_told(
    monkeypatch: pytest.MonkeyPatch, make: Any, shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    run = distillation(make(), shape, **settings)
    monkeypatch.setattr(run, "pace", lambda report: Pace(0.0, 0.0, 1.0))
    cost = estimate_cost(run)
    assert cost.working_bytes is not None
    size = sum(weight.nbytes for weight in run.teacher.network.parameters())
    told = cost.memory_bytes + cost.working_bytes
    measured = size + most_alive(distillation(make(), shape, **settings))  # the teacher was there
    assert told == pytest.approx(measured, rel=0.1)
    if "lora_rank" in settings:  # nothing is there but frozen weights, adapters and activations
        assert cost.memory_bytes < 1.4 * size
        assert measured <= 1.15 * told
