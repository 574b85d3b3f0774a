"""The commands that train networks: a teacher, and the student of a plan."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import opmerge
from opmerge.cli import networks, runs
from opmerge.cli.output import show_rows
from opmerge.cli.planning import read_plan
from opmerge.cli.progress import duration, progress_bar, say
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.distillation.executor import Distillation
    from opmerge.distillation.validation import Validation
    from opmerge.settings.commands import DistillOptions, RunOptions
    from opmerge.settings.data import DistilledSamples, SampleOptions
    from opmerge.settings.distillation import DistillationConfig
    from opmerge.settings.guidance import GuidanceOptions
    from opmerge.settings.networks import TeacherConfig

_SHORT = "--block_out_channels 16,32 --train_batch_size 16 --num_iterations 2000"
_LENGTHS = ("merge_seconds", "budget", "num_iterations")  # one of these is asked for
_ALIKE = 1.5  # ratio of costs; a budget of time counts passes by what they take
_BUSY = 0.5  # of a core: a process that computes alone has all of one


def train_teacher(samples: SampleOptions, files: RunOptions, config: TeacherConfig) -> None:
    """Train a denoiser on samples: a teacher for `distill`, saved as a diffusers pipeline.

    Examples:
        opmerge train-teacher digits --output_dir runs/teacher
        opmerge train-teacher my_images/ --schedule flow --output_dir runs/teacher
    """
    networks.check_there(samples.source, None)

    networks.load_libraries()
    from opmerge.data.source import channels_last_remedy
    from opmerge.denoisers.denoiser import LABELS
    from opmerge.denoisers.teacher_training import train_teacher as train

    folder = files.output_dir
    accelerator = networks.start(config.optimization, folder)
    networks.tell_of_earlier(folder, files.checkpoint)
    data, told = networks.load_training_data(accelerator, samples, folder)
    if told is not None and set(told.shapes) != {LABELS}:
        requirement = "must tell of classes alone: the teachers that are trained here read no text"
        raise InputError("source", requirement, samples.source)
    labels = None if told is None else told[:].rows[LABELS]
    shape, is_told = tuple(data.shape[1:]), config.given("network") is not None
    config = config.for_samples(shape)
    records = train(config, data, labels, accelerator, folder, files.checkpoint, warn=say)
    if not is_told:
        chosen = f"the network is {config.network}, for samples of shape {shape}"
        say("; ".join(filter(None, (chosen, channels_last_remedy(shape)))))
    is_large = config.network == "unet" and config.block_out_channels is None
    if is_large and accelerator.device.type == "cpu":
        say(f"on a CPU this takes hours or days; a shorter training: {_SHORT}")
    if accelerator.is_main_process:
        runs.write_config(folder, "train-teacher", samples, config)
    title, best = "training the teacher", ""
    for record, log in networks.followed(records, title, accelerator, folder, config):
        if record.validation_loss is not None:
            log(record.iteration, validation_loss=record.validation_loss)
            best = f" (least held-out loss: iteration {record.best})"
    if accelerator.is_main_process:
        print(f"written: {folder / 'teacher'}{best}")


def distill(
    samples: DistilledSamples,
    config: DistillationConfig,
    asked: DistillOptions,
    guidance: GuidanceOptions,
    files: RunOptions,
) -> None:
    """Execute a plan: train its students, and save the result as a diffusers pipeline.

    Examples:
        opmerge distill digits --teacher runs/teacher/teacher --plan boot --steps 32 \\
            --output_dir runs/student
        opmerge distill my_images/ --teacher path/to/model --plan runs/plan/plan.json \\
            --output_dir runs/student --dry_run
    """
    networks.check_there(samples.source, asked.teacher)
    parsed, made_for = read_plan(asked.plan, asked.student_steps, asked.steps, asked.free_step)
    if asked.one_network:
        if config.given("sharing", "all") != "all":
            raise InputError("one_network", "must not be given together with --sharing")
        config = config.replaced(sharing="all")
    config = _configuration(config, made_for)
    if asked.fuse_lora and not config.lora_rank:
        raise InputError("fuse_lora", "must come with --lora_rank")

    networks.load_libraries()
    from opmerge.denoisers.teacher_folder import check_plan_fits
    from opmerge.distillation.executor import Distillation, settled
    from opmerge.distillation.pipeline import check_can_be_saved, check_replaceable
    from opmerge.distillation.stages import plan_stages

    teacher = networks.read_teacher(asked.teacher, parsed.num_steps, asked.ignore_clipping)
    samples = samples.fitted(teacher.sample_shape)
    config = settled(config, teacher.network)
    of_plan = None if made_for is None else made_for.guidance
    teacher = networks.guided(teacher, guidance, samples.source, of_plan)
    if config.lora_rank and not asked.fuse_lora and isinstance(guidance.scale, tuple):
        requirement = "must be one number for adapters: the teacher's network is told none"
        remedy = "pass --fuse_lora, which saves whole networks"
        raise InputError("guidance_scale", requirement, guidance.guidance_scale, remedy)
    if made_for is not None:
        check_plan_fits(teacher, made_for.schedule)
        _compare_training(config, made_for)
    folder = None if asked.dry_run else files.output_dir
    accelerator = networks.start(config.optimization, files.output_dir, not asked.dry_run)
    networks.tell_of_earlier(files.output_dir, files.checkpoint)
    main = accelerator.is_main_process
    inputs = networks.training_inputs(accelerator, samples, teacher, config.data_free, folder)
    if made_for is not None and not asked.dry_run:  # which reads no data
        networks.check_plan_data(made_for, teacher, inputs)
    student = files.output_dir / "student"
    if not config.lora_rank or asked.fuse_lora:
        check_can_be_saved(teacher, parsed, plan_stages(parsed, config.sharing), student)
    else:
        check_replaceable(student)
    run = Distillation(teacher, parsed, inputs, config, accelerator, folder, warn=say)
    _tell_first(run, made_for)
    if asked.dry_run:
        _show_cost(run)
        return
    done = 0 if files.checkpoint is None else run.resume(files.checkpoint)
    if main:
        _write_plan(run, samples, asked, made_for, files.output_dir, is_new=not done)
    with networks.log_to(accelerator, files.output_dir, config, done) as log:
        _train(run, done, log, _validation(run, asked, files.output_dir), asked.validation_steps)
    if main:
        _save(run, files.output_dir, asked, samples.source)


def _write_plan(
    run: Distillation,
    samples: SampleOptions,
    asked: DistillOptions,
    made_for: opmerge.PlanFile | None,
    folder: Path,
    is_new: bool,
) -> None:
    """plan.json of a run that starts, and config.json."""
    from opmerge.settings.guidance import GuidanceOptions

    if is_new:
        file = made_for or _plan_file(run, samples)
        iterations = _of_merges(run)
        budget = file.budget if iterations == file.iterations else None  # or not the plan's
        replace(file, iterations=iterations, budget=budget).write(folder / "plan.json")
    plan = {
        "teacher": asked.teacher,
        "ignore_clipping": asked.ignore_clipping,
        "plan": asked.plan,
        "steps": run.plan.num_steps,
        "student_steps": run.plan.student_steps,
        "free_step": run.plan.free_step,
    }
    guidance = GuidanceOptions.of_record(run.teacher.guidance_record)
    runs.write_config(folder, "distill", plan, samples, guidance, run.config)


def _configuration(
    config: DistillationConfig, made_for: opmerge.PlanFile | None
) -> DistillationConfig:
    """The settings as given, or else as the plan says, or the defaults."""
    lengths = [name for name in _LENGTHS if config.given(name) is not None]
    if len(lengths) > 1:
        raise InputError(lengths[0], f"must not be given together with --{lengths[1]}")
    if config.budget is None and config.given("budget_split") is not None:
        raise InputError("budget_split", "must come with --budget", config.budget_split)
    if made_for is None:
        return config
    rule = config.given("merge_rule", made_for.merge_rule)
    if rule != made_for.merge_rule:
        say(f"the plan was made for {made_for.merge_rule}; what it predicts is not for {rule}")
    config, model = config.replaced(merge_rule=rule), made_for.training
    if not lengths:
        if made_for.iterations is not None:
            from opmerge.distillation.stages import iterations_of_stages

            given = made_for.plan, made_for.iterations, config.sharing
            config = config.replaced(num_iterations=iterations_of_stages(*given))
        elif isinstance(model, opmerge.GammaRates):
            config = config.replaced(num_iterations=model.num_iterations)
    return config


def _plan_file(run: Distillation, samples: SampleOptions) -> opmerge.PlanFile:
    """The file of a plan that came as lists or by name, with what the theory predicts of it.

    Nothing is proved of such a plan, but that no distance is below 0. Without data nothing is
    predicted.
    """
    from opmerge.planners.record import plan_file

    schedule = opmerge.diffusers_schedule(run.teacher.scheduler_config, run.plan.num_steps)
    rule, guidance = run.config.merge_rule, run.teacher.guidance_record
    if run.config.data_free:
        file = opmerge.PlanFile(run.plan, schedule, opmerge.GradientFlow(), rule, "teacher")
        return replace(file, guidance=guidance)
    problem = opmerge.Problem(networks.read_spectrum(samples), schedule, merge_rule=rule)
    outcome = opmerge.evaluate(problem, run.plan)
    file = plan_file(opmerge.PlannerResult(outcome, lower_bound=0.0))
    return replace(file, guidance=guidance)


def _of_merges(run: Distillation) -> tuple[int, ...] | None:
    """Iterations of each merge in the order of the plan; unknown where seconds were asked, or
    one network has them all in parts."""
    if run.seconds is not None or run.config.sharing == "all":
        return None
    counts = zip(run.stages, run.iterations, strict=True)
    of_merge = {merge: count for stage, count in counts for merge in stage.merges}
    return tuple(of_merge[merge] for merge in run.plan.merges)


def _compare_training(config: DistillationConfig, made_for: opmerge.PlanFile) -> None:
    """Say where the run trains otherwise than the plan was foretold or calibrated for."""
    model = made_for.training
    asked = {"one_network": config.sharing == "all", "lora_rank": config.lora_rank is not None}
    if made_for.budget is not None and any(asked.values()):
        changes = " and ".join(f"--{option}" for option, holds in asked.items() if holds)
        say(f"the plan's forecast knows nothing of {changes}")
    if not isinstance(model, opmerge.GammaRates):
        return
    given, rate = config.num_iterations, config.optimization.learning_rate
    if config.merge_seconds is not None:
        used = f"{config.merge_seconds:g} s"
    elif config.budget is not None:
        used = f"a budget of {config.budget} split by {config.budget_split}"
    elif given == ():  # nothing is merged
        return
    else:
        used = _range(set(given) if isinstance(given, tuple) else {given})
    otherwise = {
        "targets used again": config.target_reuse != 1 and config.curriculum == "none",
        "linear parts solved": config.linear_part == "solve",
    }
    if any(otherwise.values()):
        used += f" ({', '.join(what for what, holds in otherwise.items() if holds)})"
    if (used, rate) != (f"{model.num_iterations}", model.learning_rate):
        say(
            f"the plan was calibrated for {model.num_iterations} iterations a merge at learning "
            f"rate {model.learning_rate:g}; what it predicts is not for {used} at {rate:g}"
        )


def _tell_first(run: Distillation, made_for: opmerge.PlanFile | None) -> None:
    """Notes of the teacher's schedule, and where a plan's iterations cost another amount here
    than the budget they are for."""
    from opmerge.distillation.costs import network_evaluations

    for note in opmerge.diffusers_schedule(run.teacher.scheduler_config, run.plan.num_steps).notes:
        say(note)
    budget = None if made_for is None else made_for.budget
    if made_for is None or budget is None or _of_merges(run) != made_for.iterations:
        return
    cost = network_evaluations(run)
    if not budget <= _ALIKE * cost <= _ALIKE**2 * budget:
        say(
            f"the plan's iterations are for {budget:,.0f} network evaluations and take {cost:,.0f} "
            "here: --train_batch_size or --target_reuse is not what was planned for"
        )


def _range(counts: set[int]) -> str:
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _validation(run: Distillation, asked: DistillOptions, folder: Path) -> Validation | None:
    """What looks at the run every so many iterations, on the first process; None where none is."""
    from opmerge.distillation.validation import Validation

    told, place = None, asked.validation_prompts
    if place is not None:
        if not asked.validation_steps:
            raise InputError("validation_prompts", "must come with --validation_steps", str(place))
        told = networks.told_prompts(place, run.teacher, run.teacher.folder, "validation_prompts")
    if not asked.validation_steps or not run.accelerator.is_main_process:
        return None
    return Validation(run, folder / "validation", told)


def _train(
    run: Distillation, done: int, log: networks.Log, validation: Validation | None, every: int
) -> None:
    counts = list(run.iterations)
    pairs = zip(run.stages, counts, strict=True)
    given = run.config, run.limits
    work = run.seconds or [stage.network_evaluations(n, *given) for stage, n in pairs]
    worked = 0.0
    for stage_work, count in zip(work, counts, strict=True):
        worked += stage_work * min(done / count, 1)
        done = max(done - count, 0)
    with progress_bar("distilling", sum(work), worked) as report:
        for record in run.run():
            stage, total = run.stages[record.stage], run.iterations[record.stage]
            share = record.iteration / total
            doing = f"merge {stage.name}, stage {record.stage + 1} of {len(run.stages)}"
            report(sum(work[: record.stage]) + work[record.stage] * share, doing)
            if record.step % networks.LOG_EVERY == 0 or record.iteration == total:
                place = {"stage": record.stage, "iteration": record.iteration}
                rate = record.learning_rate
                log(record.step, **place, loss=float(record.loss), learning_rate=rate)
            if validation is not None and record.step % every == 0:
                log(record.step, paired_rms=validation.look(record.step).paired_rms)


def _save(run: Distillation, output_dir: Path, asked: DistillOptions, source: str) -> None:
    """The student's folder, and samples of it, in a file and in the folder's card."""
    from opmerge.distillation.adapters import fused_student
    from opmerge.distillation.model_card import Making, add_samples
    from opmerge.distillation.pipeline import save_student
    from opmerge.distillation.sampling import decoded, draw_samples, image_png, is_image, told_of
    from opmerge.files import write_atomic

    student, teacher, folder = run.student(), run.teacher, output_dir / "student"
    if asked.fuse_lora:
        student = fused_student(student, teacher.network)
    making = Making.of(run, source)
    print(f"written: {save_student(student, folder, teacher, asked.copy_components, making)}")
    samples = draw_samples(student, 64, 0, 64, told=told_of(student, run.inputs))
    images = decoded(samples, student, teacher.folder)
    if is_image(tuple(images.shape[1:])):
        picture = image_png(images)
        print(f"written: {write_atomic(output_dir / 'samples.png', picture)}")
        add_samples(folder, picture, f"Samples in {len(student.jumps)} network evaluations each")


def _show_cost(run: Distillation) -> None:
    from opmerge.distillation.costs import estimate_cost

    with progress_bar("dry run", 3) as report:
        begun, clocks = itertools.count(), (time.process_time(), time.perf_counter())
        cost = estimate_cost(run, lambda doing: report(next(begun), doing))
        share = (time.process_time() - clocks[0]) / (time.perf_counter() - clocks[1])
    if not run.accelerator.is_main_process:
        return
    working = "and activations, which this network does not tell"
    if cost.working_bytes is not None:
        working = f"{cost.working_bytes / 2**20:,.1f} MiB of activations and gradients"
    busy = ""
    if run.accelerator.device.type == "cpu" and share < _BUSY:
        alone = duration(share * cost.seconds)
        busy = f", which left this process {share:.0%} of a core; with all of one about {alone}"
    rows: dict[str, object] = {
        "networks trained": cost.num_stages,
        "iterations": f"{cost.num_iterations:,}",
        "network evaluations": f"{cost.network_evaluations:,.0f} (samples; κ = 3 for the student)",
        "parameters": f"{cost.num_parameters:,}, trained {cost.num_trained:,}",
        "networks held at once": cost.peak_networks,
        "memory": f"{cost.memory_bytes / 2**20:,.1f} MiB of networks and targets, {working}; "
        f"{cost.data_memory_bytes / 2**20:,.1f} MiB of samples in main memory",
        "disk": f"{cost.disk_bytes / 2**20:,.1f} MiB of networks, "
        f"{cost.data_disk_bytes / 2**20:,.1f} MiB of samples",
        "expected duration": f"{duration(cost.seconds)} on this machine as it is now{busy}",
    }
    show_rows(rows)
