"""Which diffusers configs are read, with what defaults and notes, and which are refused."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge.errors import InputError
from opmerge.schedules import (
    NoiseSchedule,
    diffusers_schedule,
    resolve_schedule,
)

LINEAR = {"clip_sample": False}


def raises(message: str) -> Any:
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def assert_same(one: NoiseSchedule, other: NoiseSchedule) -> None:
    assert one.to_dict() == other.to_dict()


def test_diffusers_schedules_are_stored_with_arrays_and_rebuilt_by_their_parameters() -> None:
    config = {
        "trained_betas": np.linspace(0.01, 0.5, 40),
        "num_train_timesteps": 40,
        "thresholding": True,
    }
    schedule = diffusers_schedule(config, 8)
    stored = json.loads(json.dumps(schedule.to_dict(), allow_nan=False))
    assert stored.keys() == {"name", "parameters", "alphas", "sigmas", "timesteps", "notes"}
    assert stored["name"] == "diffusers"
    assert_same(NoiseSchedule.from_dict(stored, 8), schedule)
    assert_same(diffusers_schedule(stored["parameters"], 8), schedule)


def test_a_saved_scheduler_is_found_as_file_folder_and_model_folder(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", **LINEAR}
    scheduler = diffusers.DDIMScheduler(**config)
    scheduler.save_pretrained(tmp_path / "model" / "scheduler")
    expected = diffusers_schedule(config, 10)
    assert expected.parameters["prediction_type"] == "v_prediction"
    folder = tmp_path / "model" / "scheduler"
    for place in (tmp_path / "model", folder, folder / "scheduler_config.json"):
        assert_same(diffusers_schedule(place, 10), expected)
        assert_same(resolve_schedule(str(place), 10), expected)


def beta_classes() -> dict[str, Any]:
    diffusers = pytest.importorskip("diffusers")
    found = {}
    for name in dir(diffusers):
        if name.endswith("Scheduler"):
            signature = inspect.signature(getattr(diffusers, name).__init__).parameters
            if "beta_schedule" in signature:
                found[name] = {key: value.default for key, value in signature.items()}
    return found


def test_absent_keys_take_the_defaults_of_each_installed_class() -> None:
    classes = beta_classes()
    assert len(classes) > 20
    for name, defaults in classes.items():
        if name.startswith("CogVideoX"):
            continue
        expected = {"clip_sample": False, **defaults, "steps_offset": 1}
        config = {"_class_name": name, "steps_offset": 1}
        parameters = diffusers_schedule(config, 10).parameters
        for key in parameters.keys() & expected.keys():
            assert parameters[key] == expected[key], (name, key)
        notes = diffusers_schedule({**config, **LINEAR}, 10).notes
        assert (notes[0].startswith(f"{name} is read as the DDIM teacher")) == (
            name not in ("DDIMScheduler", "DDIMParallelScheduler")
        )


def test_every_installed_class_is_read_from_what_it_saves(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    for name in beta_classes():
        scheduler = getattr(diffusers, name)()
        scheduler.save_pretrained(tmp_path / name)
        if name == "PNDMScheduler":
            with pytest.raises(InputError, match="has length zero"):
                diffusers_schedule(tmp_path / name, 10)
        elif name.startswith("CogVideoX"):
            with pytest.raises(InputError, match=r"`snr_shift_scale` must be 1 \("):
                diffusers_schedule(tmp_path / name, 10)
        else:
            saved = diffusers_schedule(tmp_path / name, 10)
            assert_same(diffusers_schedule({"_class_name": name}, 10), saved)


@pytest.mark.parametrize(
    ("config", "notes"),
    [
        ({"clip_sample": False}, ()),
        (
            {},
            ("clip_sample is on: each estimate of x_0 is clipped to [-1, 1], which is not linear",),
        ),
        (
            {"clip_sample_range": 2.5},
            (
                (
                    "clip_sample is on: each estimate of x_0 is clipped to [-2.5, 2.5], "
                    "which is not linear"
                ),
            ),
        ),
        (
            {"clip_sample": False, "thresholding": True},
            ("thresholding is on: each estimate of x_0 is thresholded, which is not linear",),
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
            (
                (
                    "EulerDiscreteScheduler is read as the DDIM teacher of the same betas and "
                    "timestep spacing; its own solver and noise are left out"
                ),
            ),
        ),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **LINEAR},
            (
                (
                    "alpha_T = 0.0683: samplers start from pure noise, the theory from a z_T that "
                    "keeps this much signal"
                ),
            ),
        ),
    ],
)
def test_notes_name_what_is_not_linear(config: dict[str, Any], notes: tuple[str, ...]) -> None:
    config = {"timestep_spacing": "trailing", **config}
    assert diffusers_schedule(config, 50).notes == notes


ARRAYS_REMEDY = "pass the alphas and sigmas of its steps as an .npz file"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"set_alpha_to_one": False},
            (
                "`scheduler config` must change the noise level in every step, and step 1 "
                '(timestep 0) has length zero; set "set_alpha_to_one": true or, with leading '
                'spacing, "steps_offset": 1'
            ),
        ),
        (
            {"timestep_spacing": "linspace", "set_alpha_to_one": False},
            (
                "`scheduler config` must change the noise level in every step, and step 1 "
                '(timestep 0) has length zero; set "set_alpha_to_one": true or, with leading '
                'spacing, "steps_offset": 1'
            ),
        ),
        (
            {"num_train_timesteps": 10, "trained_betas": [0.1] * 4 + [0.0] + [0.1] * 5},
            (
                "`scheduler config` must change the noise level in every step, and step 5 "
                "(timestep 4) has length zero; pass fewer steps, or betas > 0 that reach 1 at the "
                "last timestep only"
            ),
        ),
        (
            {"num_train_timesteps": 9},
            (
                "`num_steps` must be <= num_train_timesteps = 9 of the scheduler config, got 10; "
                "pass `num_steps=9` or fewer"
            ),
        ),
        (
            {"num_train_timesteps": 10, "steps_offset": 1},
            (
                "`steps_offset` must keep the timesteps of 10 steps below 10, got 1; "
                'pass fewer steps, or set "timestep_spacing": "trailing"'
            ),
        ),
        (
            {"steps_offset": -1},
            "`steps_offset` must be >= 0 and < num_train_timesteps, got -1",
        ),
        ({"steps_offset": 1.0}, "`steps_offset` must be a whole number, got 1.0"),
        ({"num_train_timesteps": 0}, "`num_train_timesteps` must be between 1 and 1000000, got 0"),
        (
            {"beta_schedule": "sigmoid"},
            "`beta_schedule` must be one of linear, scaled_linear, squaredcos_cap_v2, got sigmoid",
        ),
        ({"beta_schedule": None}, "`beta_schedule` must be a string, got None"),
        (
            {"timestep_spacing": "even"},
            "`timestep_spacing` must be one of leading, trailing, linspace, got even",
        ),
        ({"beta_end": 1.5}, "`beta_end` must be in [0, 1], got 1.5"),
        ({"beta_start": "a"}, "`beta_start` must be a finite number, got 'a'"),
        ({"clip_sample": 1}, "`clip_sample` must be true or false, got 1"),
        (
            {"trained_betas": [0.1, 0.2]},
            "`trained_betas` must have num_train_timesteps = 1000 entries, got 2",
        ),
        (
            {"trained_betas": [0.1] * 9 + [-0.1], "num_train_timesteps": 10},
            "`trained_betas[9]` must be in [0, 1], got -0.1",
        ),
        (
            {"trained_betas": [0.1, None]},
            "`trained_betas[1]` must be a finite number, got None",
        ),
        ({"trained_betas": "linear"}, "`trained_betas` must be a list of numbers, got 'linear'"),
        (
            {
                "trained_betas": [0.0] * 10,
                "num_train_timesteps": 10,
                "rescale_betas_zero_snr": True,
            },
            "`rescale_betas_zero_snr` must be false where the betas leave the signal unchanged",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000},
            (
                "`_class_name` must be a scheduler built on betas, not on flow matching, got "
                f"FlowMatchEulerDiscreteScheduler; {ARRAYS_REMEDY}"
            ),
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            f"`use_flow_sigmas` must be false, got true; {ARRAYS_REMEDY}",
        ),
        (
            {"prediction_type": "flow_prediction"},
            (
                "`prediction_type` must be epsilon, sample or v_prediction, none of flow matching, "
                f"got flow_prediction; {ARRAYS_REMEDY}"
            ),
        ),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002},
            "`_class_name` must be a scheduler built on betas, got EDMEulerScheduler; "
            f"{ARRAYS_REMEDY}",
        ),
        (
            {"_class_name": "CogVideoXDDIMScheduler", "beta_schedule": "scaled_linear"},
            f"`snr_shift_scale` must be 1 (shifted betas are not read), got 3.0; {ARRAYS_REMEDY}",
        ),
        ({"_class_name": 3}, "`_class_name` must be a string, got 3"),
        (
            {"sample_size": 32},
            "`scheduler config` must hold the keys of a diffusers scheduler, got ['sample_size']",
        ),
    ],
)
def test_scheduler_configs_refused(config: dict[str, Any], message: str) -> None:
    with raises(message):
        diffusers_schedule(config, 10)


def test_an_unknown_class_with_betas_is_read() -> None:
    schedule = diffusers_schedule({"_class_name": "MyScheduler", "beta_schedule": "linear"}, 10)
    assert schedule.notes[0].startswith("MyScheduler is read as the DDIM teacher")
