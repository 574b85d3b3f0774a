"""The one error class for bad input: argument, requirement, value, remedy in one line."""

from __future__ import annotations

__all__ = ["InputError"]

_MAX_VALUE_LENGTH = 80


class InputError(ValueError):
    """Input that the package refuses.

    The message is one line, "`argument` requirement, got value; remedy", so that a
    program can show it as it is:

    >>> raise InputError("num_steps", "must be >= 1", 0, "pass --steps 64")
    Traceback (most recent call last):
        ...
    opmerge.errors.InputError: `num_steps` must be >= 1, got 0; pass --steps 64

    Args:
        argument: name of the argument (or file) at fault.
        requirement: what it must satisfy, beginning with a verb ("must be >= 1").
        value: what was given; shortened in the message when long. ``None`` leaves it out.
        remedy: what to do about it, where that is not obvious.
    """

    def __init__(
        self, argument: str, requirement: str, value: object = None, remedy: str = ""
    ) -> None:
        self.argument = argument
        text = f"`{argument}` {requirement}"
        if value is not None:
            text += f", got {_shorten(value)}"
        if remedy:
            text += f"; {remedy}"
        super().__init__(" ".join(text.split()))


def _shorten(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"
