"""Step lists for other programs, against those programs' formulas and DDIM itself."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch

from opmerge.errors import InputError
from opmerge.plans import parse_plan
from opmerge.plans.export import (
    comfyui_manual_sigmas,
    comfyui_sigmas,
    fastgen_t_list,
    is_flow,
)
from opmerge.schedules import cosine_schedule, diffusers_schedule, linear_schedule

TRAILING = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def test_fastgen_times_of_the_cosine_schedule() -> None:
    """alpha = cos a, sigma = sin a with a = pi/2 · step/T: a, tan a, 1/(1 + cot a)."""
    schedule = cosine_schedule(8)
    angles = np.array([8, 6, 2]) * math.pi / 16
    trig = fastgen_t_list(schedule, (8, 6, 2, 0), "trig")
    np.testing.assert_allclose(trig, [*angles, 0], rtol=1e-14)
    edm = fastgen_t_list(schedule, (8, 6, 2, 0), "edm")
    np.testing.assert_allclose(edm, [80, *np.tan(angles[1:]), 0], rtol=1e-14)
    flow = fastgen_t_list(schedule, (8, 6, 2, 0), "rf")
    np.testing.assert_allclose(flow, [0.999, *1 / (1 + 1 / np.tan(angles[1:])), 0], rtol=1e-14)


def test_fastgen_times_of_a_diffusers_model() -> None:
    """``alphas_cumprod[int(1000 t)]`` is the step's own entry (AlphasNoiseSchedule)."""
    from diffusers import DDIMScheduler

    schedule = diffusers_schedule(TRAILING, 8)
    times = fastgen_t_list(schedule, (8, 5, 2, 0), "alphas")
    assert times == [0.999, 0.624, 0.249, 0.0]
    table = DDIMScheduler.from_config(TRAILING).alphas_cumprod
    index = [int(1000 * time) for time in times[:-1]]
    # The table is a cumulative product in float32, the schedule one in float64.
    np.testing.assert_allclose(table[index].sqrt(), schedule.alphas[[8, 5, 2]], rtol=1e-4)


def test_every_timestep_survives_fastgens_truncation() -> None:
    schedule = diffusers_schedule(TRAILING, 1000)
    times = fastgen_t_list(schedule, [*range(1000, 1, -1), 0], "alphas")
    index = torch.tensor(times[:-1], dtype=torch.float64).mul(1000).to(torch.long)
    assert index.tolist() == list(range(999, 0, -1))


def test_comfyui_levels() -> None:
    schedule = linear_schedule(10)
    plan = parse_plan("[[10,9,8],[7,6,5,4],[3,2,1]]", student_steps=3)
    found = comfyui_sigmas(schedule, plan.boundaries)
    expected = schedule.sigmas[[10, 7, 3]] / schedule.alphas[[10, 7, 3]]
    assert found == [*np.float32(expected).tolist(), 0.0]


def test_comfyui_of_pure_noise() -> None:
    """ComfyUI's table ends where alpha² = 4.8973451890853435e-08."""
    found = comfyui_sigmas(cosine_schedule(8), (8, 0))
    assert 1 / (1 + found[0] ** 2) == pytest.approx(4.8973451890853435e-08, rel=1e-6)
    assert found[1] == 0


def test_euler_over_the_levels_is_ddim() -> None:
    """k-diffusion's Euler on x = z / alpha, with any denoiser, takes DDIM's steps."""
    schedule, boundaries = linear_schedule(10), (10, 7, 3, 0)
    levels = comfyui_sigmas(schedule, boundaries)
    rng = np.random.default_rng(0)
    z = rng.standard_normal(5)
    x = z / schedule.alphas[10]
    for (start, stop), (level, after) in zip(pairwise(boundaries), pairwise(levels), strict=True):
        alpha, sigma = schedule.alphas[start], schedule.sigmas[start]
        denoised = np.tanh(z) + start / 10
        z = schedule.alphas[stop] * denoised + schedule.sigmas[stop] / sigma * (
            z - alpha * denoised
        )
        x = x + (x - denoised) / level * (after - level)
        np.testing.assert_allclose(x * schedule.alphas[stop], z, rtol=1e-5)  # float32 levels


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


def test_flow_matching_keeps_its_own_levels() -> None:
    """Both programs' flow time is the scheduler's sigma, 1 at pure noise; FastGen ends at 0.999."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(FLOW)
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas[[0, 3, 6]].tolist()
    schedule = diffusers_schedule(FLOW, 8)
    assert is_flow(schedule)
    assert comfyui_sigmas(schedule, (8, 5, 2, 0)) == [*sigmas, 0]
    assert comfyui_sigmas(schedule, (8, 5, 2, 0))[0] == 1
    times = fastgen_t_list(schedule, (8, 5, 2, 0))
    np.testing.assert_allclose(times, [0.999, *sigmas[1:], 0], rtol=1e-6)
    assert not is_flow(cosine_schedule(8))
    cosine = cosine_schedule(8)
    assert fastgen_t_list(cosine, (8, 2, 0)) == fastgen_t_list(cosine, (8, 2, 0), "edm")


def test_euler_over_the_levels_of_flow_matching_is_ddim() -> None:
    """ComfyUI's Euler on x = z itself, whose CONST model says x - sigma v."""
    schedule, boundaries = diffusers_schedule(FLOW, 8), (8, 5, 2, 0)
    levels = comfyui_sigmas(schedule, boundaries)
    z = x = np.random.default_rng(0).standard_normal(5)
    for (start, stop), (level, after) in zip(pairwise(boundaries), pairwise(levels), strict=True):
        alpha, sigma = schedule.alphas[start], schedule.sigmas[start]
        denoised = np.tanh(z) + start / 10
        noise = (z - alpha * denoised) / sigma
        z = schedule.alphas[stop] * denoised + schedule.sigmas[stop] * noise
        x = x + (x - denoised) / level * (after - level)
        np.testing.assert_allclose(x, z, rtol=1e-5)


def test_the_text_for_comfyui_is_read_back_exactly() -> None:
    values = [4518.7314, 14.614647, 1.0, 0.25, 3.1e-05, 1e-7, 0.0]
    text = comfyui_manual_sigmas(values)
    read = [float(number) for number in re.findall(r"[-+]?(?:\d*\.*\d+)", text)]
    assert np.array_equal(np.float32(read), np.float32(values))


@pytest.mark.parametrize("boundaries", [(), (0,), (4, 0), (8, 2), (8, 2, 2, 0), (8, 2, 5, 0)])
def test_boundaries_must_fall(boundaries: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="`boundaries` must fall from T = 8 to 0"):
        comfyui_sigmas(cosine_schedule(8), boundaries)
    with pytest.raises(InputError, match="`boundaries` must fall from T = 8 to 0"):
        fastgen_t_list(cosine_schedule(8), boundaries, "trig")


def test_what_the_other_program_cannot_take() -> None:
    with pytest.raises(InputError, match="must come from a diffusers scheduler"):
        fastgen_t_list(cosine_schedule(8), (8, 0), "alphas")
    with pytest.raises(InputError, match="`time` must be one of alphas, edm, rf, trig"):
        fastgen_t_list(cosine_schedule(8), (8, 0), "vp")  # type: ignore[arg-type]
    # tan(pi/2 (1 - 1/512)) = 326 is beyond FastGen's 80, as step 512 is
    with pytest.raises(InputError, match="must be apart in the other program's noise levels"):
        fastgen_t_list(cosine_schedule(512), (512, 511, 0), "edm")
    leading = diffusers_schedule({**TRAILING, "timestep_spacing": "leading"}, 4)
    with pytest.raises(InputError) as caught:
        fastgen_t_list(leading, (4, 1, 0), "alphas")  # leading spacing begins at timestep 0
    assert str(caught.value) == (
        "`schedule` must not read at timestep 0, where FastGen's time alphas ends (step 1 does); "
        "take edm, rf or trig"
    )
    assert len(fastgen_t_list(leading, (4, 1, 0), "edm")) == 3
    long = diffusers_schedule({**TRAILING, "num_train_timesteps": 2000}, 4)
    with pytest.raises(InputError, match="must have timesteps below 1000, as FastGen has"):
        fastgen_t_list(long, (4, 0), "alphas")


def test_continuous_times_are_not_fastgens_alphas() -> None:
    continuous = diffusers_schedule({"_class_name": "DDPMWuerstchenScheduler"}, 4)
    with pytest.raises(
        InputError, match=r"must have whole timesteps .* \(step 1 has not\), got 0.25"
    ):
        fastgen_t_list(continuous, (4, 1, 0), "alphas")
    assert fastgen_t_list(continuous, (4, 1, 0), "rf")[-1] == 0
