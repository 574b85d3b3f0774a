"""The commands that train networks: a teacher, and the student of a plan."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import chain
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from opmerge.cli.options import option, takes_options
from opmerge.cli.output import show_rows
from opmerge.cli.training_options import (
    ExecutionOptions,
    OptimizationOptions,
    ResumeFrom,
    SampleOptions,
    TeacherOptions,
)
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.cli.networks import Log
    from opmerge.distillation.executor import Distillation
    from opmerge.plans import PlanFile
    from opmerge.settings.distillation import DistillationConfig

__all__ = ["distill", "train_teacher"]

_LOG_EVERY = 10

OutputDir = Annotated[Path, option("output_dir", "Folder of the run.", "Run")]
TeacherDir = Annotated[Path, option("teacher", "The teacher: a diffusers pipeline folder.", "Data")]

PlanOrName = Annotated[
    str,
    option(
        "plan",
        "A plan file, nested lists such as '[[3,2],1]', or a strategy such as boot (then with "
        "--steps).",
        "Execution",
        metavar="FILE|LISTS|NAME",
    ),
]


@takes_options
def train_teacher(
    samples: SampleOptions,
    output_dir: OutputDir,
    teacher: TeacherOptions,
    optimization: OptimizationOptions,
    resume_from_checkpoint: ResumeFrom = None,
) -> None:
    """Train a denoiser on samples: a teacher for `distill`, saved as a diffusers pipeline."""
    from opmerge.cli import networks, runs
    from opmerge.cli.progress import progress_bar
    from opmerge.denoisers.samples import network_shape
    from opmerge.denoisers.teacher_training import TeacherConfig
    from opmerge.denoisers.teacher_training import train_teacher as train

    settings: dict[str, Any] = asdict(teacher)
    channels = networks.whole_numbers("block_out_channels", teacher.block_out_channels)
    settings["block_out_channels"] = channels
    defaults = TeacherConfig().optimization
    config = TeacherConfig(
        **settings, optimization=networks.build_optimization(optimization, defaults)
    )
    runs.prepare_folder(output_dir)
    accelerator = networks.start(config.optimization, output_dir)
    data, labels = networks.load_training_data(accelerator, samples, network_shape, output_dir)
    wanted = None if resume_from_checkpoint is None else str(resume_from_checkpoint)
    records = train(config, data, labels, accelerator, output_dir, wanted, warn=networks.say)
    main = accelerator.is_main_process
    if main:
        runs.write_config(output_dir, "train-teacher", {**asdict(samples), **asdict(config)})
    first = next(records, None)  # none where a finished run is resumed
    done = config.num_iterations if first is None else first.iteration - 1
    kept = ""
    with (
        networks.log_to(accelerator, output_dir, settings, done) as log,
        progress_bar("training the teacher", config.num_iterations, main, done) as report,
    ):
        for record in records if first is None else chain([first], records):
            report(record.iteration)
            if record.iteration % _LOG_EVERY == 0 or record.iteration == config.num_iterations:
                log(record.iteration, loss=float(record.loss), learning_rate=record.learning_rate)
            if record.validation_loss is not None:
                log(record.iteration, validation_loss=record.validation_loss)
                kept = f" (least held-out loss: iteration {record.best})"
    if main:
        print(f"written: {output_dir / 'teacher'}{kept}")


@takes_options
def distill(
    samples: SampleOptions,
    teacher: TeacherDir,
    plan: PlanOrName,
    output_dir: OutputDir,
    execution: ExecutionOptions,
    optimization: OptimizationOptions,
    steps: Annotated[
        int | None,
        option("steps", "T, the teacher's steps.", "Execution", show_default="the plan's"),
    ] = None,
    student_steps: Annotated[
        int | None,
        option("student_steps", "K, for lists or a strategy.", "Execution", show_default="1"),
    ] = None,
    resume_from_checkpoint: ResumeFrom = None,
    dry_run: Annotated[
        bool,
        option("dry_run", "Say what it will cost in time, memory and disk, and stop.", "Run"),
    ] = False,
) -> None:
    """Execute a plan: train its students, and save the result as a diffusers pipeline."""
    from opmerge.cli import networks, runs
    from opmerge.cli.inputs import read_plan
    from opmerge.denoisers.teacher_folder import check_plan_fits, load_teacher
    from opmerge.distillation.executor import Distillation
    from opmerge.distillation.pipeline import check_can_be_saved
    from opmerge.distillation.stages import plan_stages
    from opmerge.schedules import diffusers_schedule

    parsed, made_for = read_plan(plan, student_steps, steps)
    config = _configuration(execution, optimization, made_for)
    loaded = load_teacher(teacher, parsed.num_steps)
    if made_for is not None:
        check_plan_fits(loaded, made_for.schedule)
    folder = None if dry_run else output_dir
    runs.prepare_folder(folder)
    accelerator = networks.start(config.optimization, output_dir)
    inputs = networks.training_inputs(accelerator, samples, loaded, config.data_free, folder)
    check_can_be_saved(loaded, parsed, plan_stages(parsed, config.sharing), output_dir / "student")
    run = Distillation(loaded, parsed, inputs, config, accelerator, folder, warn=networks.say)
    if accelerator.is_main_process:
        for note in diffusers_schedule(teacher, parsed.num_steps).notes:
            networks.say(note)
    if dry_run:
        _show_cost(run)
        return
    done = 0 if resume_from_checkpoint is None else run.resume(str(resume_from_checkpoint))
    if accelerator.is_main_process:
        options = {
            "teacher": str(teacher),
            "plan": plan,
            "steps": parsed.num_steps,
            "student_steps": parsed.student_steps,
            **asdict(samples),
            **asdict(config),
        }
        if not done:
            file = made_for or _plan_file(run, samples)
            replace(file, iterations=_of_merges(run)).write(output_dir / "plan.json")
        runs.write_config(output_dir, "distill", options)
    with networks.log_to(accelerator, output_dir, asdict(config), done) as log:
        _train(run, done, log)
    if accelerator.is_main_process:
        _save(run, output_dir)


def _configuration(
    execution: ExecutionOptions, optimization: OptimizationOptions, made_for: PlanFile | None
) -> DistillationConfig:
    """As given, or else as the plan says, or the defaults."""
    from opmerge.cli.networks import build_optimization
    from opmerge.settings.distillation import DistillationConfig

    if execution.merge_seconds is not None and execution.num_iterations is not None:
        raise InputError("merge_seconds", "must not be given together with --num_iterations")
    settings: dict[str, Any] = asdict(execution)
    settings["num_iterations"] = _iterations(execution, made_for)
    settings["merge_rule"] = _merge_rule(execution.merge_rule, made_for)
    defaults = DistillationConfig().optimization
    config = DistillationConfig(**settings, optimization=build_optimization(optimization, defaults))
    _compare_training(config, made_for)
    return config


def _plan_file(run: Distillation, samples: SampleOptions) -> PlanFile:
    """The file of a plan that came as lists or by name, with what the theory predicts of it.

    Nothing is proved of such a plan, but that no distance is below 0. Without data nothing is
    predicted.
    """
    from opmerge.cli.networks import read_spectrum
    from opmerge.merging import evaluate
    from opmerge.plans import PlanFile
    from opmerge.problem import Problem
    from opmerge.schedules import diffusers_schedule
    from opmerge.training import GradientFlow

    schedule = diffusers_schedule(run.teacher.scheduler_config, run.plan.num_steps)
    rule = run.config.merge_rule
    if run.config.data_free:
        return PlanFile(run.plan, schedule, GradientFlow(), rule, "teacher")
    problem = Problem(
        read_spectrum(samples),
        schedule,
        merge_rule=rule,
    )
    w2 = evaluate(problem, run.plan).w2
    return PlanFile(
        run.plan,
        schedule,
        problem.training,
        rule,
        problem.objective,
        {"w2": w2, "lower_bound": 0.0, "gap": 1.0 if w2 else 0.0},
        problem.spectrum.identity(),
    )


def _merge_rule(given: str | None, made_for: PlanFile | None) -> str:
    """As given, or else as the plan says, or denoiser-copy."""
    from opmerge.cli.networks import say

    rule = None if given is None else given.replace("_", "-")
    if made_for is None:
        return rule or "denoiser-copy"
    if rule not in (None, made_for.merge_rule):
        say(f"the plan was made for {made_for.merge_rule}; what it predicts is not for {rule}")
    return rule or made_for.merge_rule


def _iterations(execution: ExecutionOptions, made_for: PlanFile | None) -> int | tuple[int, ...]:
    """Of every stage: as given, or else as the plan says or was calibrated for, or 400."""
    from opmerge.cli.networks import whole_numbers
    from opmerge.training import GammaRates

    numbers = whole_numbers("num_iterations", execution.num_iterations)
    if numbers is not None:
        return numbers if len(numbers) > 1 else numbers[0]
    if made_for is None or execution.merge_seconds is not None:
        return 400
    if made_for.iterations is not None:
        return _of_stages(made_for, made_for.iterations, execution.sharing)
    training = made_for.training
    return training.num_iterations if isinstance(training, GammaRates) else 400


def _of_stages(file: PlanFile, iterations: tuple[int, ...], sharing: Any) -> int | tuple[int, ...]:
    """A plan's iterations of each merge as those of each stage, one number if they are equal."""
    from opmerge.distillation.stages import plan_stages

    of_merge = dict(zip(file.plan.merges, iterations, strict=True))
    stages = []
    for stage in plan_stages(file.plan, sharing):
        counts = {of_merge[merge] for merge in stage.merges}
        if len(counts) > 1:
            raise InputError(
                "plan",
                "must have equal `iterations` for merges that train one network (--sharing round)",
                f"{_range(counts)} for {stage.name}",
                "pass --num_iterations, or leave out --sharing round",
            )
        stages.append(counts.pop())
    return stages[0] if len(set(stages)) == 1 else tuple(stages)


def _of_merges(run: Distillation) -> tuple[int, ...] | None:
    """Iterations of each merge in the order of the plan; unknown where seconds were asked."""
    if run.config.merge_seconds is not None:
        return None
    of_merge = {
        merge: count
        for stage, count in zip(run.stages, run.iterations, strict=True)
        for merge in stage.merges
    }
    return tuple(of_merge[merge] for merge in run.plan.merges)


def _compare_training(config: DistillationConfig, made_for: PlanFile | None) -> None:
    """Say where the run trains otherwise than the plan was calibrated for."""
    from opmerge.cli.networks import say
    from opmerge.training import GammaRates

    if made_for is None or not isinstance(made_for.training, GammaRates):
        return
    model, given, rate = made_for.training, config.num_iterations, config.optimization.learning_rate
    counts = set(given) if isinstance(given, tuple) else {given}
    in_seconds = config.merge_seconds is not None
    if counts <= {model.num_iterations} and not in_seconds and rate == model.learning_rate:
        return
    used = f"{config.merge_seconds:g} s" if in_seconds else _range(counts)
    say(
        f"the plan was calibrated for {model.num_iterations} iterations a merge at learning rate "
        f"{model.learning_rate:g}; what it predicts is not for {used} at {rate:g}"
    )


def _range(counts: set[int]) -> str:
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _train(run: Distillation, done: int, log: Log) -> None:
    from opmerge.cli.progress import progress_bar

    main = run.accelerator.is_main_process
    work = [stage.network_evaluations for stage in run.stages]
    counts = list(run.iterations)
    worked = 0.0
    for stage_work, count in zip(work, counts, strict=True):
        worked += stage_work * min(done, count)
        done -= min(done, count)
    with progress_bar("distilling", sum(map(mul, work, counts)), main, worked) as report:
        for record in run.run():
            stage = run.stages[record.stage]
            planned = counts[record.stage] / run.iterations[record.stage]  # differ if timed
            worked += work[record.stage] * planned
            report(worked, f"merge {stage.name}, stage {record.stage + 1} of {len(run.stages)}")
            if record.step % _LOG_EVERY == 0 or record.iteration == run.iterations[record.stage]:
                log(
                    record.step,
                    stage=record.stage,
                    iteration=record.iteration,
                    loss=float(record.loss),
                    learning_rate=record.learning_rate,
                )


def _save(run: Distillation, output_dir: Path) -> None:
    from opmerge.distillation.pipeline import is_image, save_student
    from opmerge.distillation.sampling import draw_samples, write_image_grid

    student = run.student()
    print(f"written: {save_student(student, output_dir / 'student')}")
    if is_image(student.sample_shape):
        picture = write_image_grid(output_dir / "samples.png", draw_samples(student, 64, 0, 64))
        print(f"written: {picture}")


def _show_cost(run: Distillation) -> None:
    from opmerge.cli.progress import duration
    from opmerge.distillation.costs import estimate_cost

    cost = estimate_cost(run)
    if not run.accelerator.is_main_process:
        return
    rows = {
        "networks trained": f"{cost.num_stages}",
        "iterations": f"{cost.num_iterations:,}",
        "network evaluations": f"{cost.network_evaluations:,.0f} (samples; κ = 3 for the student)",
        "parameters": f"{cost.num_parameters:,}",
        "networks held at once": f"{cost.peak_networks}",
        "memory": f"{cost.memory_bytes / 2**20:,.1f} MiB of networks, "
        f"{cost.data_memory_bytes / 2**20:,.1f} MiB of samples, and the activations of a batch",
        "disk": f"{cost.disk_bytes / 2**20:,.1f} MiB of networks, "
        f"{cost.data_disk_bytes / 2**20:,.1f} MiB of samples",
        "expected duration": f"{duration(cost.seconds)} on this machine as it is now",
    }
    show_rows(rows)
