"""Scheduler configs of popular models, and what diffusers' own schedulers make of a config."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

NO_CLIP = {"clip_sample": False}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DEAD = {"set_alpha_to_one": False, "skip_prk_steps": True, "sample_max_value": 1.0}
EULER = {"_class_name": "EulerDiscreteScheduler", "steps_offset": 1, **LATENT, **DEAD}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
SVD = {
    **EULER,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
FLUX = {
    **FLOW,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
SIGMAS: dict[str, dict[str, Any]] = {
    "SDXL": {**EULER, "timestep_spacing": "leading"},
    "SVD": SVD,
    "Euler, trailing, zero SNR": {
        **EULER,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
    },
    "Euler, exponential": {**EULER, "use_exponential_sigmas": True},
    "Euler, beta sigmas": {**EULER, "use_beta_sigmas": True},
    "Euler ancestral": {"_class_name": "EulerAncestralDiscreteScheduler", **LATENT},
    "LMS": {"_class_name": "LMSDiscreteScheduler", **LATENT},
    "PixArt": {"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -np.inf},
    "DPM-Solver, Karras": {
        "_class_name": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": True,
        "timestep_spacing": "leading",
        **LATENT,
    },
    "DPM-Solver, Karras, of an EDM's config": {  # whose keys diffusers reads in any class
        "_class_name": "DPMSolverMultistepScheduler",
        "use_karras_sigmas": True,
        **EDM,
    },
    "DPM-Solver to sigma_min": {
        "_class_name": "DPMSolverMultistepScheduler",
        "final_sigmas_type": "sigma_min",
    },
    "UniPC": {"_class_name": "UniPCMultistepScheduler"},
    "DEIS": {"_class_name": "DEISMultistepScheduler"},
    "SA-Solver": {"_class_name": "SASolverScheduler"},
    "EDM2": {"_class_name": "EDMEulerScheduler", "sigma_schedule": "karras", **EDM},
    "Playground": {"_class_name": "EDMDPMSolverMultistepScheduler", **EDM},
    "CM": {"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 201, **EDM},
}
FLOWS: dict[str, dict[str, Any]] = {
    "SD3": {**FLOW, "shift": 3.0},
    "FLUX": FLUX,
    "LTX": {
        **FLUX,
        "base_image_seq_len": 1024,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "shift": 1.0,
        "shift_terminal": 0.1,
    },
    "Qwen": {**FLUX, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02},
    "Wan": {
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    },
    "Sana": {
        "_class_name": "DPMSolverMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    },
    "UniPC, of LTX's config": {  # as the line above
        "_class_name": "UniPCMultistepScheduler",
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "use_dynamic_shifting": True,
        "base_image_seq_len": 1024,
        "base_shift": 0.95,
        "max_shift": 2.05,
    },
    "flow LCM": {"_class_name": "FlowMatchLCMScheduler", "shift": 3.0},
}
SIGNALS: dict[str, dict[str, Any]] = {
    "DDPM": {"_class_name": "DDPMScheduler", "steps_offset": 1, **LATENT, **DEAD, **NO_CLIP},
    "DDIM": {"timestep_spacing": "trailing", **LATENT, **NO_CLIP},
    "SD 1.5": {"_class_name": "PNDMScheduler", "steps_offset": 1, **LATENT, **DEAD},
    "LCM-SDXL": {"_class_name": "LCMScheduler", "original_inference_steps": 50, **LATENT, **DEAD},
    "TCD": {"_class_name": "TCDScheduler", **LATENT},
    "UnCLIP": {"_class_name": "UnCLIPScheduler"},
    "CogVideoX-2B": {
        "_class_name": "CogVideoXDDIMScheduler",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 3.0,
        "timestep_spacing": "trailing",
        **LATENT,
        **NO_CLIP,
    },
}
MODELS = SIGMAS | FLOWS | SIGNALS


def visited(scheduler: Any, num_steps: int, mu: float | None) -> Any:
    """Its (T,) timesteps from the data on, once T steps are set that all move, or None."""
    for asked in (num_steps, num_steps + 1):  # which some must be asked for T of
        scheduler.set_timesteps(asked, **({} if mu is None else {"mu": mu}))
        times = scheduler.timesteps.flip(0).unique_consecutive()
        if type(scheduler).__name__.startswith("DDPMW"):
            times = times[times > 0]
        if hasattr(scheduler, "sigmas") and scheduler.sigmas[-1] == scheduler.sigmas[-2]:
            times = times[1:]
        if len(times) == num_steps:
            return times
    return None


def added_noise(scheduler: Any, times: Any) -> tuple[Any, Any]:
    """log(sigma² / alpha²) (T,), and its rounding: of ``add_noise`` at such timesteps."""
    one, none = torch.ones(len(times), 1, dtype=torch.float64), torch.zeros(len(times), 1)
    if hasattr(scheduler, "scale_noise"):
        signal, noise = (scheduler.scale_noise(a, times, b) for a, b in ((one, none), (none, one)))
    else:
        signal, noise = (scheduler.add_noise(a, b, times) for a, b in ((one, none), (none, one)))
    alphas, sigmas = (each.double().numpy().ravel() for each in (signal, noise))
    is_flow = "FlowMatch" in type(scheduler).__name__  # others do not read the key
    if is_flow and scheduler.config.get("invert_sigmas"):
        alphas, sigmas = sigmas, alphas
    rounding = np.full(len(times), 1e-5)
    if hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "sigmas"):
        # A product of n float32 factors is off by n roundings, and 1 - c by as much of 1.
        rounding += 2.0**-23 * (times.numpy() + 2) / np.maximum(sigmas, 1e-30) ** 2
    return log_ratio(alphas, sigmas), rounding


def log_ratio(alphas: Any, sigmas: Any) -> Any:
    """log(sigma² / alpha²), finite where alpha is 0."""
    return 2 * np.log(np.maximum(sigmas, 1e-300)) - 2 * np.log(np.maximum(alphas, 1e-300))
