"""Settings of a study from ``KEY=VALUE``, checked by their type."""

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

_OPTION = re.compile(r"--(split|image_size|patch_size|stride|grey)( (?:all|true|\d+))?")


def configure(settings: SomeSettings, changes: Sequence[str]) -> SomeSettings:
    """Settings with some of them changed.

    Args:
        settings: of a study.
        changes: each ``KEY=VALUE``: the key names a field, or ``part.field``; the value is JSON,
            or else text.

    Raises:
        InputError: if a key names no field, or a value does not suit it.
    """
    values = settings.model_dump(mode="json")
    for change in changes:
        _change(values, change)
    return settings.with_json(values) if changes else settings


@contextmanager
def settings_named() -> Iterator[None]:
    """Lets what is refused inside name settings of a study, not options of other commands.

    ``--image_size 32`` is ``--set source_options.image_size=32``.
    """
    try:
        yield
    except InputError as error:
        text = str(error).replace("--grey", "--grey true")
        error.args = (_OPTION.sub(_setting, text),)
        raise


def _setting(option: re.Match[str]) -> str:
    return f"--set source_options.{option[1]}{(option[2] or '').replace(' ', '=')}"


def _change(values: Any, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise InputError("set", "must have the form KEY=VALUE", change)
    name, group = "", {"": values}
    for part in key.split("."):
        if not isinstance(group[name], dict):
            raise InputError("set", f"must not name a part of {name}", key)
        name, group = part, group[name]
        if name not in group:
            raise InputError("set", f"must name one of {', '.join(group)}", name)
    if isinstance(group[name], dict):
        raise InputError("set", "must name a setting inside", key, f"such as {key}.NAME")
    try:
        group[name] = json.loads(text)
    except ValueError:
        group[name] = text
