"""Settings of a study from ``KEY=VALUE``, checked against the types of its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from opmerge.errors import InputError

__all__ = ["configure", "settings_named"]

_OPTION = re.compile(r"--(split|image_size|patch_size|stride|grey)( (?:all|\d+))?")


def configure(config: Any, settings: Sequence[str]) -> Any:
    """A configuration with settings replaced.

    Args:
        config: a dataclass.
        settings: each ``KEY=VALUE``: the key names a field, or ``part.field``; the value is JSON,
            or else text.

    Raises:
        InputError: if a key names no field, or a value does not suit it.
    """
    if not settings:
        return config
    values = asdict(config)
    for setting in settings:
        _set(values, setting)
    try:
        return TypeAdapter(type(config)).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise _input_error(error) from error


@contextmanager
def settings_named() -> Iterator[None]:
    """Lets what is refused inside name settings of a study, not options of other commands.

    ``--image_size 32`` is ``--set source_options.image_size=32``.
    """
    try:
        yield
    except InputError as error:
        error.args = (_OPTION.sub(_setting, str(error)),)
        raise


def _setting(option: re.Match[str]) -> str:
    value = option[2] or (" true" if option[1] == "grey" else "")
    return f"--set source_options.{option[1]}{value.replace(' ', '=')}"


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals:
        raise InputError("set", "must have the form KEY=VALUE", setting)
    *parts, name = key.split(".")
    for part in parts:
        values = _field(values, part)
        if not isinstance(values, dict):
            raise InputError("set", f"must not name a part of {part}", key)
    if isinstance(_field(values, name), dict):
        raise InputError("set", "must name a setting inside", key, f"such as {key}.NAME")
    try:
        values[name] = json.loads(text)
    except ValueError:
        values[name] = text


def _field(values: dict[str, Any], name: str) -> Any:
    if name not in values:
        raise InputError("set", f"must name one of {', '.join(values)}", name)
    return values[name]


def _input_error(error: ValidationError) -> InputError:
    """The first thing that is wrong, in our words."""
    first = error.errors(include_url=False)[0]
    own = first.get("ctx", {}).get("error")
    if isinstance(own, InputError):
        return own
    place = ".".join(str(part) for part in first["loc"])
    requirement = first["msg"].removeprefix("Input should be ")
    return InputError(place, f"must be {requirement}", json.dumps(first["input"]))
