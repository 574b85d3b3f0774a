"""Nested lists as text: written and read without recursion, at any depth.

The JSON module recurses, and stops at about 1,000 levels; a sequential plan of 1,000 steps has 999.
"""

from __future__ import annotations

import re
from typing import Any

from opmerge.errors import InputError
from opmerge.plans.tree import Plan, Tree

_SPACE = " \t\r\n"
_TOKEN = re.compile(rf"[{_SPACE}]*(?:([\[\],])|((?:0|[1-9][0-9]{{0,8}})(?![0-9.eE])))")
_MAY_FOLLOW = {"": "[1", "[": "[1]", ",": "[1", "]": ",]", "1": ",]"}  # 1 stands for any step


def format_tree(tree: Tree) -> str:
    """A tree as nested lists, e.g. ``[[3, 2], 1]``."""
    return tree.fold(str, _listed)


def format_students(plan: Plan) -> str:
    """The list of a plan's trees as nested lists, e.g. ``[[[3, 2], 1]]``."""
    return _listed([format_tree(tree) for tree in plan.students])


def _listed(parts: list[str]) -> str:
    return f"[{', '.join(parts)}]"


def parse_nested(text: str, argument: str = "plan") -> Any:
    """Nested lists of steps from text: a subset of JSON (lists and whole numbers only).

    Raises:
        InputError: naming the position of what does not belong.
    """
    root: list[Any] = []
    stack, before, position = [root], "", 0
    text = text.rstrip(_SPACE)
    while position < len(text):
        token = _TOKEN.match(text, position)
        mark = (token[1] or "1") if token else "?"
        is_complete = before and len(stack) == 1
        if token is None or mark not in _MAY_FOLLOW[before] or is_complete:
            raise InputError(
                argument,
                f"must be nested lists of steps; position {position} does not fit",
                text[position : position + 20],
                "write e.g. [[3, 2], 1]",
            )
        if mark == "[":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif mark == "]":
            stack.pop()
        elif mark == "1":
            stack[-1].append(int(token[2]))
        before, position = mark, token.end()
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
