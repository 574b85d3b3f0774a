"""What is looked at: the settings of a view, and the address that they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlencode

from pydantic import Field

from opmerge.forecast import DEFAULT_PRIOR
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Budget, Count, MergeRule, must, read_budget

RUN = "run"
"""In place of a schedule or a law: that of the run which the source is."""

MOST_STEPS = 1000

_NotOfTime = must(
    "be in network evaluations (3e9) or iterations (5000it): no machine was timed",
    lambda text: read_budget(text)[1] != "seconds",
)


Group = TypeVar("Group", bound=Settings)


class View(Settings):
    """A point of view: the problem, what forecasts it, and the plan where it is edited by hand."""

    source: str = option("digits", "Data, eigenvalues:λ, a file or folder, or the folder of a run.")
    steps: Annotated[int, Field(ge=2, le=MOST_STEPS)] = option(64, "T, the teacher's steps.")
    schedule: str = option("cosine", "A name, a file or a model's folder.")
    student_steps: Count = option(1, "K, the student's steps.")
    theory: Literal["law", "linear"] = option(
        "law", "The law of merges, for a budget; or the linear theory, for equal training."
    )
    law: str = option(DEFAULT_PRIOR, "A prior of a kind of network, or the file of a calibration.")
    budget: Annotated[Budget, _NotOfTime] = option("1e6", "Of all merges together.")
    merge_time: Annotated[float, Field(gt=0, le=1e6)] = option(6.4, "Optimisation time of a merge.")
    merge_rule: MergeRule = option("denoiser-copy", "Where a student starts.")
    plan: str = option("", "Nested lists: a plan by hand.")
    free_step: Annotated[int, Field(ge=0)] = option(
        0, "m, where a free step from T lands, and that plan starts; 0: none."
    )
    iterations: tuple[Count, ...] = option((), "Of its merges, in the order of execution.")

    @property
    def address(self) -> str:
        """The parameters that are not as by default, as an address ends in them."""
        told = {
            name: value
            for name, value in self.model_dump().items()
            if value != type(self).model_fields[name].default
        }
        if "iterations" in told:
            told["iterations"] = ",".join(map(str, told["iterations"]))
        return urlencode(told, safe=":,[]/")

    def without_plan(self) -> Self:
        """The same with the planner's own plan."""
        return self.replaced(plan="", free_step=0, iterations=())


def of_address(group: type[Group], query: Mapping[str, str]) -> Group:
    """Settings from an address' parameters; empty ones, and those of others, are left out.

    Raises:
        InputError: naming the parameter that is out of range.
    """
    told = {}
    for name, field in group.model_fields.items():
        if text := query.get(name, "").strip():
            told[name] = _value(text, field.default)
    return group(**told)


def _value(text: str, default: Any) -> Any:
    """A text as a value of the default's type; as it is where it is none, to be refused."""
    if isinstance(default, tuple):
        return tuple(_value(part, 0) for part in re.split("[,-]", text))
    try:
        return type(default)(text) if isinstance(default, int | float) else text
    except ValueError:
        return text
