"""``opmerge run``: a budget spent on a small network, for real."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from opmerge.cli import main
from opmerge.distillation import load_student
from opmerge.distillation.stages import plan_stages
from opmerge.errors import InputError
from opmerge.explorer.answers import answer
from opmerge.explorer.premises import Run, read_source
from opmerge.forecast import LAW_PRIORS, Trial, forecast, law_after, read_table
from opmerge.forecast.cost import IterationCost
from opmerge.page import spending
from opmerge.page.spending import spending_page
from opmerge.plans import PlanFile, build_strategy
from opmerge.spending import Prices

pytestmark = pytest.mark.usefixtures("one_thread")

T, BUDGET, BATCH = 8, 20_000, 16


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def run(teacher: Path, folder: Path, *more: object, budget: object = BUDGET) -> int:
    return call(
        *("run", "digits", "--teacher", teacher, "--steps", T, "--output_dir", folder),
        *("--budget", budget, "--train_batch_size", BATCH, "--num_samples", 64, *more),
    )


@pytest.fixture(scope="module")
def spent(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spent")
    assert not run(teacher, folder, "--compare_with", "vanilla", "--compare_with", "progressive")
    return folder


def record_of(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def test_all_that_was_trained_cost_the_budget_and_no_more(spent: Path) -> None:
    record = record_of(spent)
    names = [each["name"] for each in record["trained"]]
    assert names == ["plan", "closed form alone", "vanilla", "progressive"]
    plan, _, vanilla, progressive = record["trained"]
    assert plan["total"] == plan["cost"] + record["run"]["calibration"]
    for each in (plan, vanilla, progressive):
        assert 0.7 * BUDGET < each["total"] <= BUDGET
    plain = IterationCost(BATCH)
    assert vanilla["cost"] == plain.total([T], vanilla["iterations"])
    assert progressive["cost"] == plain.total([2] * (T - 1), progressive["iterations"])
    assert len(set(progressive["iterations"])) == 1
    for each in record["trained"]:
        assert 0 < each["measured"]["low"] <= each["measured"]["value"] <= each["measured"]["high"]
    assert plan["forecast"]["low"] < plan["forecast"]["value"] < plan["forecast"]["high"]
    assert vanilla["forecast"] is None  # the law is of other settings


def test_the_plan_file_is_what_was_trained(spent: Path) -> None:
    file, record = PlanFile.read(spent / "plan.json"), record_of(spent)
    assert list(file.iterations or ()) == record["trained"][0]["iterations"]
    assert list(file.plan.boundaries) == record["best"]["boundaries"]
    assert file.predicted["paired_rms"] == record["trained"][0]["forecast"]["value"]
    assert (spent / "students" / "plan" / "student" / "model_index.json").is_file()


def test_the_same_command_again_trains_nothing(teacher: Path, spent: Path) -> None:
    before = (spent / "record.json").read_bytes()
    weights = sorted(spent.glob("students/*/student/**/*.safetensors"))
    times = [path.stat().st_mtime_ns for path in weights]
    assert not run(teacher, spent, "--compare_with", "vanilla", "--compare_with", "progressive")
    assert (spent / "record.json").read_bytes() == before
    assert [path.stat().st_mtime_ns for path in weights] == times


def test_the_page_is_drawn_from_the_record_alone(spent: Path) -> None:
    page = spending_page(record_of(spent))
    assert page == (spent / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5  # the teacher's row and four students'
    assert page.count("<svg") >= 4


def test_the_page_says_why_the_plan_is_not_that_of_the_least_forecast(spent: Path) -> None:
    record = record_of(spent)
    record["best"]["paired_rms"] = 2 * record["least"]["paired_rms"]
    pages = []
    for pilot in (0.0, 1.0):  # by short runs it was chosen, and not by forecasts
        record["run"]["pilot"] = pilot
        pages.append(spending_page(record))
    assert ["The least error is forecast of" in page for page in pages] == [True, False]


def check_explored(folder: Path) -> None:
    """The explorer opens a run with its plan, and forecasts of it what was forecast."""
    found, record = read_source(str(folder)), record_of(folder)
    assert isinstance(found, Run)
    shown = answer(found.view, is_first=True)
    assert shown.plan == PlanFile.read(folder / "plan.json").plan
    for key in ("paired_rms", "low", "high", "iterations"):
        assert shown.record["best"][key] == pytest.approx(record["best"][key], rel=1e-9)
    for key in ("law", "batch", "reuse", "linear_part", "student_passes", "amount"):
        assert shown.record["budget"][key] == record["budget"][key]


def test_the_explorer_opens_what_was_spent(spent: Path) -> None:
    check_explored(spent)


def test_a_share_that_pays_for_probes_calibrates(teacher: Path, tmp_path: Path) -> None:
    budget = 600_000
    assert not run(teacher, tmp_path, "--calibration_share", 0.5, budget=budget)
    check_explored(tmp_path)
    record = record_of(tmp_path)
    assert record["budget"]["law"].split()[1] == "probes"
    assert record["run"]["not_foretold"] == []
    assert 0.2 * budget < record["run"]["calibration"] <= 0.5 * budget
    assert record["trained"][0]["total"] <= budget


def test_the_forecast_has_learned_from_the_pilot(teacher: Path, tmp_path: Path) -> None:
    """What the short run left, read from its folder, moves the prior to where the record has it."""
    assert not run(teacher, tmp_path, "--pilot_share", 0.4, budget=120_000)
    record, plan = record_of(tmp_path), PlanFile.read(tmp_path / "plan.json").plan
    assert len(plan.merges) == 1
    rate = f"{record['run']['learning_rate']:g}".replace(".", "-")
    [pilot] = (tmp_path / "students").glob(f"pilot-*-at-{rate}-*-iterations")
    count = int(pilot.name.split("-")[-2])
    left = json.loads((pilot / "measured.json").read_text())["result"]["measured"]["value"]
    table = read_table(tmp_path / "calibration" / "table.npz")
    prior = LAW_PRIORS["mlp-solved"].fitted(table.sizes)
    learned = law_after(prior, table, [Trial(plan, (count,), left)])
    iterations = record["trained"][0]["iterations"]
    expected = forecast(learned, table, plan, iterations)
    assert expected.rms != forecast(prior, table, plan, iterations).rms
    assert record["trained"][0]["forecast"]["value"] == pytest.approx(expected.rms, rel=1e-9)
    assert record["best"]["paired_rms"] == record["trained"][0]["forecast"]["value"]
    assert record["budget"]["law"] == learned.source


def test_an_error_outside_its_forecast_is_said_to_be(spent: Path) -> None:
    record = record_of(spent)
    first = record["trained"][0]
    told = []
    for error in (first["forecast"]["value"], 2 * first["forecast"]["high"], 1e-3):
        first["measured"]["value"] = error
        told.append(spending.answer(record))
    page = spending_page(record)
    within, above, below = ("interval" in text for text in told)
    assert (within, above, below) == (False, True, True)
    assert ["above" in text for text in told] == [False, True, False]
    assert page.count("below the interval") > 1  # in the answer, and in the title of a figure


def test_a_budget_that_cannot_pay_is_refused_in_its_unit() -> None:
    prices = Prices("5s", 100.0, IterationCost(BATCH), seconds=0.05)
    prices.check_pays(100.0, "just")
    with pytest.raises(InputError, match=r">= 14s .*got 5s"):  # 270 of 0.05 s are 13.5 s
        prices.check_pays(270.0, "too little")
    for told, least in (("99", "271 network"), ("99it", "271 iterations")):
        with pytest.raises(InputError, match=rf">= {least}.*, too little, got {told}"):
            Prices(told, 99.0, IterationCost(BATCH)).check_pays(270.1, "too little")


def test_students_of_two_steps_and_how_far_they_are(
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("opmerge.cli.progress._SECONDS_BETWEEN_LINES", 0.0)
    assert not run(teacher, tmp_path, "--student_steps", 2, "--linear_part", "train")
    lines = capsys.readouterr().err.splitlines()
    told = {line.split(":")[0] for line in lines if "%, about" in line}
    assert told >= {"measuring the teacher", "training plan"}
    record = record_of(tmp_path)
    assert record["problem"]["student_steps"] == 2
    assert [each["name"] for each in record["trained"]] == ["plan"]  # nothing is solved
    said = [line.removeprefix("opmerge: ") for line in lines]
    phases = ("pricing the budget", "measuring the teacher", "planning", "training plan")
    phases = (*phases, "measuring plan", "drawing the page")
    assert [line for line in said if line in phases] == [*phases]


def test_one_network_of_adapters(teacher: Path, tmp_path: Path) -> None:
    """All steps by one adapter, at no more than the budget, and the forecast says what it is of."""
    shared = ("--one_network", "--lora_rank", 2, "--linear_part", "train", "--target_reuse", 1)
    few = ("--student_steps", 2, "--compare_with", "progressive", "--pilot_share", 0)
    assert not run(teacher, tmp_path, *shared, *few)
    record = record_of(tmp_path)
    assert record["run"]["not_foretold"] == ["one network for all steps", "adapters"]
    assert " and ".join(record["run"]["not_foretold"]) in spending.answer(record)
    for each in record["trained"]:
        plan = PlanFile.read(tmp_path / "plan.json").plan
        if each["name"] == "progressive":
            plan = build_strategy("progressive", T, 2)
        stages = plan_stages(plan, "all")
        spent = [
            count * BATCH * (3 + fmean(merge.num_children for merge in stage.merges))
            for stage, count in zip(stages, each["iterations"], strict=True)
        ]
        assert sum(spent) <= each["cost"] <= BUDGET
        if plan.free_step is None:  # whose fit costs as well
            assert sum(spent) > 0.9 * each["cost"]
        folder = tmp_path / "students" / each["name"] / "student"
        assert [path.name for path in folder.glob("adapter_*")] == ["adapter_1"]
        assert len({jump.network for jump in load_student(folder).jumps}) == 1


def test_another_budget_in_the_same_folder_is_as_in_a_new_one(
    teacher: Path, tmp_path: Path
) -> None:
    """The checkpoints of the first are of another run: what it needs is trained anew."""
    for folder, budget in (("same", BUDGET), ("same", 24_000), ("new", 24_000)):
        assert not run(teacher, tmp_path / folder, "--pilot_share", 0, budget=budget)
    same, new = (record_of(tmp_path / folder)["trained"] for folder in ("same", "new"))
    keys = ("name", "iterations", "total", "measured", "forecast")
    assert [[each[k] for k in keys] for each in same] == [[each[k] for k in keys] for each in new]


def test_a_budget_of_time_is_priced_once(teacher: Path, tmp_path: Path) -> None:
    assert not run(teacher, tmp_path, budget="4s")
    first = record_of(tmp_path)
    assert first["run"]["seconds_per_evaluation"] > 0
    assert first["run"]["amount"] * first["run"]["seconds_per_evaluation"] == pytest.approx(4.0)
    assert not run(teacher, tmp_path, budget="4s")
    assert record_of(tmp_path) == first


def test_a_search_without_time_still_plans_and_is_kept(teacher: Path, tmp_path: Path) -> None:
    assert not run(teacher, tmp_path, "--max_seconds", 1e-9, budget=40_000)
    record, plan = record_of(tmp_path), (tmp_path / "plan.json").read_bytes()
    assert len(record["frontier"]) < 9  # budgets from a sixteenth to sixteen times
    assert "cut short" in record["best"]["notes"][0]
    assert not run(teacher, tmp_path, "--max_seconds", 60, budget=40_000)
    assert (tmp_path / "plan.json").read_bytes() == plan
    assert record_of(tmp_path) == record


@pytest.mark.parametrize(
    ("budget", "more", "words"),
    [
        ("0", (), "budget"),
        ("-3", (), "budget"),
        ("3 furlongs", (), "budget"),
        ("100", (), "budget"),
        ("12000", (), "twice what the teacher's table takes"),
        ("20000", ("--student_steps", T + 1), "student_steps"),
        ("20000", ("--compare_with", "fastest"), "strategy"),
        ("6it", ("--compare_with", "progressive"), "7 iterations"),
        ("20000", ("--train_batch_size", 4096), "any plan"),
        ("20000", ("--calibration_share", 1.5), "calibration_share"),
    ],
)
def test_bad_input_is_one_line(
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    budget: str,
    more: tuple[object, ...],
    words: str,
) -> None:
    assert run(teacher, tmp_path / "run", *more, budget=f"{budget}") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1]
    assert "Traceback" not in "".join(lines)
    assert not (tmp_path / "run").exists()
