"""Plans for mixtures: over measured merges, since their errors have no closed form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, product

from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Plan, Tree
from opmerge_studies.mixture.merging import LiftedMap, MixtureProblem, run_maps

__all__ = ["closest_plans", "every_outcome"]

_Interval = tuple[int, int]


def every_outcome(
    problem: MixtureProblem, student_steps: Sequence[int] = (1,)
) -> Iterator[tuple[Plan, float]]:
    """Every plan of K trees, for each K, with its error; a subtree is trained once. For T <= 8.

    Raises:
        InputError: if a K is out of range.
    """
    _check(problem, student_steps)
    trees: dict[_Interval, list[LiftedMap]] = {}
    for start, stop in _intervals(problem.num_steps):
        trees[start, stop] = [
            problem.merged(children)[0]
            for count in range(2, start - stop + 1)
            for children in _forests(trees, start, stop, count)
        ] or [problem.steps[start - 1]]
    for count in student_steps:
        for students in _forests(trees, problem.num_steps, 0, count):
            yield _plan(students), problem.error(students)


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
    _check(problem, student_steps)
    num_steps = problem.num_steps
    trees: dict[_Interval, LiftedMap] = {}
    sequences: dict[_Interval, list[LiftedMap]] = {}
    for start, stop in _intervals(num_steps):
        splits = [[trees[start, k], *sequences[k, stop]] for k in range(start - 1, stop, -1)]
        students = [[problem.merged(split)[0]] for split in splits]
        alone = _closest(problem, students or [[problem.steps[start - 1]]])
        trees[start, stop] = alone[0]
        sequences[start, stop] = _closest(problem, [alone, *splits])
    prefixes = {stop: [trees[num_steps, stop]] for stop in range(num_steps)}
    plans = [_plan(prefixes[0])]
    for count in range(2, max(student_steps) + 1):
        prefixes = {
            stop: _closest(problem, [[*prefixes[k], trees[k, stop]] for k in prefixes if k > stop])
            for stop in range(num_steps - count + 1)
        }
        plans.append(_plan(prefixes[0]))
    return [plans[count - 1] for count in student_steps]


def _check(problem: MixtureProblem, student_steps: Sequence[int]) -> None:
    for count in student_steps:
        uniform_boundaries(problem.num_steps, count)


def _intervals(num_steps: int) -> Iterator[_Interval]:
    """Every j → i, shorter ones first."""
    for length in range(1, num_steps + 1):
        for start in range(length, num_steps + 1):
            yield start, start - length


def _forests(
    trees: Mapping[_Interval, Sequence[LiftedMap]], start: int, stop: int, count: int
) -> Iterator[tuple[LiftedMap, ...]]:
    """All sequences of so many students from ``start`` to ``stop``."""
    for inner in combinations(range(start - 1, stop, -1), count - 1):
        yield from product(*(trees[edge] for edge in pairwise((start, *inner, stop))))


def _closest(problem: MixtureProblem, candidates: Sequence[list[LiftedMap]]) -> list[LiftedMap]:
    """The sequence of students, all of one interval, closest to the teacher over z_start."""
    start, stop = candidates[0][0].start, candidates[0][-1].stop
    nodes, training = problem.nodes[start], problem.trainings[start - 1]
    teacher = problem.composite(start, stop, nodes.points)

    def error(students: list[LiftedMap]) -> float:
        reached = training.features @ students[0].weights
        return nodes.distance(run_maps(students[1:], reached), teacher)

    return min(candidates, key=error)


def _plan(students: Sequence[LiftedMap]) -> Plan:
    return Plan(tuple(Tree(student.start, student.stop, student.merges) for student in students))
