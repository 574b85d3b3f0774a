"""The executor against a bare PyTorch loop: what an iteration of the same mathematics costs.

Both train the first merge of sequential BOOT, two operators, where least of the time goes into
networks. They take turns, and CPU time is counted, so that what else the machine does slows both.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.tiny_stable_diffusion import WIDTH, small_unet
from opmerge import build_strategy, cosine_schedule
from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import Rows
from opmerge.denoisers.networks import make_unet
from opmerge.distillation import (
    DDIM,
    DataInputs,
    Distillation,
    DistillationConfig,
    MLPDenoiser,
    OptimizationConfig,
    Teacher,
)
from opmerge.loop import seeded_generator
from opmerge.settings.guidance import GuidanceOptions

__all__ = ["training_loop"]

NUM_STEPS = 32
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
LENGTH = 10_000  # iterations of the learning rate's schedule, more than are timed
TEXT, TOKENS, SCALE = "encoder_hidden_states", 16, 3.0


def training_loop(rounds: int = 30) -> dict[str, Any]:
    """Milliseconds per iteration of both loops, on one thread, and their ratio."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "mlp 512 x 3, 64 values": _compare(MLPDenoiser((64,), 512, 3), (64,), 20, rounds),
            "unet 8 x 8, (16, 32)": _compare(make_unet((1, 8, 8), (16, 32)), (1, 8, 8), 4, rounds),
            "guided text unet 8 x 8, (16, 32)": _compare(small_unet(), (4, 8, 8), 2, rounds),
        }
    finally:
        torch.set_num_threads(threads)


def _compare(
    network: nn.Module, shape: tuple[int, ...], iterations: int, rounds: int
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():  # new ones are zero in places
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    ddim = DDIM.from_schedule(cosine_schedule(NUM_STEPS), "v_prediction")
    teacher, told = Teacher(network, ddim, shape), None
    data = torch.randn(1797, *shape, generator=generator)
    if isinstance(network, UNet2DConditionModel):
        told = torch.randn(len(data), TOKENS, WIDTH, generator=generator)
        teacher = Teacher(network, ddim, shape, {TEXT: Rows((None, WIDTH))})
        null = Condition({TEXT: torch.zeros(1, TOKENS, WIDTH)})
        teacher = teacher.guided(GuidanceOptions(guidance_scale=f"{SCALE}"), null)

    def loops(generators: Iterator[torch.Generator]) -> tuple[Iterator[Any], Iterator[Any]]:
        return _executor(teacher, data, told), _bare(teacher, data, told, generators)

    same = loops(seeded_generator(data.device, 0, 0, n) for n in itertools.count())
    difference = max(
        abs(float(record.loss) / float(loss) - 1)
        for record, loss in itertools.islice(zip(*same, strict=False), 5)
    )
    both = loops(itertools.repeat(torch.Generator().manual_seed(0)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for loop, seconds in zip(both, times, strict=True):
            began = time.process_time()
            for _ in range(iterations):
                next(loop)
            seconds.append((time.process_time() - began) / iterations)
    executor, bare = (statistics.median(seconds[1:]) for seconds in times)  # the first warms up
    return {
        "executor_milliseconds": 1e3 * executor,
        "bare_milliseconds": 1e3 * bare,
        "ratio": executor / bare,
        "largest_relative_difference_of_losses": difference,
    }


def _executor(teacher: Teacher, data: Tensor, told: Tensor | None) -> Iterator[Any]:
    optimization = OptimizationConfig(
        train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        lr_warmup_steps=0,
        checkpointing_steps=0,
    )
    config = DistillationConfig(
        num_iterations=LENGTH, linear_part="train", target_reuse=1, optimization=optimization
    )
    plan = build_strategy("boot", NUM_STEPS)
    inputs = DataInputs(data, None if told is None else Condition({TEXT: told}))
    return Distillation(teacher, plan, inputs, config, Accelerator(cpu=True)).run()


def _bare(
    teacher: Teacher, data: Tensor, told: Tensor | None, generators: Iterator[torch.Generator]
) -> Iterator[Any]:
    """The first merge, T → T - 2, by hand: v-prediction, denoiser copy, SNR-truncated weight.

    With texts the teacher is guided away from zeros, in one batch of both.
    """
    network = copy.deepcopy(teacher.network).requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LENGTH)
    top, stop = NUM_STEPS, NUM_STEPS - 2
    alphas, sigmas = teacher.ddim.alphas.tolist(), teacher.ddim.sigmas.tolist()
    times = teacher.ddim.timesteps.tolist()
    ratio = sigmas[stop] / sigmas[top]
    jump = alphas[stop] - alphas[top] * ratio
    weight = max(1.0, (alphas[top] / sigmas[top]) ** 2)
    for generator in generators:
        index = torch.randint(len(data), (BATCH_SIZE,), generator=generator)
        noise = torch.randn((BATCH_SIZE, *data.shape[1:]), generator=generator)
        z = alphas[top] * data[index] + sigmas[top] * noise
        texts = () if told is None else (told[index],)
        with torch.no_grad():
            landing = z
            for t in (top, top - 1):
                if told is None:
                    v = teacher.network(landing, times[t]).sample
                else:
                    both = torch.cat([torch.zeros_like(texts[0]), texts[0]])
                    v = teacher.network(torch.cat([landing, landing]), times[t], both).sample
                    null, v = v.chunk(2)
                    v = null + SCALE * (v - null)
                x0, noise = alphas[t] * landing - sigmas[t] * v, alphas[t] * v + sigmas[t] * landing
                landing = alphas[t - 1] * x0 + sigmas[t - 1] * noise
            target = (landing - ratio * z) / jump
        v = network(z, times[top], *texts).sample
        loss = weight * (alphas[top] * z - sigmas[top] * v - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield loss.detach()
