"""Teachers with any scheduler against the loop of diffusers: their steps, one network.

The oracle is the loop of diffusers' pipelines, with the scheduler's own ``scale_model_input`` and
``step``. Multistep solvers run at first order there; what draws noise is compared by its x̂.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from test_teacher_folder import tiny_dit, tiny_unet
from torch import Tensor
from torch.testing import assert_close

from opmerge import diffusers_schedule
from opmerge.denoisers.denoiser import LABELS, Condition
from opmerge.denoisers.models import Teacher, compose, initial_noise
from opmerge.denoisers.teacher_folder import (
    check_plan_fits,
    load_teacher,
    outline_teacher,
    write_teacher_folder,
)

STEPS = 5  # a divisor of 1000, so that the steps of CogVideoX meet
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
EDM = {"sigma_min": 0.01, "sigma_max": 20.0, "sigma_data": 0.5}
ONE = {"solver_order": 1}
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05}

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", LATENT),
    "Euler, SDXL's": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", **LATENT}),
    "Euler, Karras, v": (
        "EulerDiscreteScheduler",
        {"use_karras_sigmas": True, "prediction_type": "v_prediction", **LATENT},
    ),
    "Euler, SVD's": (
        "EulerDiscreteScheduler",
        {
            "use_karras_sigmas": True,
            "prediction_type": "v_prediction",
            "timestep_type": "continuous",
            "sigma_min": 0.002,
            "sigma_max": 700.0,
        },
    ),
    "Euler, x_0": ("EulerDiscreteScheduler", {"prediction_type": "sample"}),
    "Euler, exponential": ("EulerDiscreteScheduler", {"use_exponential_sigmas": True, **LATENT}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow, dynamic": ("FlowMatchEulerDiscreteScheduler", {**DYNAMIC, "shift_terminal": 0.1}),
    "flow, inverted": ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    "flow, data-ward": ("MiniMaxH3Scheduler", {}),
    "flow, RF": ("LTXEulerAncestralRFScheduler", {"eta": 0.0}),
    "EDM": ("EDMEulerScheduler", EDM),
    "EDM, v": ("EDMEulerScheduler", {**EDM, "prediction_type": "v_prediction"}),
    "EDM, DPM-Solver": ("EDMDPMSolverMultistepScheduler", {**EDM, **ONE}),
    "DPM-Solver": ("DPMSolverMultistepScheduler", {**ONE, "final_sigmas_type": "sigma_min"}),
    "DPM-Solver, flow": ("DPMSolverMultistepScheduler", {**ONE, **FLOW}),
    "DPM-Solver, v": ("DPMSolverMultistepScheduler", {**ONE, "prediction_type": "v_prediction"}),
    "UniPC, flow": (
        "UniPCMultistepScheduler",
        {**ONE, **FLOW, "disable_corrector": [0, 1, 2, 3, 4]},
    ),
    "DEIS": ("DEISMultistepScheduler", {**ONE, **LATENT}),
    "TCD": ("TCDScheduler", LATENT),
    "CogVideoX": (
        "CogVideoXDDIMScheduler",
        {
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
            "snr_shift_scale": 3.0,
            "clip_sample": False,
        },
    ),
}


def make_teacher(folder: Path, network: Any, name: str, config: dict[str, Any]) -> Any:
    """The scheduler, saved as that of a network."""
    write_teacher_folder(folder, network, DDIMScheduler())
    scheduler = getattr(diffusers, name)(**config)
    scheduler.save_pretrained(folder / "scheduler")
    return scheduler


def set_timesteps(scheduler: Any, teacher: Teacher) -> None:
    """T steps; MiniMaxH3Scheduler makes one less than it is asked for.

    A dynamic shift is that of the patches of the teacher's samples, as pipelines compute mu.
    """
    shift: dict[str, float] = {}
    if scheduler.config.get("use_dynamic_shifting"):
        _, height, width = teacher.sample_shape
        patches = height * width // getattr(teacher.network.config, "patch_size", 1) ** 2
        shift["mu"] = calculate_shift(
            patches, base_shift=scheduler.config.base_shift, max_shift=scheduler.config.max_shift
        )
    for asked in (STEPS, STEPS + 1):
        scheduler.set_timesteps(asked, **shift)
        if len(scheduler.timesteps) == STEPS:
            return


@torch.no_grad()
def states_of_loop(network: Any, scheduler: Any, z: Tensor, labels: Tensor | None) -> list[Tensor]:
    """z_T … z_0 as a loop of diffusers goes through them, in units of the scheduler's."""
    told = {} if labels is None else {LABELS: labels}
    states = [z]
    for timestep in scheduler.timesteps:
        read = states[-1]
        if hasattr(scheduler, "scale_model_input"):
            read = scheduler.scale_model_input(read, timestep)
        output = network(read, timestep.expand(len(z)), **told).sample[:, : z.shape[1]]
        options = {"eta": 0.0} if "TCD" in type(scheduler).__name__ else {}
        states.append(scheduler.step(output, timestep, states[-1], **options).prev_sample)
    return states


def in_our_units(teacher: Teacher, states: list[Tensor], is_scaled: bool) -> list[Tensor]:
    """The same states with alpha² + sigma² = 1 where the scheduler's are z / alpha."""
    alphas = teacher.ddim.alphas.flip(0)
    return [alpha * z if is_scaled else z for alpha, z in zip(alphas, states, strict=True)]


@pytest.mark.parametrize(
    ("name", "config", "make"),
    [(*loop, make) for loop, make in zip(LOOPS.values(), cycle([tiny_dit, tiny_unet]))],
    ids=LOOPS,
)
def test_replay_is_the_loop_of_diffusers(
    tmp_path: Path, name: str, config: dict[str, Any], make: Callable[[], Any]
) -> None:
    network = make()
    scheduler = make_teacher(tmp_path / "teacher", network, name, config)
    teacher = load_teacher(tmp_path / "teacher", STEPS)
    is_scaled = "Euler" in name or "EDM" in name
    is_scaled = is_scaled and "Flow" not in name and "RF" not in name
    noise = initial_noise(teacher.sample_shape, 3, seed=1)
    labels = None if teacher.num_classes is None else torch.tensor([0, 1, 2])
    set_timesteps(scheduler, teacher)
    start = noise / teacher.ddim.alphas[-1] if is_scaled else noise
    states = states_of_loop(network, scheduler, start, labels)
    ours = in_our_units(teacher, states, is_scaled)
    assert (ours[-1] - ours[0]).std() > 0.1
    told = None if labels is None else Condition({LABELS: labels})
    for jump, before, after in zip(teacher.steps(), ours[:-1], ours[1:], strict=True):
        landed = compose(teacher.ddim, [[jump]], before, condition=told)
        assert_close(landed, after, rtol=1e-5, atol=1e-5, msg=f"step {jump.start}")
    assert_close(teacher.sample(noise, labels), ours[-1], rtol=1e-5, atol=3e-5)
    schedule = outline_teacher(tmp_path / "teacher", STEPS).schedule
    check_plan_fits(teacher, schedule)
    assert diffusers_schedule(teacher.scheduler_config, STEPS).to_dict() == schedule.to_dict()


def test_estimates_where_noise_is_drawn_are_those_of_the_scheduler(tmp_path: Path) -> None:
    """x̂ as each class says it; consistency models end on it, so it is their whole output."""
    network = tiny_dit()
    ddpm = {"clip_sample": False, "prediction_type": "v_prediction"}
    classes: dict[str, tuple[dict[str, Any], str]] = {
        "DDPMScheduler": (ddpm, "pred_original_sample"),
        "UnCLIPScheduler": ({"clip_sample": False}, "pred_original_sample"),
        "LCMScheduler": ({"clip_sample": False, "timestep_scaling": 0.01}, "denoised"),
        "CMStochasticIterativeScheduler": (
            {**EDM, "s_noise": 0.0, "clip_denoised": False},
            "prev_sample",
        ),
        "SCMScheduler": ({"sigma_data": 1.0}, "pred_original_sample"),
    }
    z, labels = initial_noise((2, 4, 4), 3, seed=2), torch.tensor([0, 1, 2])
    for name, (config, key) in classes.items():
        scheduler = make_teacher(tmp_path / name, network, name, config)
        num_steps = 2 if name == "SCMScheduler" else STEPS
        teacher = load_teacher(tmp_path / name, num_steps)
        scheduler.set_timesteps(num_steps)
        for index in range(num_steps):
            step, timestep = num_steps - index, scheduler.timesteps[index]
            state = z / teacher.ddim.alphas[step] if name.startswith("CM") else z
            read = scheduler.scale_model_input(state, timestep) if name.startswith("CM") else state
            with torch.no_grad():
                output = network(read, timestep.expand(3), class_labels=labels).sample[:, :2]
            expected = scheduler.step(output, timestep, state)[key]
            estimate = teacher.denoiser(z, step, Condition({LABELS: labels}))
            assert_close(estimate.x0, expected, rtol=2e-5, atol=2e-5, msg=f"{name} {step}")
            alpha, sigma = teacher.ddim.at(step, 4)
            assert_close(alpha * estimate.x0 + sigma * estimate.noise, z, rtol=1e-5, atol=1e-5)


def test_a_score_is_read_as_its_last_step_reads_it(tmp_path: Path) -> None:
    """The predictor of ScoreSdeVe ends on ``z + sigma² F(z, sigma)``."""
    network = tiny_dit()
    scheduler = make_teacher(tmp_path / "teacher", network, "ScoreSdeVeScheduler", {})
    teacher = load_teacher(tmp_path / "teacher", STEPS)
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)
    z, labels = initial_noise((2, 4, 4), 3, seed=2), torch.tensor([0, 1, 2])
    state, sigma = z / teacher.ddim.alphas[1], scheduler.sigmas[-1]
    with torch.no_grad():
        output = network(state, sigma.expand(3), class_labels=labels).sample[:, :2]
    expected = scheduler.step_pred(output, scheduler.timesteps[-1], state).prev_sample_mean
    found = teacher.denoiser(z, 1, Condition({LABELS: labels})).x0
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
