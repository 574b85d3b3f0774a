"""Plans as text: nested lists, and plan files, ``plan.json`` of format "opmerge.plan", version 1.

A plan file holds a plan, the problem it was made for and what was proved about it. It is the
same file that the theory evaluates and that a trainer executes. Nested lists are written and read
without recursion: the JSON module recurses, and stops at about 1,000 levels; a sequential plan of
1,000 steps has 999.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from opmerge.checks import LONGEST, check_count, check_number
from opmerge.errors import InputError
from opmerge.files import expand_home, parse_json, read_text, write_atomic
from opmerge.plans.tree import Plan, Tree
from opmerge.schedules import NoiseSchedule
from opmerge.settings.guidance import GuidanceRecord, check_guidance_record
from opmerge.settings.types import MergeRule, Objective
from opmerge.training import TrainingModel, training_from_dict

FORMAT = "opmerge.plan"
VERSION = 1
_LARGEST_FILE = 64 * 1024**2
_STUDENTS = re.compile(r'(?<!\\)"students"\s*:\s*(?=\[)')
_PROBLEM = ("schedule", "training", "merge_rule", "objective")
_KEYS = ("format", "version", "steps", "students", *_PROBLEM)
_PREDICTION = ("predicted", "spectrum")
_OPTIONAL = ("free_step", "iterations", "budget", "guidance")
_SPACE = " \t\r\n"
_TOKEN = re.compile(rf"[{_SPACE}]*(?:([\[\],])|((?:0|[1-9][0-9]{{0,8}})(?![0-9.eE])))")
_MAY_FOLLOW = {"": "[1", "[": "[1]", ",": "[1", "]": ",]", "1": ",]"}  # 1 stands for any step


def format_tree(tree: Tree) -> str:
    """A tree as nested lists, e.g. ``[[3, 2], 1]``."""
    opened = Counter(merge.start for merge in tree.merges)
    closed = Counter(merge.stop + 1 for merge in tree.merges)
    steps = range(tree.start, tree.stop, -1)
    return ", ".join(f"{'[' * opened[step]}{step}{']' * closed[step]}" for step in steps)


def format_students(plan: Plan) -> str:
    """The list of a plan's trees as nested lists, e.g. ``[[[3, 2], 1]]``."""
    return f"[{', '.join(map(format_tree, plan.students))}]"


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
            requirement = f"must be nested lists of steps; position {position} does not fit"
            here = text[position : position + 20]
            raise InputError(argument, requirement, here, "write e.g. [[3, 2], 1]")
        if mark == "[":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif mark == "]":
            stack.pop()
        elif mark == "1":
            step = int(token[2])
            if step > LONGEST:
                raise InputError(argument, f"must have at most {LONGEST:,} steps", step)
            stack[-1].append(step)
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


@dataclass(frozen=True, eq=False)
class PlanFile:
    """What a plan file says.

    Args:
        plan: the plan.
        schedule: of the problem that it was made for, as are the next three.
        training: its training model.
        merge_rule: where its students start.
        objective: what they are to be near.
        predicted: ``w2``, ``lower_bound`` and ``gap``; ``paired_rms``, the expected root mean
            square of student minus teacher, where that is not ``w2``, and the ends ``low`` and
            ``high`` of its 90 % interval where that is known; ``cut_short_after``, the seconds
            of a search that was.
        spectrum: ``sha256`` of the eigenvalues, their ``number``, ``min`` and ``max``, and of
            samples their ``dimensions`` and total variance ``trace``. Both are empty, and left out
            of the file, if nothing was predicted because there are no data.
        iterations: of each merge, in the order of ``plan.merges``; None if nothing was said.
        budget: network evaluations that the iterations were chosen for; None if they were not.
        guidance: of the teacher, ``scale`` and ``interval``; empty if it has none.

    Raises:
        InputError: if there are not as many iterations as merges, or one is below 1; for a budget
            that is not above 0, or comes without iterations.
    """

    plan: Plan
    schedule: NoiseSchedule
    training: TrainingModel
    merge_rule: MergeRule
    objective: Objective
    predicted: Mapping[str, float] = field(default_factory=dict)
    spectrum: Mapping[str, Any] = field(default_factory=dict)
    iterations: tuple[int, ...] | None = None
    budget: float | None = None
    guidance: GuidanceRecord = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.iterations is not None:
            _check_iterations(self.iterations, len(self.plan.merges), "iterations")
        if self.budget is not None:
            _check_budget(self.budget, self.iterations, "budget")

    def dumps(self) -> str:
        """The file's text."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "steps": self.plan.num_steps,
            "students": self.plan,
            "schedule": self.schedule.to_dict(),
            "training": self.training.to_dict(),
            "merge_rule": self.merge_rule,
            "objective": self.objective,
        }
        if self.plan.free_step is not None:
            content["free_step"] = self.plan.free_step
        for key in _PREDICTION:
            if getattr(self, key):
                content[key] = dict(getattr(self, key))
        if self.iterations is not None:
            content["iterations"] = list(self.iterations)
        if self.budget is not None:
            content["budget"] = self.budget
        if self.guidance:
            content["guidance"] = dict(self.guidance)
        return dumps_with_students(content) + "\n"

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file whole or not at all."""
        return write_atomic(path, self.dumps())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PlanFile:
        """Read a plan file, or raise ``InputError`` with the place and the rule broken."""
        return cls.loads(read_text(expand_home(path), _LARGEST_FILE), str(path))

    @classmethod
    def loads(cls, text: str, place: str = "plan file") -> PlanFile:
        """Read a plan file's text, or raise ``InputError``; see ``read``."""
        data = _load_object(text, place)
        if data.get("format") != FORMAT:
            raise InputError(f"{place}: format", f'must be "{FORMAT}"', repr(data.get("format")))
        if data.get("version") != VERSION or isinstance(data["version"], bool):
            version, remedy = repr(data.get("version")), "upgrade opmerge if the file is newer"
            raise InputError(f"{place}: version", f"must be {VERSION}", version, remedy)
        given = [key for key in _PREDICTION if key in data]
        missing = [key for key in (*_KEYS, *(_PREDICTION if given else ())) if key not in data]
        if missing:
            raise InputError(place, f"must have the key {missing[0]}")
        unknown = sorted(set(data) - {*_KEYS, *_PREDICTION, *_OPTIONAL})
        if unknown:
            raise InputError(place, "must have no other keys", unknown[0])
        plan = Plan.from_nested(parse_nested(data["students"], f"{place}: students"))
        plan = _with_steps(plan, data, place)
        iterations = data.get("iterations")
        if "iterations" in data:
            _check_iterations(iterations, len(plan.merges), f"{place}: iterations")
        if "budget" in data:
            _check_budget(data["budget"], iterations, f"{place}: budget")
        return cls(
            plan,
            NoiseSchedule.from_dict(data["schedule"], plan.num_steps),
            training_from_dict(data["training"]),
            _choice(data, "merge_rule", get_args(MergeRule), place),
            _choice(data, "objective", get_args(Objective), place),
            _predicted(data["predicted"], f"{place}: predicted") if given else {},
            _spectrum(data["spectrum"], f"{place}: spectrum") if given else {},
            None if iterations is None else tuple(iterations),
            data.get("budget"),
            check_guidance_record(data["guidance"], plan.num_steps, f"{place}: guidance")
            if "guidance" in data
            else {},
        )


def dumps_with_students(content: Mapping[str, Any]) -> str:
    """JSON text of an object in which a ``Plan`` stands for its list of students, at any depth."""
    plans: list[Plan] = []

    def stand_in(value: object) -> str:
        if not isinstance(value, Plan):
            raise TypeError(f"not JSON: {value!r}")
        plans.append(value)
        return f"\0students {len(plans) - 1}\0"

    text = json.dumps(content, indent=2, allow_nan=False, default=stand_in, ensure_ascii=False)
    return re.sub(
        r'"\\u0000students (\d+)\\u0000"', lambda m: format_students(plans[int(m[1])]), text
    )


def _load_object(text: str, place: str) -> dict[str, Any]:
    """The JSON object in a text, its students left as text for ``parse_nested``."""
    found = _STUDENTS.search(text)
    if found:
        before, after, depth = text[: found.end()], text[found.end() :], 0
        for bracket in re.finditer(r"[\[\]]", after):
            depth += 1 if bracket[0] == "[" else -1
            if depth == 0:
                end = bracket.end()
                text = before + json.dumps(after[:end]) + after[end:]
                break

    try:
        data = parse_json(text, is_strict=True)
    except ValueError as error:
        reason = getattr(error, "msg", None) or str(error)
        raise InputError(place, f"must be a JSON object ({reason})") from error
    if not isinstance(data, dict):
        raise InputError(place, "must be a JSON object", type(data).__name__)
    if "students" in data and not (found and isinstance(data["students"], str)):
        raise InputError(f"{place}: students", "must be a list of trees", data["students"])
    return data


def _with_steps(plan: Plan, data: Mapping[str, Any], place: str) -> Plan:
    """The plan of a file's students, with its free step if it has one."""
    steps, start = data["steps"], plan.num_steps
    if "free_step" not in data:
        if type(steps) is not int or steps != start:
            requirement = f"must be {start}, as the students cover"
            raise InputError(f"{place}: steps", requirement, repr(steps))
        return plan
    if type(data["free_step"]) is not int or data["free_step"] != start:
        requirement = f"must be {start}, where the students start"
        raise InputError(f"{place}: free_step", requirement, repr(data["free_step"]))
    if type(steps) is not int or steps <= start:
        requirement = f"must be above {start}, to which the free step leads"
        raise InputError(f"{place}: steps", requirement, repr(steps))
    return Plan(plan.students, steps)


def _choice(data: Mapping[str, Any], key: str, choices: tuple[str, ...], place: str) -> Any:
    if data[key] not in choices:
        raise InputError(f"{place}: {key}", f"must be one of {', '.join(choices)}", repr(data[key]))
    return data[key]


def _check_iterations(iterations: object, num_merges: int, place: str) -> None:
    if not isinstance(iterations, list | tuple) or len(iterations) != num_merges:
        requirement = f"must be {num_merges} whole numbers, one a merge"
        raise InputError(place, requirement, repr(iterations))
    for position, count in enumerate(iterations, start=1):
        check_count(f"{place}[{position}]", count)


def _check_budget(budget: object, iterations: object, place: str) -> None:
    if check_number(place, budget) <= 0:
        raise InputError(place, "must be > 0", budget)
    if iterations is None:
        raise InputError(place, "must come with iterations")


def _numbers(data: object, keys: tuple[str, ...], place: str) -> dict[str, float]:
    if not isinstance(data, dict) or sorted(data) != sorted(keys):
        raise InputError(place, f"must be an object with {', '.join(keys)}", repr(data))
    for key in keys:
        value = data[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 <= value <= sys.float_info.max):
            raise InputError(f"{place}.{key}", "must be a number >= 0 and finite", repr(value))
    return {key: float(data[key]) for key in keys}


def _predicted(data: object, place: str) -> dict[str, float]:
    keys: tuple[str, ...] = ("w2", "lower_bound", "gap")
    if isinstance(data, dict):
        if "paired_rms" in data:
            keys = (*keys, "paired_rms")
            keys = (*keys, "low", "high") if {"low", "high"} & set(data) else keys
        keys = (*keys, *(key for key in ("cut_short_after",) if key in data))
    numbers = _numbers(data, keys, place)
    if "low" in numbers and numbers["low"] > numbers["high"]:
        raise InputError(f"{place}.low", "must be <= high", numbers["low"])
    if numbers["lower_bound"] > numbers["w2"]:
        raise InputError(f"{place}.lower_bound", "must be <= w2", numbers["lower_bound"])
    if numbers["gap"] > 1:
        raise InputError(f"{place}.gap", "must be <= 1", numbers["gap"])
    return numbers


def _spectrum(data: object, place: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not isinstance(data.get("sha256"), str):
        raise InputError(place, "must be an object with sha256, number, min, max", repr(data))
    if not re.fullmatch("[0-9a-f]{64}", data["sha256"]):
        raise InputError(f"{place}.sha256", "must be 64 hexadecimal digits", repr(data["sha256"]))
    numbers = {key: value for key, value in data.items() if key != "sha256"}
    of_samples = ("dimensions", "trace")
    is_of_samples = any(key in numbers for key in of_samples)
    keys = ("number", "min", "max", *(of_samples if is_of_samples else ()))
    checked = _numbers(numbers, keys, place)
    if checked["min"] > checked["max"]:
        raise InputError(f"{place}.min", "must be <= max", checked["min"])
    whole = {key: int(checked[key]) for key in checked if key in ("number", "dimensions")}
    return {"sha256": data["sha256"], **checked, **whole}
