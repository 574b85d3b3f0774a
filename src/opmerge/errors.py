"""The one error class for bad input: argument, requirement, value, remedy in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

_MAX_VALUE_LENGTH = 80
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NAMED = re.compile(r"`(\w+)(?:=([^`]*))?`")


class InputError(ValueError):
    """Input that the package refuses.

    The message is one line, "`argument` requirement, got value; remedy", so that a
    program can show it as it is:

    >>> raise InputError("num_steps", "must be >= 1", 0, "pass `num_steps=64`")
    Traceback (most recent call last):
        ...
    opmerge.errors.InputError: `num_steps` must be >= 1, got 0; pass `num_steps=64`

    Args:
        argument: name of the argument (or file) at fault.
        requirement: what it must satisfy, beginning with a verb ("must be >= 1").
        value: what was given; shortened in the message when long. ``None`` leaves it out.
        remedy: what to do about it, where that is not obvious. Arguments stand in backquotes as
            in Python, and ``in_words`` names them to those who type something else.
    """

    def __init__(
        self, argument: str, requirement: str, value: object = None, remedy: str = ""
    ) -> None:
        self.argument = argument
        self._parts = (argument, requirement, value, remedy)
        got = "" if value is None else f", got {_shorten(value)}"
        text = f"`{argument}` {requirement}{got}{remedy and f'; {remedy}'}"
        super().__init__(printable(" ".join(text.split())))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts  # so that it comes back from another process

    def in_words(
        self, words: Callable[[str, str | None], str | None], names: Mapping[str, str] | None = None
    ) -> InputError:
        """The error with its argument, and those of its remedy, in other words.

        >>> error = InputError("n", "must be >= 1", 0, "pass `n=2`")
        >>> str(error.in_words(lambda name, value: f"--{name} {value}"))
        '`n` must be >= 1, got 0; pass --n 2'

        Args:
            words: what to call an argument, from its name and the value that Python would be
                given, if one is told; ``None`` leaves it as it is.
            names: of arguments at fault that are called otherwise.
        """
        argument, requirement, value, remedy = self._parts
        told = _NAMED.sub(lambda found: words(found[1], found[2]) or found[0], remedy)
        return type(self)((names or {}).get(argument, argument), requirement, value, told)


def printable(text: str) -> str:
    """The text with an escape for what moves a terminal or has no place in UTF-8.

    A file's name may have both: line feeds, and bytes that are no text.

    >>> printable("a\\x1b[2J\\udcff")
    'a\\\\x1b[2J\\\\udcff'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def not_installed(argument: str, package: str | None, extra: str = "torch") -> InputError:
    """What needs a package that this environment lacks, and the extra that brings it."""
    requirement = f"needs the package {package}, which is not installed"
    return InputError(argument, requirement, remedy=f"pip install 'opmerge[{extra}]'")


def _shorten(value: object) -> str:
    try:
        text = os.fspath(value) if isinstance(value, str | PurePath) else repr(value)
    except RecursionError:
        text = "what is nested too deep"
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"
