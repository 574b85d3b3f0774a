"""Drawings of plans: texts by hand, no two plans alike, and figures whose bars are the merges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from oracles import students_of
from strategies import plans

from opmerge.errors import InputError
from opmerge.plans.drawing import plan_figure, plan_from_merges
from opmerge.plans.outline import draw_text, plan_phrase
from opmerge.plans.strategies import build_strategy, consistency, hybrid
from opmerge.plans.tree import Plan


def as_record(plan: Plan) -> list[dict[str, object]]:
    """The merges as a record holds them, with shares 1, 2, … of their sum."""
    total = sum(range(len(plan.merges) + 1)) or 1
    return [
        {"boundaries": list(merge.boundaries), "share": (k + 1) / total}
        for k, merge in enumerate(plan.merges)
    ]


def random_nested(rng: np.random.Generator, start: int, stop: int = 0) -> object:
    if start - stop == 1:
        return start
    count = int(rng.integers(2, min(start - stop, 4) + 1))
    inner = np.sort(rng.choice(np.arange(stop + 1, start), count - 1, replace=False))[::-1]
    edges = [start, *inner.tolist(), stop]
    return [random_nested(rng, a, b) for a, b in pairwise(edges)]


HYBRID = """\
z_64 → z_0 (50 merges)
├ steps 64 … 50 merged at once
└ then 49, 48, …, 1 one at a time (49 merges)"""

CONSISTENCY = """\
z_1000 → z_0 (999 merges)
├ steps 2, 1 merged at once
└ then 3, 4, …, 1000 in front, one at a time (998 merges)"""

PROGRESSIVE = """\
z_8 → z_0 (7 merges)
└ z_8 → z_4 → z_0 merged at once, 2 times like this:
  └ z_8 → z_6 → z_4 merged at once, 2 times like this:
    └ steps 8, 7 merged at once"""

TEMPORAL = """\
z_64 → z_0 (15 merges)
├ z_64 → z_56 → z_48 merged at once, 2 times like this:
│ └ steps 64 … 57 merged at once
└ then z_48 → z_40 → … → z_0 one by one, 6 times like this:
  └ steps 48 … 41 merged at once"""

FOREST = """\
z_8 → z_5 → z_2, 2 times like this (2 merges each)
├ steps 8, 7 merged at once
└ then step 6
z_2 → z_1 → z_0: the teacher's steps 2, 1, kept as they are"""

MIXED = """\
z_9 → z_0 (7 merges)
├ steps 5, 4 merged at once
├ then, at once:
│ ├ in front: step 6
│ └ behind: step 3
├ then z_2 → z_0: steps 2, 1 merged at once
└ then z_9 → z_6 in front:
  ├ steps 8, 7 merged at once
  └ then step 9 in front"""

BLOCKS = """\
z_9 → z_0 (4 merges)
├ steps 9 … 7 merged at once
└ then 6, 5, 4, 3, 2, 1, each 2 steps at once (3 merges)"""


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan((hybrid(64, sequential=49),)), HYBRID),
        (Plan((consistency(1000),)), CONSISTENCY),
        (build_strategy("progressive", 8), PROGRESSIVE),
        (build_strategy("temporal:8", 64), TEMPORAL),
        (Plan.from_nested([[[8, 7], 6], [[5, 4], 3], 2, 1]), FOREST),
        (Plan.from_nested([[[9, [8, 7]], [[6, [5, 4], 3], [2, 1]]]]), MIXED),
        (Plan.from_nested([[[[[9, 8, 7], 6, 5], 4, 3], 2, 1]]), BLOCKS),
        (build_strategy("vanilla", 1), "z_1 → z_0: the teacher's step 1, kept as it is"),
    ],
)
def test_outline_says_in_which_order_to_merge(plan: Plan, text: str) -> None:
    assert draw_text(plan) == text


def test_no_two_plans_have_the_same_outline() -> None:
    """All 4,279 trees of 8 steps, and all plans of 6 steps with any number of students."""
    every = [*students_of(8, 1), *(s for count in range(1, 7) for s in students_of(6, count))]
    texts = {draw_text(Plan.from_nested(students), 200) for students in every}
    assert len(texts) == len(every) > 4279


@given(plans(max_steps=40), st.integers(30, 90))
def test_lines_keep_to_the_width(plan: Plan, width: int) -> None:
    lines = draw_text(plan, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.strip("│├└ ") for line in lines)


@pytest.mark.parametrize("seed", range(5))
def test_tangled_plans_are_cut_short_and_say_so(seed: int) -> None:
    plan = Plan.from_nested([random_nested(np.random.default_rng(seed), 400)])
    text = draw_text(plan)
    assert len(text.splitlines()) <= 60
    assert "not drawn" in text
    assert text.startswith(f"z_400 → z_0 ({len(plan.merges)} merges)")


def test_a_zigzag_of_a_thousand_steps_shows_both_ends() -> None:
    nested: object = [501, 500]
    for k in range(1, 500):
        nested = [[501 + k, nested], 500 - k]
    lines = draw_text(Plan.from_nested([nested])).splitlines()
    assert lines[:4] == [
        "z_1000 → z_0 (999 merges)",
        "├ steps 501, 500 merged at once",
        "├ then step 502 in front",
        "├ then step 499",
    ]
    assert lines[-1] == "└ then step 1"
    assert "├ … 975 lines like these, not drawn" in lines  # 999 - 24
    assert len(lines) == 26


def test_sequential_plans_of_a_thousand_steps_are_three_lines() -> None:
    for name in ("boot", "consistency", "hybrid:100"):
        assert len(draw_text(build_strategy(name, 1000)).splitlines()) == 3


def test_width_is_refused_where_nothing_fits() -> None:
    with pytest.raises(InputError, match=r"`width` must be >= 30, got 10"):
        draw_text(build_strategy("boot", 4), 10)


@pytest.mark.parametrize(
    ("plan", "phrase"),
    [
        (build_strategy("vanilla", 1), "Keep the teacher's steps as they are"),
        (build_strategy("vanilla", 2), "Merge both steps at once"),
        (build_strategy("vanilla", 64), "Merge all 64 steps at once"),
        (build_strategy("boot", 64), "Merge one step at a time from the noise side"),
        (build_strategy("consistency", 9), "Merge one step at a time from the data side"),
        (build_strategy("hybrid:49", 64), "Merge steps 64 … 50 at once, then one step at a time"),
        (build_strategy("progressive", 64), "Use the plan of 63 merges"),
        (
            Plan.from_nested([[[[[[9, 8, 7], 6], 5], 4, 3], 2, 1]]),
            "Merge steps 9 … 7 at once, then one step at a time to 5, then 2 steps at a time",
        ),
        (
            Plan.from_nested([[4, 3], 2, 1]),
            "For a student of 3 steps take z_4 → z_2 → z_1 → z_0 and merge both steps at once",
        ),
        (
            build_strategy("boot", 64, 8),
            "For a student of 8 steps merge one step at a time from the noise side within each "
            "window",
        ),
        (
            Plan.from_nested([[[7, 6], 5], [4, 3], 2, 1]),
            "For a student of 4 steps take z_7 → z_4 → z_2 → z_1 → z_0 and merge one step at a "
            "time from the noise side within each window",
        ),
        (
            build_strategy("vanilla", 8, 2),
            "For a student of 2 steps take z_8 → z_4 → z_0 and merge each window at once",
        ),
        (
            build_strategy("vanilla", 4, 2),
            "For a student of 2 steps take z_4 → z_2 → z_0 and merge each window at once",
        ),
        (
            Plan(build_strategy("vanilla", 4, 2).students, 6),
            "For a student of 2 steps and one in closed form take z_6 → z_4 → z_2 → z_0 and step "
            "from z_6 to z_4 in closed form, then merge each window at once",
        ),
    ],
)
def test_phrase_says_what_to_do(plan: Plan, phrase: str) -> None:
    assert plan_phrase(plan) == phrase


@given(plans())
def test_a_record_s_merges_are_the_plan(plan: Plan) -> None:
    assert plan_from_merges(as_record(plan), plan.boundaries) == plan


def test_rounds_count_what_waits_for_what() -> None:
    assert build_strategy("boot", 9).rounds() == list(range(1, 9))
    assert build_strategy("vanilla", 9).rounds() == [1]
    counts = np.bincount(build_strategy("progressive", 64).rounds())
    assert counts.tolist() == [0, 32, 16, 8, 4, 2, 1]


@settings(max_examples=40)  # a figure's first drawing loads its fonts
@given(plans())
def test_bars_of_the_figure_are_the_merges(plan: Plan) -> None:
    axes = plan_figure(as_record(plan), plan.boundaries).axes[0]
    bars = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert len(bars) == (1 if plan.merges else 0)
    if bars:
        corners = [path.vertices[:4] for path in bars[0].get_paths()]
        spans = [corner[:, 0].tolist() for corner in corners]
        assert spans == [[m.start, m.stop, m.stop, m.start] for m in plan.merges]
        assert [round(corner[:, 1].mean()) for corner in corners] == plan.rounds()
        shares = np.arange(1, len(spans) + 1) * 100 / sum(range(len(spans) + 1))
        np.testing.assert_allclose(bars[0].get_array(), shares, rtol=1e-12)
    assert axes.get_xlim() == (plan.num_steps, 0)


def test_colours_darken_with_the_share_so_that_they_read_in_grey() -> None:
    plan = build_strategy("boot", 200)
    axes = plan_figure(as_record(plan), plan.boundaries).axes[0]
    (bars,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    bars.update_scalarmappable()
    # luma of ITU-R 601: what a greyscale printer makes of a colour
    luma = bars.get_facecolor()[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) <= 0).all()
    assert luma[0] - luma[-1] > 0.6


def test_handovers_between_students_are_marked() -> None:
    plan = build_strategy("boot", 64, 4)
    axes = plan_figure(as_record(plan), plan.boundaries).axes[0]
    marked = [line.get_xdata()[0] for line in axes.lines]
    assert marked == [48, 32, 16]
    assert axes.get_xticks().tolist() == [64, 48, 32, 16, 0]


def test_figure_of_a_plan_without_merges_or_errors() -> None:
    plan = build_strategy("vanilla", 3, 3)
    assert plan_figure([], plan.boundaries).axes[0].get_ylim()[1] == pytest.approx(0.6)
    merges = [{"boundaries": [3, 2, 1, 0], "share": 0.0}]
    assert len(plan_figure(merges, [3, 0]).axes) == 2


def test_figure_refuses_merges_that_are_no_plan() -> None:
    with pytest.raises(InputError, match="must merge all steps 3 … 1 into one student"):
        plan_figure([], [3, 0])
