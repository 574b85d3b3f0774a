"""Types of settings that several groups share: numbers in a range, lists in an order, choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from opmerge.errors import InputError

_Value = TypeVar("_Value")
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


def _distinct(values: _Values, info: ValidationInfo) -> _Values:
    if not values or len(set(values)) < len(values):
        raise InputError(str(info.field_name), "must be given, each of them once", values)
    return values


def _share(value: float, info: ValidationInfo) -> float:
    if not 0 <= value < 1:
        raise InputError(str(info.field_name), "must be in [0, 1)", value)
    return value


Count = Annotated[int, Field(ge=1)]
"""A whole number >= 1."""

TeacherSteps = Annotated[int, Field(ge=4)]
"""T of which named strategies differ: a whole number >= 4."""

Whole = Annotated[int, Field(ge=0)]
"""A whole number >= 0."""

Positive = Annotated[float, Field(gt=0)]
"""A finite number > 0."""

NonNegative = Annotated[float, Field(ge=0)]
"""A finite number >= 0."""

Share = Annotated[float, AfterValidator(_share)]
"""A share in [0, 1)."""

Ascending = AfterValidator(_ascending)
"""Of a tuple: at least one value, each larger than the one before."""

Ordered = AfterValidator(_ordered)
"""Of a tuple: each value larger than the one before, if there are any."""

NonEmpty = AfterValidator(_not_empty)
"""Of a tuple: at least one value."""

Distinct = Annotated[tuple[_Value, ...], AfterValidator(_distinct)]
"""At least one value, no two of them equal: ``Distinct[int]``."""

Rising = Annotated[tuple[_Value, ...], Ascending]
"""At least one value, each larger than the one before: ``Rising[Count]``."""

Some = Annotated[tuple[_Value, ...], NonEmpty]
"""At least one value: ``Some[str]``."""

File = Annotated[Path, Field(strict=False)]
"""A file or folder, also as text."""

MergeRule = Literal["operator-copy", "denoiser-copy"]
"""Where a student starts: from its first child's operator, or from that child's denoiser."""

Objective = Literal["teacher", "data"]
"""What the student's output law is compared with: the teacher's, or the data's N(0, Λ)."""

Split = Literal["train", "validation", "test", "all"]
"""Of CelebA: the official partition, numbered 0, 1, 2 in its file, and all images."""

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
"""What a network predicts, by diffusers' names: ε, x_0, v = alpha ε - sigma x_0, or ε - x_0."""

ReconstructionLoss = Literal["ms-ssim", "mse"]
"""By what an autoencoder's images are compared with the originals."""
