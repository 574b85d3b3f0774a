"""What every group of settings is: frozen, checked when built, and refused in one line."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from opmerge.errors import InputError

# What pydantic refuses, in our words; the last by the first word of pydantic's name for it.
_WITHOUT_VALUE = {
    "extra_forbidden": "must be left out: there is no such setting",
    "missing": "must be given",
}
_BOUNDS = {
    "greater_than": ">",
    "greater_than_equal": ">=",
    "less_than": "<",
    "less_than_equal": "<=",
}
_EXACT = 2**53  # whole numbers up to here are numbers of float64
_KINDS = {"int": "a whole number", "float": "a finite number", "bool": "true or false"}


def option(
    default: Any, description: str, panel: str = "", *, rare: bool = False, **shown: str
) -> Any:
    """A setting: one line that Python, the command line, files and the reference read.

    The command line shows it in its group's panel, unless another is named, and one that is
    ``rare`` with ``--help --all`` alone; ``shown`` holds what else is not as usual there: its
    ``name`` and ``metavar``, and what is ``shown`` for its default.
    """
    extra: dict[str, Any] = {"panel": panel, "rare": rare, **shown}
    return Field(default, description=description, json_schema_extra=extra)


def argument(metavar: str, description: str, default: Any = ...) -> Any:
    """A setting that the command line takes by its place, without a name."""
    return option(default, description, "Arguments", metavar=metavar)


class Settings(BaseModel):
    """A group of settings: each field has its type, range, default and help, and no other place.

    Subclasses may check what concerns several fields in a ``model_validator(mode="after")`` that
    raises ``InputError``. A field's ``description`` is its help on the command line.

    Raises:
        InputError: naming the field that is out of range, with what it must be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    panel: ClassVar[str] = "Options"
    """Heading under which the command line shows the fields that this class adds."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**{key: _plain(value) for key, value in values.items()})
        except ValidationError as error:
            raise refusal(error) from None

    @field_validator("*", mode="wrap")
    @classmethod
    def _as_given(cls, value: Any, check: Any) -> Any:
        """A whole number stays one where any number may stand, so that JSON and digests do too; but
        for one that float64 rounds, which JSON would."""
        checked, is_exact = check(value), type(value) is int and abs(value) <= _EXACT
        return value if is_exact and type(checked) is float else checked

    def given(self, name: str, otherwise: Any = None) -> Any:
        """The value of a field if it was given, and not left to its default."""
        return getattr(self, name) if name in self.model_fields_set else otherwise

    def replaced(self, **values: Any) -> Self:
        """The same settings but for these, checked again."""
        given = {key: getattr(self, key) for key in self.model_fields_set}
        return type(self)(**{**given, **values})

    def with_json(self, values: dict[str, Any]) -> Self:
        """Settings of this type from JSON values: lists stand for tuples."""
        try:
            return type(self).model_validate_json(json.dumps(values))
        except ValidationError as error:
            raise refusal(error) from None


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, lists as tuples: what callers rightly expect to pass."""
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def refusal(error: ValidationError) -> InputError:
    """The first thing that is wrong, in our words."""
    errors = error.errors(include_url=False)
    alike = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    first = max(alike, key=lambda one: len(one["loc"]))  # of several types, the nearest
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    if isinstance(context.get("error"), InputError):
        return _inside(context["error"], first["loc"])
    place = ".".join(str(part) for part in first["loc"] if not _is_type(part))
    if kind in _WITHOUT_VALUE:
        return InputError(place, _WITHOUT_VALUE[kind])
    if kind in _BOUNDS:
        requirement = f"{_BOUNDS[kind]} {next(iter(context.values())):g}"
    elif kind == "literal_error":
        requirement = f"one of {context['expected'].replace(' or ', ', ')}".replace("'", "")
    else:
        pydantics = first["msg"].removeprefix("Input should be ").replace("valid string", "string")
        requirement = _KINDS.get(kind.split("_")[0], pydantics)
    shown = value if isinstance(value, str) else repr(value)
    return InputError(place, f"must be {requirement}", shown)


def _inside(error: InputError, place: tuple[int | str, ...]) -> InputError:
    """What a group inside a group refuses, with the names of both: ``part.rate``."""
    if place and place[-1] != error.argument:
        own = () if error.argument in place else (error.argument,)  # a value of a list has none
        name = ".".join(map(str, (*place, *own)))
        error.args = (str(error).replace(f"`{error.argument}`", f"`{name}`", 1),)
        error.argument = name
    return error


def _is_type(part: int | str) -> bool:
    """Whether a part of a place is one of a setting's types, such as ``tuple[int, ...]``."""
    return isinstance(part, str) and (part in ("int", "float", "str") or not part.isidentifier())
