"""Settings of classifier-free guidance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from opmerge.errors import InputError
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, must

_NUMBER = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?")

Scale = float | tuple[float, float]
"""w, or the least and the largest of a range from which each sample has its own."""


def _is_scale(text: str) -> bool:
    numbers = text.split(",")
    if not all(_NUMBER.fullmatch(number) for number in numbers):
        return False
    return len(numbers) == 1 or (len(numbers) == 2 and float(numbers[0]) <= float(numbers[1]))


GuidanceScale = Annotated[str, must("be a number >= 0, or two, the smaller first", _is_scale)]


class GuidanceOptions(Settings):
    """Classifier-free guidance of the teacher; its students need none."""

    panel = "Guidance"

    guidance_scale: GuidanceScale | None = option(
        None,
        "w: the teacher's output is null + w (told - null), at two evaluations a step. Of distill "
        "also W_MIN,W_MAX: the student is told one between them, as those of latent consistency "
        "are (UNets that read texts).",
        metavar="W|W_MIN,W_MAX",
        shown="the plan's or the student's, or 1: no guidance",
    )
    guidance_interval: tuple[Count, ...] | None = option(
        None,
        "The first and last of the teacher's steps 1 … T, from the data on, at which it is guided, "
        "such as 4,24.",
        shown="all steps",
        rare=True,
    )

    negative_prompt: str = option(
        "",
        "What is not to be shown, of teachers that read texts: told in the place of nothing.",
        metavar="TEXT",
        rare=True,
    )

    @property
    def scale(self) -> Scale | None:
        """w, where it is given."""
        return None if self.guidance_scale is None else _scale(self.guidance_scale.split(","))

    def check_one(self) -> None:
        """Refuse a range of scales where what is measured is of one (``InputError``)."""
        if isinstance(self.scale, tuple):
            requirement = "must be one number: what is measured and planned here is of one scale"
            remedy = "take one of the range, and the range in `distill`"
            raise InputError("guidance_scale", requirement, self.guidance_scale, remedy)

    def steps(self, num_steps: int) -> range:
        """The steps of a teacher of T at which guidance is on; none without a scale, or with 1.

        Raises:
            InputError: if there are no such steps, or no scale beside an interval.
        """
        interval = self.guidance_interval or (1, num_steps)
        if len(interval) != 2 or not interval[0] <= interval[1] <= num_steps:
            requirement = f"must be the first and last of steps within 1 … {num_steps}"
            raise InputError("guidance_interval", requirement, interval)
        beside = {"guidance_interval": interval, "negative_prompt": self.negative_prompt}
        for name in beside.keys() & self.model_fields_set if self.scale is None else ():
            raise InputError(name, "must come with guidance_scale", beside[name])
        is_off = self.scale is None or self.scale == 1
        return range(0) if is_off else range(interval[0], interval[1] + 1)

    def record(self, num_steps: int) -> GuidanceRecord:
        """What files say of it, of a teacher of T steps; the scale 1 is no guidance."""
        steps = self.steps(num_steps)
        return guidance_record(self.scale or 0.0, steps, self.negative_prompt)

    def agreed(self, recorded: GuidanceRecord, num_steps: int, whose: str) -> Self:
        """The guidance of what was made for one, where none is asked for.

        Args:
            recorded: with which it was made.
            num_steps: T.
            whose: what was made, such as ``the plan's``.

        Raises:
            InputError: if another one is asked for.
        """
        if self.guidance_scale is None:
            self.steps(num_steps)
            return self.of_record(recorded)
        asked = self.record(num_steps)
        if asked != recorded and not _holds(asked, recorded):
            requirement = f"must be {in_words(recorded)}, as {whose}"
            raise InputError("guidance_scale", requirement, in_words(asked))
        return self

    @classmethod
    def of_record(cls, recorded: GuidanceRecord) -> Self:
        """The options that give a record."""
        if not recorded:
            return cls()
        first, last = recorded["interval"]
        scale = recorded["scale"]
        return cls(
            guidance_scale=",".join(map(repr, scale if isinstance(scale, list) else [scale])),
            guidance_interval=(first, last),
            negative_prompt=recorded.get("negative_prompt", ""),
        )


GuidanceRecord = Mapping[str, Any]
"""``scale`` w, or two in a list, and ``interval``, the first and last step of a teacher's guidance,
and ``negative_prompt``, if there is one; empty where there is none."""


def guidance_record(scale: Scale, steps: range, negative_prompt: str = "") -> GuidanceRecord:
    """The record of guidance of a scale at these steps."""
    if not steps:
        return {}
    known = list(scale) if isinstance(scale, tuple) else float(scale)
    record: dict[str, Any] = {"scale": known, "interval": [steps.start, steps.stop - 1]}
    return {**record, **({"negative_prompt": negative_prompt} if negative_prompt else {})}


def check_guidance_record(record: Any, num_steps: int, place: str) -> GuidanceRecord:
    """A record as it is read from a file, or ``InputError`` with its place."""
    requirement = "must be an object with scale and interval"
    known = {"interval", "scale", "negative_prompt"}
    if not isinstance(record, dict) or not {"interval", "scale"} <= set(record) <= known:
        raise InputError(place, requirement, repr(record))
    interval, scale = record["interval"], record["scale"]
    negative_prompt = record.get("negative_prompt", "")
    if not isinstance(negative_prompt, str):
        raise InputError(f"{place}.negative_prompt", "must be a text", repr(negative_prompt))
    numbers = scale if isinstance(scale, list) and len(scale) == 2 else [scale]
    if any(type(each) not in (int, float) or not 0 <= each < float("inf") for each in numbers):
        raise InputError(f"{place}.scale", "must be a number >= 0 and finite, or two", repr(scale))
    is_pair = isinstance(interval, list) and [type(each) for each in interval] == [int, int]
    if not is_pair or not 1 <= interval[0] <= interval[1] <= num_steps:
        requirement = f"must be the first and last of steps within 1 … {num_steps}"
        raise InputError(f"{place}.interval", requirement, repr(interval))
    return guidance_record(_scale(numbers), range(interval[0], interval[1] + 1), negative_prompt)


def _scale(numbers: Sequence[float | str]) -> Scale:
    scales = tuple(map(float, numbers))
    return scales if len(scales) == 2 else scales[0]


def _holds(asked: GuidanceRecord, recorded: GuidanceRecord) -> bool:
    """Whether guidance of a range is asked for that has the recorded scale in it, else alike."""
    scales = asked.get("scale"), recorded.get("scale")
    if not isinstance(scales[0], list) or not isinstance(scales[1], float):
        return False
    return scales[0][0] <= scales[1] <= scales[0][1] and {**asked, "scale": 0} == {
        **recorded,
        "scale": 0,
    }


def in_words(record: GuidanceRecord) -> str:
    """A record in the words of the options."""
    if not record:
        return "1"
    scale = record["scale"]
    scales = ",".join(f"{each:g}" for each in (scale if isinstance(scale, list) else [scale]))
    words = "{} at its steps {} to {}".format(scales, *record["interval"])
    prompt = record.get("negative_prompt")
    return f"{words}, away from {prompt!r}" if prompt else words
