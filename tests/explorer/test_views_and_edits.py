"""Addresses that give their view back, edits of plans, and answers against the command line's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge import InputError, PlanFile, evaluate
from opmerge.clock import AbandonedError, time_limit
from opmerge.explorer.answers import answer
from opmerge.explorer.edits import Edit, edited, plan_of_view
from opmerge.explorer.figures import plan_drawing
from opmerge.explorer.premises import Run, read_premises, read_source
from opmerge.explorer.view import View, of_address
from opmerge.forecast import forecast, linear_table
from opmerge.plans import build_strategy, parse_plan
from opmerge.problem import Problem

SMALL = View(source="eigenvalues:2,0.5,0.1", steps=8, budget="3e4")


def parameters(address: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(address))


@pytest.mark.parametrize(
    "view",
    [
        View(),
        SMALL,
        View(theory="linear", merge_time=0.1, merge_rule="operator-copy", schedule="equal-angle:2"),
        View(source="a folder/with & signs", law="calibration.json", budget="5000it"),
        View(steps=3, student_steps=2, plan="[[3,2],1]", iterations=(7,)),
    ],
)
def test_an_address_gives_its_view_back(view: View) -> None:
    assert of_address(View, parameters(view.address)) == view
    assert View().address == ""


@pytest.mark.parametrize(
    ("address", "argument"),
    [
        ("steps=x", "steps"),
        ("steps=1", "steps"),
        ("budget=3h", "budget"),
        ("theory=magic", "theory"),
        ("iterations=1,b", "iterations.1"),
    ],
)
def test_parameters_that_are_out_of_range_are_refused(address: str, argument: str) -> None:
    with pytest.raises(InputError) as refused:
        of_address(View, parameters(address))
    assert refused.value.argument == argument


@pytest.mark.parametrize(
    ("nested", "edit", "expected"),
    [
        ("[4,3,2,1]", dict(edit="split", merge=(4, 0), at=2), "[[[4,3],[2,1]]]"),
        ("[4,3,2,1]", dict(edit="split", merge=(4, 0), at=1), "[[[4,3,2],1]]"),
        ("[[4,3],[2,1]]", dict(edit="dissolve", merge=(2, 0)), "[[[4,3],2,1]]"),
        ("[4,3,2,1]", dict(edit="add", to=1), "[[4,3,2],1]"),
        ("[[[4,3],2],1]", dict(edit="add", to=2), "[[4,3],[2,1]]"),
        ("[[4,3],[2,1]]", dict(edit="add", to=2), "[[4,3],[2,1]]"),
    ],
)
def test_edits_change_the_tree_as_drawn_by_hand(
    nested: str, edit: dict[str, Any], expected: str
) -> None:
    view = View(steps=4, plan=nested)
    assert edited(view, parse_plan(nested), (), Edit(**edit)).plan == expected


@pytest.mark.parametrize(
    ("nested", "edit", "expected"),
    [
        ("[[4,3],[2,1]]", dict(edit="move", handover=2, to=3), "[4,[3,2,1]]"),
        ("[[4,3],[2,1]]", dict(edit="move", handover=2, to=1), "[[4,3,2],1]"),
        ("[[4,3],[2,1]]", dict(edit="remove", handover=2), "[[[4,3],[2,1]]]"),
    ],
)
def test_handovers_move_and_go(nested: str, edit: dict[str, Any], expected: str) -> None:
    view = View(steps=4, student_steps=2, plan=nested)
    found = edited(view, parse_plan(nested, 2), (), Edit(**edit))
    assert found.plan == expected
    assert plan_of_view(found).student_steps == found.student_steps


@pytest.mark.parametrize(
    "edit",
    [
        dict(edit="split", merge=(8, 0), at=8),
        dict(edit="split", merge=(8, 2), at=4),
        dict(edit="dissolve", merge=(8, 0)),
        dict(edit="add", to=8),
        dict(edit="move", handover=4, to=2),
        dict(edit="iterations", merge=(8, 0), count=0),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit: dict[str, Any]) -> None:
    plan = build_strategy("vanilla", 8)
    with pytest.raises(InputError):
        edited(View(steps=8), plan, (5,), Edit(**edit))


def test_random_edits_leave_plans_that_can_be_read_and_priced() -> None:
    rng, view = np.random.default_rng(0), SMALL
    kinds = ("split", "dissolve", "add", "move", "remove")
    done = dict.fromkeys(kinds, 0)
    for _ in range(300):
        shown = plan_of_view(view) or build_strategy("progressive", 8)
        merges = [(merge.start, merge.stop) for merge in shown.merges] or [(8, 0)]
        inner = shown.boundaries[1:-1] or (4,)
        edit = Edit(
            edit=kinds[rng.integers(len(kinds))],
            merge=merges[rng.integers(len(merges))],
            at=int(rng.integers(1, 8)),
            handover=inner[rng.integers(len(inner))],
            to=int(rng.integers(1, 8)),
        )
        try:
            view = edited(view, shown, (), edit)
        except InputError:
            continue
        done[edit.edit] += 1
        assert of_address(View, parameters(view.address)) == view
        assert plan_of_view(view).num_steps == 8
    assert min(done.values()) > 5
    if plan_of_view(view).merges:
        assert answer(view, is_first=True).plan == plan_of_view(view)


def test_a_plan_by_hand_is_forecast_as_the_library_does() -> None:
    view = SMALL.replaced(plan="[[8,7,6,5],[4,3,2,1]]", iterations=(20, 30, 40))
    found = answer(view, is_first=True)
    known = read_premises(view)
    table = linear_table(known.spectrum, known.schedule)
    expected = forecast(known.law, table, parse_plan(view.plan), view.iterations)
    best = found.record["best"]
    assert best["paired_rms"] == pytest.approx(expected.rms, rel=1e-12)
    assert (best["low"], best["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)
    squares = np.square(found.directions.curves["this plan"])  # three directions, a group each
    assert squares.sum() == pytest.approx(expected.rms**2, rel=1e-12)
    assert found.planned == pytest.approx(answer(SMALL, is_first=True).record["best"]["paired_rms"])


def test_a_plan_by_hand_is_evaluated_by_the_linear_theory() -> None:
    view = SMALL.replaced(theory="linear", plan="[[8,7,6,5],[4,3,2,1]]")
    found = answer(view, is_first=True)
    known = read_premises(view)
    problem = Problem(known.spectrum, known.schedule)
    expected = evaluate(problem, parse_plan(view.plan))
    assert found.record["best"]["w2"] == pytest.approx(expected.w2, rel=1e-12)
    assert found.record["best"]["lower_bound"] <= found.planned <= found.record["best"]["w2"]


def test_first_answers_are_no_better_than_those_of_the_whole_search() -> None:
    for view in (SMALL, SMALL.replaced(theory="linear", student_steps=2)):
        key = "paired_rms" if view.theory == "law" else "w2"
        first, last = answer(view, True), answer(view, False)
        part = "least" if view.theory == "law" else "best"
        assert first.record[part][key] >= last.record[part][key] * (1 - 1e-9)
        assert (first.is_first, last.is_first) == (True, False)
        known = answer(view, True).record[part][key]  # need not be looked for again
        assert known == last.record[part][key]


def test_nothing_is_kept_of_a_search_that_was_broken_off() -> None:
    view = SMALL.replaced(steps=9, budget="4e4")
    with pytest.raises(AbandonedError), time_limit(is_over=lambda: True):
        answer(view)
    assert not answer(view).is_first


def test_a_run_opens_with_its_plan_law_and_budget(run: Any, tmp_path: Path) -> None:
    told = ("--steps", 8, "--budget", "4e4", "--student_steps", 2, "--output_dir", tmp_path)
    assert run("plan", "eigenvalues:2,0.5,0.1", *told)[0] == 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    file, found = PlanFile.read(tmp_path / "plan.json"), read_source(str(tmp_path))
    assert isinstance(found, Run)
    view = found.view
    assert (view.steps, view.student_steps, float(view.budget)) == (8, 2, 4e4)
    assert plan_of_view(view) == file.plan
    assert view.iterations == file.iterations
    shown = answer(view, is_first=True).record
    for key in ("paired_rms", "low", "high", "cost"):
        assert shown["best"][key] == pytest.approx(record["best"][key], rel=1e-9)
    assert shown["budget"]["law"] == record["budget"]["law"]


def test_runs_of_the_first_version_open_too() -> None:
    folder = Path(__file__).parents[1] / "fixtures" / "v0_1" / "plan"
    found = read_source(str(folder))
    assert isinstance(found, Run)
    shown = answer(found.view, is_first=True).record["best"]
    assert shown["w2"] == pytest.approx(found.record["best"]["w2"], rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "shades"), [((100, 97), "44"), ((100, 50), "42"), ((1, 100), "04"), ((0, 0), "00")]
)
def test_a_merge_is_as_strong_as_its_weight(weights: tuple[float, float], shades: str) -> None:
    drawn = plan_drawing(parse_plan("[[4,3],[2,1]]", 2), weights, "two merges")
    assert re.findall(r"merge shade(\d)", drawn) == list(shades)
