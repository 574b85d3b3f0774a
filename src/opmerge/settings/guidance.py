"""Settings of classifier-free guidance."""

from __future__ import annotations

import re
from typing import Annotated

from opmerge.errors import InputError
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, must

_NUMBER = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?")

GuidanceScale = Annotated[
    str, must("be a number >= 0", lambda text: _NUMBER.fullmatch(text) is not None)
]


class GuidanceOptions(Settings):
    """Classifier-free guidance of the teacher; its students need none."""

    panel = "Guidance"

    guidance_scale: GuidanceScale | None = option(
        None,
        "w: the teacher's output is null + w (told - null), at two evaluations a step.",
        metavar="W",
        shown="the plan's or the student's, or 1: no guidance",
    )
    guidance_interval: tuple[Count, ...] | None = option(
        None,
        "The first and last of the teacher's steps 1 … T, from the data on, at which it is guided, "
        "such as 4,24.",
        shown="all steps",
    )

    @property
    def scale(self) -> float | None:
        """w, where it is given."""
        return None if self.guidance_scale is None else float(self.guidance_scale)

    def steps(self, num_steps: int) -> range:
        """The steps of a teacher of T at which guidance is on; none without a scale, or with 1.

        Raises:
            InputError: if there are no such steps, or no scale beside an interval.
        """
        interval = self.guidance_interval or (1, num_steps)
        if len(interval) != 2 or not interval[0] <= interval[1] <= num_steps:
            requirement = f"must be the first and last of steps within 1 … {num_steps}"
            raise InputError("guidance_interval", requirement, interval)
        if self.guidance_interval is not None and self.scale is None:
            raise InputError("guidance_interval", "must come with guidance_scale", interval)
        is_off = self.scale is None or self.scale == 1
        return range(0) if is_off else range(interval[0], interval[1] + 1)
