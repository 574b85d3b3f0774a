"""Guidance through the commands: what files say of it, who takes it over, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from opmerge import PlanFile
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation.pipeline import load_student
from opmerge.forecast import read_calibration
from opmerge.forecast.cost import IterationCost
from opmerge.settings.guidance import GuidanceOptions

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 4
DATA = ("digits", "--labels", "digits")
GUIDED = ("--guidance_scale", "3", "--guidance_interval", "2,4")
RECORD = {"scale": 3.0, "interval": [2, 4]}
SHORT = ("--train_batch_size", 16, "--checkpointing_steps", 0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows of no class, a calibration of it, a plan for a budget and its student;
    all but the teacher are guided."""
    from opmerge.cli import main

    folder = tmp_path_factory.mktemp("work")

    def call(*arguments: object) -> None:
        assert main([str(argument) for argument in arguments]) == 0

    size = ("--hidden_size", 16, "--num_layers", 1, "--num_iterations", 30)
    call(
        *("train-teacher", *DATA, "--output_dir", folder / "trained", *size),
        *("--label_dropout", 0.2, "--ema_decay", 0, "--learning_rate", 0.01),
    )
    teacher = ("--teacher", folder / "trained" / "teacher")
    call(
        *("calibrate", *DATA, *teacher, "--steps", STEPS, *GUIDED, *SHORT),
        *("--num_iterations", 4, "--output_dir", folder / "calibration"),
    )
    call(
        *("plan", "digits", "--steps", STEPS, "--schedule", teacher[1], "--budget", 20000),
        *("--training", folder / "calibration" / "calibration.json"),
        *("--output_dir", folder / "plan"),
    )
    plan = ("--plan", folder / "plan" / "plan.json")
    call("distill", *DATA, *teacher, *plan, "--output_dir", folder / "run", *SHORT)
    return folder


def refused(result: tuple[int, str, str], argument: str) -> None:
    status, out, err = result
    assert (status, out) == (2, ""), result
    assert err.startswith(f"opmerge: `{argument}` ")
    assert err.count("\n") == 1, err


def test_files_say_it_and_a_run_takes_it_from_the_plan(work: Path) -> None:
    calibration = read_calibration(work / "calibration" / "calibration.json")
    guided = GuidanceOptions(guidance_scale="3", guidance_interval=(2, 4))
    teacher = load_teacher(work / "trained" / "teacher", STEPS)
    assert calibration.guidance == RECORD
    assert calibration.teacher_sha256 == teacher.guided(guided).digest != teacher.digest
    planned = PlanFile.read(work / "plan" / "plan.json")
    assert planned.guidance == RECORD
    assert PlanFile.read(work / "run" / "plan.json").guidance == RECORD
    assert PlanFile.loads(planned.dumps()).dumps() == planned.dumps()
    for command in ("plan", "run"):
        options = json.loads((work / command / "config.json").read_text())["options"]
        assert (options["guidance_scale"], options["guidance_interval"]) == ("3.0", [2, 4])
    student = load_student(work / "run" / "student")
    assert student.guidance == RECORD
    z, labels = initial_noise((1, 8, 8), 2, 0), torch.tensor([1, 2])
    assert torch.isfinite(student.sample(z, labels)).all()


def test_the_plan_costs_what_its_budget_allows(work: Path) -> None:
    record = json.loads((work / "plan" / "record.json").read_text())
    assert record["budget"]["guidance"] == RECORD
    file = PlanFile.read(work / "plan" / "plan.json")
    cost = IterationCost(16, "auto", is_linear_solved=True, guided_steps=range(2, 5))
    spent = cost.of_plan(file.plan, file.iterations or ())
    assert spent == record["best"]["cost"] <= 20000
    plain = IterationCost(16, "auto", is_linear_solved=True).of_plan(
        file.plan, file.iterations or ()
    )
    assert plain < spent


def test_a_dry_run_knows_of_it(run: Run, work: Path) -> None:
    command = ("distill", *DATA, "--teacher", work / "trained" / "teacher", "--steps", STEPS)
    dry = ("--plan", "vanilla", "--output_dir", work / "dry", "--dry_run", *SHORT)
    once = ("--num_iterations", 5, "--target_reuse", 1, "--linear_part", "train")
    for guided, passes in (((), 4), (GUIDED, 7), (GUIDED[:2], 8), (("--guidance_scale", 1), 4)):
        status, out, _ = run(*command, *dry, *once, *guided)
        assert status == 0
        assert f" network evaluations: {5 * 16 * (passes + 3):,.0f} " in out


def test_a_student_is_measured_against_the_teacher_that_it_had(run: Run, work: Path) -> None:
    teacher = ("--teacher", work / "trained" / "teacher")
    measure = ("evaluate-student", work / "run" / "student", *teacher, "--num_samples", 20)
    status, out, err = run(*measure, "--num_resamples", 0, "--json")
    assert status == 0, err
    student = load_student(work / "run" / "student")
    guided = GuidanceOptions(guidance_scale="3", guidance_interval=(2, 4))
    reference = load_teacher(teacher[1], STEPS).guided(guided)
    z, labels = initial_noise((1, 8, 8), 20, 1), torch.arange(20) % 10
    apart = (student.sample(z, labels) - reference.sample(z, labels)).double()
    expected = float(apart.square().sum((1, 2, 3)).mean().sqrt())
    assert json.loads(out)["paired_rms"]["value"] == pytest.approx(expected, rel=1e-5)
    refused(run(*measure, "--guidance_scale", 2), "guidance_scale")
    refused(run(*measure, "--guidance_scale", 1), "guidance_scale")


def test_samples_of_a_guided_teacher(run: Run, work: Path) -> None:
    few = ("--num_samples", 4, "--output", work / "s.npy")
    command = ("sample", work / "trained" / "teacher", "--steps", STEPS, *few)
    drawn = []
    for guided in ((), GUIDED):
        assert run(*command, *guided)[0] == 0
        drawn.append(np.load(work / "s.npy"))
    teacher = load_teacher(work / "trained" / "teacher", STEPS)
    options = GuidanceOptions(guidance_scale="3", guidance_interval=(2, 4))
    z, labels = initial_noise((1, 8, 8), 4, 0), torch.arange(4)
    np.testing.assert_allclose(drawn[0], teacher.sample(z, labels), atol=1e-6)
    np.testing.assert_allclose(drawn[1], teacher.guided(options).sample(z, labels), atol=1e-5)
    refused(run("sample", work / "run" / "student", *few, "--guidance_scale", 2), "guidance_scale")


def test_what_is_of_another_guidance_is_refused(run: Run, work: Path) -> None:
    teacher, other = ("--teacher", work / "trained" / "teacher"), ("--guidance_scale", 2)
    calibration = work / "calibration" / "calibration.json"
    plan = ("--plan", work / "plan" / "plan.json", "--output_dir", work / "other")
    refused(run("distill", *DATA, *teacher, *plan, *other), "guidance_scale")
    refused(run("distill", *DATA, *teacher, *plan, "--guidance_scale", 1), "guidance_scale")
    planned = ("plan", "digits", "--steps", STEPS, "--schedule", teacher[1])
    law = ("--training", calibration)
    refused(run(*planned, *law, "--budget", 20000, *other), "guidance_scale")
    refused(run(*planned, *other), "guidance_scale")  # by the linear theory
    refused(run(*planned, "--budget", 20000, "--guidance_interval", "1,2"), "guidance_interval")
    measured = ("plan", "digits", "--steps", STEPS, *teacher, "--labels", "digits")
    refused(run(*measured, *law, "--budget", 20000, *other), "guidance_scale")
    refused(run("evaluate", "digits", *law, "--plan", plan[1]), "training")


def test_a_network_without_a_null_class_is_refused(run: Run, work: Path) -> None:
    size = ("--hidden_size", 8, "--num_layers", 1, "--num_iterations", 2)
    output = ("--output_dir", work / "classes")
    assert run("train-teacher", *DATA, *output, *size)[0] == 0
    command = ("distill", *DATA, "--teacher", work / "classes" / "teacher", "--steps", STEPS)
    result = run(*command, "--plan", "boot", "--output_dir", work / "none", *GUIDED)
    refused(result, "guidance_scale")
    assert "--label_dropout 0.1" in result[2]
    assert run("train-teacher", "digits", "--output_dir", work / "plain", *size)[0] == 0
    command = ("distill", "digits", "--teacher", work / "plain" / "teacher", "--steps", STEPS)
    refused(
        run(*command, "--plan", "boot", "--output_dir", work / "none", *GUIDED), "guidance_scale"
    )
    dropped = ("--label_dropout", 0.1, "--output_dir", work / "none")
    refused(run("train-teacher", "digits", *dropped, *size), "label_dropout")
