"""Scheduler configs as models hold them, with what the pipeline around one does with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opmerge.errors import InputError
from opmerge.files import expand_home, read_json_object

SIGMAS_FROM_STEPS = "sigmas_from_steps"
"""A key of ours beside diffusers': the scheduler is told the sigmas 1, …, 1/T, before any shift."""

_KEYS = {"_class_name", "beta_schedule", "beta_start", "beta_end", "trained_betas", "clip_sample"}
_KEYS |= {"num_train_timesteps", "prediction_type", "timestep_spacing", "steps_offset"}
_KEYS |= {"set_alpha_to_one", "rescale_betas_zero_snr", "thresholding"}
# Pipelines of diffusers whose call names these sigmas; others leave levels to the scheduler.
_NAME_SIGMAS = re.compile(
    "Bria|Chroma|DreamLite|Flux|Hunyuan(Image|Video|Skyreels)|Krea|LongCatImage|Lumina2|MotifVideo|"
    "NucleusMoE|OmniGen|OvisImage|QwenImage|VisualClozeGeneration|LTX2?(ImageToVideo)?Pipeline"
)


def find_scheduler_config(source: str | os.PathLike[str]) -> Path:
    """The scheduler config at a path, or in a folder or its ``scheduler/``, or ``InputError``.

    Where both have one it is that which diffusers reads, in ``scheduler/``.
    """
    path = expand_home(source)
    if not path.is_dir():
        return path
    for place in (path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json"):
        if place.is_file():
            return place
    requirement = "must hold scheduler_config.json or scheduler/scheduler_config.json"
    raise InputError(str(path), requirement, remedy="pass the folder of a saved diffusers model")


def read_scheduler_config(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The scheduler config at a path or in a folder, with ``SIGMAS_FROM_STEPS`` where the pipeline
    that the folder is of names them, or ``InputError``."""
    config = dict(read_json_object(find_scheduler_config(source)))
    index = expand_home(source) / "model_index.json"
    name = read_json_object(index).get("_class_name") if index.is_file() else None
    if isinstance(name, str) and _NAME_SIGMAS.match(name):
        config.setdefault(SIGMAS_FROM_STEPS, True)
    return config


def is_scheduler_config(data: Mapping[str, Any]) -> bool:
    """Whether a mapping names a scheduler class or any key of one that concerns the schedule."""
    return not _KEYS.isdisjoint(data)
