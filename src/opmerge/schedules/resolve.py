"""What the command line's ``--schedule`` names: a schedule, a diffusers model, a file of arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from opmerge.data.tables import read_table
from opmerge.errors import InputError
from opmerge.files import expand_home, load_arrays, read_json_object
from opmerge.schedules.configs import is_scheduler_config
from opmerge.schedules.diffusers import diffusers_schedule
from opmerge.schedules.hub import hub_scheduler_config, is_hub_name
from opmerge.schedules.noise import CONSTRUCTORS, NoiseSchedule, arrays_schedule, construct

_KEYS = ("alphas", "sigmas")
_SUFFIXES = (".json", ".npz", ".npy", ".csv", ".tsv")
_CHOICES = ", ".join(CONSTRUCTORS).replace("equal-angle", "equal-angle:EIGENVALUE")


def resolve_schedule(text: str, num_steps: int) -> NoiseSchedule:
    """The schedule of T steps that the command line's ``--schedule`` names.

    Args:
        text: ``cosine``, ``nichol-dhariwal``, ``linear``, ``scaled-linear`` or
            ``equal-angle:EIGENVALUE`` (hyphen and underscore alike); a diffusers
            ``scheduler_config.json`` or model folder, or a model of the Hugging Face hub
            (``OWNER/NAME``), of which that file is downloaded; or a file of arrays with T + 1
            entries each: ``.npz`` with ``alphas`` and ``sigmas``, ``.npy``, ``.csv`` or ``.tsv``
            with alphas and sigmas as two rows or two columns (2 x 2 is read as rows; a table may
            begin with the line ``alphas,sigmas``), ``.json`` with ``alphas`` and ``sigmas`` or as
            stored in a plan.
        num_steps: T.

    Raises:
        InputError: if the text is neither a known name nor such a file.
    """
    name, _, value = text.strip().partition(":")
    name = name.lower().replace("_", "-")
    if name in CONSTRUCTORS:
        return construct(name, _value_after_name(name, value), num_steps)
    path = expand_home(text)
    if not text.strip() or not os.path.exists(path):  # noqa: PTH110 - and for a long name
        if is_hub_name(text) and path.suffix.lower() not in _SUFFIXES:
            return diffusers_schedule(hub_scheduler_config(text), num_steps)
        raise InputError("schedule", f"must be one of {_CHOICES}, or an existing file", text)
    if path.is_dir():
        return diffusers_schedule(path, num_steps)
    if path.suffix.lower() == ".json":
        data = read_json_object(path)
        if is_scheduler_config(data):
            return diffusers_schedule(data, num_steps)
        return NoiseSchedule.from_dict({"name": "arrays", **data}, num_steps)
    schedule = arrays_schedule(*_read_arrays(path))
    if schedule.num_steps != num_steps:
        requirement = f"must hold num_steps + 1 = {num_steps + 1} alphas and sigmas"
        remedy = f"pass `num_steps={schedule.num_steps}`"
        raise InputError(str(path), requirement, schedule.num_steps + 1, remedy)
    return schedule


def _value_after_name(name: str, value: str) -> dict[str, Any]:
    if name != "equal-angle":
        if value:
            raise InputError("schedule", f"{name} takes no value", value, f"pass {name}")
        return {}
    try:
        return {"eigenvalue": float(value)}
    except ValueError:
        requirement = "equal-angle must come with a number"
        raise InputError("schedule", requirement, repr(value), "pass equal-angle:2.0") from None


def _read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Alphas and sigmas as a file holds them."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES[1:]:
        raise InputError(str(path), "must be a folder or a .json, .npz, .npy, .csv or .tsv file")
    if suffix in (".csv", ".tsv"):
        return _read_csv(path)
    try:
        stored = load_arrays(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(str(path), f"must hold arrays of numbers ({error})") from error
    if not isinstance(stored, dict):
        return _two_of(path, stored)
    for key in _KEYS:
        if key not in stored:
            raise InputError(str(path), f"must hold the array {key}", list(stored))
    return stored["alphas"], stored["sigmas"]


def _two_of(path: Path, table: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if table.ndim == 2 and 2 in table.shape:
        alphas, sigmas = table if len(table) == 2 else table.T
        return alphas, sigmas
    requirement = "must hold two rows or two columns, alphas and sigmas"
    raise InputError(str(path), requirement, f"shape {table.shape}")


def _read_csv(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    table = read_table(path)
    names = [name.lower() for name in table.names or ()]
    if set(_KEYS) <= set(names):
        alphas, sigmas = (table.values[:, names.index(key)] for key in _KEYS)
        return alphas, sigmas
    return _two_of(path, table.values)
