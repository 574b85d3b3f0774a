"""A student's steps in a scheduler of diffusers, where one can take them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from opmerge.denoisers.linear_part import LinearDenoiser
from opmerge.denoisers.models import Student

_LEVELS_DIFFER = 1e-3  # relative, of sigma/alpha: far below what a student's own error moves
_FAR_FROM_EULER = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@dataclass(frozen=True, eq=False)
class PlainSteps:
    """A scheduler of diffusers that takes a student's steps if the call names them.

    Args:
        argument: of the pipeline's call, ``timesteps`` or ``sigmas``.
    """

    scheduler: SchedulerMixin
    argument: str
    values: tuple[float, ...]


def plain_steps(
    student: Student, config: Mapping[str, Any], pipeline_class: Any
) -> PlainSteps | None:
    """The scheduler of diffusers that takes a student's steps as they are, if there is one.

    Its levels sigma/alpha must be the student's to 1e-3, its last step must land where the
    student's does, and the pipeline's call must take the argument that names the steps.
    """
    chain = student.chain
    is_scaled = student.ddim.scalings is not None
    if (
        student.free_step is not None
        or is_scaled
        or any(
            isinstance(jump.denoiser, LinearDenoiser) or jump.readout != jump.stop for jump in chain
        )
    ):
        return None
    ddim = student.ddim
    places = [*(jump.start for jump in chain), 0]
    ratios = (ddim.sigmas[places] / ddim.alphas[places]).double().numpy()
    times = ddim.timesteps[places[:-1]].tolist()
    call = inspect.signature(pipeline_class.__call__).parameters
    for steps in _candidates(
        ddim.prediction_type, ddim.sigmas[places[:-1]].tolist(), times, config
    ):
        if steps.argument in call and _takes(steps, ratios, times):
            return steps
    return None


def _candidates(
    prediction: str, sigmas: Sequence[float], times: Sequence[float], config: Mapping[str, Any]
) -> Sequence[PlainSteps]:
    count = config.get("num_train_timesteps", 1000)
    if prediction == "flow_prediction":
        flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=count, shift=1.0)
        return [PlainSteps(flow, "sigmas", tuple(sigmas))]
    found = []
    for final in ("zero", "sigma_min"):
        euler = EulerDiscreteScheduler.from_config(
            config,
            **dict.fromkeys(_FAR_FROM_EULER, False),
            prediction_type=prediction,
            timestep_spacing="leading",  # z_T is then of variance 1, as the student's
            steps_offset=1,  # which only steps that are not named know, and pipelines warn of 0
            final_sigmas_type=final,
        )
        found.append(PlainSteps(euler, "timesteps", tuple(times)))
    return found


def _takes(steps: PlainSteps, ratios: np.ndarray[Any, Any], times: Sequence[float]) -> bool:
    """Whether a scheduler visits these levels at these times when its call names them."""
    try:
        steps.scheduler.set_timesteps(**{steps.argument: list(steps.values)})
    except ValueError:  # of levels that such a scheduler makes by itself alone
        return False
    levels = np.asarray(steps.scheduler.sigmas, dtype=np.float64)
    if steps.argument == "sigmas":
        with np.errstate(divide="ignore"):
            levels = levels / (1 - levels)
    own = np.asarray(steps.scheduler.timesteps, dtype=np.float64)
    return (
        levels.shape == ratios.shape
        and np.allclose(levels[:-1], ratios[:-1], rtol=_LEVELS_DIFFER)
        and abs(levels[-1] - ratios[-1]) <= _LEVELS_DIFFER
        and np.allclose(own, times, rtol=0, atol=1e-3)
    )
