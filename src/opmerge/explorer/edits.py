"""Plans edited by hand: a merge split or dissolved, a handover added, moved or removed.

A plan is told by its students' jumps start → stop (``planners.splits``): an edit adds, drops or
moves some of them, and what results must nest. Merges that an edit leaves as they were keep their
iterations, and new ones get those that their length suggests.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from opmerge.errors import InputError
from opmerge.explorer.view import View
from opmerge.planners.local_moves import inherited, moved_end
from opmerge.planners.splits import Jumps, in_order, jumps_of, plan_of
from opmerge.plans import Plan, format_students, parse_plan
from opmerge.settings.base import Settings, option


class Edit(Settings):
    """One change of a plan."""

    edit: Literal["split", "dissolve", "iterations", "resplit", "add", "move", "remove"] = option(
        ..., "What is done: to a merge, to all iterations, or to a handover."
    )
    merge: tuple[int, int] = option((0, 0), "Start and stop of the merge, 64-32.")
    at: int = option(0, "The step where the merge is split.")
    count: int = option(0, "Iterations of the merge.")
    handover: int = option(0, "The step of a handover that is moved or removed.")
    to: int = option(0, "The step that it moves to, or at which one is added.")


def plan_of_view(view: View) -> Plan | None:
    """The plan by hand; None where it is the planner's.

    Raises:
        InputError: if it is malformed, or for other steps than the view's.
    """
    if not view.plan:
        return None
    plan = parse_plan(view.plan, view.student_steps)
    if view.free_step:
        plan = Plan(plan.students, view.steps)
    if plan.num_steps != view.steps or (plan.free_step or 0) != view.free_step:
        raise InputError("plan", f"must be for {view.steps} steps", plan.num_steps)
    return plan


def edited(view: View, plan: Plan, iterations: tuple[int, ...], edit: Edit) -> View:
    """The view with the plan, and the iterations, that it shows changed.

    Iterations that were not chosen by hand are left to the best split.

    Raises:
        InputError: if the edit does not fit the plan.
    """
    jumps = jumps_of(plan)
    if edit.edit == "resplit":
        return _with(view, plan, ())
    if edit.edit == "iterations":
        if edit.merge not in jumps or edit.count < 1 or not iterations:
            raise InputError("count", "must be >= 1, of a merge of the plan", edit.count)
        place = jumps.index(edit.merge)
        return _with(view, plan, (*iterations[:place], edit.count, *iterations[place + 1 :]))
    changed = _CHANGES[edit.edit](plan, jumps, edit)
    if any(a > c > b > d for a, b in changed for c, d in changed):
        raise InputError("at", "must leave merges that lie inside one another", edit.at)
    new = Plan(plan_of(changed, plan.students[0].start).students, plan.free_start)
    counts: tuple[int, ...] = ()
    if view.iterations and jumps:
        weights = inherited(jumps, np.array(view.iterations, dtype=np.float64), changed)
        counts = tuple(max(1, round(weight)) for weight in weights.tolist())
    return _with(view, new, counts)


def _with(view: View, plan: Plan, iterations: tuple[int, ...]) -> View:
    text = format_students(plan).replace(" ", "")
    told = {"plan": text, "free_step": plan.free_step or 0, "iterations": iterations}
    return view.replaced(**told, student_steps=plan.student_steps)


def _split(plan: Plan, jumps: Jumps, edit: Edit) -> Jumps:
    """Two students stand before the merge, which joins them."""
    start, stop = edit.merge
    if edit.merge not in jumps or not start > edit.at > stop:
        raise InputError("at", "must be inside a merge of the plan", edit.at)
    inside = [(start, edit.at), (edit.at, stop)]
    return in_order((*jumps, *((a, b) for a, b in inside if a - b > 1)))


def _dissolve(plan: Plan, jumps: Jumps, edit: Edit) -> Jumps:
    """What the merge has joined goes straight into the merge around it."""
    roots = {(tree.start, tree.stop) for tree in plan.students}
    if edit.merge in roots:
        raise InputError("merge", "must be inside another: this one is a step of the student")
    return tuple(jump for jump in jumps if jump != edit.merge)


def _add(plan: Plan, jumps: Jumps, edit: Edit) -> Jumps:
    """One step of the student becomes two; what reaches over the handover is cut there."""
    if not any(tree.start > edit.to > tree.stop for tree in plan.students):
        raise InputError("to", "must be inside a step of the student", edit.to)
    return _cut(jumps, edit.to)


def _move(plan: Plan, jumps: Jumps, edit: Edit) -> Jumps:
    """The handover's ends move with it; merges in between go, and what reaches over it is cut."""
    start, stop = _around(plan, edit.handover)
    if not start > edit.to > stop:
        raise InputError("to", f"must be between {start} and {stop}", edit.to)
    low, high = sorted((edit.handover, edit.to))
    kept = [(a, b) for a, b in jumps if not (low < a < high or low < b < high)]
    roots = [(start, edit.handover), (edit.handover, stop)]
    return _cut(moved_end(in_order((*kept, *roots)), edit.handover, edit.to, True, True), edit.to)


def _remove(plan: Plan, jumps: Jumps, edit: Edit) -> Jumps:
    """Two steps of the student become one, which joins them."""
    return in_order((*jumps, _around(plan, edit.handover)))


def _cut(jumps: Jumps, at: int) -> Jumps:
    """Jumps of which those that reach over a step are two there; ones of a single step go."""
    parts = ([(a, at), (at, b)] if a > at > b else [(a, b)] for a, b in jumps)
    return in_order((a, b) for each in parts for a, b in each if a - b > 1)


def _around(plan: Plan, handover: int) -> tuple[int, int]:
    """Where the two steps of the student begin and end that meet at a handover."""
    for above, below in pairwise(plan.students):
        if above.stop == handover:
            return above.start, below.stop
    need = "must be where a step of the student ends and the next begins"
    raise InputError("handover", need, handover)


_CHANGES = {
    "split": _split,
    "dissolve": _dissolve,
    "add": _add,
    "move": _move,
    "remove": _remove,
}
