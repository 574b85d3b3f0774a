"""Nested lists as text: written and read without recursion, at any depth.

The JSON module recurses, and stops at about 1,000 levels; a sequential plan of 1,000 steps has 999.
"""

from __future__ import annotations

import re
from typing import Any

from opmerge.errors import InputError
from opmerge.plans.tree import Plan, Tree

__all__ = ["format_students", "format_tree", "parse_nested", "parse_plan"]

_SPACE = " \t\r\n"
_TOKEN = re.compile(
    rf"[{_SPACE}]*(?:(?P<mark>[\[\],])|(?P<step>(?:0|[1-9][0-9]{{0,8}})(?![0-9.eE])))"
)


def format_tree(tree: Tree) -> str:
    """A tree as nested lists, e.g. ``[[3, 2], 1]``."""
    texts = {step: str(step) for step in range(tree.start, tree.stop, -1)}
    for merge in tree.merges:
        texts[merge.start] = f"[{', '.join(texts.pop(t) for t in merge.boundaries[:-1])}]"
    return texts[tree.start]


def format_students(plan: Plan) -> str:
    """The list of a plan's trees as nested lists, e.g. ``[[[3, 2], 1]]``."""
    return f"[{', '.join(format_tree(tree) for tree in plan.students)}]"


def parse_nested(text: str, argument: str = "plan") -> Any:
    """Nested lists of steps from text: a subset of JSON (lists and whole numbers only).

    Raises:
        InputError: naming the position of what does not belong.
    """
    root: list[Any] = []
    stack = [root]
    position, ended = 0, False  # ended: a value has just ended, so "," or "]" must follow
    text = text.rstrip(_SPACE)
    while position < len(text):
        token = _TOKEN.match(text, position)
        mark = token["mark"] if token else None
        fits = token is not None and (
            ended and mark in (",", "]") if mark != "[" and token["step"] is None else not ended
        )
        closes_empty = mark == "]" and not ended and len(stack) > 1 and not stack[-1]
        if token is None or not (fits or closes_empty) or (len(stack) == 1 and mark in (",", "]")):
            raise InputError(
                argument,
                f"must be nested lists of steps; position {position} does not fit",
                text[position : position + 20],
                "write e.g. [[3, 2], 1]",
            )
        position = token.end()
        if mark == "[":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif mark == "]":
            stack.pop()
            ended = True
        elif mark == ",":
            ended = False
        else:
            stack[-1].append(int(token["step"]))
            ended = True
    if len(stack) > 1 or not root:
        raise InputError(argument, "must be complete nested lists", text[-20:] or "nothing")
    return root[0]


def parse_plan(text: str, student_steps: int = 1) -> Plan:
    """A plan from nested lists: one tree, or for K > 1 (or a list of one tree) the list of trees.

    Raises:
        InputError: for malformed text or a broken rule, with the place.
    """
    nested = parse_nested(text)
    one_tree = student_steps == 1 and not (isinstance(nested, list) and len(nested) == 1)
    plan = Plan.from_nested([nested] if one_tree else nested)
    if plan.student_steps != student_steps:
        raise InputError("plan", f"must have {student_steps} trees", plan.student_steps)
    return plan
