"""Long spans: an answer in the time there is, whose bound is one wherever the search was cut."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from opmerge import (
    GradientFlow,
    Plan,
    PlanFile,
    Problem,
    Tree,
    clock,
    cosine_schedule,
    eigenvalue_spectrum,
)
from opmerge.clock import AbandonedError, TimeUpError, tick, time_limit, while_time
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.planners.brute_force import all_plans
from opmerge.planners.handovers import window_excesses
from opmerge.plans.strategies import boot

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

ROUNDING = 1e-9

CASES = {  # eigenvalues, T, rule, objective, K, planner; λ = 1.1 has steps of both signs
    "combs": ((0.3, 4.0), 7, "operator-copy", "teacher", 1, "certified"),
    "both signs": ((0.3, 1.1, 1.2, 4.0), 7, "operator-copy", "teacher", 1, "auto"),
    "blocks of heads": ((0.3, 1.1, 4.0), 7, "operator-copy", "teacher", 3, "certified"),
    "windows": ((0.3, 1.1, 4.0), 8, "denoiser-copy", "teacher", 3, "auto"),
    "data": ((0.3, 1.1, 4.0), 6, "denoiser-copy", "data", 2, "auto"),
    "intervals": ((0.3, 4.0), 7, "operator-copy", "data", 1, "interval"),
    "fronts": ((0.3, 1.1), 6, "operator-copy", "teacher", 2, "pareto"),
    "one eigenvalue": ((1.1,), 7, "operator-copy", "teacher", 1, "scalar"),
    "every plan": ((0.3, 4.0), 6, "denoiser-copy", "teacher", 2, "brute-force"),
}


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is looked at: limits count loops."""
    looks = itertools.count()
    ticks = SimpleNamespace(monotonic=lambda: float(next(looks)), process_time=time.monotonic)
    monkeypatch.setattr(clock, "time", ticks)


def case(name: str) -> tuple[Problem, int, str]:
    values, steps, rule, objective, students, planner = CASES[name]
    training = GradientFlow(0.7)  # little is trained, so that plans differ much
    spectrum = eigenvalue_spectrum(values)
    problem = Problem(spectrum, cosine_schedule(steps), training, rule, objective)  # type: ignore[arg-type]
    return problem, students, planner


@pytest.mark.parametrize("name", CASES)
def test_a_bound_is_one_wherever_the_search_is_cut(name: str, ticking: None, seen: Seen) -> None:
    problem, students, planner = case(name)
    every = all_plans(problem.num_steps, students)
    optimum = min(evaluate(problem, plan).w2 for plan in every)
    whole = find_plan(problem, planner, students)
    lengths = [*range(6, 60, 3), *np.geomspace(60, 1e5, 30).astype(int).tolist()]
    num_cut = num_whole = 0
    for length in lengths:
        try:
            result = find_plan(problem, planner, students, max_seconds=float(length))
        except InputError:  # not even one plan was evaluated
            assert length < 60
            continue
        assert result.lower_bound <= optimum * (1 + ROUNDING) + 1e-300
        assert result.w2 >= optimum * (1 - ROUNDING)
        assert result.cut_short == any("cut short" in note for note in result.notes)
        num_cut += result.cut_short
        if not result.cut_short:
            num_whole += 1
            given = (result.w2, result.lower_bound, result.plan, result.notes)
            assert given == (whole.w2, whole.lower_bound, whole.plan, whole.notes)
    seen(f"cut anywhere: {name}", "bound <= optimum <= plan", "so at every length")
    assert num_cut > 0
    assert num_whole > 0


def test_windows_are_those_of_evaluated_plans() -> None:
    problem = Problem(eigenvalue_spectrum((0.0, 0.4, 1.3, 50.0)), cosine_schedule(12))
    excess = window_excesses(problem)
    for start, stop in itertools.combinations(range(12, -1, -1), 2):
        around = [Tree(t, t - 1) for t in range(12, 0, -1) if t > start or t <= stop]
        trees = sorted([*around, boot(start, stop)], key=lambda tree: -tree.start)
        np.testing.assert_array_equal(
            excess[start, stop], evaluate(problem, Plan(tuple(trees))).excess
        )


def test_a_search_that_is_cut_says_so_everywhere(
    run: Run, tmp_path: Path, ticking: None, seen: Seen
) -> None:
    arguments = ("plan", "eigenvalues:0.3,1.1,4", "--steps", 40, "--merge_rule", "operator-copy")
    status, out, err = run(*arguments, "--max_seconds", 60, "--output_dir", tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    file = PlanFile.read(tmp_path / "plan.json")
    seen("a search is cut", "said on one line, in record, plan and page", err.strip()[:40])
    assert status == 0
    (line,) = (line for line in err.splitlines() if line.startswith("opmerge:"))
    assert "--max_seconds 60" in line
    assert record["best"]["cut_short_after"] == file.predicted["cut_short_after"] > 0
    assert file.predicted["lower_bound"] == record["best"]["lower_bound"]
    assert "cut short" in (tmp_path / "report.html").read_text()
    assert "cut short" in out


@pytest.mark.parametrize("seconds", [1, 30, 300, 3000])
def test_a_budget_is_planned_for_in_any_time(
    run: Run, seconds: int, ticking: None, seen: Seen
) -> None:
    whole = ("plan", "digits", "--steps", 12, "--budget", "1e6", "--json")
    status, out, err = run(*whole, "--max_seconds", seconds)
    best = json.loads(out)["best"]
    seen(f"a budget in {seconds} ticks", "a plan with its forecast", f"{best['paired_rms']:.3g}")
    assert status == 0
    assert 0 < best["low"] < best["paired_rms"] < best["high"]
    assert ("cut_short_after" in best) == ("--max_seconds" in err)


def test_seconds_must_be_some(run: Run) -> None:
    status, _, err = run("plan", "digits", "--steps", 8, "--max_seconds", 0)
    assert status == 2
    assert "max_seconds" in err


def test_limits_nest_and_tell(ticking: None) -> None:
    told: list[tuple[float, str]] = []
    with time_limit(1e6, lambda done, doing: told.append((done, doing))):
        with pytest.raises(TimeUpError), time_limit(5):  # noqa: PT012 - which of the ticks is the point
            for number in range(100):
                tick("counting", number)
        tick("after", 1)
        with time_limit(0):
            assert list(while_time([1, 2, 3])) == [1]
        with pytest.raises(AbandonedError), time_limit(is_over=lambda: True):
            list(while_time([1, 2, 3]))
    tick()
    assert told[-1] == (1, "after")
    assert 3 <= len(told) <= 8


@pytest.mark.parametrize(
    ("wall", "busy", "expected"),
    [
        (2.0, 2.0, 60 - 2 - 12),  # an answer takes a fifth
        (6.0, 1.0, 60 - 6 - 24),  # or 4 s of a processor, of which this command has a sixth
        (2.0, 9.0, 60 - 2 - 12),  # several at once are no reason to wait longer
        (50.0, 40.0, 30),  # data took long to read
        (1.0, 0.0, 30),
    ],
)
def test_a_search_leaves_time_for_its_answer(
    wall: float, busy: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(monotonic=lambda: 100.0, process_time=lambda: 7.0)
    monkeypatch.setattr(clock, "time", now)
    clock.begin()
    now.monotonic, now.process_time = lambda: 100.0 + wall, lambda: 7.0 + busy
    assert clock.searching_seconds(60.0) == pytest.approx(expected)
