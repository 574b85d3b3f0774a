"""Checks on arguments: each returns the value in its checked form or raises InputError."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence

import numpy as np

from opmerge.arrays import Array
from opmerge.errors import InputError

LONGEST = 100_000
"""Steps of a sampler at most: the longest in use have 8,192, and plans have as many merges."""


def check_count(key: str, value: object, remedy: str = "") -> int:
    """``value`` as a whole number >= 1, or ``InputError``."""
    number = check_whole(key, value)
    if number < 1:
        raise InputError(key, "must be >= 1", number, remedy)
    return number


def check_steps(key: str, value: object, remedy: str = "") -> int:
    """``value`` as the number of steps of a sampler, 1 … 100,000, or ``InputError``."""
    if check_count(key, value, remedy) > LONGEST:
        raise InputError(key, f"must be at most {LONGEST:,} steps", value)
    return operator.index(value)  # type: ignore[arg-type]  # it is a whole number


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


def check_vector(key: str, values: object) -> Array:
    """A read-only copy in float64."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal length
        array = np.empty((), dtype=object)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise InputError(key, "must be a one-dimensional array of real numbers", repr(values))
    with np.errstate(invalid="ignore", over="ignore"):  # of wider numbers: finite is not asked here
        copy = array.astype(np.float64)
    copy.setflags(write=False)
    return copy


def check_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """A sequence of strings, as a tuple."""
    if isinstance(notes, str) or not all(isinstance(note, str) for note in notes):
        raise InputError("notes", "must be a sequence of strings", repr(notes))
    return tuple(notes)
