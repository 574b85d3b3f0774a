"""A free first step: exact for linear teachers; in files, runs, students' folders and loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_linear_part import SHAPE, D, T, affine_teacher, perceptron
from test_resume import assert_same, finish, weights

from opmerge import (
    GradientFlow,
    Plan,
    PlanFile,
    Problem,
    build_strategy,
    cosine_schedule,
    eigenvalue_spectrum,
    evaluate,
)
from opmerge.denoisers.inputs import DataInputs, NoiseInputs
from opmerge.denoisers.models import Student, Teacher, initial_noise
from opmerge.distillation.costs import estimate_cost
from opmerge.distillation.executor import Distillation
from opmerge.distillation.pipeline import FewStepPipeline, load_student, save_student
from opmerge.distillation.scheduler import JumpScheduler
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.plans import draw_text, plan_figure
from opmerge.plans.drawing import plan_from_merges
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

M = 4


def behind(strategy: str, student_steps: int = 1) -> Plan:
    """A strategy on the steps that a free step from T leaves."""
    return Plan(build_strategy(strategy, M, student_steps).students, T)


def run_of(
    teacher: Teacher, plan: Plan, folder: Path | None = None, inputs: Any = None, **given: Any
) -> Distillation:
    optimization = OptimizationConfig(
        train_batch_size=40,
        checkpointing_steps=1 if folder else 0,
        checkpoints_total_limit=99,
        learning_rate=1e-2,
    )
    config = DistillationConfig(**{"num_iterations": 4, **given}, optimization=optimization)
    accelerator = make_accelerator(optimization, cpu=True)
    torch.manual_seed(5)
    inputs = inputs or DataInputs(torch.randn(64, *teacher.sample_shape))
    return Distillation(teacher, plan, inputs, config, accelerator, folder)


def trained(plan: Plan, shape: tuple[int, ...] = SHAPE) -> Student:
    run = run_of(perceptron(shape), plan)
    list(run.run())
    return run.student()


@pytest.mark.parametrize("strategy", ["vanilla", "boot", "progressive", "consistency"])
def test_a_linear_teacher_is_reproduced_behind_a_free_step(strategy: str) -> None:
    """By step m the affine map is the teacher, and so is the whole student if it is solved."""
    teacher = affine_teacher()
    run = run_of(teacher, behind(strategy), linear_part="solve")
    student, noise = run.solve(), torch.randn(8, D)
    torch.testing.assert_close(student.sample(noise), teacher.sample(noise), rtol=0, atol=2e-4)
    assert student.free_step is not None
    assert (student.free_step.start, student.free_step.stop) == (T, M)
    assert [jump.start for jump in student.jumps] == [M]
    assert student.num_steps == T


def test_the_theory_counts_no_error_for_it() -> None:
    """P(m, T) is exact, so its excess is 0 and the trees add what they add on their own steps."""
    problem = Problem(eigenvalue_spectrum([0.2, 1.5]), cosine_schedule(T))
    kept = Plan.from_nested([6, 5, [4, [3, 2], 1]])
    free = Plan(Plan.from_nested([[4, [3, 2], 1]]).students, T)
    outcomes = [evaluate(problem, plan) for plan in (free, kept)]
    assert np.array_equal(outcomes[0].excess, outcomes[1].excess)
    assert outcomes[0].w2 > 0
    assert evaluate(problem, Plan(Plan.from_nested([2, 1]).students, T)).w2 == 0


def test_a_plan_knows_its_free_step() -> None:
    plan = behind("progressive", 2)
    assert (plan.num_steps, plan.student_steps, plan.free_step) == (T, 2, M)
    assert plan.boundaries == (T, M, 2, 0)
    without = build_strategy("progressive", M, 2)
    assert plan.merges == without.merges
    assert plan != without
    assert plan.rounds() == without.rounds()
    for start in (M, 1, 0):
        with pytest.raises(InputError, match="`free_start` must be above 4"):
            Plan(without.students, start)


def test_it_is_drawn() -> None:
    plan = behind("boot")
    first, *others = draw_text(plan).splitlines()
    assert first.startswith("z_6 → z_4: a free step")
    assert others == draw_text(build_strategy("boot", M)).splitlines()
    merges = [{"boundaries": list(m.boundaries), "share": 0.5} for m in plan.merges]
    assert plan_from_merges(merges, plan.boundaries, True) == plan
    figure = plan_figure(merges, plan.boundaries, has_free_step=True)
    hatched = [each for each in figure.axes[0].collections if each.get_hatch()]
    (points,) = (each.get_paths()[0].vertices for each in hatched)
    assert {*points[:, 0]} == {T, M}


def plan_file(plan: Plan) -> PlanFile:
    return PlanFile(plan, cosine_schedule(T), GradientFlow(), "denoiser-copy", "teacher")


def test_a_plan_file_holds_it() -> None:
    text = plan_file(behind("boot", 2)).dumps()
    assert PlanFile.loads(text).plan == behind("boot", 2)
    assert json.loads(text)["free_step"] == M
    assert json.loads(text)["steps"] == T
    without = plan_file(build_strategy("boot", T)).dumps()
    assert "free_step" not in json.loads(without)
    assert PlanFile.loads(without).plan == build_strategy("boot", T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"free_step": 3}, "file: free_step` must be 4, where the students start, got 3"),
        ({"free_step": True}, "file: free_step` must be 4"),
        ({"free_step": "4"}, "file: free_step` must be 4"),
        ({"free_step": None}, "file: free_step` must be 4"),
        ({"steps": 4}, "file: steps` must be above 4, to which the free step leads, got 4"),
        ({"steps": 5.0}, "file: steps` must be above 4"),
        ({"later": 1}, "must have no other keys"),
    ],
)
def test_what_a_file_says_wrongly_is_refused(changes: dict[str, Any], message: str) -> None:
    content = {**json.loads(plan_file(behind("boot")).dumps()), **changes}
    with pytest.raises(InputError, match=message):
        PlanFile.loads(json.dumps(content), "file")


@pytest.mark.parametrize("student_steps", [1, 2])
def test_a_students_folder_gives_the_same_bits(tmp_path: Path, student_steps: int) -> None:
    """Loaded, as a pipeline, and in a plain loop of K evaluations that knows of no free step."""
    student = trained(behind("vanilla", student_steps))
    folder = save_student(student, tmp_path / "student")
    noise = initial_noise(SHAPE, 3, seed=0)
    expected = student.sample(noise)
    loaded = load_student(folder)
    assert loaded.num_steps == T
    assert torch.equal(loaded.sample(noise), expected)
    pipeline = FewStepPipeline.from_student(loaded)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(latents=noise, output_type="pt").images
    assert torch.equal(images, (expected / 2 + 0.5).clamp(0, 1))
    z, scheduler = noise, JumpScheduler.from_pretrained(folder, subfolder="scheduler")
    assert len(scheduler.timesteps) == student_steps
    with torch.no_grad():
        for jump, timestep in zip(scheduler.jumps, scheduler.timesteps, strict=True):
            said = getattr(pipeline, jump["network"])(
                scheduler.scale_model_input(z, timestep), timestep
            )
            z = scheduler.step(said, timestep, z).prev_sample
    assert torch.equal(z, expected)
    again = save_student(loaded, tmp_path / "again")
    for name in ("scheduler_config.json", "linear_part.safetensors"):
        assert (again / "scheduler" / name).read_bytes() == (
            folder / "scheduler" / name
        ).read_bytes()
    moved = student.to(torch.device("meta"))
    assert moved.sample(noise.to("meta")).shape == noise.shape


@pytest.mark.parametrize("linear_part", ["solve", "train"])
def test_a_run_goes_on_with_the_same_free_step(tmp_path: Path, linear_part: str) -> None:
    """It is in every checkpoint, and not fitted again."""
    given: dict[str, Any] = {"linear_part": linear_part}
    whole_run = run_of(perceptron(), behind("boot"), tmp_path, **given)
    steps, whole = finish(whole_run)
    noise = torch.randn(4, D)
    for step in (1, 4, 6, len(steps)):
        run = run_of(perceptron(), behind("boot"), tmp_path, **given)
        assert run.resume(f"checkpoint-{step}") == step
        assert run.student().free_step is not None
        assert_same(finish(run)[1], whole)
        assert torch.equal(run.student().sample(noise), whole_run.student().sample(noise))
    assert weights(whole_run)
    other = run_of(perceptron(), Plan(build_strategy("boot", M).students, T), tmp_path / "other")
    kept = run_of(perceptron(), Plan.from_nested([6, 5, [[[4, 3], 2], 1]]), tmp_path / "other")
    assert other.identity() != kept.identity()


def test_its_runs_are_counted() -> None:
    """2,000 pairs in whole batches of 40, of 6 regressors; each two teacher steps."""
    teacher, asked = perceptron(), 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal asked
        asked += len(inputs[0])

    plan = Plan(Plan.from_nested([4, 3, 2, 1]).students, T)
    run = run_of(teacher, plan)
    teacher.network.register_forward_pre_hook(count)
    assert list(run.run()) == []
    assert asked == run.free_evaluations() == 2000 * (T - M)
    assert estimate_cost(run_of(teacher, plan)).network_evaluations == asked
    kept = Plan.from_nested([6, 5, 4, 3, 2, 1])
    assert estimate_cost(run_of(teacher, kept)).network_evaluations == 0


def test_data_free_training_is_refused_with_it() -> None:
    with pytest.raises(InputError, match="`data_free` must be left out with a free step"):
        run_of(perceptron(), behind("vanilla"), inputs=NoiseInputs((D,)))
