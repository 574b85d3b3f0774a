"""Types of settings that several groups share: numbers in a range, lists in an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from opmerge.errors import InputError

__all__ = [
    "Ascending",
    "Count",
    "NonEmpty",
    "NonNegative",
    "Ordered",
    "Positive",
    "Share",
    "TeacherSteps",
]

_Values = TypeVar("_Values", bound=Sequence[Any])


def _ascending(values: _Values, info: ValidationInfo) -> _Values:
    if not values or list(values) != sorted(set(values)):
        raise InputError(str(info.field_name), "must ascend and not be empty", repr(values))
    return values


def _ordered(values: _Values, info: ValidationInfo) -> _Values:
    if list(values) != sorted(set(values)):
        raise InputError(str(info.field_name), "must ascend", repr(values))
    return values


def _not_empty(values: _Values, info: ValidationInfo) -> _Values:
    if not values:
        raise InputError(str(info.field_name), "must not be empty")
    return values


Count = Annotated[int, Field(ge=1)]
"""A whole number >= 1."""

TeacherSteps = Annotated[int, Field(ge=4)]
"""T of which named strategies differ: a whole number >= 4."""

Positive = Annotated[float, Field(gt=0)]
"""A finite number > 0."""

NonNegative = Annotated[float, Field(ge=0)]
"""A finite number >= 0."""

Share = Annotated[float, Field(ge=0, lt=1)]
"""A share in [0, 1)."""

Ascending = AfterValidator(_ascending)
"""Of a tuple: at least one value, each larger than the one before."""

Ordered = AfterValidator(_ordered)
"""Of a tuple: each value larger than the one before, if there are any."""

NonEmpty = AfterValidator(_not_empty)
"""Of a tuple: at least one value."""
