"""Types of settings that several groups share: numbers in a range, lists in an order, choices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from opmerge.errors import InputError

_Value = TypeVar("_Value")


def must(requirement: str, holds: Callable[[Any], bool]) -> AfterValidator:
    """A check of a value, which is refused by the name of its field."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if not holds(value):
            shown = str(value) if isinstance(value, Path) else value
            raise InputError(str(info.field_name), f"must {requirement}", shown)
        return value

    return AfterValidator(check)


def _ascend(values: Any) -> bool:
    return list(values) == sorted(set(values))


Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, must("be in [0, 1)", lambda value: 0 <= value < 1)]

TeacherSteps = Annotated[int, Field(ge=4)]
"""T of which named strategies differ."""

# Of a tuple, whose length is free otherwise.
Ascending = must("ascend and not be empty", lambda values: bool(values) and _ascend(values))
Ordered = must("ascend", _ascend)
NonEmpty = must("not be empty", bool)

Distinct = Annotated[
    tuple[_Value, ...],
    must("be given, each of them once", lambda values: 0 < len(values) == len(set(values))),
]
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
