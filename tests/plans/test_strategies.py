"""Named merge orders: first that they are the trees they should be, then what they refuse."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opmerge.errors import InputError
from opmerge.plans.strategies import (
    STRATEGIES,
    boot,
    build_strategy,
    consistency,
    default_strategies,
    hybrid,
    phased,
    progressive,
    temporal,
    uniform,
    uniform_boundaries,
    vanilla,
)
from opmerge.plans.tree import Tree

ranges = st.integers(1, 40).flatmap(
    lambda start: st.tuples(st.just(start), st.integers(0, start - 1))
)


def nested(tree: Tree) -> str:
    return str(tree.to_nested()).replace(" ", "")


# Trees


@pytest.mark.parametrize(
    ("text", "trees"),
    [
        ("vanilla", ["1", "[2,1]", "[3,2,1]", "[4,3,2,1]", "[5,4,3,2,1]"]),
        ("boot", ["1", "[2,1]", "[[3,2],1]", "[[[4,3],2],1]", "[[[[5,4],3],2],1]"]),
        ("consistency", ["1", "[2,1]", "[3,[2,1]]", "[4,[3,[2,1]]]", "[5,[4,[3,[2,1]]]]"]),
        (
            "progressive",
            [
                "1",
                "[2,1]",
                "[[3,2],1]",
                "[[4,3],[2,1]]",
                "[[[5,4],[3,2]],1]",
                "[[[6,5],[4,3]],[2,1]]",
                "[[[7,6],[5,4]],[[3,2],1]]",
                "[[[8,7],[6,5]],[[4,3],[2,1]]]",
                "[[[[9,8],[7,6]],[[5,4],[3,2]]],1]",
            ],
        ),
        (
            "uniform:3",
            [
                "1",
                "[2,1]",
                "[3,2,1]",
                "[[4,3,2],1]",
                "[[5,4,3],[2,1]]",
                "[[6,5,4],[3,2,1]]",
                "[[7,6,5],[4,3,2],1]",
                "[[8,7,6],[5,4,3],[2,1]]",
                "[[9,8,7],[6,5,4],[3,2,1]]",
                "[[[10,9,8],[7,6,5],[4,3,2]],1]",
            ],
        ),
        (
            "temporal:2",
            [
                "1",
                "[2,1]",
                "[[3,2],1]",
                "[[4,3],[2,1]]",
                "[[[5,4],[3,2]],1]",
                "[[[6,5],[4,3]],[2,1]]",
                "[[[[7,6],[5,4]],[3,2]],1]",
            ],
        ),
        (
            "temporal:3",
            [
                "1",
                "[2,1]",
                "[3,2,1]",
                "[[4,3,2],1]",
                "[[5,4,3],[2,1]]",
                "[[6,5,4],[3,2,1]]",
                "[[[7,6,5],[4,3,2]],1]",
            ],
        ),
        (
            "phased:4,2",
            [
                "1",
                "[2,1]",
                "[[3,2],1]",
                "[[4,3],[2,1]]",
                "[[[5,4],3],[2,1]]",
                "[[[6,5],[4,3]],[2,1]]",
                "[[[7,6],[5,4]],[[3,2],1]]",
                "[[[8,7],[6,5]],[[4,3],[2,1]]]",
                "[[[9,8,7],[6,5]],[[4,3],[2,1]]]",
            ],
        ),
        (
            "phased:3",
            ["1", "[2,1]", "[3,2,1]", "[[4,3],2,1]", "[[5,4],[3,2],1]", "[[6,5],[4,3],[2,1]]"],
        ),
        (
            "hybrid:2",
            ["1", "[2,1]", "[[3,2],1]", "[[[4,3],2],1]", "[[[5,4,3],2],1]", "[[[6,5,4,3],2],1]"],
        ),
    ],
)
def test_known_trees(text: str, trees: list[str]) -> None:
    for num_steps, expected in enumerate(trees, start=1):
        plan = build_strategy(text, num_steps)
        assert [nested(tree) for tree in plan.students] == [expected]


@given(ranges)
def test_vanilla_merges_once(steps: tuple[int, int]) -> None:
    start, stop = steps
    merges = vanilla(start, stop).merges
    expected = [tuple(range(start, stop - 1, -1))] if start - stop > 1 else []
    assert [merge.boundaries for merge in merges] == expected


@given(ranges)
def test_boot_always_reads_pure_noise(steps: tuple[int, int]) -> None:
    start, stop = steps
    merges = boot(start, stop).merges
    assert [m.boundaries for m in merges] == [
        (start, t + 1, t) for t in range(start - 2, stop - 1, -1)
    ]


@given(ranges)
def test_consistency_always_ends_in_clean_data(steps: tuple[int, int]) -> None:
    start, stop = steps
    merges = consistency(start, stop).merges
    assert [m.boundaries for m in merges] == [(t, t - 1, stop) for t in range(stop + 2, start + 1)]


@given(ranges)
def test_progressive_halves_round_by_round(steps: tuple[int, int]) -> None:
    start, stop = steps
    tree = progressive(start, stop)
    assert all(merge.num_children == 2 for merge in tree.merges)
    operators = [(t, t - 1) for t in range(start, stop, -1)]
    expected = []
    while len(operators) > 1:
        pairs = [operators[i : i + 2] for i in range(0, len(operators), 2)]
        expected += [(a[0], a[1], b[1]) for a, b in (pair for pair in pairs if len(pair) == 2)]
        operators = [(pair[0][0], pair[-1][1]) for pair in pairs]
    assert sorted(m.boundaries for m in tree.merges) == sorted(expected)


@given(ranges, st.integers(2, 50))
def test_uniform_lies_between_progressive_and_vanilla(steps: tuple[int, int], arity: int) -> None:
    start, stop = steps
    tree = uniform(start, stop, arity=arity)
    assert all(merge.num_children <= arity for merge in tree.merges)
    if arity == 2:
        assert tree == progressive(start, stop)
    if arity >= start - stop:
        assert tree == vanilla(start, stop)


@given(ranges, st.integers(1, 50))
def test_temporal_lies_between_boot_and_vanilla(steps: tuple[int, int], window: int) -> None:
    start, stop = steps
    tree = temporal(start, stop, window=window)
    edges = [*range(start, stop, -window), stop]
    inside = [m for m in tree.merges if (m.start, m.stop) in set(pairwise(edges))]
    between = [m for m in tree.merges if m not in inside]
    assert all(m.num_children == m.start - m.stop <= window for m in inside)
    assert [m.boundaries for m in between] == [(start, a, b) for a, b in pairwise(edges[1:])]
    if window == 1:
        assert tree == boot(start, stop)
    if window >= start - stop:
        assert tree == vanilla(start, stop)


@given(ranges, st.sets(st.integers(1, 50), min_size=1, max_size=4))
def test_phased_passes_through_its_phases(steps: tuple[int, int], counts: set[int]) -> None:
    """Each phase groups what the last one left, the larger groups on the noise side."""
    start, stop = steps
    phases = sorted(counts, reverse=True)
    operators, expected = list(range(start, stop - 1, -1)), []
    for count in [*(n for n in phases if n < start - stop), 1]:
        groups = np.array_split(operators[:-1], count)  # larger groups first
        ends = [*(int(group[0]) for group in groups[1:]), stop]
        for group, end in zip(groups, ends, strict=True):
            if len(group) > 1:
                expected.append((*group.tolist(), end))
        operators = [int(group[0]) for group in groups] + [stop]
    tree = phased(start, stop, phases=phases)
    assert sorted(m.boundaries for m in tree.merges) == sorted(expected)
    if max(counts) == 1:
        assert tree == vanilla(start, stop)


@given(ranges, st.integers(0, 50))
def test_hybrid_merges_the_noisy_steps_at_once(steps: tuple[int, int], sequential: int) -> None:
    start, stop = steps
    tree = hybrid(start, stop, sequential=sequential)
    alone = min(sequential, start - stop - 1)
    sizes = [merge.num_children for merge in tree.merges]
    first = start - stop - alone
    assert sizes == ([first] if first > 1 else []) + [2] * alone
    assert all(merge.start == start for merge in tree.merges)
    if sequential == 0:
        assert tree == vanilla(start, stop)
    if sequential >= start - stop - 1:
        assert tree == boot(start, stop)


# Students of several steps


@given(st.integers(1, 200), st.data())
def test_windows_are_equal_and_the_longer_ones_come_first(
    num_steps: int, data: st.DataObject
) -> None:
    student_steps = data.draw(st.integers(1, num_steps))
    edges = uniform_boundaries(num_steps, student_steps)
    lengths = [a - b for a, b in pairwise(edges)]
    assert (edges[0], edges[-1], len(lengths)) == (num_steps, 0, student_steps)
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths) - min(lengths) <= 1


def test_students_of_several_steps() -> None:
    assert build_strategy("boot", 7, 3).to_nested() == [[[7, 6], 5], [4, 3], [2, 1]]
    assert build_strategy("consistency", 6, 2).to_nested() == [[6, [5, 4]], [3, [2, 1]]]
    assert build_strategy("progressive", 8, 2).to_nested() == [[[8, 7], [6, 5]], [[4, 3], [2, 1]]]
    assert build_strategy("uniform:3", 8, 2).to_nested() == [[[8, 7, 6], 5], [[4, 3, 2], 1]]
    assert build_strategy("temporal:2", 6, 2).to_nested() == [[[6, 5], 4], [[3, 2], 1]]
    assert build_strategy("phased:2", 8, 2).to_nested() == [[[8, 7], [6, 5]], [[4, 3], [2, 1]]]
    assert build_strategy("hybrid:1", 8, 2).to_nested() == [[[8, 7, 6], 5], [[4, 3, 2], 1]]
    assert build_strategy("vanilla", 3, 3).to_nested() == [3, 2, 1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_covers_every_number_of_steps(name: str) -> None:
    for num_steps in range(1, 20):
        for student_steps in range(1, num_steps + 1):
            plan = build_strategy(name, num_steps, student_steps)
            assert (plan.num_steps, plan.student_steps) == (num_steps, student_steps)
            assert plan.boundaries == tuple(uniform_boundaries(num_steps, student_steps))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 64, 1000])
def test_default_strategies_can_be_built(num_steps: int) -> None:
    names = default_strategies(num_steps)
    assert {name.partition(":")[0] for name in names} == set(STRATEGIES)
    for name in names:
        assert build_strategy(name, num_steps).num_steps == num_steps


def test_defaults_of_the_parameters() -> None:
    assert build_strategy("uniform", 30) == build_strategy("uniform:4", 30)
    assert build_strategy("temporal", 30) == build_strategy("temporal:8", 30)
    assert build_strategy("phased", 30) == build_strategy("phased:5", 30)
    assert build_strategy("hybrid", 30) == build_strategy("hybrid:8", 30)


@pytest.mark.parametrize(
    ("text", "steps", "message"),
    [
        (
            "bootstrap",
            (4,),
            (
                "`strategy` must be one of vanilla, progressive, consistency, boot, uniform, "
                "temporal, phased, hybrid, got bootstrap"
            ),
        ),
        ("boot:3", (4,), "`strategy` must be plain `boot`: it takes no parameter"),
        ("uniform:x", (4,), "`strategy` must have whole numbers after `uniform:`, got x"),
        ("uniform:2,3", (4,), "`strategy` must have one number after `uniform:`, got 2,3"),
        ("uniform:1", (4,), "`uniform` must merge at least 2 operators, got 1"),
        ("temporal:0", (4,), "`temporal` must have windows of at least 1 step, got 0"),
        ("phased:2,4", (4,), "`phased` must have decreasing phases >= 1, got [2, 4]"),
        ("phased:2,0", (4,), "`phased` must have decreasing phases >= 1, got [2, 0]"),
        ("hybrid:-1", (4,), "`hybrid` must leave 0 or more sequential steps, got -1"),
        ("boot", (4, 0), "`student_steps` must be >= 1, got 0"),
        ("boot", (0,), "`num_steps` must be >= 1, got 0"),
        ("boot", (4, 5), "`student_steps` must be <= the number of teacher steps 4, got 5"),
    ],
)
def test_refused(text: str, steps: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError) as error:
        build_strategy(text, *steps)
    assert str(error.value) == message
