"""Plans in words: the outline of each tree along its spine, with runs of equal merges told once.

The spine of a tree goes from its root to the child that holds more merges than all the others
together, and on; what is merged in front of and behind the spine are its stages. So sequential
plans of any depth are one level of the outline, and nested levels at least halve the merges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap
from typing import TypeVar

from opmerge.errors import InputError
from opmerge.plans.tree import Plan

_LEAST_WIDTH = 30
_DEEPEST = 12  # nested levels at least halve the merges, so this draws plans of 4,000 steps whole
_MOST_LINES = 60
_LONGEST_LIST = 24  # lines at one level; of more, the middle is left out
_LONGEST_PATH = 5  # z_t in one chain; of more, the middle is left out
_MOST_RUNS = 4  # runs of merges that one sentence can hold
_MOST_HANDOVERS = 6  # student steps that one sentence can hold
_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class _Line:
    """One line of the outline, with no-break spaces where it stays whole, and what is under it."""

    text: str
    parts: tuple[_Line, ...] = ()


@dataclass(frozen=True, eq=False)
class _Node:
    start: int
    stop: int
    children: tuple[_Node, ...]
    shape: int  # equal for two subtrees that differ only by a shift in t; 0 for a teacher step
    merges: int


@dataclass(frozen=True, eq=False)
class _Stage:
    """One merge along the spine: what joins it in front (noise side) and behind (data side)."""

    front: tuple[_Node, ...]
    behind: tuple[_Node, ...]

    @property
    def shape(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(n.shape for n in self.front), tuple(n.shape for n in self.behind)


_Part = TypeVar("_Part", _Node, _Stage)


def draw_text(plan: Plan, width: int = 80) -> str:
    """A plan as an outline for terminals: what is merged first, and what is added to it then.

    Equal merges in a row are told once, with their number. A plan that would need more than
    some sixty lines is drawn to a smaller depth, and says so where it leaves something out.
    No line is longer than ``width``; ``InputError`` refuses one under 30 characters.
    """
    if width < _LEAST_WIDTH:
        raise InputError("width", f"must be >= {_LEAST_WIDTH}", width)
    text: list[str] = []
    for depth in range(_DEEPEST, -1, -1):
        text = [row for line in _outline(plan, depth) for row in _rows(line, "", "", width)]
        if len(text) <= _MOST_LINES:
            break
    return "\n".join(text)


def _rows(line: _Line, prefix: str, rest: str, width: int) -> Iterator[str]:
    inner = rest + ("│ " if line.parts else "  ")
    for row in wrap(line.text, width, initial_indent=prefix, subsequent_indent=inner):
        yield row.replace(_NBSP, " ")
    for place, part in enumerate(line.parts, start=1):
        mark, below = ("└ ", "  ") if place == len(line.parts) else ("├ ", "│ ")
        yield from _rows(part, rest + mark, rest + below, width)


def _outline(plan: Plan, max_depth: int) -> list[_Line]:
    """The outline of a plan, with nested parts drawn down to ``max_depth`` levels."""
    lines: list[_Line] = []
    if plan.free_step is not None:
        path = f"z_{plan.num_steps} → z_{plan.free_step}".replace(" ", _NBSP)
        lines.append(_Line(f"{path}: a free step, in closed form and without a network"))
    for nodes in _runs(_roots(plan)):
        first, count = nodes[0], len(nodes)
        if first.shape == 0:
            kept = f"the teacher's {_steps(nodes)}, kept as {'it is' if count == 1 else 'they are'}"
            lines.append(_Line(f"{_path(nodes)}: {kept}"))
            continue
        each = " each" if count > 1 else ""
        text = f"{_repeated(_path(nodes), nodes)} ({_counted(first.merges)}{each})"
        is_drawn = max_depth > 0 or first.merges == 1
        parts = _body(first, max_depth - 1) if is_drawn else ()
        lines.append(_Line(text if is_drawn else f"{text}, not drawn", parts))
    return _shortened(lines)


def plan_phrase(plan: Plan) -> str:
    """What to do, as the beginning of a sentence ("Merge steps 64 … 50 at once, then …")."""
    roots = _roots(plan)
    merged = [node for node in roots if node.merges]
    if not merged:
        return "Keep the teacher's steps as they are"
    phrases = {_tree_phrase(node) for node in merged if node.merges > 1 or len(merged) == 1}
    phrase = phrases.pop() if len(phrases) == 1 else ""
    if len(merged) > 1:  # what names steps is of one tree alone
        is_alike = phrase and not any(letter.isdigit() for letter in phrase)
        phrase = f"{phrase} within each window" if is_alike else ""
        phrase = "each window at once" if all(node.merges == 1 for node in merged) else phrase
    what = f"merge {phrase}" if phrase else f"use the plan of {_counted(len(plan.merges))}"
    if plan.free_step is not None:
        what = f"step from z_{plan.num_steps} to z_{plan.free_step} in closed form, then {what}"
    if len(roots) == 1:
        return what[0].upper() + what[1:]
    is_short = len(roots) <= _MOST_HANDOVERS
    handovers = f" take {' → '.join(f'z_{t}' for t in plan.boundaries)} and" if is_short else ""
    solved = "" if plan.free_step is None else " and one in closed form"
    return f"For a student of {len(roots)} steps{solved}{handovers} {what}"


def _roots(plan: Plan) -> list[_Node]:
    shapes: dict[tuple[int, ...], int] = {}

    def merge(children: list[_Node]) -> _Node:
        shape = shapes.setdefault(tuple(child.shape for child in children), len(shapes) + 1)
        size = 1 + sum(child.merges for child in children)
        return _Node(children[0].start, children[-1].stop, tuple(children), shape, size)

    return [tree.fold(lambda t: _Node(t, t - 1, (), 0, 0), merge) for tree in plan.students]


def _spine(node: _Node) -> tuple[_Node, list[_Stage]]:
    """The innermost node of the spine and the stages around it, in the order of merging."""
    stages: list[_Stage] = []
    while True:
        place, heavy = max(enumerate(node.children), key=lambda item: item[1].merges)
        if 2 * heavy.merges <= node.merges - 1:
            return node, stages[::-1]
        stages.append(_Stage(node.children[:place], node.children[place + 1 :]))
        node = heavy


def _body(node: _Node, depth: int) -> tuple[_Line, ...]:
    base, stages = _spine(node)
    stage_lines = (_stage_line(run, depth) for run in _runs(stages))
    return tuple(_shortened([_base_line(base, depth), *stage_lines]))


def _base_line(base: _Node, depth: int) -> _Line:
    if base.merges == 1:
        return _Line(f"{_steps(base.children)} merged at once")
    if len(_runs(base.children)) == 1:
        return _attached(f"{_path(base.children)} merged at once", base.children, depth)
    items = _shortened(_items(base.children, depth))
    return _Line(f"{len(base.children)} parts merged at once:", tuple(items))


def _stage_line(run: Sequence[_Stage], depth: int) -> _Line:
    stage, count = run[0], len(run)
    side = " in front" if stage.front else ""
    joined = stage.front or stage.behind
    is_several = len(_runs(joined)) > 1 or (joined[0].shape and len(joined) > 1)
    if is_several or (stage.front and stage.behind):
        parts = [_Line(f"in front: {i.text}", i.parts) for i in _items(stage.front, depth)]
        parts += [_Line(f"behind: {i.text}", i.parts) for i in _items(stage.behind, depth)]
        text = "then, at once:" if count == 1 else f"then {count} times this, each at once, first:"
        return _Line(text, tuple(_shortened(parts)))
    blocks = [s.front or s.behind for s in run]
    if joined[0].shape:
        nodes = [block[0] for block in blocks]
        nodes = nodes[::-1] if stage.front else nodes
        order = " one by one from the data side" if stage.front else " one by one"
        return _attached(f"then {_path(nodes)}{side}{order if count > 1 else ''}", nodes, depth)
    size = len(joined)
    if count == 1:
        return _Line(f"then {_steps(joined)}{side}{' at once' if size > 1 else ''}")
    steps = [_listed(block) for block in blocks]
    spans = ", ".join(steps if count < _LONGEST_PATH else [*steps[:2], "…", steps[-1]])
    how = f", each {size} steps at once" if size > 1 else f"{side and ','} one at a time"
    return _Line(f"then {spans}{side}{how} ({count} merges)")


def _items(children: Sequence[_Node], depth: int) -> list[_Line]:
    return [
        _attached(_path(nodes), nodes, depth) if nodes[0].shape else _Line(_steps(nodes))
        for nodes in _runs(children)
    ]


def _attached(text: str, nodes: Sequence[_Node], depth: int) -> _Line:
    """A line about equal subtrees, with the first of them under it."""
    text, first = _repeated(text, nodes), nodes[0]
    if first.merges > 1 and depth <= 0:
        return _Line(f"{text}: {_counted(first.merges)}, not drawn")
    if first.merges == 1 and len(nodes) == 1:
        return _Line(f"{text}: {_base_line(first, depth).text}")
    return _Line(f"{text}:", _body(first, depth - 1))


def _shortened(lines: list[_Line]) -> list[_Line]:
    if len(lines) <= _LONGEST_LIST:
        return lines
    kept = _LONGEST_LIST // 2
    left_out = _Line(f"… {len(lines) - 2 * kept} lines like these, not drawn")
    return [*lines[:kept], left_out, *lines[-kept:]]


def _runs(parts: Sequence[_Part]) -> list[list[_Part]]:
    return [list(run) for _, run in groupby(parts, key=lambda part: part.shape)]


def _path(nodes: Sequence[_Node]) -> str:
    ends = [f"z_{t}" for t in (nodes[0].start, *(node.stop for node in nodes))]
    shown = ends if len(ends) <= _LONGEST_PATH else [*ends[:2], "…", ends[-1]]
    return f"{_NBSP}→{_NBSP}".join(shown)


def _repeated(text: str, nodes: Sequence[_Node]) -> str:
    return f"{text}, {len(nodes)} times like this" if len(nodes) > 1 else text


def _counted(merges: int) -> str:
    return f"{merges} merge{'s' if merges > 1 else ''}"


def _listed(steps: Sequence[_Node]) -> str:
    """Teacher steps as ``5``, ``5, 4`` or ``5 … 1``."""
    if len(steps) <= 2:
        return ", ".join(str(step.start) for step in steps)
    return f"{steps[0].start}{_NBSP}…{_NBSP}{steps[-1].start}"


def _steps(steps: Sequence[_Node]) -> str:
    return f"step{'s' if len(steps) > 1 else ''} {_listed(steps)}"


def _tree_phrase(root: _Node) -> str:
    """The tree in a few words, where a few suffice; otherwise an empty text."""
    base, stages = _spine(root)
    if base.merges > 1 or any(n.shape for s in stages for n in (*s.front, *s.behind)):
        return ""
    if not stages:
        count = root.start - root.stop
        return f"all {count} steps at once" if count > 2 else "both steps at once"
    if any(s.front for s in stages):
        sequential = len(base.children) == 2 and all(s.shape == ((0,), ()) for s in stages)
        return "one step at a time from the data side" if sequential else ""
    if len(base.children) == 2 and all(len(s.behind) == 1 for s in stages):
        return "one step at a time from the noise side"
    phrases = [f"steps {_listed(base.children)} at once"]
    for run in _runs(stages):
        size, steps = len(run[0].behind), _listed(run[0].behind)
        if len(run) == 1:
            phrases.append(f"step {steps}" if size == 1 else f"{steps} at once")
        else:
            end = "" if run[-1] is stages[-1] else f" to {run[-1].behind[-1].start}"
            phrases.append(f"{'one step' if size == 1 else f'{size} steps'} at a time{end}")
    return ", then ".join(phrases).replace(_NBSP, " ") if len(phrases) <= _MOST_RUNS else ""
