"""What the command line's ``--schedule`` names."""

from __future__ import annotations

import os
from typing import Any

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.files import expand_home
from opmerge.schedules.diffusers import diffusers_schedule, is_scheduler_config
from opmerge.schedules.files import read_arrays, read_json_object
from opmerge.schedules.noise import CONSTRUCTORS, NoiseSchedule, arrays_schedule, construct

_CHOICES = ", ".join(CONSTRUCTORS).replace("equal-angle", "equal-angle:EIGENVALUE")


def resolve_schedule(text: str, num_steps: int) -> NoiseSchedule:
    """The schedule that the command line's ``--schedule`` names.

    Args:
        text: ``cosine``, ``nichol-dhariwal``, ``linear``, ``scaled-linear`` or
            ``equal-angle:EIGENVALUE`` (hyphen and underscore alike); a diffusers
            ``scheduler_config.json`` or model folder; or a file of arrays with T + 1 entries
            each: ``.npz`` with ``alphas`` and ``sigmas``, ``.npy`` or ``.csv`` with alphas and
            sigmas as two rows or two columns (2 x 2 is read as rows; a CSV may begin with the
            line ``alphas,sigmas``), ``.json`` with ``alphas`` and ``sigmas`` or as stored in a
            plan.
        num_steps: T.

    Raises:
        InputError: if the text is neither a known name nor such a file.
    """
    num_steps = check_count("num_steps", num_steps, "pass `num_steps=64`")
    name, _, value = text.strip().partition(":")
    name = name.lower().replace("_", "-")
    if name in CONSTRUCTORS:
        return construct(name, _value_after_name(name, value), num_steps)
    path = expand_home(text)
    if not text.strip() or not os.path.exists(path):  # noqa: PTH110 - and for a long name
        raise InputError("schedule", f"must be one of {_CHOICES}, or an existing file", text)
    if path.is_dir():
        return diffusers_schedule(path, num_steps)
    if path.suffix == ".json":
        data = read_json_object(path)
        if is_scheduler_config(data):
            return diffusers_schedule(data, num_steps)
        return NoiseSchedule.from_dict({"name": "arrays", **data}, num_steps)
    schedule = arrays_schedule(*read_arrays(path))
    if schedule.num_steps != num_steps:
        raise InputError(
            str(path),
            f"must hold num_steps + 1 = {num_steps + 1} alphas and sigmas",
            schedule.num_steps + 1,
            f"pass `num_steps={schedule.num_steps}`",
        )
    return schedule


def _value_after_name(name: str, value: str) -> dict[str, Any]:
    if name != "equal-angle":
        if value:
            raise InputError("schedule", f"{name} takes no value", value, f"pass {name}")
        return {}
    try:
        return {"eigenvalue": float(value)}
    except ValueError:
        raise InputError(
            "schedule", "equal-angle must come with a number", repr(value), "pass equal-angle:2.0"
        ) from None
