"""``opmerge plan --budget``: the contract of JSON and files, the answer, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forecast_cases import a_law, a_table

from opmerge import Plan, PlanFile, resolve_schedule, resolve_spectrum
from opmerge.forecast import (
    DEFAULT_PRIOR,
    PRIORS,
    FittedLaw,
    forecast,
    linear_table,
    read_calibration,
    write_table,
)
from opmerge.forecast.cost import IterationCost
from opmerge.page import report_page, summary_sentence

Run = Callable[..., tuple[int, str, str]]

POWER_LAW = "eigenvalues:" + ",".join(f"{30 * k**-1.5:.5g}" for k in range(1, 65))
PLAN = ("plan", POWER_LAW, "--steps", 16)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan for a budget, with a frontier of three K."""
    from opmerge.cli import main

    folder = tmp_path_factory.mktemp("budget")
    options = ("--budget", "2e6", "--student_steps", "2,1,4", "--target_reuse", "auto")
    assert main([str(part) for part in (*PLAN, *options, "--output_dir", folder)]) == 0
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def test_json_has_iterations_cost_and_the_frontier(run: Run) -> None:
    status, out, _ = run(*PLAN, "--budget", "1e6", "--json")
    assert status == 0
    found = json.loads(out)
    assert set(found) >= {"problem", "best", "strategies", "teacher", "frontier", "budget"}
    best, plan = found["best"], Plan.from_nested(found["best"]["students"])
    assert {"students", "w2", "lower_bound", "gap", "planner", "seconds"} <= set(best)
    assert len(best["iterations"]) == len(plan.merges)
    children = [merge.num_children for merge in plan.merges]
    # as `distill` trains; the pass for a linear part is paid for, whatever the network
    cost = IterationCost(128, "auto", is_linear_solved=True)
    assert best["cost"] == cost.total(children, best["iterations"]) <= 1e6
    # nothing is proved of it
    assert (best["lower_bound"], best["gap"]) == (0.0, 1.0)
    assert best["low"] < best["paired_rms"] < best["high"]
    for strategy in found["strategies"]:
        assert set(strategy) >= {"name", "w2", "merges", "network_evaluations", "ratio_to_best"}
        assert strategy["ratio_to_best"] == strategy["paired_rms"] / best["paired_rms"]
        assert len(strategy["iterations"]) == strategy["merges"]
        assert 0.9e6 < strategy["cost"] <= 1e6
    costs = [row["cost"] for row in found["frontier"]]
    errors = [row["paired_rms"] for row in found["frontier"]]
    assert all(a < b for a, b in pairwise(costs))
    assert all(a >= b for a, b in pairwise(errors))


def test_plan_file_says_the_iterations_the_budget_and_the_forecast(written: Path) -> None:
    record, file = record_of(written), PlanFile.read(written / "plan.json")
    assert (file.plan.student_steps, file.merge_rule, file.budget) == (2, "denoiser-copy", 2e6)
    spectrum, schedule = resolve_spectrum(POWER_LAW), resolve_schedule("cosine", 16)
    table = linear_table(spectrum, schedule)
    expected = forecast(PRIORS[DEFAULT_PRIOR], table, file.plan, file.iterations)
    predicted = file.predicted
    assert predicted["paired_rms"] == pytest.approx(expected.rms, rel=1e-12)
    assert (predicted["low"], predicted["high"]) == (expected.low, expected.high)
    assert record["best"]["iterations"] == list(file.iterations)
    assert record["budget"]["output_spread"] == table.output_spread


def test_best_is_for_the_first_k_and_the_frontier_for_all(written: Path) -> None:
    record = record_of(written)
    assert record["problem"]["student_steps"] == 2
    rows = record["frontier"]
    assert [row["student_steps"] for row in rows] == [2] * 9 + [1] * 9 + [4] * 9
    at_budget = {r["student_steps"]: r["paired_rms"] for r in rows if r["budget"] == 2e6}
    assert at_budget[2] == record["least"]["paired_rms"]
    assert at_budget[1] > at_budget[2] > at_budget[4]


def test_the_answer_has_a_row_for_each_k(run: Run) -> None:
    asked = (*PLAN, "--budget", "1e6", "--student_steps")
    status, out, _ = run(*asked, "4,1,2")
    assert status == 0
    rows = out.partition("Least forecasts by steps K")[2].splitlines()
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows if "│" in row]
    assert [int(row[0]) for row in cells] == [4, 1, 2]
    errors = [float(row[1]) for row in cells]
    assert errors[0] < errors[2] < errors[1]
    assert "Least forecasts" not in run(*asked, 4)[1]


def test_a_student_of_as_many_steps_as_the_teacher_is_the_teacher(run: Run, tmp_path: Path) -> None:
    asked = (*PLAN, "--budget", "1e6", "--student_steps", 16)
    assert run(*asked, "--output_dir", tmp_path)[0] == 0
    best = record_of(tmp_path)["best"]
    assert (best["paired_rms"], best["merges"], best["cost"]) == (0, 0, 0)
    assert "plans-at-the-same-cost" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_answer_and_the_page_say_what_to_spend(written: Path) -> None:
    record = record_of(written)
    sentence = summary_sentence(record)
    assert sentence.startswith("Spend 2,000,000 network evaluations like this: ")
    share = record["best"]["paired_rms"] / record["budget"]["output_spread"]
    assert f"{100 * share:.2g} % of the teacher's spread" in sentence
    page = (written / "report.html").read_text(encoding="utf-8")
    assert page == report_page(record)
    for heading in ("what-a-budget-buys", "where-the-iterations-go", "plans-at-the-same-cost"):
        assert heading in page
    each = record["best"]["paired_rms"] / np.sqrt(64)
    assert f"{each:.3g}" in page


def test_iterations_count_those_of_all_merges(run: Run) -> None:
    status, out, _ = run(*PLAN, "--budget", "3000it", "--json")
    assert status == 0
    found = json.loads(out)
    assert 2990 <= sum(found["best"]["iterations"]) <= 3000
    for strategy in found["strategies"]:
        assert sum(strategy["iterations"]) <= 3000


def test_time_is_told_by_the_seconds_of_an_evaluation(run: Run) -> None:
    at = ("--seconds_per_evaluation", 1e-3, "--json")
    timed = json.loads(run(*PLAN, "--budget", "10m", *at)[1])
    plain = json.loads(run(*PLAN, "--budget", "6e5", "--json")[1])
    assert timed["best"]["iterations"] == plain["best"]["iterations"]
    assert timed["budget"]["evaluations"] == pytest.approx(6e5)


def test_targets_used_again_and_small_batches_buy_more(run: Run) -> None:
    def error(*options: object) -> float:
        plan = ("plan", POWER_LAW, "--steps", 8, "--budget", "1e6")
        found = json.loads(run(*plan, *options, "--json")[1])
        return min(strategy["paired_rms"] for strategy in found["strategies"])

    plain = error("--target_reuse", 1)
    assert error("--target_reuse", "auto") < plain
    assert error("--target_reuse", 4) < plain
    assert error("--target_reuse", 1, "--train_batch_size", 64) < plain


@pytest.mark.parametrize("student_steps", [2, 4])
def test_students_of_several_steps_are_planned_by_the_prior_law(
    run: Run, student_steps: int
) -> None:
    status, out, _ = run(*PLAN, "--student_steps", student_steps, "--json")
    assert status == 0
    found = json.loads(out)
    # 400 iterations of vanilla: 400 / 16 targets of 16 + 1 passes, and 3 passes an iteration
    assert found["budget"]["evaluations"] == 128 * (25 * 17 + 400 * 3)
    assert any("400 iterations of vanilla" in note for note in found["best"]["notes"])
    edges = found["best"]["boundaries"]
    # a linear plan would have 1 step, or 2, in every window but the first
    assert min(a - b for a, b in pairwise(edges)) >= 0.1 * 16 / student_steps
    assert edges[1] > 16 / student_steps / 2


@pytest.mark.parametrize(
    "options", [("--training", "gradient-flow"), ("--merge_time", 6.4), ("--planner", "auto")]
)
def test_the_linear_theory_plans_where_it_is_asked_for(
    run: Run, options: tuple[object, ...]
) -> None:
    status, out, _ = run(*PLAN, "--student_steps", 2, *options, "--json")
    assert status == 0
    found = json.loads(out)
    assert "budget" not in found
    assert found["problem"]["training"] == {"model": "gradient-flow", "time": 6.4}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "0"), "budget` must be above 0"),
        (("--budget", "-5"), "budget` must be above 0"),
        (("--budget", "5 parsecs"), "budget` must be above 0"),
        (("--budget", "100"), "budget` must be >= 11,264 evaluations"),  # 128 (5 (16 + 1) + 3)
        (("--budget", "5m"), "must come with the seconds of a network evaluation"),
        (("--budget", "1e6", "--student_steps", "17"), "student_steps` must be from 1 to 16"),
        (("--budget", "1e6", "--student_steps", "1,0"), "student_steps` must be from 1 to 16"),
        (("--budget", "1e6", "--student_steps", "1,x"), "student_steps` must be whole numbers"),
        (("--budget", "1e6", "--target_reuse", "0"), "target_reuse"),
        (("--budget", "1e6", "--target_reuse", "often"), "target_reuse"),
        (("--budget", "1e6", "--planner", "pareto"), "planner` must be left out beside a budget"),
        (("--budget", "1e6", "--merge_time", "3"), "merge_time` must be left out"),
        (("--budget", "1e6", "--merge_rule", "operator-copy"), "merge_rule` must be left out"),
        (("--budget", "1e6", "--objective", "data"), "objective` must be left out"),
        (("--budget", "1e6", "--strategy", "boot"), "strategy` must be left out"),
        (("--merge_time", "3", "--student_steps", "1,2"), "student_steps` must be one number"),
    ],
)
def test_what_is_refused_takes_one_line(
    run: Run, options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    status, out, err = run(*PLAN, *options)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": "opmerge.calibration", "version": 1}, "must hold a law of merges"),
        ({"model": "gradient-flow", "time": 3.0}, "must be a calibration.json"),
    ],
)
def test_a_budget_needs_a_calibration_with_a_law(
    run: Run, tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    path = tmp_path / "training.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    status, out, err = run(*PLAN, "--budget", "1e6", "--training", path)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_calibration_brings_its_law_its_table_and_what_iterations_cost(
    run: Run, tmp_path: Path
) -> None:
    table = a_table(16)
    law = FittedLaw(a_law(table), (), 0.1, "a test")
    content = {
        "format": "opmerge.calibration",
        "version": 2,
        "law": law.to_dict(),
        "table": {"file": "table.npz", "sha256": write_table(tmp_path / "table.npz", table)},
        "network_evaluations": {"probes": 1.0},
        "settings": {"target_reuse": 4, "optimization": {"global_batch_size": 64}},
        "teacher_sha256": "0" * 64,
    }
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    status, out, _ = run(*PLAN, "--budget", "1e6", "--training", path, "--json")
    assert status == 0
    found = json.loads(out)
    plan, best = Plan.from_nested(found["best"]["students"]), found["best"]
    children = [merge.num_children for merge in plan.merges]
    assert best["cost"] == IterationCost(64, 4).total(children, best["iterations"])
    measured = read_calibration(path).table
    expected = forecast(law, measured, plan, best["iterations"]).rms
    assert best["paired_rms"] == pytest.approx(expected, rel=1e-12)
    assert found["budget"]["law"] == "a test"
    other = run("plan", POWER_LAW, "--steps", 15, "--budget", "1e6", "--training", path)
    assert other[0] == 2
    assert "`steps` must be 16, as the calibration's, got 15" in other[2]


def test_a_plan_for_a_budget_can_be_evaluated_by_the_linear_theory(run: Run, written: Path) -> None:
    status, out, _ = run("evaluate", POWER_LAW, "--plan", written / "plan.json", "--json")
    assert status == 0
    file = PlanFile.read(written / "plan.json")
    assert json.loads(out)["plan"]["w2"] == file.predicted["w2"]
