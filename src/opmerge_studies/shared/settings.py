"""Settings of a study from ``KEY=VALUE``, checked checked by its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from opmerge.errors import InputError
from opmerge.settings.base import Settings

__all__ = ["configure", "settings_named"]

SomeSettings = TypeVar("SomeSettings", bound=Settings)

_OPTION = re.compile(r"--(split|image_size|patch_size|stride|grey)( (?:all|\d+))?")


def configure(settings: SomeSettings, changes: Sequence[str]) -> SomeSettings:
    """Settings with some of them changed.

    Args:
        settings: of a study.
        changes: each ``KEY=VALUE``: the key names a field, or ``part.field``; the value is JSON,
            or else text.

    Raises:
        InputError: if a key names no field, or a value does not suit it.
    """
    if not changes:
        return settings
    values = settings.model_dump(mode="json")
    for change in changes:
        _set(values, change)
    return settings.with_json(values)


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
