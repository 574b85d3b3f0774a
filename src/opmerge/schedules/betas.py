"""The noise rates (betas) that diffusers models train with, and the timesteps cut from them.

The formulas are those of ``diffusers.DDIMScheduler``, carried out in float64.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count, check_number, check_whole
from opmerge.errors import InputError

__all__ = [
    "check_num_train",
    "make_betas",
    "make_timesteps",
    "trailing_signal",
    "zero_terminal_snr",
]

_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_MAX_TRAIN_TIMESTEPS = 1_000_000
_SPACINGS = ("leading", "trailing", "linspace")


def check_num_train(value: object) -> int:
    """``value`` as a number of training timesteps, or ``InputError``."""
    number = check_whole("num_train_timesteps", value)
    if not 1 <= number <= _MAX_TRAIN_TIMESTEPS:
        raise InputError(
            "num_train_timesteps", f"must be between 1 and {_MAX_TRAIN_TIMESTEPS}", number
        )
    return number


def make_betas(
    beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int
) -> NDArray[np.float64]:
    """Training noise rates ``beta``, shape (num_train_timesteps,), as diffusers defines them.

    ``linear``: evenly spaced; ``scaled_linear``: their square roots are; ``squaredcos_cap_v2``:
    ``min(1 - f(t+1)/f(t), 0.999)`` with ``f`` the squared cosine of Nichol & Dhariwal 2021,
    Eq. 17 (start and end unused).

    Raises:
        InputError: if the name is unknown or a rate lies outside [0, 1].
    """
    if beta_schedule not in _BETA_SCHEDULES:
        raise InputError(
            "beta_schedule", f"must be one of {', '.join(_BETA_SCHEDULES)}", beta_schedule
        )
    if beta_schedule == "squaredcos_cap_v2":
        # math.cos, not np.cos: the last bit of a ratio close to 1 decides the small betas.
        times = [step / num_train_timesteps for step in range(num_train_timesteps + 1)]
        kept = [math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2 for time in times]
        return np.array([min(1 - after / before, 0.999) for before, after in pairwise(kept)])
    for key, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
        if not 0 <= beta <= 1:
            raise InputError(key, "must be in [0, 1]", beta)
    if beta_schedule == "linear":
        return np.linspace(beta_start, beta_end, num_train_timesteps)
    return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps) ** 2


def zero_terminal_snr(betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Betas rescaled so that no signal is left at the end (Lin et al. 2024, Alg. 1).

    The square root of the cumulative product of ``1 - beta`` is shifted to end at 0 and scaled
    to keep its first value.

    Raises:
        InputError: if the betas leave the signal unchanged, so that there is nothing to scale.
    """
    root = np.sqrt(np.cumprod(1.0 - betas))
    if root[0] == root[-1]:
        raise InputError(
            "rescale_betas_zero_snr", "must be false where the betas leave the signal unchanged"
        )
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    cumulative = root**2
    kept = np.concatenate([cumulative[:1], cumulative[1:] / cumulative[:-1]])
    return np.asarray(1.0 - kept, dtype=np.float64)


def make_timesteps(
    spacing: str, num_train_timesteps: int, num_steps: int, steps_offset: int = 0
) -> NDArray[np.int64]:
    """Training timesteps of ``num_steps`` DDIM steps, ascending, shape (num_steps,).

    With ``N`` training timesteps and ``k = 1 … T`` (Lin et al. 2024, Table 2): ``trailing``
    ``round(N k / T) - 1``; ``leading`` ``(k - 1) (N // T) + steps_offset``; ``linspace``
    ``round((N - 1) (k - 1) / (T - 1))``. Rounding is done as ``DDIMScheduler.set_timesteps``
    does it; a surplus timestep -1 that it lists for some T (trailing) is left out.

    Raises:
        InputError: if the spacing is unknown or a timestep is not below ``N``.
    """
    if spacing not in _SPACINGS:
        raise InputError("timestep_spacing", f"must be one of {', '.join(_SPACINGS)}", spacing)
    if spacing == "trailing":
        # Counting down in floating point, as diffusers does, decides the ties; it also makes
        # the list one too long where the last difference ends just above 0.
        down = np.arange(num_train_timesteps, 0, -(num_train_timesteps / num_steps))
        return np.round(down[:num_steps][::-1]).astype(np.int64) - 1
    if spacing == "linspace":
        return np.linspace(0, num_train_timesteps - 1, num_steps).round().astype(np.int64)
    last = (num_steps - 1) * (num_train_timesteps // num_steps) + steps_offset
    if last >= num_train_timesteps:
        raise InputError(
            "steps_offset",
            f"must keep the timesteps of {num_steps} steps below {num_train_timesteps}",
            steps_offset,
            'pass fewer steps, or set "timestep_spacing": "trailing"',
        )
    return np.arange(num_steps) * (num_train_timesteps // num_steps) + steps_offset


def trailing_signal(
    beta_schedule: str, num_steps: int, beta_start: float, beta_end: float, num_train_timesteps: int
) -> NDArray[np.float64]:
    """``alpha_t²`` of T trailing steps from clean data, shape (T+1,), index 0 on the data side.

    1, then the cumulative product of ``1 - beta`` at the trailing timesteps.

    Raises:
        InputError: if T is not between 1 and ``num_train_timesteps`` or a beta not in (0, 1).
    """
    num_steps = check_count("num_steps", num_steps, "pass `num_steps=64`")
    num_train_timesteps = check_num_train(num_train_timesteps)
    if num_steps > num_train_timesteps:
        raise InputError(
            "num_steps", f"must be <= num_train_timesteps = {num_train_timesteps}", num_steps
        )
    for key, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
        if not 0 < check_number(key, beta) < 1:
            raise InputError(key, "must be in (0, 1)", beta)
    betas = make_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
    timesteps = make_timesteps("trailing", num_train_timesteps, num_steps)
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)[timesteps]])
