"""Any scheduler config: one line, or the noise levels of diffusers' own scheduler."""

from __future__ import annotations

import json
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
from fuzzing import accepted, fuzz, odd_values
from hypothesis import strategies as st
from scheduler_configs import MODELS, added_noise, log_ratio, visited

from opmerge.schedules import NoiseSchedule, resolve_schedule

diffusers.utils.logging.set_verbosity_error()  # of keys that a class does not read

CLASSES = sorted({config.get("_class_name", "DDIMScheduler") for config in MODELS.values()})
KEYS = sorted({key for config in MODELS.values() for key in config} | {"num_train_timesteps"})
WORDS = sorted(
    {value for config in MODELS.values() for value in config.values() if isinstance(value, str)}
    | {"linear", "linspace", "squaredcos_cap_v2", "sigmoid", "laplace", "exp", "zero", "sample"}
)
near = st.one_of(
    st.booleans(),
    st.sampled_from(WORDS),
    st.integers(-2, 3),
    st.sampled_from([7, 20, 100, 201, 999, 1001, 10**6, 10**9, 10**15, 10**300]),
    st.floats(0, 1),
    st.sampled_from([1e-300, 1e-9, 0.00085, 0.012, 0.9999, 3.0, 80.0, 700.0, 1e9, 1e300]),
    st.floats(),
)
"""Values such as scheduler configs have, at any key."""


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """The config of a popular model with some keys left out, changed or taken from another."""
    config = dict(draw(st.sampled_from(list(MODELS.values()))))
    for _ in range(draw(st.integers(0, 4))):
        how = draw(st.sampled_from(["near", "near", "class", "other", "left out", "odd"]))
        if how == "class":
            config["_class_name"] = draw(st.sampled_from(CLASSES))
        elif how == "other":
            config |= draw(st.sampled_from(list(MODELS.values())))
        elif how == "left out" and config:
            del config[draw(st.sampled_from(sorted(config)))]
        else:
            known = getattr(diffusers, str(config.get("_class_name")), diffusers.DDIMScheduler)
            defaults = dict(known().config) if how == "near" else {}
            key = draw(st.sampled_from(sorted({*KEYS, *defaults} - {"_class_name"})))
            config[key] = draw(odd_values if how == "odd" else near)
    return config


def by_diffusers(config: dict[str, Any], num_steps: int) -> tuple[Any, Any, Any] | None:
    """Times, levels and their rounding of the scheduler that diffusers builds, if it does."""
    name = config.get("_class_name", "DDIMScheduler")
    try:
        scheduler = getattr(diffusers, name).from_config(config)
        mu = scheduler.config.base_shift if config.get("use_dynamic_shifting") else None
        times = visited(scheduler, num_steps, mu)
        told = scheduler.timesteps
        if times is None or (hasattr(scheduler, "sigmas") and len(told) > len(told.unique())):
            return None  # levels that are told by no time
        if name == "SASolverScheduler":
            return None  # whose add_noise does not know of its sigmas
        return times, *added_noise(scheduler, times)
    except Exception:  # whatever it says of such a config
        return None


@fuzz(18_000, config=configs(), num_steps=st.integers(1, 50))
def test_scheduler_configs(
    config: dict[str, Any], num_steps: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed_config.json"
    path.write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        schedule = accepted(lambda: resolve_schedule(str(path), num_steps))
        assert not [each for each in told if "opmerge" in each.filename]
        if schedule is None:
            return
        expected = by_diffusers(config, num_steps)
    stored = json.loads(json.dumps(schedule.to_dict(), allow_nan=False))
    assert NoiseSchedule.from_dict(stored, num_steps).alphas.tolist() == schedule.alphas.tolist()
    if expected is not None:
        times, levels, rounding = expected
        assert schedule.timesteps == tuple(times.tolist())
        found = log_ratio(schedule.alphas[1:], schedule.sigmas[1:])
        assert np.all(np.abs(found - levels) <= rounding)
