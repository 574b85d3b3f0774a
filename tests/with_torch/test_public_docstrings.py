"""Every public name says what it is, what shapes it takes and gives, and what it refuses.

Public are the names in ``__all__`` of the packages, which the reference shows, and the methods
and properties of their classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src"
CONSTRUCTORS = ("__init__", "__post_init__")
INSIDE: dict[type, str] = {property: "fget", cached_property: "func", classmethod: "__func__"}


def public() -> Iterator[tuple[str, Any]]:
    """Classes and functions by where they are."""
    for module in sorted((SOURCE / "opmerge").rglob("__init__.py")):
        path = ".".join(module.parent.relative_to(SOURCE).parts)
        package = import_module(path) if path != "opmerge.cli" else None
        for name in getattr(package, "__all__", ()):
            found = getattr(package, name)
            if str(getattr(found, "__module__", "")).startswith("opmerge.") and callable(found):
                yield f"{found.__module__}.{name}", found


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, as functions."""
    for name, value in vars(owner).items():
        place = INSIDE.get(type(value))
        function = value if place is None else getattr(value, place)
        if inspect.isfunction(function) and not name.startswith("_"):
            yield name, function


def has_source(made: Any) -> bool:
    """Whether it is written in a file, and not made by ``dataclass``."""
    return str(made.__code__.co_filename).endswith(".py")


def documented() -> Iterator[tuple[str, str, str, list[Any]]]:
    """Name, own docstring, that with its class's, and the functions that it is."""
    for name, found in dict(public()).items():
        own = inspect.getdoc(found) or ""
        if not inspect.isclass(found):
            yield name, own, own, [found]
            continue
        made = [vars(found)[each] for each in CONSTRUCTORS if each in vars(found)]
        yield name, own, own, [each for each in made if has_source(each)]
        for member, function in members(found):
            told = inspect.getdoc(function) or inspect.getdoc(getattr(found, member)) or ""
            yield f"{name}.{member}", told, f"{own}\n{told}", [function]


CASES = {name: case for name, *case in documented()}


@pytest.mark.parametrize("name", CASES)
def test_a_public_name_is_documented(name: str) -> None:
    own, together, functions = CASES[name]
    assert own.strip()
    for function in functions:
        if "raise InputError" in inspect.getsource(function):
            assert "InputError" in own, (name, "raises it, and does not say so")
        kinds = [str(kind) for kind in inspect.get_annotations(function).values()]
        if any(re.match(r"(NDArray|Tensor|Array)\b", kind) for kind in kinds):
            axes = re.search(r"\((|…|[^()]*,[^()]*)\)", together)
            assert axes is not None, (name, "takes or gives arrays, of what axes?")
