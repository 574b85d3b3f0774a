"""The commands that train networks: a teacher, and the student of a plan."""

from __future__ import annotations

from dataclasses import replace
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opmerge.cli import runs
from opmerge.cli.output import show_rows
from opmerge.cli.planning import read_plan
from opmerge.cli.progress import duration, progress_bar, say
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.cli.networks import Log
    from opmerge.distillation.executor import Distillation
    from opmerge.plans import PlanFile
    from opmerge.settings.commands import DistillOptions, RunOptions
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import DistillationConfig
    from opmerge.settings.networks import TeacherConfig

_LOG_EVERY = 10


def train_teacher(samples: SampleOptions, files: RunOptions, config: TeacherConfig) -> None:
    """Train a denoiser on samples: a teacher for `distill`, saved as a diffusers pipeline."""
    from opmerge.cli import networks
    from opmerge.denoisers.samples import network_shape
    from opmerge.denoisers.teacher_training import train_teacher as train

    folder = files.output_dir
    runs.prepare_folder(folder)
    accelerator = networks.start(config.optimization, folder)
    data, labels = networks.load_training_data(accelerator, samples, network_shape, folder)
    records = train(config, data, labels, accelerator, folder, files.checkpoint, warn=say)
    if accelerator.is_main_process:
        runs.write_config(folder, "train-teacher", samples, config)
    kept = ""
    for record, log in networks.followed(
        records, "training the teacher", accelerator, folder, config
    ):
        if record.validation_loss is not None:
            log(record.iteration, validation_loss=record.validation_loss)
            kept = f" (least held-out loss: iteration {record.best})"
    if accelerator.is_main_process:
        print(f"written: {folder / 'teacher'}{kept}")


def distill(
    samples: SampleOptions, config: DistillationConfig, asked: DistillOptions, files: RunOptions
) -> None:
    """Execute a plan: train its students, and save the result as a diffusers pipeline."""
    from opmerge.cli import networks
    from opmerge.denoisers.teacher_folder import check_plan_fits, load_teacher
    from opmerge.distillation.executor import Distillation
    from opmerge.distillation.pipeline import check_can_be_saved
    from opmerge.distillation.stages import plan_stages
    from opmerge.schedules import diffusers_schedule

    parsed, made_for = read_plan(asked.plan, asked.student_steps, asked.steps)
    config = _configuration(config, made_for)
    teacher = load_teacher(asked.teacher, parsed.num_steps)
    if made_for is not None:
        check_plan_fits(teacher, made_for.schedule)
    folder = None if asked.dry_run else files.output_dir
    runs.prepare_folder(folder)
    accelerator = networks.start(config.optimization, files.output_dir)
    main = accelerator.is_main_process
    inputs = networks.training_inputs(accelerator, samples, teacher, config.data_free, folder)
    student = files.output_dir / "student"
    check_can_be_saved(teacher, parsed, plan_stages(parsed, config.sharing), student)
    run = Distillation(teacher, parsed, inputs, config, accelerator, folder, warn=say)
    for note in diffusers_schedule(asked.teacher, parsed.num_steps).notes if main else ():
        say(note)
    if asked.dry_run:
        _show_cost(run)
        return
    done = 0 if files.checkpoint is None else run.resume(files.checkpoint)
    if main:
        if not done:
            file = made_for or _plan_file(run, samples)
            replace(file, iterations=_of_merges(run)).write(files.output_dir / "plan.json")
        plan = {"teacher": asked.teacher, "plan": asked.plan, "steps": parsed.num_steps}
        plan["student_steps"] = parsed.student_steps
        runs.write_config(files.output_dir, "distill", plan, samples, config)
    with networks.log_to(accelerator, files.output_dir, config, done) as log:
        _train(run, done, log)
    if main:
        _save(run, files.output_dir)


def _configuration(config: DistillationConfig, made_for: PlanFile | None) -> DistillationConfig:
    """The settings as given, or else as the plan says, or the defaults."""
    if {"merge_seconds", "num_iterations"} <= config.model_fields_set:
        raise InputError("merge_seconds", "must not be given together with --num_iterations")
    if made_for is None:
        return config
    rule = config.given("merge_rule", made_for.merge_rule)
    if rule != made_for.merge_rule:
        say(f"the plan was made for {made_for.merge_rule}; what it predicts is not for {rule}")
    config = config.replaced(merge_rule=rule)
    if not {"merge_seconds", "num_iterations"} & config.model_fields_set:
        planned = _planned_iterations(made_for, config.sharing)
        config = config if planned is None else config.replaced(num_iterations=planned)
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
    problem = Problem(read_spectrum(samples), schedule, merge_rule=rule)
    w2 = evaluate(problem, run.plan).w2
    predicted = {"w2": w2, "lower_bound": 0.0, "gap": 1.0 if w2 else 0.0}
    return runs.plan_file(problem, run.plan, predicted)


def _planned_iterations(file: PlanFile, sharing: Any) -> int | tuple[int, ...] | None:
    """The iterations of every stage, as the plan says or was calibrated for."""
    from opmerge.training import GammaRates

    if file.iterations is not None:
        return _of_stages(file, file.iterations, sharing)
    training = file.training
    return training.num_iterations if isinstance(training, GammaRates) else None


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


def _compare_training(config: DistillationConfig, made_for: PlanFile) -> None:
    """Say where the run trains otherwise than the plan was calibrated for."""
    from opmerge.training import GammaRates

    if not isinstance(made_for.training, GammaRates):
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
    from opmerge.distillation.costs import estimate_cost

    cost = estimate_cost(run)
    if not run.accelerator.is_main_process:
        return
    rows: dict[str, object] = {
        "networks trained": cost.num_stages,
        "iterations": f"{cost.num_iterations:,}",
        "network evaluations": f"{cost.network_evaluations:,.0f} (samples; κ = 3 for the student)",
        "parameters": f"{cost.num_parameters:,}",
        "networks held at once": cost.peak_networks,
        "memory": f"{cost.memory_bytes / 2**20:,.1f} MiB of networks, "
        f"{cost.data_memory_bytes / 2**20:,.1f} MiB of samples, and the activations of a batch",
        "disk": f"{cost.disk_bytes / 2**20:,.1f} MiB of networks, "
        f"{cost.data_disk_bytes / 2**20:,.1f} MiB of samples",
        "expected duration": f"{duration(cost.seconds)} on this machine as it is now",
    }
    show_rows(rows)
