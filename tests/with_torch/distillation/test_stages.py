"""Which merges train together: by hand for the named orders, by simulation for random plans."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import plans

from opmerge import Plan, build_strategy
from opmerge.distillation.stages import Sharing, plan_stages
from opmerge.errors import InputError


def by_hand(plan: Plan, sharing: Sharing) -> list[tuple[list[tuple[int, ...]], int]]:
    return [
        ([merge.boundaries for merge in stage.merges], stage.networks_after)
        for stage in plan_stages(plan, sharing)
    ]


@pytest.mark.parametrize("rounds", [1, 2, 3, 6])
def test_progressive_distillation_is_one_network_a_round(rounds: int) -> None:
    plan = build_strategy("progressive", 2**rounds)
    shared = plan_stages(plan, "round")
    assert [len(stage.merges) for stage in shared] == [2**n for n in reversed(range(rounds))]
    assert [stage.networks_after for stage in shared] == [1] * rounds
    assert len(plan_stages(plan, "merge")) == 2**rounds - 1


def test_an_odd_step_waits_for_its_round() -> None:
    plan = build_strategy("progressive", 5)
    assert by_hand(plan, "round") == [
        ([(5, 4, 3), (3, 2, 1)], 1),
        ([(5, 3, 1)], 1),
        ([(5, 1, 0)], 1),
    ]
    assert by_hand(plan, "merge") == [
        ([(5, 4, 3)], 1),
        ([(3, 2, 1)], 2),
        ([(5, 3, 1)], 1),
        ([(5, 1, 0)], 1),
    ]


def test_merges_of_a_round_that_start_from_other_networks_train_apart() -> None:
    """Round 2 holds [[6,5],4] from the network of round 1 and nothing else may join it."""
    plan = Plan.from_nested([[[6, 5], 4], [3, [2, 1]]])
    assert by_hand(plan, "round") == [
        ([(6, 5, 4), (2, 1, 0)], 1),
        ([(6, 4, 3)], 2),
        ([(3, 2, 0)], 2),
    ]


@pytest.mark.parametrize("sharing", get_args(Sharing))
def test_sequential_orders_train_one_merge_at_a_time(sharing: Sharing) -> None:
    assert by_hand(build_strategy("vanilla", 4), sharing) == [([(4, 3, 2, 1, 0)], 1)]
    assert by_hand(build_strategy("boot", 4), sharing) == [
        ([(4, 3, 2)], 1),
        ([(4, 2, 1)], 1),
        ([(4, 1, 0)], 1),
    ]
    assert by_hand(build_strategy("consistency", 4), sharing) == [
        ([(2, 1, 0)], 1),
        ([(3, 2, 0)], 1),
        ([(4, 3, 0)], 1),
    ]
    assert by_hand(build_strategy("boot", 1), sharing) == []


def test_students_of_several_steps_share_a_round() -> None:
    plan = build_strategy("vanilla", 6, student_steps=2)
    assert by_hand(plan, "round") == [([(6, 5, 4, 3), (3, 2, 1, 0)], 1)]
    assert by_hand(plan, "merge") == [([(6, 5, 4, 3)], 1), ([(3, 2, 1, 0)], 2)]


@given(plans(max_steps=14), st.sampled_from(["merge", "round"]))
def test_stages_execute_the_plan(plan: Plan, sharing: Sharing) -> None:
    """Every merge once, on operators that are in place, from the network its stage starts from."""
    stages = plan_stages(plan, sharing)
    executed = [merge for stage in stages for merge in stage.merges]
    assert sorted(m.boundaries for m in executed) == sorted(m.boundaries for m in plan.merges)
    round_of = dict(zip(plan.merges, plan.rounds(), strict=True))
    in_place: dict[tuple[int, int], Any] = {(t, t - 1): "teacher" for t in range(1, 15)}
    seen = set()
    for number, stage in enumerate(stages):
        children = {
            merge: list(zip(merge.boundaries, merge.boundaries[1:], strict=False))
            for merge in stage.merges
        }
        origins = {in_place[children[merge][0]] for merge in stage.merges}
        assert len(origins) == 1
        # Where networks are shared, all of a round that could train together do.
        key = (round_of[stage.merges[0]], *origins)
        assert sharing == "merge" or key not in seen
        seen.add(key)
        assert sharing == "round" or len(stage.merges) == 1
        for operators in children.values():
            for operator in operators:
                del in_place[operator]  # KeyError: it was not there, or another merge took it
        for merge in stage.merges:
            in_place[merge.start, merge.stop] = number
        assert stage.networks_after == len(set(in_place.values()) - {"teacher"})


def test_an_unknown_sharing_is_refused() -> None:
    with pytest.raises(InputError, match="`sharing` must be one of merge, round, all, got tree"):
        plan_stages(build_strategy("boot", 3), "tree")  # type: ignore[arg-type]
