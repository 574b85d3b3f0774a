"""What a diffusers scheduler config says: its betas, its timesteps and the states DDIM visits.

The arithmetic is that of ``diffusers.DDIMScheduler`` carried out in float64; diffusers itself
is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count, check_number, check_whole
from opmerge.errors import InputError
from opmerge.files import expand_home
from opmerge.schedules.betas import check_num_train, make_betas, make_timesteps, zero_terminal_snr
from opmerge.schedules.files import read_json_object

__all__ = [
    "DDIMStates",
    "ddim_states",
    "find_scheduler_config",
    "is_scheduler_config",
    "read_scheduler_config",
    "refuse_other_families",
]

# What DDIMScheduler assumes for keys that its config leaves out (diffusers 0.42).
_DDIM_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
_NO_CLIP = {"clip_sample": False}
_SIGMA_SPACE = {**_NO_CLIP, "timestep_spacing": "linspace"}
_LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
_CONSISTENCY = {**_NO_CLIP, **_LATENT_BETAS, "beta_schedule": "scaled_linear"}
# Where other classes differ from those defaults.
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "DDIMInverseScheduler": {},
    "DDPMScheduler": {},
    "DDPMParallelScheduler": {},
    "RePaintScheduler": {},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace"},
    "PNDMScheduler": {**_NO_CLIP, "set_alpha_to_one": False},
    "LCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
    "DEISMultistepScheduler": _SIGMA_SPACE,
    "DPMSolverMultistepScheduler": _SIGMA_SPACE,
    "DPMSolverMultistepInverseScheduler": _SIGMA_SPACE,
    "DPMSolverSinglestepScheduler": _SIGMA_SPACE,
    "EulerDiscreteScheduler": _SIGMA_SPACE,
    "EulerAncestralDiscreteScheduler": _SIGMA_SPACE,
    "LMSDiscreteScheduler": _SIGMA_SPACE,
    "SASolverScheduler": _SIGMA_SPACE,
    "UniPCMultistepScheduler": _SIGMA_SPACE,
    "DPMSolverSDEScheduler": {**_SIGMA_SPACE, **_LATENT_BETAS},
    "HeunDiscreteScheduler": {**_SIGMA_SPACE, **_LATENT_BETAS},
    "KDPM2DiscreteScheduler": {**_SIGMA_SPACE, **_LATENT_BETAS},
    "KDPM2AncestralDiscreteScheduler": {**_SIGMA_SPACE, **_LATENT_BETAS},
}
_SAME_STEP_AS_DDIM = ("DDIMScheduler", "DDIMParallelScheduler")
# Below this, z_T drawn as pure noise and z_T of the theory differ by less than a percent.
_SIGNAL_LEFT = 0.01


@dataclass(frozen=True, eq=False)
class DDIMStates:
    """The states ``z_0 … z_T`` of a DDIM teacher.

    Args:
        alphas: signal coefficients, shape (T+1,), index 0 on the data side.
        sigmas: noise coefficients, shape (T+1,).
        timesteps: the network's timesteps of ``z_1 … z_T``.
        parameters: the config with every default filled in.
        notes: what the linear theory leaves out, one line each.
    """

    alphas: NDArray[np.float64]
    sigmas: NDArray[np.float64]
    timesteps: tuple[int, ...]
    parameters: dict[str, Any]
    notes: tuple[str, ...]


def find_scheduler_config(source: str | os.PathLike[str]) -> Path:
    """The file of the scheduler config at a path.

    Args:
        source: a ``scheduler_config.json``, or a folder that holds one, itself or in
            ``scheduler/`` as saved diffusers pipelines do.

    Raises:
        InputError: if a folder holds none.
    """
    path = expand_home(source)
    if not path.is_dir():
        return path
    places = [path / "scheduler_config.json", path / "scheduler" / "scheduler_config.json"]
    found = [place for place in places if place.is_file()]
    if not found:
        raise InputError(
            str(path),
            "must hold scheduler_config.json or scheduler/scheduler_config.json",
            remedy="pass the folder of a saved diffusers model",
        )
    return found[0]


def read_scheduler_config(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The scheduler config at a path, as ``find_scheduler_config`` finds it.

    Raises:
        InputError: if there is none, or it is not a JSON object.
    """
    return read_json_object(find_scheduler_config(source))


def is_scheduler_config(data: Mapping[str, Any]) -> bool:
    """Whether a mapping names a scheduler class or any key of one that concerns the schedule."""
    return "_class_name" in data or any(key in data for key in _DDIM_DEFAULTS)


def refuse_other_families(
    config: Mapping[str, Any],
    where: str = "",
    remedy: str = "pass the alphas and sigmas of its steps as an .npz file",
) -> None:
    """Refuse a scheduler that is not built on betas alone.

    Args:
        config: the scheduler config.
        where: what the message has before the key at fault, such as the file.
        remedy: what the message tells to do instead.

    Raises:
        InputError: naming the key at fault.
    """
    name = _class_name(config)
    prediction = config.get("prediction_type")
    has_betas = "beta_schedule" in config or config.get("trained_betas") is not None
    shift = config.get("snr_shift_scale", 3.0 if name.startswith("CogVideoX") else 1.0)
    not_flow = "must be a scheduler built on betas, not on flow matching"
    for is_fault, key, requirement, value in (
        ("flow" in name.lower(), "_class_name", not_flow, name),
        (
            "flow" in str(prediction).lower(),
            "prediction_type",
            "must be epsilon, sample or v_prediction, none of flow matching",
            prediction,
        ),
        (config.get("use_flow_sigmas"), "use_flow_sigmas", "must be false", "true"),
        (
            name not in _CLASS_DEFAULTS and not has_betas,
            "_class_name",
            "must be a scheduler built on betas",
            name,
        ),
        (shift != 1.0, "snr_shift_scale", "must be 1 (shifted betas are not read)", shift),
    ):
        if is_fault:
            raise InputError(f"{where}{key}", requirement, value, remedy)


def ddim_states(config: Mapping[str, Any], num_steps: int) -> DDIMStates:
    """The states that DDIM visits in ``num_steps`` steps under a scheduler config.

    ``alpha_t = sqrt(c[tau_t])`` and ``sigma_t = sqrt(1 - c[tau_t])`` with ``c`` the cumulative
    product of ``1 - beta`` and ``tau_1 < … < tau_T`` the timesteps of
    ``DDIMScheduler.set_timesteps``. ``z_0`` is where its last step lands: timestep
    ``tau_1 - num_train_timesteps // num_steps``, or the final alpha (1, or ``c[0]`` with
    ``set_alpha_to_one`` false) where that is negative. Source: Song et al. 2021, Eq. 12;
    Lin et al. 2024, Table 2 (spacing) and Alg. 1 (zero terminal signal-to-noise ratio).

    Args:
        config: the scheduler config; absent keys take the defaults of its class.
        num_steps: T.

    Raises:
        InputError: if the config is malformed, is not built on betas, or its steps cannot be
            taken (too many, out of range, of zero length).
    """
    num_steps = check_count("num_steps", num_steps, "pass `num_steps=64`")
    parameters = _complete(config)
    num_train = parameters["num_train_timesteps"]
    if num_steps > num_train:
        raise InputError(
            "num_steps",
            f"must be <= num_train_timesteps = {num_train} of the scheduler config",
            num_steps,
            f"pass `num_steps={num_train}` or fewer",
        )
    cumulative = np.cumprod(1.0 - _betas_of(parameters))
    timesteps = make_timesteps(
        parameters["timestep_spacing"], num_train, num_steps, parameters["steps_offset"]
    )
    landed = timesteps - num_train // num_steps
    final = 1.0 if parameters["set_alpha_to_one"] else cumulative[0]
    first = cumulative[landed[0]] if landed[0] >= 0 else final
    signal = np.concatenate([[first], cumulative[timesteps]])
    _refuse_zero_steps(signal, timesteps, parameters)
    return DDIMStates(
        alphas=np.sqrt(signal),
        sigmas=np.sqrt(1.0 - signal),
        timesteps=tuple(timesteps.tolist()),
        parameters=parameters,
        notes=(
            *_class_notes(parameters),
            *_landing_notes(timesteps, landed, float(signal[0])),
            *_noise_notes(float(signal[-1]), parameters),
        ),
    )


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config's keys that matter here, checked, with the defaults of its class."""
    if not is_scheduler_config(config):
        raise InputError(
            "scheduler config", "must hold the keys of a diffusers scheduler", list(config)
        )
    refuse_other_families(config)
    name = _class_name(config)
    merged = {**_DDIM_DEFAULTS, **_CLASS_DEFAULTS.get(name, {}), **config}
    checked: dict[str, Any] = {"_class_name": name}
    checked["num_train_timesteps"] = check_num_train(merged["num_train_timesteps"])
    checked["steps_offset"] = check_whole("steps_offset", merged["steps_offset"])
    if not 0 <= checked["steps_offset"] < checked["num_train_timesteps"]:
        raise InputError(
            "steps_offset", "must be >= 0 and < num_train_timesteps", checked["steps_offset"]
        )
    for key in ("beta_start", "beta_end", "clip_sample_range"):
        checked[key] = check_number(key, merged[key])
    for key in ("clip_sample", "thresholding", "set_alpha_to_one", "rescale_betas_zero_snr"):
        if not isinstance(merged[key], bool):
            raise InputError(key, "must be true or false", repr(merged[key]))
        checked[key] = merged[key]
    for key in ("beta_schedule", "timestep_spacing", "prediction_type"):
        if not isinstance(merged[key], str):
            raise InputError(key, "must be a string", repr(merged[key]))
        checked[key] = merged[key]
    checked["trained_betas"] = _trained_betas(merged["trained_betas"])
    return checked


def _class_name(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name", "DDIMScheduler")
    if not isinstance(name, str):
        raise InputError("_class_name", "must be a string", repr(name))
    return name


def _trained_betas(values: object) -> list[float] | None:
    if values is None:
        return None
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise InputError("trained_betas", "must be a list of numbers", repr(values))
    return [check_number(f"trained_betas[{index}]", beta) for index, beta in enumerate(values)]


def _betas_of(parameters: Mapping[str, Any]) -> NDArray[np.float64]:
    num_train = parameters["num_train_timesteps"]
    if parameters["trained_betas"] is not None:
        betas = np.array(parameters["trained_betas"], dtype=np.float64)
        if len(betas) != num_train:
            raise InputError(
                "trained_betas", f"must have num_train_timesteps = {num_train} entries", len(betas)
            )
        for index in np.flatnonzero((betas < 0) | (betas > 1))[:1]:
            raise InputError(f"trained_betas[{index}]", "must be in [0, 1]", float(betas[index]))
    else:
        betas = make_betas(
            parameters["beta_schedule"], parameters["beta_start"], parameters["beta_end"], num_train
        )
    return zero_terminal_snr(betas) if parameters["rescale_betas_zero_snr"] else betas


def _refuse_zero_steps(
    signal: NDArray[np.float64], timesteps: NDArray[np.int64], parameters: Mapping[str, Any]
) -> None:
    still = np.flatnonzero(signal[1:] >= signal[:-1])
    if not len(still):
        return
    step = int(still[0]) + 1
    if step == 1 and not parameters["set_alpha_to_one"]:
        remedy = 'set "set_alpha_to_one": true or, with leading spacing, "steps_offset": 1'
    else:
        remedy = "pass fewer steps, or betas > 0 that reach 1 at the last timestep only"
    raise InputError(
        "scheduler config",
        f"must change the noise level in every step, and step {step} "
        f"(timestep {timesteps[step - 1]}) has length zero",
        remedy=remedy,
    )


def _class_notes(parameters: Mapping[str, Any]) -> list[str]:
    notes = []
    name = parameters["_class_name"]
    if name not in _SAME_STEP_AS_DDIM:
        notes.append(
            f"{name} is read as the DDIM teacher of the same betas and timestep spacing; "
            "its own solver and noise are left out"
        )
    if parameters["thresholding"]:
        notes.append("thresholding is on: each estimate of x_0 is thresholded, which is not linear")
    elif parameters["clip_sample"]:
        limit = parameters["clip_sample_range"]
        notes.append(
            f"clip_sample is on: each estimate of x_0 is clipped to [-{limit:g}, {limit:g}], "
            "which is not linear"
        )
    return notes


def _landing_notes(
    timesteps: NDArray[np.int64], landed: NDArray[np.int64], final_signal: float
) -> list[str]:
    notes = []
    mismatch = np.abs(landed[1:] - timesteps[:-1])
    if mismatch.any():
        notes.append(
            f"DDIMScheduler.step lands up to {mismatch.max()} training timesteps from the "
            "timestep that follows (it goes back num_train_timesteps // num_steps); the states "
            "here are the timesteps' own"
        )
    if landed[0] >= 0:
        notes.append(
            f"the last step lands on training timestep {landed[0]}, as in DDIMScheduler.step, "
            f"and not on clean data: sigma_0 = {np.sqrt(1 - final_signal):.3g}"
        )
    return notes


def _noise_notes(last_signal: float, parameters: Mapping[str, Any]) -> list[str]:
    alpha = last_signal**0.5
    if alpha > _SIGNAL_LEFT:
        note = (
            f"alpha_T = {alpha:.3g}: samplers start from pure noise, the theory from a z_T that "
            "keeps this much signal"
        )
        return [note]
    if alpha == 0 and parameters["prediction_type"] == "epsilon":
        return ["alpha_T = 0: step T cannot compute x_0 from a prediction of epsilon"]
    return []
