"""Merge trees and plans: structure, counts, nested lists at any depth, refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import num_plans, students_of, trees_of
from strategies import nested_trees, plans

from opmerge.errors import InputError
from opmerge.planners.brute_force import all_plans, all_trees
from opmerge.plans.tree import Merge, Plan, Tree


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# Structure


def test_a_merge_says_what_it_replaces() -> None:
    merge = Merge((7, 5, 4, 2))
    assert (merge.start, merge.split, merge.stop, merge.num_children) == (7, 5, 2, 3)


def test_nested_lists_are_merges_in_the_order_of_execution() -> None:
    tree = Tree.from_nested([[5, 4], 3, [2, 1]])
    assert tree.merges == (Merge((5, 4, 3)), Merge((2, 1, 0)), Merge((5, 3, 2, 0)))
    assert (tree.start, tree.stop) == (5, 0)
    assert Tree.from_nested(4) == Tree(4, 3)


def test_equal_trees_are_equal_whatever_the_order_of_their_merges() -> None:
    merges = list(Tree.from_nested([[[6, 5], 4], [3, [2, 1]]]).merges)
    expected = Tree(6, 0, tuple(merges))
    shuffled = random.Random(0)
    for _ in range(20):
        shuffled.shuffle(merges)
        tree = Tree(6, 0, tuple(merges))
        assert tree == expected
        assert hash(tree) == hash(expected)


@given(st.data())
def test_merges_can_be_executed_in_their_order(data: st.DataObject) -> None:
    """Children first, noise side first, and every operator is used by exactly one merge."""
    start = data.draw(st.integers(1, 14))
    stop = data.draw(st.integers(0, start - 1))
    tree = Tree.from_nested(data.draw(nested_trees(start, stop)))
    operators = {(t, t - 1) for t in range(start, stop, -1)}
    for merge in tree.merges:
        children = list(zip(merge.boundaries, merge.boundaries[1:], strict=False))
        assert operators.issuperset(children)
        operators = operators.difference(children) | {(merge.start, merge.stop)}
    assert operators == {(start, stop)}


@given(st.data())
def test_trees_go_through_nested_lists(data: st.DataObject) -> None:
    start = data.draw(st.integers(1, 14))
    nested = data.draw(nested_trees(start, data.draw(st.integers(0, start - 1))))
    assert Tree.from_nested(nested).to_nested() == nested


@given(plans())
def test_plans_go_through_nested_lists(plan: Plan) -> None:
    assert Plan.from_nested(plan.to_nested()) == plan
    assert plan.student_steps == len(plan.students)
    assert plan.boundaries[0] == plan.num_steps
    assert plan.boundaries[-1] == 0
    assert sum(merge.num_children - 1 for merge in plan.merges) == (
        plan.num_steps - plan.student_steps
    )


def test_a_chain_trains_one_student_block_by_block() -> None:
    assert Tree.chain(6, (5, 3, 2, 0)).to_nested() == [[[6, 5, 4], 3], 2, 1]
    assert Tree.chain(6, (5, 0)).to_nested() == [6, 5, 4, 3, 2, 1]
    assert Tree.chain(6, (5,)) == Tree(6, 5)


def test_cost_counts_children_and_overhead() -> None:
    plan = Plan.from_nested([[[4, 3], 2], 1])
    assert plan.merges == (Merge((4, 3, 2)), Merge((4, 2, 1)))
    assert plan.network_evaluations() == (2 + 3) + (2 + 3)
    assert plan.network_evaluations(overhead=0.5) == 5.0
    assert Plan.from_nested([2, 1]).network_evaluations() == 0
    assert plan.boundaries == (4, 1, 0)


@pytest.mark.parametrize("nested_side", ["noise", "data"])
def test_a_thousand_levels(nested_side: str) -> None:
    """Beyond Python's recursion limit, in either direction."""
    nested: Any = 1000 if nested_side == "noise" else 1
    others = range(999, 0, -1) if nested_side == "noise" else range(2, 1001)
    for t in others:
        nested = [nested, t] if nested_side == "noise" else [t, nested]
    tree = Tree.from_nested(nested)
    assert len(tree.merges) == 999
    back = tree.to_nested()
    for t in reversed(others):
        assert len(back) == 2
        leaf, back = (back[1], back[0]) if nested_side == "noise" else (back[0], back[1])
        assert leaf == t
    assert back == (1000 if nested_side == "noise" else 1)


# Counts


@pytest.mark.parametrize(
    ("num_steps", "count"),
    [(1, 1), (2, 1), (3, 3), (4, 11), (5, 45), (6, 197), (7, 903), (8, 4279)],
)
def test_trees_are_counted_by_the_little_schroeder_numbers(num_steps: int, count: int) -> None:
    trees = list(all_trees(num_steps, 0))
    assert len(trees) == len(set(trees)) == count == num_plans(num_steps)


@pytest.mark.parametrize("num_steps", range(1, 8))
@pytest.mark.parametrize("student_steps", [1, 2, 3])
def test_all_plans_are_those_of_another_program(num_steps: int, student_steps: int) -> None:
    if student_steps > num_steps:
        message = f"`student_steps` must be <= the number of teacher steps {num_steps}"
        assert refusal(list, all_plans(num_steps, student_steps)).startswith(message)
        return
    found = [plan.to_nested() for plan in all_plans(num_steps, student_steps)]
    expected = students_of(num_steps, student_steps)
    assert len(found) == num_plans(num_steps, student_steps)
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_trees_need_not_end_at_step_0() -> None:
    assert {str(tree.to_nested()) for tree in all_trees(6, 2)} == set(map(str, trees_of(6, 2)))


# Refusals


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ((3, 2), "`merge` must have at least 2 children, got [3, 2]"),
        ((3, 2, 2), "`merge` must have decreasing boundaries, got [3, 2, 2]"),
        ((1, 2, 3), "`merge` must have decreasing boundaries, got [1, 2, 3]"),
        ((1, 0, -1), "`merge` must end at step 0 or above, got -1"),
    ],
)
def test_wrong_merges_are_refused(boundaries: tuple[int, ...], message: str) -> None:
    assert refusal(Merge, boundaries) == message


@pytest.mark.parametrize(
    ("start", "stop", "merges", "message"),
    [
        (2, 2, (), "`tree` must go from a later to an earlier step, got (2, 2)"),
        (2, -1, (), "`tree` must go from a later to an earlier step, got (2, -1)"),
        (2, 0, (), "`tree` must merge all steps 2 … 1 into one student"),
        (3, 0, [(3, 2, 1)], "`tree` must merge all steps 3 … 1 into one student"),
        (3, 0, [(3, 1, 0)], "`tree` must have an operator 3 → 1 when it is merged"),
        (2, 0, [(3, 2, 1, 0)], "`tree` must have an operator 3 → 2 when it is merged"),
        (3, 1, [(3, 2, 1, 0)], "`tree` must have an operator 1 → 0 when it is merged"),
        (2, 0, [(2, 1, 0)] * 2, "`tree` must have an operator 2 → 1 when it is merged"),
        (
            4,
            0,
            [(4, 3, 2), (3, 2, 1), (4, 2, 1, 0)],
            "`tree` must have an operator 3 → 2 when it is merged",
        ),
    ],
)
def test_merges_that_build_no_tree_are_refused(
    start: int, stop: int, merges: Any, message: str
) -> None:
    assert refusal(Tree, start, stop, tuple(Merge(m) for m in merges)) == message


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ([3, 1], "`plan[1]` must continue with step 2 (noise side first), got 1"),
        ([1, 2, 3], "`plan[1]` must continue with step 0 (noise side first), got 2"),
        ([4, [3, 1], 2], "`plan[1][1]` must continue with step 2 (noise side first), got 1"),
        ([[4, [3, 2]], [[1]]], "`plan[1]` must have at least 2 children, got [[1]]"),
        ([3, [2, []]], "`plan[1][1]` must have at least 2 children, got []"),
        ([3, 2, "1"], "`plan[2]` must be a step (integer) or a list of children, got 1"),
        ([3, 2, True], "`plan[2]` must be a step (integer) or a list of children, got True"),
        ([3, [2, 1.0]], "`plan[1][1]` must be a step (integer) or a list of children, got 1.0"),
        ([3, 2, None], "`plan[2]` must be a step (integer) or a list of children"),
        ([1, 0], "`plan[1]` must be a step >= 1, got 0"),
        (0, "`plan` must be a step >= 1, got 0"),
        ({}, "`plan` must be a step (integer) or a list of children, got {}"),
    ],
)
def test_malformed_trees_are_refused_with_the_place_and_the_rule(nested: Any, message: str) -> None:
    assert refusal(Tree.from_nested, nested) == message


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ([], "`students` must have at least one tree"),
        (3, "`students` must be a list of trees, got 3"),
        ([[3, 2]], "`students` must end with step 1, got 2"),
        ([[4, 3], 1], "`students[1]` must start at step 2, got 1"),
        ([[4, 3], [2, 1], 1], "`students[2]` must start at step 0, got 1"),
    ],
)
def test_trees_that_do_not_follow_one_another_are_refused(students: Any, message: str) -> None:
    assert refusal(Plan.from_nested, students) == message


def test_the_place_says_which_student() -> None:
    assert refusal(Plan.from_nested, [[5, 4], [3, [1, 2]]]).startswith("`students[1][1][1]`")
