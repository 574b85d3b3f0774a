"""A plan's step list in the time of other programs: NVIDIA FastGen and ComfyUI.

What is exported are the places at which a student's K networks read their input, and 0 at the end.
Both programs step from one place to the next by ``z_r = alpha_r x̂ + sigma_r ε̂``, so a student
trained with them or run by them has its estimates landed where its step stops (denoiser copy).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from opmerge.checks import check_whole
from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule

FastGenTime = Literal["alphas", "edm", "rf", "trig"]
"""FastGen's noise schedules; ``alphas`` stands for ``sd``, ``sdxl`` and ``cogvideox`` too."""

_FASTGEN_TRAIN_TIMESTEPS = 1000
_FASTGEN_LARGEST = {"alphas": 0.999, "edm": 80.0, "rf": 0.999, "trig": math.pi / 2}
_FLOW_ROUNDING = 1e-6  # of float32, in which schedulers have their sigmas
_COMFYUI_SMALLEST_SIGNAL = 4.8973451890853435e-08  # alpha² that replaces 0, so sigma is 4518.7


def is_flow(schedule: NoiseSchedule) -> bool:
    """Whether states are those of flow matching, ``(1 - sigma) x_0 + sigma ε``."""
    return bool(np.allclose(schedule.alphas + schedule.sigmas, 1, rtol=0, atol=_FLOW_ROUNDING))


def fastgen_t_list(
    schedule: NoiseSchedule, boundaries: Sequence[int], time: FastGenTime | None = None
) -> list[float]:
    """FastGen's ``config.model.sample_t_cfg.t_list``: K + 1 falling times, the last one 0.

    The time is that of the noise schedule with which FastGen's network is configured; by default
    ``rf`` of flow matching and ``edm`` of all else:

    - ``edm``: ``t = sigma / alpha``, at most 80;
    - ``rf``: ``t = sigma / (alpha + sigma)``, at most 0.999;
    - ``trig``: ``t = atan(sigma / alpha)``;
    - ``alphas``: ``t = timestep / 1000``, for a schedule that came from diffusers.

    FastGen asserts that no time exceeds these limits (its defaults for ``max_t``), which stand
    for alpha_T = 0. With t_list set ``student_sample_steps`` to K and ``student_sample_type`` to
    ``ode``; by default FastGen draws new noise between the steps. Source:
    ``fastgen/networks/noise_schedule.py`` and ``fastgen/methods/model.py`` of
    github.com/NVlabs/FastGen (2026).

    Raises:
        InputError: for an unknown time, boundaries such as ``plan.boundaries`` that do not fall
            from T to 0, ``alphas`` without network timesteps or from timestep 0, or two steps
            that both lie beyond the limit.
    """
    time = time or ("rf" if is_flow(schedule) else "edm")
    if time not in get_args(FastGenTime):
        raise InputError("time", f"must be one of {', '.join(get_args(FastGenTime))}", time)
    times = [_fastgen_time(schedule, step, time) for step in _starts(schedule, boundaries)]
    return _check_falling([*(min(t, _FASTGEN_LARGEST[time]) for t in times), 0.0])


def comfyui_sigmas(schedule: NoiseSchedule, boundaries: Sequence[int]) -> list[float]:
    """ComfyUI's SIGMAS: K + 1 falling noise levels, float32, the last one 0.

    They are those of ComfyUI's own model: of flow matching (``ModelSamplingDiscreteFlow`` and
    ``ModelSamplingFlux``) sigma itself, in [0, 1], and else ``sigma / alpha``, as of its eps-, v-
    and EDM models; its sampler ``euler`` is DDIM in both. Where alpha_T = 0 the level is infinite:
    ComfyUI's zero-terminal-SNR models put alpha² = 4.897e-08 there, sigma / alpha = 4518.7, and so
    does this function. Source: github.com/comfyanonymous/ComfyUI, ``comfy/model_sampling.py``
    (``CONST``, ``rescale_zero_terminal_snr_sigmas``).

    Raises:
        InputError: for boundaries that do not fall from T to 0, or two steps that both lie beyond
            ComfyUI's largest noise level.
    """
    starts = _starts(schedule, boundaries)
    if is_flow(schedule):
        return _check_falling([float(np.float32(schedule.sigmas[step])) for step in starts] + [0.0])
    largest = math.sqrt((1 - _COMFYUI_SMALLEST_SIGNAL) / _COMFYUI_SMALLEST_SIGNAL)
    levels = [min(_noise_level(schedule, step), largest) for step in starts]
    return _check_falling([float(np.float32(level)) for level in [*levels, 0.0]])


def comfyui_manual_sigmas(sigmas: Sequence[float]) -> str:
    """The text for ComfyUI's node ManualSigmas that gives these float32 values back.

    The node finds numbers by the pattern ``[-+]?(?:\\d*\\.*\\d+)``, which knows no exponents, so
    they are written out. Source: ``comfy_extras/nodes_custom_sampler.py`` of ComfyUI.
    """
    return ", ".join(np.format_float_positional(np.float32(s), trim="-") for s in sigmas)


def _starts(schedule: NoiseSchedule, boundaries: Sequence[int]) -> list[int]:
    """The steps at which students read, once the boundaries are known to fall from T to 0."""
    steps = [check_whole("boundaries", step) for step in boundaries]
    falls = all(before > after for before, after in pairwise(steps))
    if len(steps) < 2 or not falls or (steps[0], steps[-1]) != (schedule.num_steps, 0):
        raise InputError("boundaries", f"must fall from T = {schedule.num_steps} to 0", steps)
    return steps[:-1]


def _noise_level(schedule: NoiseSchedule, step: int) -> float:
    """sigma / alpha, infinite for pure noise."""
    alpha, sigma = float(schedule.alphas[step]), float(schedule.sigmas[step])
    return sigma / alpha if alpha else math.inf


def _fastgen_time(schedule: NoiseSchedule, step: int, time: FastGenTime) -> float:
    alpha, sigma = float(schedule.alphas[step]), float(schedule.sigmas[step])
    if time != "alphas":
        levels = {"edm": _noise_level(schedule, step), "rf": sigma / (alpha + sigma)}
        return levels.get(time, math.atan2(sigma, alpha))
    remedy = "take edm, rf or trig"
    if schedule.timesteps is None:
        rule = "must come from a diffusers scheduler for FastGen's time alphas"
        raise InputError("schedule", rule, schedule.name, remedy)
    timestep = schedule.timesteps[step - 1]
    if timestep == 0:
        rule = f"must not read at timestep 0, where FastGen's time alphas ends (step {step} does)"
        raise InputError("schedule", rule, remedy=remedy)
    if timestep % 1 != 0:
        rule = f"must have whole timesteps for FastGen's time alphas (step {step} has not)"
        raise InputError("schedule", rule, timestep, remedy)
    if timestep >= _FASTGEN_TRAIN_TIMESTEPS:
        rule = f"must have timesteps below {_FASTGEN_TRAIN_TIMESTEPS}, as FastGen has"
        raise InputError("schedule", rule, timestep, remedy)
    return timestep / _FASTGEN_TRAIN_TIMESTEPS  # which FastGen's int(1000 t) takes back


def _check_falling(values: list[float]) -> list[float]:
    if any(before <= after for before, after in pairwise(values)):
        rule = "must be apart in the other program's noise levels, which end at a largest one"
        remedy = "take a schedule with less noise at its last steps"
        raise InputError("boundaries", rule, values, remedy)
    return values
