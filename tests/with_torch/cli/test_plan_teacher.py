"""``opmerge plan --teacher``: a teacher's own table and times, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DDIMScheduler

from opmerge.cli import main
from opmerge.denoisers.networks import make_unet
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.forecast import PRIORS, forecast
from opmerge.forecast.cost import IterationCost, fewest_targets
from opmerge.forecast.files import read_table
from opmerge.planners.budget import plan_for_budget
from opmerge.plans import Plan, PlanFile

pytestmark = pytest.mark.usefixtures("one_thread")

T, BATCH = 8, 16
PLAN = ("plan", "digits", "--steps", T, "--train_batch_size", BATCH)


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def planned(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert not call(*PLAN, *arguments, "--json")
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_the_plan_is_that_of_the_teachers_own_table(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(capsys, "--teacher", teacher, "--budget", "5e4", "--output_dir", tmp_path)
    table = read_table(tmp_path / "table" / "table.npz")
    law = PRIORS["mlp-solved"]
    best = plan_for_budget(table, law, 5e4, 1, IterationCost(BATCH, "auto", True)).best
    file = PlanFile.read(tmp_path / "plan.json")
    assert file.plan == best.plan
    assert file.iterations == best.iterations == tuple(found["best"]["iterations"])
    told = file.predicted["paired_rms"]
    assert told == pytest.approx(forecast(law, table, best.plan, best.iterations).rms, rel=1e-6)
    # the network knows its coefficients in float32
    assert np.allclose(file.schedule.alphas, table.schedule.alphas, rtol=0, atol=1e-6)


def test_what_was_measured_is_kept(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--teacher", teacher, "--budget", "2s", "--output_dir", tmp_path)
    first = planned(capsys, *asked)
    kept = (tmp_path / "table" / "table.npz").stat().st_mtime_ns
    assert planned(capsys, *asked)["best"]["iterations"] == first["best"]["iterations"]
    assert (tmp_path / "table" / "table.npz").stat().st_mtime_ns == kept


def test_a_teacher_alone_is_planned_for_a_budget(
    teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = planned(capsys, "--teacher", teacher)
    assert 0 < found["best"]["cost"] <= IterationCost(BATCH, "auto", True).total(T, 400)


def test_a_unet_pays_for_no_linear_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which it does not solve: the targets of one alone, 8 pairs a regressor, cost more."""
    unet = make_unet((1, 8, 8), (16, 16))
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    teacher = write_teacher_folder(tmp_path / "unet", unet, scheduler)
    budget = 3000
    assert IterationCost(BATCH, "auto", True, fewest=fewest_targets(64, BATCH)).total(T, 1) > budget
    found = planned(capsys, "--teacher", teacher, "--budget", budget)
    cost = IterationCost(BATCH, "auto").of_plan(
        Plan.from_nested(found["best"]["students"]), found["best"]["iterations"]
    )
    assert found["best"]["cost"] == cost <= budget


def test_iterations_that_cost_another_amount_than_planned_are_told(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(capsys, "--teacher", teacher, "--budget", "5e4", "--output_dir", tmp_path)
    plan = ("--plan", tmp_path / "plan.json", "--output_dir", tmp_path / "run", "--dry_run")
    for batch in (BATCH, 4 * BATCH):
        given = ("--teacher", teacher, *plan, "--train_batch_size", batch)
        assert not call("distill", "digits", *given)
        assert ("are for 50,000" in capsys.readouterr().err) == (batch != BATCH)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--labels", "digits"), "`labels` must be left out"),
        (("--teacher", "TEACHER", "--schedule", "cosine"), "`schedule` must be left out"),
        (("--teacher", "TEACHER", "--labels", "digits"), "`labels` must be left out"),
        (("--budget", "2h"), "pass --teacher"),
    ],
)
def test_bad_input_is_one_line(
    teacher: Path, arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(teacher) if each == "TEACHER" else each for each in arguments]
    assert call(*PLAN, "--budget", "5e4", *asked) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert named in told[-1]
