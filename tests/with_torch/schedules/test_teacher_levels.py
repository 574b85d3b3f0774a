"""Noise levels of popular teachers, against what their schedulers make of signal and of noise.

Each config is that of the model, without keys that are its class' defaults; dead keys are kept. The
oracle is the scheduler's own ``add_noise`` (of flow matching ``scale_noise``) at the timesteps that
it visits: of x_0 = 1 without noise it is alpha, and of noise alone sigma.
"""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
from scheduler_configs import added_noise, log_ratio, visited

from opmerge.schedules import diffusers_schedule

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DEAD = {"set_alpha_to_one": False, "skip_prk_steps": True, "clip_sample": False}
STABLE = {**LATENT, **DEAD, "steps_offset": 1}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
V = {"prediction_type": "v_prediction"}
SDXL = {**STABLE, "sample_max_value": 1.0, "timestep_spacing": "leading"}
DYNAMIC = {"use_dynamic_shifting": True}

TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "AuraFlow": ("FlowMatchEulerDiscrete", {"shift": 1.73}),
    "Chroma": ("FlowMatchEulerDiscrete", {"use_beta_sigmas": True}),
    "CogView 3": ("CogVideoXDDIM", {**V, **ZERO, "snr_shift_scale": 4.0}),
    "CogView 4": (
        "FlowMatchEulerDiscrete",
        {**DYNAMIC, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"},
    ),
    "consistency, distilled": ("CMStochasticIterative", {}),
    "consistency, trained": ("CMStochasticIterative", {"num_train_timesteps": 201}),
    "CogVideoX 2B": ("CogVideoXDDIM", {**V, **ZERO}),
    "CogVideoX 5B": ("CogVideoXDDIM", {**V, **ZERO, "snr_shift_scale": 1.0}),
    "Cosmos 1": ("EDMEuler", {"final_sigmas_type": "sigma_min"}),
    "Cosmos 2.5": (
        "UniPCMultistep",
        {**FLOW, "use_karras_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01},
    ),
    "DDPM": ("DDPM", {"variance_type": "fixed_large"}),
    "DeepFloyd IF": ("DDPM", {"beta_schedule": "squaredcos_cap_v2", "thresholding": True}),
    "diffusion policy": (
        "DDIM",
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
    ),
    "DiT-XL/2": ("DDIM", {"clip_sample": False}),
    "EDM2": ("EDMEuler", {}),
    "FLUX dev": ("FlowMatchEulerDiscrete", {**DYNAMIC, "shift": 3.0}),
    "FLUX schnell": ("FlowMatchEulerDiscrete", {}),
    "HiDream fast": ("FlowMatchLCM", {"shift": 3.0}),
    "Hunyuan-DiT": ("DDPM", {**STABLE, **V, "beta_end": 0.03}),
    "Hunyuan3D paint": ("DDIM", {**LATENT, **V, **ZERO, "steps_offset": 1}),
    "Kandinsky 2.2": (
        "DDPM",
        {"beta_start": 0.00085, "beta_end": 0.012, "variance_type": "learned_range"},
    ),
    "Kolors": ("EulerDiscrete", {**SDXL, "beta_end": 0.014, "num_train_timesteps": 1100}),
    "LCM-SDXL": ("LCM", {**DEAD, "interpolation_type": "linear"}),
    "LDM CelebA-HQ": (
        "DDIM",
        {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    ),
    "LTX-Video": (
        "FlowMatchEulerDiscrete",
        {
            **DYNAMIC,
            "base_image_seq_len": 1024,
            "base_shift": 0.95,
            "max_shift": 2.05,
            "shift_terminal": 0.1,
        },
    ),
    "Mochi": ("FlowMatchEulerDiscrete", {"invert_sigmas": True}),
    "PixArt": ("DPMSolverMultistep", {"lambda_min_clipped": -np.inf}),
    "Playground": ("EDMDPMSolverMultistep", {}),
    "Qwen-Image": (
        "FlowMatchEulerDiscrete",
        {**DYNAMIC, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02},
    ),
    "Sana": ("DPMSolverMultistep", FLOW),
    "Stable Cascade": ("DDPMWuerstchen", {}),
    "Stable Diffusion 1.5": ("PNDM", STABLE),
    "Stable Diffusion inpainting": ("DDIM", STABLE),
    "Stable Diffusion 2.1": ("DDIM", {**STABLE, **V}),
    "Stable Diffusion upscaler": (
        "DDIM",
        {**DEAD, **V, "beta_schedule": "scaled_linear", "steps_offset": 1},
    ),
    "Stable Diffusion 3": ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    "SDXL": ("EulerDiscrete", SDXL),
    "SDXL Turbo": ("EulerAncestralDiscrete", {**LATENT, "timestep_spacing": "trailing"}),
    "SVD": (
        "EulerDiscrete",
        {
            **SDXL,
            **V,
            "sigma_max": 700.0,
            "sigma_min": 0.002,
            "timestep_type": "continuous",
            "use_karras_sigmas": True,
        },
    ),
    "TCD-SDXL": ("TCD", STABLE),
    "Wan 2.1": ("UniPCMultistep", FLOW),
}


@pytest.mark.parametrize("num_steps", [4, 20])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_levels_are_those_at_which_the_scheduler_adds_noise(teacher: str, num_steps: int) -> None:
    name, config = TEACHERS[teacher]
    config = {"_class_name": f"{name}Scheduler", **config}
    schedule = diffusers_schedule(config, num_steps)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    mu = scheduler.config.base_shift if config.get("use_dynamic_shifting") else None
    times = visited(scheduler, num_steps, mu)
    assert schedule.timesteps == tuple(times.tolist())
    expected, rounding = added_noise(scheduler, times)
    found = log_ratio(schedule.alphas[1:], schedule.sigmas[1:])
    assert np.all(np.abs(found - expected) <= rounding), np.abs(found - expected).max()
