"""Checks on arguments: each returns the value in its checked form or raises InputError."""

from __future__ import annotations

import contextlib
import json
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError

_STORED_KEYS = ("name", "parameters", "alphas", "sigmas", "timesteps", "notes")
_VARIANCE_TOLERANCE = 1e-6


def check_count(key: str, value: object, remedy: str = "") -> int:
    """``value`` as a whole number >= 1, or ``InputError``."""
    number = check_whole(key, value)
    if number < 1:
        raise InputError(key, "must be >= 1", number, remedy)
    return number


def check_whole(key: str, value: object) -> int:
    """``value`` as a whole number, or ``InputError``."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InputError(key, "must be a whole number", repr(value))
    return operator.index(value)


def check_number(key: str, value: object) -> float:
    """``value`` as a finite float, or ``InputError``."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise InputError(key, "must be a finite number", repr(value))


def check_vector(key: str, values: object) -> NDArray[np.float64]:
    """A read-only copy in float64."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal length
        array = np.empty((), dtype=object)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise InputError(key, "must be a one-dimensional array of real numbers", repr(values))
    copy = array.astype(np.float64)
    copy.setflags(write=False)
    return copy


def check_coefficients(alphas: NDArray[np.float64], sigmas: NDArray[np.float64]) -> None:
    """Refuse coefficients that are no noise schedule: see ``NoiseSchedule``."""
    if len(alphas) != len(sigmas):
        raise InputError("sigmas", f"must have {len(alphas)} entries, as alphas has", len(sigmas))
    if len(alphas) < 2:
        raise InputError("alphas", "must have at least 2 entries (T + 1)", len(alphas))
    for key, values in (("alphas", alphas), ("sigmas", sigmas)):
        for index in np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[:1]:
            raise InputError(f"{key}[{index}]", "must be finite and >= 0", float(values[index]))
        for index in np.flatnonzero((values > 0) & ~((values > 1e-30) & (values < 1e30)))[:1]:
            raise InputError(
                f"{key}[{index}]", "must be 0 or between 1e-30 and 1e30", float(values[index])
            )
    falls = alphas[:-1] * sigmas[1:] - alphas[1:] * sigmas[:-1] > 0
    for t in np.flatnonzero(~falls)[:1] + 1:
        pairs = [f"{alphas[s]:.6g}/{sigmas[s]:.6g}" for s in (t - 1, t)]
        raise InputError(
            "alphas",
            f"must have alpha_t/sigma_t strictly falling with t, and t = {t} does not",
            " then ".join(pairs),
            "order the entries from data (index 0) to noise and give each state once",
        )


def check_timesteps(timesteps: Sequence[float] | None, num_steps: int) -> tuple[float, ...] | None:
    """One timestep a step, whole or not, rising or falling from the data side, or None."""
    if timesteps is None:
        return None
    is_whole = all(isinstance(value, (int, np.integer)) for value in timesteps)
    check = check_whole if is_whole else check_number
    values = tuple(check("timesteps", value) for value in timesteps)
    if len(values) != num_steps:
        raise InputError("timesteps", f"must have {num_steps} entries, one a step", len(values))
    if list(values) not in (sorted(values), sorted(values, reverse=True)):
        raise InputError("timesteps", "must rise or fall from the data side", values)
    return values


def check_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """A sequence of strings, as a tuple."""
    if isinstance(notes, str) or not all(isinstance(note, str) for note in notes):
        raise InputError("notes", "must be a sequence of strings", repr(notes))
    return tuple(notes)


def check_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of a mapping that holds JSON values only."""
    try:
        copy = json.loads(json.dumps(dict(parameters), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError("parameters", f"must hold JSON values only ({error})") from error
    return dict(copy)


def variance_notes(alphas: NDArray[np.float64], sigmas: NDArray[np.float64]) -> list[str]:
    """A note where ``alpha² + sigma²`` is not 1."""
    deviation = float(np.max(np.abs(alphas**2 + sigmas**2 - 1)))
    if deviation <= _VARIANCE_TOLERANCE:
        return []
    return [f"not variance preserving: alpha² + sigma² differs from 1 by up to {deviation:g}"]


def check_stored(data: object, num_steps: int) -> None:
    """Refuse what ``NoiseSchedule.from_dict`` cannot read, naming the place."""
    if not isinstance(data, Mapping):
        raise InputError("schedule", "must be an object", repr(data))
    for key in data:
        if key not in _STORED_KEYS:
            known = ", ".join(_STORED_KEYS)
            raise InputError("schedule", f"must have no keys but {known}", repr(key))
    if not isinstance(data.get("name"), str):
        raise InputError("schedule.name", "must be a string", repr(data.get("name")))
    if not isinstance(data.get("parameters", {}), Mapping):
        raise InputError("schedule.parameters", "must be an object", repr(data["parameters"]))
    for key in ("timesteps", "notes"):
        if key in data and "alphas" not in data:
            raise InputError(f"schedule.{key}", "must come with alphas and sigmas")
        if not isinstance(data.get(key, []), list):
            raise InputError(f"schedule.{key}", "must be a list", repr(data[key]))
    if "alphas" in data or "sigmas" in data:
        for key in ("alphas", "sigmas"):
            _check_numbers(f"schedule.{key}", data.get(key), num_steps + 1)


def _check_numbers(place: str, values: object, length: int) -> None:
    if not isinstance(values, list):
        raise InputError(place, "must be a list of numbers", repr(values))
    if len(values) != length:
        raise InputError(place, f"must have num_steps + 1 = {length} entries", len(values))
    for index, value in enumerate(values):
        check_number(f"{place}[{index}]", value)
