"""Types of settings that several groups share: numbers in a range, lists in an order, choices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

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
AtLeastTwo = Annotated[int, Field(ge=2)]
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


def _named(value: object, info: ValidationInfo) -> object:
    """Nothing, as of a shell's variable that is not set, is not the current folder."""
    if value == "":
        raise InputError(str(info.field_name), "must be a file or folder", "nothing")
    return value


File = Annotated[Path, BeforeValidator(_named), Field(strict=False)]
"""A file or folder, also as text."""

_AMOUNT = re.compile(r"(\d+\.?\d*(?:[eE]\+?\d+)?) ?(|it|s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST = 1e18  # of a budget, in any unit


def read_budget(text: str) -> tuple[float, str]:
    """The amount of a budget and its unit: evaluations, iterations or seconds; 0 if it is none.

    >>> read_budget("3e9"), read_budget("5000it"), read_budget("1.5h")
    ((3000000000.0, 'evaluations'), (5000.0, 'iterations'), (5400.0, 'seconds'))
    """
    parts = _AMOUNT.fullmatch(text)
    if parts is None:
        return 0.0, "evaluations"
    if parts[2] in _SECONDS:
        return float(parts[1]) * _SECONDS[parts[2]], "seconds"
    return float(parts[1]), "iterations" if parts[2] else "evaluations"


def read_split(text: str) -> float:
    """The exponent p of a split N ∝ length^p: 0 for ``even``, 1.75 for ``length``; NaN for none.

    >>> read_split("even"), read_split("length"), read_split("length:2.5")
    (0.0, 1.75, 2.5)
    """
    parts = re.fullmatch(r"even|length(?::(\d+\.?\d*))?", text)
    if parts is None:
        return math.nan
    return 0.0 if text == "even" else float(parts[1] or 1.75)


def _as_text(value: object) -> object:
    """A number as text, which the units of a budget need."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


Budget = Annotated[
    str,
    BeforeValidator(_as_text),
    must(
        "be above 0 and at most 1e18, in network evaluations (3e9), iterations (5000it) or time "
        "(90m, 20h, 2d)",
        lambda text: 0 < read_budget(text)[0] <= _MOST,
    ),
]
BudgetSplit = Annotated[
    str,
    must("be even, length or length:p, p from 0 to 10", lambda text: 0 <= read_split(text) <= 10),
]

GRADIENT_FLOW = Path("gradient-flow")
"""In place of a file of a training model: the linear theory's own."""

MergeRule = Literal["operator-copy", "denoiser-copy"]
"""Where a student starts: from its first child's operator, or from that child's denoiser."""

DEFAULT_MERGE_RULE: MergeRule = "denoiser-copy"
"""What copying a network's weights does, so that plans are made for the merges that are trained."""

Objective = Literal["teacher", "data"]
"""What the student's output law is compared with: the teacher's, or the data's N(0, Λ)."""

Split = Literal["train", "validation", "test", "all"]
"""Of CelebA: the official partition, numbered 0, 1, 2 in its file, and all images."""

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
"""What a network predicts, by diffusers' names: ε, x_0, v = alpha ε - sigma x_0, or ε - x_0."""

ReconstructionLoss = Literal["ms-ssim", "mse"]
"""By what an autoencoder's images are compared with the originals."""
