"""The commands around a student: sampling, measuring, calibrating, exporting its steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opmerge.cli.networks import prepare_libraries
from opmerge.cli.options import ImageOptions, option, takes_options
from opmerge.cli.training_options import OptimizationOptions, SampleOptions
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.distillation.calibration import Calibration
    from opmerge.distillation.config import DistillationConfig
    from opmerge.distillation.evaluation import Measurement, Report, StudentEvaluation
    from opmerge.distillation.models import Student, Teacher
    from opmerge.plans import PlanFile

__all__ = ["calibrate", "evaluate_student", "export", "sample"]

_MEASURING_SEED = 1  # not 0: what is measured is not what pictures show

StudentDir = Annotated[
    Path, typer.Argument(metavar="STUDENT", help="The folder `student` that `distill` wrote.")
]
TeacherDir = Annotated[Path, option("teacher", "A diffusers pipeline folder.", "Teacher")]
BatchSize = Annotated[int, option("batch_size", "Samples at a time.", "Samples")]
Json = Annotated[bool, option("json", "One JSON object on standard output.", "Output")]


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions(ImageOptions):
    """What a student is measured on, and against."""

    source: Annotated[
        str | None,
        option(
            "source",
            "Samples of the data (digits, a file, a folder …): distances to them, and the paired "
            "error along their covariance's eigenvectors.",
            "Samples",
        ),
    ] = None
    num_samples: Annotated[int, option("num_samples", "Of each of the two.", "Samples")] = 5000
    num_resamples: Annotated[
        int,
        option("num_resamples", "Of the bootstrap; 0: no intervals of the distances.", "Samples"),
    ] = 200
    seed: Annotated[int, option("seed", "Of the initial noise.", "Samples")] = _MEASURING_SEED
    batch_size: BatchSize = 256
    features: Annotated[
        str | None,
        option(
            "features",
            "A function from samples to features, package.module:name, for Fréchet distances.",
            "Samples",
        ),
    ] = None


@dataclass(frozen=True)
class ProbeOptions:
    """How the merges of a calibration are trained: as those of the run to come."""

    num_iterations: Annotated[
        int, option("num_iterations", "Iterations of a merge to predict for.", "Training")
    ] = 400
    merge_rule: Annotated[
        str, option("merge_rule", "denoiser-copy or operator-copy.", "Training")
    ] = "denoiser-copy"
    loss_weighting: Annotated[
        str, option("loss_weighting", "As of the run to come.", "Training")
    ] = "snr-truncated"
    half_rate: Annotated[
        bool,
        option(
            "half_rate",
            "Also train probes at half the learning rate, to predict for other rates.",
            "Training",
        ),
    ] = False


def sample(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="The folder of a student, or of a teacher."),
    ],
    output: Annotated[
        Path, option("output", "A .png (grid) or .npy (array) file.", "Output", metavar="FILE")
    ],
    num_samples: Annotated[int, option("num_samples", "How many.", "Samples")] = 64,
    steps: Annotated[
        int | None, option("steps", "T, for a teacher.", "Samples", show_default="none")
    ] = None,
    seed: Annotated[int, option("seed", "Of the initial noise.", "Samples")] = 0,
    batch_size: BatchSize = 256,
    class_label: Annotated[
        int | None,
        option("class_label", "Of all samples.", "Samples", show_default="each in turn"),
    ] = None,
) -> None:
    """Draw samples from a teacher or a student; equal seeds are equal noise for both."""
    from opmerge.checks import check_count
    from opmerge.distillation.sampling import draw_samples, write_image_grid, write_samples

    prepare_libraries()
    check_count("num_samples", num_samples)
    writers = {".png": write_image_grid, ".npy": write_samples}
    if output.suffix not in writers:
        raise InputError("output", "must end in .png or .npy", str(output))
    sampler = _load_sampler(model, steps)
    with _bars() as report:
        samples = draw_samples(
            sampler,
            num_samples,
            seed,
            batch_size,
            class_label,
            lambda done: report("sampling", done, num_samples),
        )
    print(f"written: {writers[output.suffix](output, samples)}")


@takes_options
def evaluate_student(
    student: StudentDir,
    teacher: TeacherDir,
    measuring: MeasuringOptions,
    plan: Annotated[
        Path | None,
        option("plan", "The plan file: the error that it predicts beside the measured.", "Samples"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a student against its teacher on samples from equal noise, with intervals."""
    from opmerge.distillation.pipeline import load_student
    from opmerge.distillation.teacher_folder import load_teacher
    from opmerge.distillation.trainer import best_device
    from opmerge.plans import PlanFile

    prepare_libraries()
    made_for = None if plan is None else PlanFile.read(plan)
    loaded = load_student(student).to(best_device())
    original = load_teacher(teacher, loaded.num_steps).to(best_device())
    if made_for is not None:
        _check_executed(made_for, loaded)
    result = _measure(original, loaded, measuring)
    if as_json:
        print(json.dumps({**result.to_dict(), **_predicted(made_for)}))
    else:
        _show_evaluation(result, made_for)


@takes_options
def calibrate(
    samples: SampleOptions,
    teacher: TeacherDir,
    steps: Annotated[int, option("steps", "T, the teacher's steps.", "Teacher")],
    output_dir: Annotated[
        Path,
        option("output_dir", "Folder for calibration.json; finished probes are kept.", "Run"),
    ],
    probing: ProbeOptions,
    optimization: OptimizationOptions,
) -> None:
    """Fit the training model to short probe merges on the real network.

    `opmerge plan --training calibration.json` then predicts runs on this network with these
    settings, a network for each merge (--sharing merge) and no curriculum. An interrupted
    calibration goes on when it is started again.
    """
    from opmerge.cli import networks, runs
    from opmerge.distillation.calibration import calibrate as fit
    from opmerge.distillation.inputs import DataInputs
    from opmerge.distillation.probes import default_probes
    from opmerge.distillation.teacher_folder import load_teacher

    config = _calibrated_config(probing, optimization)
    rate = config.optimization.learning_rate
    probes = default_probes(steps, probing.num_iterations, rate, slower=probing.half_rate)
    loaded = load_teacher(teacher, steps)
    runs.prepare_folder(output_dir)
    accelerator = networks.start(config.optimization, output_dir)
    inputs = networks.training_inputs(accelerator, samples, loaded, False, output_dir)
    assert isinstance(inputs, DataInputs), "a calibration is never data-free"
    spectrum = networks.read_spectrum(samples)
    with networks.resumable("the same command"), _bars(accelerator.is_main_process) as report:
        found = fit(
            loaded,
            inputs,
            spectrum,
            config,
            accelerator,
            probes,
            output_dir,
            lambda done, total: report("training probes", done, total),
        )
    if accelerator.is_main_process:
        path = found.write(output_dir / "calibration.json")
        runs.write_config(output_dir, "calibrate", {**asdict(samples), **asdict(config)})
        _show_calibration(found, path)


def export(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file.")],
    to: Annotated[str, option("to", "fastgen or comfyui.", "Output")],
    time: Annotated[
        str, option("time", "FastGen's noise schedule: edm, rf, trig or alphas.", "Output")
    ] = "edm",
) -> None:
    """Print a plan's step list for another program: FastGen's t_list or ComfyUI's sigmas."""
    from opmerge.plans import PlanFile
    from opmerge.plans.export import (
        comfyui_manual_sigmas,
        comfyui_sigmas,
        fastgen_t_list,
    )

    file = PlanFile.read(plan)
    boundaries: Any = file.plan.boundaries
    if to == "fastgen":
        name: Any = time
        print(json.dumps(fastgen_t_list(file.schedule, boundaries, name)))
    elif to == "comfyui":
        print(comfyui_manual_sigmas(comfyui_sigmas(file.schedule, boundaries)))
    else:
        raise InputError("to", "must be fastgen or comfyui", to)


def _check_executed(file: PlanFile, student: Student) -> None:
    """Refuse a plan that leads to other jumps than the student's."""
    jumps = [(jump.start, jump.stop) for jump in student.jumps]
    planned = [(tree.start, tree.stop) for tree in file.plan.students]
    if planned != jumps:
        raise InputError("plan", f"must lead to the student's jumps {jumps}", planned)


def _load_sampler(folder: Path, steps: int | None) -> Teacher | Student:
    from opmerge.distillation.pipeline import is_student_folder, load_student
    from opmerge.distillation.teacher_folder import load_teacher
    from opmerge.distillation.trainer import best_device

    if is_student_folder(folder):
        if steps is not None:
            raise InputError("steps", "must be left out: a student takes its own steps", steps)
        return load_student(folder).to(best_device())
    if steps is None:
        raise InputError("steps", "must be given for a teacher", remedy="pass --steps 64")
    return load_teacher(folder, steps).to(best_device())


@contextmanager
def _bars(enabled: bool = True) -> Iterator[Report]:
    """A callback for what is being done, how much of it is done and of how much; bars in turn."""
    from opmerge.cli import progress

    with ExitStack() as shown:
        doing = ""
        report: progress.Report

        def switch(what: str, done: int, total: int) -> None:
            nonlocal doing, report
            if what != doing:
                shown.close()
                doing = what
                report = shown.enter_context(progress.progress_bar(what, total, enabled))
            report(done)

        yield switch


def _measure(teacher: Teacher, student: Student, measuring: MeasuringOptions) -> StudentEvaluation:
    from opmerge.data import open_source
    from opmerge.distillation.evaluation import evaluate_student as measure
    from opmerge.distillation.features import load_feature_extractor
    from opmerge.distillation.samples import load_samples
    from opmerge.spectra import resolve_spectrum

    name, source = measuring.features, measuring.source
    features = None if name is None else load_feature_extractor(name)
    spectrum = reference = None
    if source is not None:
        options = measuring.source_options()
        spectrum = resolve_spectrum(source, options=options)
        reference = load_samples(open_source(source, options), student.sample_shape)
    with _bars() as report:
        return measure(
            teacher,
            student,
            measuring.num_samples,
            measuring.seed,
            spectrum,
            reference,
            features,
            measuring.batch_size,
            num_resamples=measuring.num_resamples,
            progress=report,
        )


def _predicted(file: PlanFile | None) -> dict[str, float | None]:
    """W2 of a plan, and the paired error that is to be expected: W2, or what the file says."""
    predicted = {} if file is None else file.predicted
    w2 = predicted.get("w2")
    to_teacher = w2 if file is not None and file.objective == "teacher" else None
    return {"predicted_w2": w2, "predicted_paired_rms": predicted.get("paired_rms", to_teacher)}


def _show_evaluation(result: StudentEvaluation, file: PlanFile | None) -> None:
    """The measurements as lines, intervals behind them, what was predicted below them."""
    w2, paired_rms = _predicted(file).values()
    rows = {"paired error (rms)": _told(result.paired_rms)}
    if paired_rms is not None:
        rows["predicted error (rms)"] = f"{paired_rms:.4g}"
    gaussian, sliced = _told(result.gaussian_w2), _told(result.sliced_w2)
    rows["W2 of Gaussian fits"] = f"{gaussian}, floor {result.gaussian_w2_floor:.4g}"
    rows["sliced W2"] = f"{sliced}, floor {result.sliced_w2_floor:.4g}"
    if file is not None and w2 is not None:
        rows["predicted W2"] = f"{w2:.4g} to the {file.objective}"
    if result.reference is not None:
        rows["Gaussian W2 to data"] = (
            f"student {result.reference.student_gaussian_w2:.4g}, "
            f"teacher {result.reference.teacher_gaussian_w2:.4g}"
        )
        rows["sliced W2 to data"] = (
            f"student {result.reference.student_sliced_w2:.4g}, "
            f"teacher {result.reference.teacher_sliced_w2:.4g}"
        )
    if result.features is not None:
        rows["Fréchet distance"] = f"{result.features.student_to_teacher:.4g}"
    print(f"{result.num_samples} samples from equal noise; 95 % intervals")
    _show_rows(rows)


def _told(measurement: Measurement) -> str:
    value, low, high = measurement.value, measurement.low, measurement.high
    return f"{value:.4g}" if low is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _calibrated_config(
    probing: ProbeOptions, optimization: OptimizationOptions
) -> DistillationConfig:
    from opmerge.cli.networks import build_optimization
    from opmerge.distillation.config import DistillationConfig

    given: dict[str, Any] = {
        "merge_rule": probing.merge_rule.replace("_", "-"),
        "loss_weighting": probing.loss_weighting,
        "num_iterations": probing.num_iterations,
    }
    defaults = DistillationConfig().optimization
    return DistillationConfig(**given, optimization=build_optimization(optimization, defaults))


def _show_calibration(found: Calibration, path: Path) -> None:
    rows = {key.replace("_", " "): f"{value}" for key, value in found.training.to_dict().items()}
    rows["residual"] = f"a factor {math.exp(found.fit.residual):.3g} in squared error"
    _show_rows(rows)
    for note in found.notes:
        print(f"note: {note}")
    print(f"written: {path}")


def _show_rows(rows: Mapping[str, str]) -> None:
    for name, value in rows.items():
        print(f"{name:>22}: {value}")
