"""What the schedulers of diffusers make of a network: what it predicts, and how it is scaled.

With ``z = alpha x_0 + sigma ε`` most networks predict ε, x_0, ``v = alpha ε - sigma x_0`` or the
velocity ``ε - x_0`` of flow matching from z itself. All others are preconditioned:

    x̂ = c_skip z + c_out F(c_in z, t)

(Karras et al. 2022, Eq. 7). Schedulers with noise levels ``sigma' = sigma / alpha`` hold z / alpha;
the coefficients here are of z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.schedules.noise import NoiseSchedule

_OF_VARIANCE_PRESERVING = ("epsilon", "sample", "v_prediction")
_OF_FLOW = ("epsilon", "sample", "flow_prediction")
_UNREADABLE = {
    "PiflowScheduler": "must move along a network's estimate: PiFlow's network says a whole policy",
    "FlowMapEulerDiscreteScheduler": "must tell the network one time: a flow map reads two",
}
_LCM_SIGMA_DATA = 0.5  # LCMScheduler's own, in no config


@dataclass(frozen=True, eq=False)
class Reading:
    """How a network is read with a scheduler.

    Args:
        prediction_type: ``epsilon``, ``sample``, ``v_prediction`` or ``flow_prediction``.
        scalings: (3, T+1) c_in, c_skip and c_out where the network is preconditioned; what they
            give is x̂, and the prediction type is ``sample``.
    """

    prediction_type: str
    scalings: Array | None = None


@dataclass(frozen=True, eq=False)
class _States:
    """(T+1,) alpha, sigma and times of a schedule, whose time at index 0 is not used."""

    alpha: Array
    sigma: Array
    time: Array

    @property
    def ratio(self) -> Array:
        """sigma' = sigma / alpha."""
        return self.sigma / self.alpha

    def scaled(self, c_in: Array | float, c_skip: Array | float, c_out: Array | float) -> Reading:
        """The reading of coefficients of z / alpha."""
        rows = np.broadcast_arrays(c_in / self.alpha, c_skip / self.alpha, c_out)
        return Reading("sample", np.array(rows))


def network_reading(scheduler: Any, schedule: NoiseSchedule) -> Reading:
    """How a network is read at the states of a schedule that ``diffusers_schedule`` made.

    Raises:
        InputError: if the scheduler is of a kind whose network says more than one estimate, does
            not know the prediction type, or cannot be computed with.
    """
    name = type(scheduler).__name__
    if name in _UNREADABLE:
        raise InputError("_class_name", _UNREADABLE[name], name)
    steps = schedule.timesteps or range(1, schedule.num_steps + 1)
    states = _States(schedule.alphas, schedule.sigmas, np.array([0, *steps], dtype=np.float64))
    read = _READINGS.get(name, _flow if "FlowMatch" in name else _named)
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # at alpha = 0: refused by its reader
            return read(scheduler.config, states)
    except (ArithmeticError, AttributeError, TypeError) as error:  # for a sigma_data of 1e300, null
        requirement = f"must hold numbers by which {name} reads a network ({error})"
        raise InputError("scheduler config", requirement) from error


def _named(config: Mapping[str, Any], states: _States) -> Reading:
    """The form that the config names, one that fits the levels."""
    form = {"original_sample": "sample"}.get(config["prediction_type"], config["prediction_type"])
    known = _OF_FLOW if config.get("use_flow_sigmas") else _OF_VARIANCE_PRESERVING
    if form not in known:
        requirement = f"must be one of {', '.join(known)} with these noise levels"
        raise InputError("prediction_type", requirement, repr(form), "set it in the config")
    return Reading(form)


def _flow(config: Mapping[str, Any], states: _States) -> Reading:
    """The velocity ``ε - x_0``, with inverted sigmas (as of Mochi) ``x_0 - ε``."""
    return _data_ward(config, states) if config.get("invert_sigmas") else Reading("flow_prediction")


def _data_ward(config: Mapping[str, Any], states: _States) -> Reading:
    one = np.ones_like(states.sigma)
    return Reading("sample", np.array([one, one, states.sigma]))


def _edm(config: Mapping[str, Any], states: _States) -> Reading:
    """With s the deviation of data, ``x̂ = s² z' / (sigma'² + s²) ± sigma' s F / √(sigma'² + s²)``.

    F reads ``z' / √(sigma'² + s²)``; the sign is that of ``epsilon``, and - of ``v_prediction``.
    """
    s, size = config["sigma_data"], np.hypot(states.ratio, config["sigma_data"])
    sign = {"epsilon": 1.0, "v_prediction": -1.0}.get(config["prediction_type"])
    if sign is None:
        requirement = "must be epsilon or v_prediction"
        raise InputError("prediction_type", requirement, repr(config["prediction_type"]))
    return states.scaled(1 / size, (s / size) ** 2, sign * states.ratio * s / size)


def _consistency(config: Mapping[str, Any], states: _States) -> Reading:
    """EDM's scalings moved so that x̂ = z' at sigma_min (Song et al. 2023, Eq. 7)."""
    s, size = config["sigma_data"], np.hypot(states.ratio, config["sigma_data"])
    above = states.ratio - config["sigma_min"]
    return states.scaled(1 / size, s**2 / (above**2 + s**2), above * s / size)


def _latent_consistency(config: Mapping[str, Any], states: _States) -> Reading:
    """A mean of z and of the x̂ that the named form gives (Luo et al. 2023, Eq. 9)."""
    form, alpha, sigma = _named(config, states).prediction_type, states.alpha, states.sigma
    skip, out = {
        "epsilon": (1 / alpha, -sigma / alpha),
        "sample": (np.zeros_like(alpha), np.ones_like(alpha)),
        "v_prediction": (alpha, -sigma),
    }[form]
    time = config["timestep_scaling"] * states.time
    size = np.hypot(time, _LCM_SIGMA_DATA)
    c_skip, c_out = (_LCM_SIGMA_DATA / size) ** 2, time / size
    return Reading("sample", np.array([np.ones_like(alpha), c_skip + c_out * skip, c_out * out]))


def _score(config: Mapping[str, Any], states: _States) -> Reading:
    """F is the score of z' (Song et al. 2021), so ``x̂ = z' + sigma'² F(z')``."""
    return states.scaled(1.0, 1.0, states.ratio**2)


_READINGS: Mapping[str, Callable[[Mapping[str, Any], _States], Reading]] = {
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
    "CosineDPMSolverMultistepScheduler": _edm,
    "CMStochasticIterativeScheduler": _consistency,
    "LCMScheduler": _latent_consistency,
    "ScoreSdeVeScheduler": _score,
    "MiniMaxH3Scheduler": _data_ward,
    "LTXEulerAncestralRFScheduler": _flow,
    # TrigFlow's F is v where the state is divided by sigma_data, as Sana-Sprint's pipeline has it
    "SCMScheduler": lambda config, states: Reading("v_prediction"),
    "IPNDMScheduler": lambda config, states: Reading("v_prediction"),
    "DDPMWuerstchenScheduler": lambda config, states: Reading("epsilon"),
    "RePaintScheduler": lambda config, states: Reading("epsilon"),
}
"""Classes whose networks are read otherwise than their config's ``prediction_type`` says."""
