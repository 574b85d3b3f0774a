"""Noise schedules of diffusers schedulers, read off what the scheduler itself visits."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.checks import check_count, check_steps
from opmerge.errors import InputError, not_installed
from opmerge.schedules.configs import SIGMAS_FROM_STEPS, is_scheduler_config, read_scheduler_config
from opmerge.schedules.noise import MAX_TRAIN_TIMESTEPS, NoiseSchedule
from opmerge.schedules.predictions import network_reading

_DDIM = "DDIMScheduler"
_SHIFTS = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
# Keys that diffusers reads in any class or its pipelines, of a config that another class left.
_READ_UNDECLARED = ("sigma_min", "sigma_max", *_SHIFTS)
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
_KNOW_BETAS = ("DDPMScheduler", "HeunDiscreteScheduler")  # sigmoid and laplace; exp
_FIRST_ORDER = re.compile("DDIM|EulerDiscrete|EDMEuler|MiniMaxH3")
_NOISY = re.compile(
    "Ancestral|Cosine|DDPM|LCM|TCD|SDE|Sde|SASolver|Stochastic|SCM|UnCLIP|RePaint|XDPM"
)
# Below this, z_T drawn as pure noise and z_T of the theory differ by less than a percent.
_SIGNAL_LEFT = 0.01
_KINDS: dict[type, str] = {Real: "a number", str: "text"}
_LEVELS = "must be a scheduler of Gaussian noise levels"
_ARRAYS = "pass the alphas and sigmas of its steps as an .npz file"


def diffusers_schedule(
    config: str | os.PathLike[str] | Mapping[str, Any],
    num_steps: int,
    image_seq_len: int | None = None,
) -> NoiseSchedule:
    """The states that a diffusers scheduler visits in ``num_steps`` steps.

    The scheduler is built by its own class (DDIMScheduler where none is named, or where betas
    come with a class that diffusers does not have), so keys that the class does not read have no
    effect. What it visits becomes ``(alpha, sigma)``: ``(1 - s, s)`` for flow matching's sigmas s,
    ``(1, s) / sqrt(1 + s²)`` for all other sigmas, ``(sqrt(c), sqrt(1 - c))`` for
    ``alphas_cumprod`` c and ``(cos t, sin t)`` for angles. ``z_0`` is where the last step lands.
    The notes tell what the linear theory leaves out.

    Args:
        config: a ``scheduler_config.json``, a folder holding one (itself or in ``scheduler/``),
            or its content. With the key ``sigmas_from_steps: true``, which is no scheduler's, it is
            told the sigmas 1, …, 1/T; so it is in the folder of a pipeline whose call names these,
            such as FLUX or Qwen-Image.
        num_steps: T.
        image_seq_len: tokens of a sample, for ``use_dynamic_shifting``; by default as the config
            says, or its ``base_image_seq_len``. (``denoisers.teacher_folder.outline_teacher`` takes
            those of a teacher's network.)

    Raises:
        InputError: if the config is missing, diffusers is not installed, its class has no noise
            levels, or T steps of it cannot be taken.
    """
    num_steps = check_steps("num_steps", num_steps, "pass `num_steps=64`")
    if not isinstance(config, Mapping):
        config = read_scheduler_config(config)
    if not is_scheduler_config(config):
        requirement = "must hold the keys of a diffusers scheduler"
        raise InputError("scheduler config", requirement, list(config))
    if image_seq_len is not None:
        config = {**config, "image_seq_len": image_seq_len}
    name, scheduler = _build(config)
    if "Inverse" in name:
        remedy = f'set "_class_name": "{name.replace("Inverse", "")}"'
        raise InputError("_class_name", "must go from noise to data", name, remedy)
    num_train = scheduler.config.get("num_train_timesteps")
    if hasattr(scheduler, "alphas_cumprod") and num_steps > num_train:
        requirement = f"must be <= num_train_timesteps = {num_train} of the scheduler config"
        remedy = f"pass `num_steps={num_train}` or fewer"
        raise InputError("num_steps", requirement, num_steps, remedy)
    if num_train == 1 and not config.get(SIGMAS_FROM_STEPS):  # whose own are all 1
        requirement = "must be > 1, or the sigmas those that a pipeline names"
        remedy = f'pass the folder of the pipeline, or set "{SIGMAS_FROM_STEPS}": true'
        raise InputError("num_train_timesteps", requirement, num_train, remedy)
    for asked in (num_steps, num_steps + 1):  # some count the last state, or a step of length 0
        try:
            with np.errstate(invalid="raise"):
                _set_timesteps(scheduler, asked, config)
                alphas, sigmas, times, notes = _states(name, scheduler)
        except InputError:
            raise
        except Exception as error:  # whatever a scheduler says of a config is about the config
            raise _refusal(name, f"must take {num_steps} steps", error) from error
        if len(times) == num_steps:
            break
    else:
        requirement = f"must take {num_steps} steps in {name}"
        raise InputError("scheduler config", requirement, len(times), _ARRAYS)
    if asked > num_steps:
        notes = [f"set_timesteps({asked}) gives these: {name} counts one that moves nothing"]
    notes = [*_solver_notes(name, scheduler, config), *notes, *_noise_notes(scheduler, alphas)]
    is_whole = all(float(time).is_integer() for time in times)
    timesteps = tuple((int if is_whole else float)(time) for time in times)
    parameters = _parameters(name, scheduler, config)
    schedule = NoiseSchedule(alphas, sigmas, "diffusers", parameters, timesteps, tuple(notes))
    return replace(schedule, notes=(*schedule.notes, *_reading_notes(scheduler, schedule)))


def build_scheduler(config: Mapping[str, Any]) -> Any:
    """The scheduler of a config, of which diffusers' class reads the keys that it knows.

    ``InputError`` as ``diffusers_schedule``.
    """
    return _build(config)[1]


def _find_class(name: str) -> Any:
    """The scheduler class of diffusers that has the name, or None."""
    try:
        import diffusers
    except ImportError as error:
        raise not_installed("scheduler config", "diffusers") from error
    return getattr(diffusers, name, None)


def _signature(scheduler_class: Any) -> Mapping[str, Any]:
    return inspect.signature(scheduler_class.__init__).parameters if scheduler_class else {}


def _build(config: Mapping[str, Any]) -> tuple[str, Any]:
    """The scheduler of a config and the name that the config gives its class."""
    name = config.get("_class_name", _DDIM)
    has_betas = "beta_schedule" in config or config.get("trained_betas") is not None
    if not isinstance(name, str) or not (has_betas or name.endswith("Scheduler")):
        raise InputError("_class_name", "must be a scheduler of diffusers", name, _ARRAYS)
    found = _find_class(name)
    if found is None and has_betas:
        found = _find_class(_DDIM)
    if found is None:
        requirement = "must be a scheduler that the diffusers installed here has"
        raise InputError("_class_name", requirement, name, f"install one that has it, or {_ARRAYS}")
    known = _signature(found)
    arguments = {key: value for key, value in _newer(config).items() if key in known}
    for key, value in arguments.items():
        _check_kind(key, value, known[key].default)
    try:
        try:
            scheduler = found(**arguments)
        except NotImplementedError:  # diffusers' word for betas by a rule of other classes alone
            scheduler = found(**{**arguments, "trained_betas": _betas(arguments)})
    except Exception as error:  # as above
        raise _refusal(name, "must build a scheduler", error) from error
    if not hasattr(scheduler, "set_timesteps"):
        raise InputError("_class_name", _LEVELS, name, _ARRAYS)
    others = (key for key in _READ_UNDECLARED if key in config and key not in known)
    scheduler.register_to_config(**{key: config[key] for key in others})  # as its from_config
    return name, scheduler


def _check_kind(key: str, value: Any, default: object) -> None:
    """Refuse what is no number, or no text, where the class has one by default, and huge counts.

    A class fills a list of ``num_train_timesteps``, or of ``solver_order``, whatever they say.
    """
    for kind, name in _KINDS.items():
        if isinstance(default, kind) and not (value is None or isinstance(value, kind)):
            raise InputError(f"scheduler config: {key}", f"must be {name}", repr(value))
    if type(default) is int and value is not None and not 0 <= value <= MAX_TRAIN_TIMESTEPS:
        requirement = f"must be between 0 and {MAX_TRAIN_TIMESTEPS:,}"
        raise InputError(f"scheduler config: {key}", requirement, value)


def _newer(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with what diffusers before 0.10 said of predictions as later versions say it."""
    is_sample = config.get("predict_epsilon") is False
    if is_sample and config.get("prediction_type", "epsilon") == "epsilon":
        return {**config, "prediction_type": "sample"}
    return config


def _betas(arguments: Mapping[str, Any]) -> list[float]:
    """The betas of a config, by a class of diffusers that knows their rule.

    Raises:
        ValueError: if none does.
    """
    for donor in map(_find_class, _KNOW_BETAS):
        known = {key: arguments[key] for key in _BETAS if key in arguments}
        with suppress(NotImplementedError):  # diffusers' own, as above
            return donor(**known).betas.tolist()
    raise ValueError(f"beta_schedule {arguments.get('beta_schedule')} is not known")


def _refusal(name: str, requirement: str, error: Exception) -> InputError:
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return InputError("scheduler config", f"{requirement} ({name} says: {text})", remedy=_ARRAYS)


def _shift(scheduler: Any, config: Mapping[str, Any]) -> tuple[int, float]:
    """Tokens of a sample, and mu, which is linear in them."""
    flux = dict(zip(_SHIFTS, (256, 4096, 0.5, 1.15), strict=True))  # where no key says another
    own = {**flux, **scheduler.config}
    few, many = own["base_image_seq_len"], own["max_image_seq_len"]
    tokens = check_count("image_seq_len", config.get("image_seq_len", few))
    slope = (own["max_shift"] - own["base_shift"]) / (many - few)
    return tokens, own["base_shift"] + slope * (tokens - few)


def _set_timesteps(scheduler: Any, num_steps: int, config: Mapping[str, Any]) -> None:
    arguments: dict[str, Any] = {}
    if scheduler.config.get("stages", 1) != 1:
        requirement = "must be 1: each of several stages has noise levels of its own"
        raise InputError("stages", requirement, scheduler.config["stages"], _ARRAYS)
    if scheduler.config.get("use_dynamic_shifting"):
        arguments["mu"] = _shift(scheduler, config)[1]
    known = inspect.signature(scheduler.set_timesteps).parameters
    if (
        config.get(SIGMAS_FROM_STEPS)
        and "sigmas" in known
        and not scheduler.config.get("use_flow_sigmas")
    ):
        arguments["sigmas"] = np.linspace(1.0, 1 / num_steps, num_steps)
    if type(scheduler).__name__ == "SCMScheduler" and num_steps != 2:
        arguments["intermediate_timesteps"] = None
    scheduler.set_timesteps(num_steps, **arguments)
    if hasattr(scheduler, "set_sigmas"):  # ScoreSdeVeScheduler
        scheduler.set_sigmas(num_steps)


def _states(name: str, scheduler: Any) -> tuple[Array, Array, Array, list[str]]:
    """alphas, sigmas (T+1,) and times (T,) from the data side, and notes on where steps land."""
    times = _array(scheduler.timesteps)[::-1]
    if hasattr(scheduler, "set_sigmas"):  # whose network is told sigma
        times = _array(scheduler.sigmas)[::-1]
    if getattr(scheduler, "sigmas", None) is not None:
        return (*_sigma_states(scheduler, times), [])
    if hasattr(scheduler, "alphas_cumprod"):
        return _signal_states(name, scheduler)
    if hasattr(scheduler, "_alpha_cumprod"):  # DDPMWuerstchenScheduler lists 0 among its times
        signal = _array(scheduler._alpha_cumprod(scheduler.timesteps, "cpu"))[::-1]
        return np.sqrt(signal), np.sqrt(1 - signal), times[1:], []
    if type(scheduler).__name__ == "SCMScheduler":  # pi/2 as 1.5708 is above it
        return np.maximum(np.cos(times), 0), np.sin(times), times[1:], []
    if type(scheduler).__name__ == "IPNDMScheduler":
        angles = np.concatenate([[0.0], times * np.pi / 2])
        return np.maximum(np.cos(angles), 0), np.sin(angles), times, []
    raise InputError("_class_name", _LEVELS, name, _ARRAYS)


def _array(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)


def _sigma_states(scheduler: Any, times: Array) -> tuple[Array, Array, Array]:
    levels, config = _array(scheduler.sigmas), scheduler.config
    read = levels[: len(times)]
    if getattr(scheduler, "order", 1) == 2:  # each step but the last reads twice
        read, times = read[::2], times[::2]
    landing = 0.0 if len(levels) == len(times) else levels[-1]
    levels = np.concatenate([[landing], read[::-1]])
    if len(times) > 1 and levels[0] == levels[1]:  # a step of length zero
        levels, times = levels[1:], times[1:]
    has_betas = hasattr(scheduler, "alphas_cumprod")
    if times[0] == -1 and has_betas:
        levels, times = np.delete(levels, 1), times[1:]  # a surplus step of trailing spacing
    has_ends = "sigma_max" in _signature(type(scheduler))
    if config.get("use_flow_sigmas") or not (has_betas or has_ends):
        levels = 1 - levels if config.get("invert_sigmas") else levels
        if levels.max() > 1:  # of sigma_max 80, which Cosmos' pipeline takes for sigma / alpha
            requirement = "must have sigmas from 0 to 1, as flow matching has"
            raise InputError("scheduler config", requirement, f"{levels.max():g}", _ARRAYS)
        return 1 - levels, levels, times
    return 1 / np.hypot(1, levels), levels / np.hypot(1, levels), times


def _signal_states(name: str, scheduler: Any) -> tuple[Array, Array, Array, list[str]]:
    cumulative, config = _cumulative(scheduler), scheduler.config
    times = np.unique(np.asarray(getattr(scheduler, "_timesteps", scheduler.timesteps)))
    times = times[times >= 0]  # DDIMScheduler lists a surplus -1 for some T
    notes, final = [], getattr(scheduler, "final_alpha_cumprod", None)
    class_name = type(scheduler).__name__
    if class_name == "TCDScheduler":
        first = cumulative[0]
    elif class_name == "LCMScheduler" or final is None:
        first = 1.0
    else:
        landed = times - config.num_train_timesteps // scheduler.num_inference_steps
        final = cumulative[0] if float(final) < 1 else 1.0
        first = cumulative[landed[0]] if landed[0] >= 0 else final
        notes = _landing_notes(class_name, times, landed, first)
    signal = np.concatenate([[first], cumulative[times]])
    for step in np.flatnonzero(signal[1:] >= signal[:-1])[:1] + 1:
        remedy = "pass fewer steps, or betas > 0 that reach 1 at the last timestep only"
        if step == 1 and config.get("set_alpha_to_one") is False:
            remedy = 'set "set_alpha_to_one": true or, with leading spacing, "steps_offset": 1'
        raise InputError(
            "scheduler config",
            f"must change the noise level in every step, and step {step} "
            f"(timestep {times[step - 1]}) has length zero",
            remedy=remedy,
        )
    return np.sqrt(signal), np.sqrt(1 - signal), times, notes


def _cumulative(scheduler: Any) -> Array:
    """``alphas_cumprod``, multiplied in float64 where it is the product of the betas.

    At zero terminal signal-to-noise ratio its root is shifted to end at 0 and scaled to keep its
    first value (Lin et al. 2024, Alg. 1).
    """
    own, betas = _array(scheduler.alphas_cumprod), scheduler.config.get("trained_betas")
    is_rescaled = scheduler.config.get("rescale_betas_zero_snr")
    if is_rescaled:
        scheduler = scheduler.from_config(scheduler.config, rescale_betas_zero_snr=False)
    exact = _array(np.cumprod(1 - _array(scheduler.betas if betas is None else betas)))
    if is_rescaled:
        root = np.sqrt(exact)
        exact = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return exact if np.allclose(exact, own, rtol=1e-3, atol=1e-6) else own


def _solver_notes(name: str, scheduler: Any, config: Mapping[str, Any]) -> list[str]:
    notes, own = [], type(scheduler).__name__
    if scheduler.config.get("use_dynamic_shifting"):
        tokens, mu = _shift(scheduler, config)
        is_own = not config.get(SIGMAS_FROM_STEPS)
        notes.append(
            f"the noise levels depend on the size of a sample: here image_seq_len = {tokens}, "
            f"mu = {mu:.3g}"
            + "; pipelines that pass sigmas of their own, as Flux', visit others"
            * is_own
        )
    config, left_out = scheduler.config, ""
    is_sde = config.get("stochastic_sampling") or "sde" in str(config.get("algorithm_type"))
    if is_sde or _NOISY.search(own):
        left_out = "the noise that it draws in each step is"
    elif not _FIRST_ORDER.search(own) and config.get("solver_order") != 1:
        left_out = "its steps of higher order are"
    if name != own:
        notes.append(
            f"{name} is read as the DDIM teacher of the same betas and timestep spacing; "
            "its own solver and noise are left out"
        )
    elif left_out:
        notes.append(f"{name} is read as first order on its own noise levels; {left_out} left out")
    is_thresholded, limit = config.get("thresholding"), config.get("clip_sample_range", 1.0)
    key = next((key for key in ("clip_sample", "clip_denoised") if config.get(key)), None)
    if is_thresholded or key is not None:
        how = "thresholded" if is_thresholded else f"clipped to [-{limit:g}, {limit:g}]"
        notes.append(
            f"{'thresholding' if is_thresholded else key} is on: each estimate of x_0 is {how}, "
            "which is not linear; opmerge distill takes such a teacher with --ignore_clipping only"
        )
    return notes


def _landing_notes(
    name: str, times: NDArray[np.int64], landed: NDArray[np.int64], final_signal: float
) -> list[str]:
    notes = []
    mismatch = np.abs(landed[1:] - times[:-1])
    if mismatch.any():
        notes.append(
            f"{name}.step lands up to {mismatch.max()} training timesteps from the timestep that "
            "follows (it goes back num_train_timesteps // num_steps); the states here are the "
            "timesteps' own"
        )
    if landed[0] >= 0:
        notes.append(
            f"the last step lands on training timestep {landed[0]}, as in {name}.step, "
            f"and not on clean data: sigma_0 = {np.sqrt(1 - final_signal):.3g}"
        )
    return notes


def _noise_notes(scheduler: Any, alphas: Array) -> list[str]:
    if alphas[-1] > _SIGNAL_LEFT:
        return [
            f"alpha_T = {alphas[-1]:.3g}: samplers start from pure noise, the theory from a z_T "
            "that keeps this much signal"
        ]
    if alphas[-1] == 0 and scheduler.config.get("prediction_type") == "epsilon":
        return ["alpha_T = 0: step T cannot compute x_0 from a prediction of epsilon"]
    return []


def _reading_notes(scheduler: Any, schedule: NoiseSchedule) -> list[str]:
    """What a teacher with this scheduler is refused for, if it is."""
    try:
        network_reading(scheduler, schedule)
    except InputError as error:
        return [f"opmerge distill refuses this scheduler: {error}"]
    return []


def _parameters(name: str, scheduler: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What rebuilds the scheduler: the keys that its class reads, defaults filled in."""
    own = {**scheduler.config}
    if own.get("use_dynamic_shifting") and "image_seq_len" in config:
        own["image_seq_len"] = config["image_seq_len"]
    if config.get(SIGMAS_FROM_STEPS):
        own[SIGMAS_FROM_STEPS] = True
    if isinstance(own.get("trained_betas"), np.ndarray):
        own["trained_betas"] = own["trained_betas"].tolist()
    # JSON has no infinity; lambda_min_clipped, which may be one, is so by default.
    finite = {key: own[key] for key in own if own[key] != -np.inf and key[0] != "_"}
    return {"_class_name": name, **finite}
