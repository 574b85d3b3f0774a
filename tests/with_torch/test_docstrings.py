"""Docstrings of every public name say what a caller must know: shapes, errors, units, sources.

Public are the names in ``__all__`` of the library's packages, and the public methods of classes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import opmerge
from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.planners import PLANNERS
from opmerge.schedules.noise import CONSTRUCTORS
from opmerge.training import MODELS

PACKAGE = Path(opmerge.__file__).parent
ARRAYS = re.compile(r"\b(Array|ArrayLike|NDArray|Tensor)\b")
SHAPE = re.compile(r"\((?:[^(),]+,)+[^()]*\)|\(…\)|\bshape")  # (N, C), (d,), (…)
REFUSES = re.compile(r"raise InputError|\bcheck_\w+\(")
SOURCE = re.compile(r"THEORY \d|arXiv \d{4}\.\d{5}|\b(19|20)\d\d\b")  # a section, or a paper
UNITS = {"budget": "evaluations", "seconds": "second", "max_seconds": "second"}


class Public(NamedTuple):
    """A class, a function or a method that users may call."""

    name: str
    owner: Any
    code: Any

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.owner) or ""


def names_of(module: Path) -> list[str]:
    """``__all__`` of a package, read without importing it."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def public() -> Iterator[Public]:
    """Each once, by the first package that has it."""
    seen = set()
    for module in sorted(PACKAGE.rglob("__init__.py")):
        package = ".".join(module.parent.relative_to(PACKAGE.parent).parts)
        for name in names_of(module) if package != "opmerge.cli" else ():
            found = getattr(importlib.import_module(package), name)
            if (inspect.isclass(found) or inspect.isfunction(found)) and found not in seen:
                seen.add(found)
                yield Public(f"{package}.{name}", found, found)
                yield from methods(f"{package}.{name}", found)


def methods(name: str, found: Any) -> Iterator[Public]:
    for key, member in vars(found).items() if inspect.isclass(found) else ():
        if isinstance(member, property | cached_property):
            code = member.fget if isinstance(member, property) else member.func
            owner: Any = member
        else:
            owner = getattr(found, key)
            code = getattr(owner, "__func__", owner)
        if not key.startswith("_") and inspect.isfunction(code):
            yield Public(f"{name}.{key}", owner, code)


def annotations(each: Public) -> str:
    own = vars(each.code).get("__annotations__", {}) if inspect.isclass(each.code) else None
    told = each.code.__annotations__ if own is None else own
    return " ".join(str(kind) for name, kind in told.items() if not name.startswith("_"))


def lacking(each: Public) -> Iterator[str]:
    """What a docstring leaves out."""
    if not each.doc:
        yield "a docstring"
    if ARRAYS.search(annotations(each)) and not SHAPE.search(each.doc):
        yield "the shape of an array"
    for function in functions(each.code):
        if REFUSES.search(inspect.getsource(function)) and "InputError" not in each.doc:
            yield "what it refuses"
        for name in inspect.signature(function).parameters:
            if not re.search(UNITS.get(name, ""), each.doc):
                yield f"the unit of {name}"


def functions(code: Any) -> list[Any]:
    """A function, or those by which a class is made, written by hand."""
    if inspect.isfunction(code):
        return [code]
    made = [vars(code)[name] for name in ("__init__", "__post_init__") if name in vars(code)]
    return [each for each in made if each.__code__.co_filename.endswith(".py")]


def test_public_docstrings_say_shapes_errors_and_units() -> None:
    found = list(public())
    assert len(found) > 250
    assert {each.name: told for each in found if (told := list(lacking(each)))} == {}


@pytest.mark.parametrize("registry", [PLANNERS, MODELS, CONSTRUCTORS], ids=len)
def test_what_computes_a_formula_names_its_source(registry: dict[str, Any]) -> None:
    for name, found in registry.items():
        told = (inspect.getdoc(found) or "") + (sys.modules[found.__module__].__doc__ or "")
        assert SOURCE.search(told), name


def test_a_docstring_that_leaves_all_out_is_found() -> None:
    def unsaid(values: Array, budget: float) -> None:
        raise InputError("values", "must be none", values)

    assert len(list(lacking(Public("unsaid", unsaid, unsaid)))) == 4
