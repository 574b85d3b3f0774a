"""Merge plans: immutable trees of merges, and forests of them for students of several steps.

A tree is stored flat, as the list of its merges in the order in which they are executed. Nested
lists (the form of plan files) are read and written without recursion, because sequential plans
of 1,000 steps are 1,000 lists deep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, TypeVar

from opmerge.checks import LONGEST
from opmerge.errors import InputError

Nested = Any
"""A tree as nested lists: the integer t for the step t → t-1, a list of children for a merge."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class Merge:
    """One student that replaces m >= 2 consecutive operators, noise side first.

    Args:
        boundaries: (j, k_1, …, i), strictly decreasing: the operators in place are
            j → k_1, …, k_{m-1} → i, and the student jumps j → i.

    Raises:
        InputError: for other boundaries.
    """

    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.boundaries) < 3:
            raise InputError("merge", "must have at least 2 children", list(self.boundaries))
        if any(a <= b for a, b in pairwise(self.boundaries)):
            raise InputError("merge", "must have decreasing boundaries", list(self.boundaries))
        if self.boundaries[-1] < 0:
            raise InputError("merge", "must end at step 0 or above", self.boundaries[-1])

    @property
    def start(self) -> int:
        """Step j at which the student reads its input."""
        return self.boundaries[0]

    @property
    def split(self) -> int:
        """Step k_1 at which the first child ends; the student starts from that child."""
        return self.boundaries[1]

    @property
    def stop(self) -> int:
        """Step i that the student produces."""
        return self.boundaries[-1]

    @property
    def num_children(self) -> int:
        """m, the number of operators replaced."""
        return len(self.boundaries) - 1


@dataclass(frozen=True)
class Tree:
    """A one-step student start → stop < start, as merges of the teacher steps start, …, stop + 1.

    Args:
        merges: every merge of the tree, in any order that can be executed; kept in post-order,
            noise side first, so that equal trees compare equal. Empty for a teacher step.

    Raises:
        InputError: if the merges do not build one student start → stop from the teacher steps.
    """

    start: int
    stop: int
    merges: tuple[Merge, ...] = ()

    def __post_init__(self) -> None:
        if self.start > LONGEST:
            raise InputError("plan", f"must be at most {LONGEST:,} steps", self.start)
        if not 0 <= self.stop < self.start:
            ends = (self.start, self.stop)
            raise InputError("tree", "must go from a later to an earlier step", ends)
        ordered = tuple(sorted(self.merges, key=lambda merge: (-merge.stop, merge.start)))
        object.__setattr__(self, "merges", ordered)
        following = {t: t - 1 for t in range(self.start, self.stop, -1)}
        for merge in ordered:
            for here, there in pairwise(merge.boundaries):
                if following.get(here) != there:
                    requirement = f"must have an operator {here} → {there} when it is merged"
                    raise InputError("tree", requirement)
            for boundary in merge.boundaries[1:-1]:
                del following[boundary]
            following[merge.start] = merge.stop
        if following[self.start] != self.stop:
            every = f"{self.start} … {self.stop + 1}"
            raise InputError("tree", f"must merge all steps {every} into one student")

    def fold(self, step: Callable[[int], Part], merge: Callable[[list[Part]], Part]) -> Part:
        """What the steps become, and then, merge by merge, the list of what the children became."""
        parts = {t: step(t) for t in range(self.start, self.stop, -1)}
        for each in self.merges:
            parts[each.start] = merge([parts.pop(t) for t in each.boundaries[:-1]])
        return parts[self.start]

    @classmethod
    def from_nested(cls, nested: Nested, place: str = "plan") -> Tree:
        """Read ``[[3, 2], 1]``, or raise ``InputError`` with the place (child indices) and rule."""
        lists: list[tuple[int, int, Sequence[Nested]]] = []  # with the list it is in, and where
        waiting = [(-1, 0, nested)]
        while waiting:
            outer, place_in_it, node = waiting.pop()
            if isinstance(node, list | tuple) and len(node) > 1:
                waiting += [(len(lists), k, child) for k, child in enumerate(node)]
                lists.append((outer, place_in_it, node))

        def where(number: int, k: int) -> str:  # only for errors: of all lists it would fill memory
            indices = []
            while number >= 0:
                indices.append(f"[{k}]")
                number, k, _ = lists[number]
            return place + "".join(reversed(indices))

        merges = []
        ends: dict[int, tuple[int, int]] = {}  # of the student that a list stands for, by its id
        for number in range(len(lists) - 1, -1, -1):  # children first, noise side first
            node = lists[number][2]
            boundaries: list[int] = []
            for k, child in enumerate(node):
                start, stop = ends.get(id(child)) or _ends_of_step(child, partial(where, number, k))
                if boundaries and boundaries[-1] != start:
                    requirement = f"must continue with step {boundaries[-1]} (noise side first)"
                    raise InputError(where(number, k), requirement, start)
                boundaries += [stop] if boundaries else [start, stop]
            merges.append(Merge(tuple(boundaries)))
            ends[id(node)] = boundaries[0], boundaries[-1]
        own = ends.get(id(nested)) or _ends_of_step(nested, lambda: place)
        return cls(*own, tuple(merges))

    def to_nested(self) -> Nested:
        """The tree as nested lists; the inverse of ``from_nested``."""
        return self.fold(_unchanged, _unchanged)

    @classmethod
    def chain(cls, start: int, boundaries: Sequence[int]) -> Tree:
        """The left comb in which only the student at ``start`` is trained (THEORY 7.6).

        Each block k → k' of teacher steps in (start-1, k_1, …, stop) is merged into it at once.
        """
        merges = tuple(
            Merge((start, *range(above, below - 1, -1))) for above, below in pairwise(boundaries)
        )
        return cls(start, boundaries[-1], merges)


@dataclass(frozen=True)
class Plan:
    """A K-step student: K trees, noise side first, that cover the steps T … 1.

    Args:
        students: the trees.
        free_start: T, where a free step leads from there to the first tree's start m < T: one in
            closed form, without a network (THEORY 10). The trees then cover m … 1.

    Raises:
        InputError: if the trees do not follow one another down to 0, or the free step does not
            lead down to the first.
    """

    students: tuple[Tree, ...]
    free_start: int | None = None

    def __post_init__(self) -> None:
        if not self.students:
            raise InputError("students", "must have at least one tree")
        for number, (tree, after) in enumerate(pairwise(self.students), start=1):
            if tree.stop != after.start:
                requirement = f"must start at step {tree.stop}"
                raise InputError(f"students[{number}]", requirement, after.start)
        if self.students[-1].stop != 0:
            raise InputError("students", "must end with step 1", self.students[-1].stop + 1)
        first = self.students[0].start
        if self.free_start is not None and self.free_start <= first:
            requirement = f"must be above {first}, where the students start"
            raise InputError("free_start", requirement, self.free_start)

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return self.free_start or self.students[0].start

    @property
    def free_step(self) -> int | None:
        """m, where a free step from T lands, if there is one."""
        return None if self.free_start is None else self.students[0].start

    @property
    def student_steps(self) -> int:
        """K, the number of steps that the student takes by networks."""
        return len(self.students)

    @cached_property
    def merges(self) -> tuple[Merge, ...]:
        """Every merge of every tree, in the order of execution."""
        return tuple(merge for tree in self.students for merge in tree.merges)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """(T, …, 0): the steps at which one student hands over to the next, a free step first."""
        free = () if self.free_start is None else (self.free_start,)
        return (*free, self.students[0].start, *(tree.stop for tree in self.students))

    def rounds(self) -> list[int]:
        """Round of each merge: 1 + the last round of its children, 0 for a teacher step.

        Merges of one round do not wait for one another.
        """
        latest = dict.fromkeys(range(self.num_steps, 0, -1), 0)
        rounds = []
        for merge in self.merges:
            latest[merge.start] = 1 + max(latest[t] for t in merge.boundaries[:-1])
            rounds.append(latest[merge.start])
        return rounds

    def network_evaluations(self, overhead: float = 3.0) -> float:
        """Cost of training by the plan, per sample: Σ over merges of (m + overhead).

        A merge of m operators evaluates each once for its target; ``overhead`` is the student's
        forward and backward pass (κ ≈ 3, THEORY 9).
        """
        return sum(merge.num_children + overhead for merge in self.merges)

    @classmethod
    def from_nested(cls, students: Sequence[Nested], free_start: int | None = None) -> Plan:
        """Read the list of its trees, e.g. ``[[[3, 2], 1]]`` for one student, or raise
        ``InputError``: as ``Tree`` does."""
        if not isinstance(students, list | tuple):
            raise InputError("students", "must be a list of trees", students)
        trees = (Tree.from_nested(tree, f"students[{k}]") for k, tree in enumerate(students))
        return cls(tuple(trees), free_start)

    def to_nested(self) -> list[Nested]:
        """The list of trees as nested lists."""
        return [tree.to_nested() for tree in self.students]


def _unchanged(part: Nested) -> Nested:
    return part


def _ends_of_step(node: Nested, place: Callable[[], str]) -> tuple[int, int]:
    """(t, t - 1) of a teacher step t, which anything is that is no list of children."""
    if isinstance(node, list | tuple):
        raise InputError(place(), "must have at least 2 children", list(node))
    if not isinstance(node, int) or isinstance(node, bool):
        raise InputError(place(), "must be a step (integer) or a list of children", node)
    if node < 1:
        raise InputError(place(), "must be a step >= 1", node)
    return node, node - 1
