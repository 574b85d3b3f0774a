"""Plans for mixtures: over measured merges, since their errors have no closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product

from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge_studies.mixture.expectation import weighted_distance
from opmerge_studies.mixture.lifted import LiftedMap
from opmerge_studies.mixture.merging import MixtureProblem, merge_students, run_maps

__all__ = ["closest_plans", "every_outcome"]

Interval = tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Student:
    """A student, and the merges that made it."""

    merges: tuple[Merge, ...]
    map: LiftedMap


def every_outcome(
    problem: MixtureProblem, student_steps: Sequence[int] = (1,)
) -> Iterator[tuple[Plan, float]]:
    """Every plan of K trees, for each K, with its error; a subtree is trained once. For T <= 8.

    Raises:
        InputError: if a K is out of range.
    """
    num_steps = problem.num_steps
    for count in student_steps:
        uniform_boundaries(num_steps, count)
    trees = _every_student(problem)
    for count in student_steps:
        for inner in combinations(range(num_steps - 1, 0, -1), count - 1):
            edges = pairwise((num_steps, *inner, 0))
            for students in product(*(trees[edge] for edge in edges)):
                yield _plan(students), problem.error([student.map for student in students])


def closest_plans(problem: MixtureProblem, student_steps: Sequence[int]) -> list[Plan]:
    """Plans by interval DP over measured merges: per interval, what is closest to the teacher.

    For every interval j → i the student, and the sequence of students, of the least root mean
    square to the teacher's composite over z_j, from the closest first child and the closest
    sequence of the rest; K trees likewise, prefix by prefix. O(T³) merges. A heuristic: what is
    closest on an interval need not be closest after merging (arXiv 2505.16024, Algorithm 1).

    Args:
        problem: any problem.
        student_steps: numbers of trees K, each of which gets a plan from the same tables.

    Raises:
        InputError: if a K is out of range.
    """
    num_steps = problem.num_steps
    for count in student_steps:
        uniform_boundaries(num_steps, count)
    trees: dict[Interval, _Student] = {}
    sequences: dict[Interval, list[_Student]] = {}
    for length in range(1, num_steps + 1):
        for start in range(length, num_steps + 1):
            interval = start, start - length
            trees[interval] = _closest_tree(problem, trees, sequences, interval)
            splits = [
                [trees[start, k], *sequences[k, interval[1]]]
                for k in range(start - 1, interval[1], -1)
            ]
            sequences[interval] = _closest(problem, interval, [[trees[interval]], *splits])
    forests = _closest_forests(problem, trees, max(student_steps))
    return [forests[count - 1] for count in student_steps]


def _every_student(problem: MixtureProblem) -> dict[Interval, list[_Student]]:
    """All students of every interval, shorter intervals first."""
    found: dict[Interval, list[_Student]] = {}
    for length in range(1, problem.num_steps + 1):
        for start in range(length, problem.num_steps + 1):
            stop = start - length
            if length == 1:
                found[start, stop] = [_teacher_step(problem, start)]
                continue
            inner = range(start - 1, stop, -1)
            cuts = [c for size in range(1, length) for c in combinations(inner, size)]
            found[start, stop] = [
                _merged(problem, children)
                for cut in cuts
                for children in product(*(found[edge] for edge in pairwise((start, *cut, stop))))
            ]
    return found


def _closest_tree(
    problem: MixtureProblem,
    trees: dict[Interval, _Student],
    sequences: dict[Interval, list[_Student]],
    interval: Interval,
) -> _Student:
    start, stop = interval
    if start - stop == 1:
        return _teacher_step(problem, start)
    candidates = [
        [_merged(problem, [trees[start, k], *sequences[k, stop]])]
        for k in range(start - 1, stop, -1)
    ]
    return _closest(problem, interval, candidates)[0]


def _closest_forests(
    problem: MixtureProblem, trees: dict[Interval, _Student], most: int
) -> list[Plan]:
    """The best 1, 2, … trees: prefixes T → i of one tree more at a time."""
    num_steps = problem.num_steps
    prefixes = {stop: [trees[num_steps, stop]] for stop in range(num_steps)}
    plans = [_plan(prefixes[0])]
    for _ in range(1, most):
        prefixes = {
            stop: _closest(
                problem,
                (num_steps, stop),
                [[*prefixes[k], trees[k, stop]] for k in prefixes if k > stop],
            )
            for stop in range(num_steps)
            if any(k > stop for k in prefixes)
        }
        plans.append(_plan(prefixes[0]))
    return plans


def _plan(students: Sequence[_Student]) -> Plan:
    return Plan(tuple(Tree(s.map.start, s.map.stop, s.merges) for s in students))


def _closest(
    problem: MixtureProblem, interval: Interval, candidates: Sequence[list[_Student]]
) -> list[_Student]:
    """The sequence of students closest to the teacher's composite over the law of z_start."""
    nodes, training = problem.nodes[interval[0]], problem.trainings[interval[0] - 1]
    teacher = problem.composite(*interval, nodes.points)

    def error(students: list[_Student]) -> float:
        reached = training.features @ students[0].map.weights
        output = run_maps([student.map for student in students[1:]], reached)
        return weighted_distance(output, teacher, nodes.weights)

    return min(candidates, key=error)


def _teacher_step(problem: MixtureProblem, start: int) -> _Student:
    return _Student((), problem.steps[start - 1])


def _merged(problem: MixtureProblem, children: Sequence[_Student]) -> _Student:
    student, _ = merge_students(problem, [child.map for child in children])
    boundaries = (student.start, *(child.map.stop for child in children))
    merges = tuple(merge for child in children for merge in child.merges)
    return _Student((*merges, Merge(boundaries)), student)
