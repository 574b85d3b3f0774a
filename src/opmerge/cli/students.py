"""The commands around a student: sampling, measuring, calibrating, exporting its steps."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opmerge.cli.networks import prepare_libraries
from opmerge.cli.options import ImageOptions, option, takes_options
from opmerge.cli.training_options import OptimizationOptions, SampleOptions
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.distillation.models import Student, Teacher
    from opmerge.plans import PlanFile
    from opmerge.spectra import Spectrum

__all__ = ["calibrate", "evaluate_student", "export", "sample"]

_MEASURING_SEED = 1  # not 0: what is measured is not what pictures show

StudentDir = Annotated[
    Path, typer.Argument(metavar="STUDENT", help="The folder `student` that `distill` wrote.")
]
TeacherDir = Annotated[Path, option("teacher", "A diffusers pipeline folder.", "Teacher")]
BatchSize = Annotated[int, option("batch_size", "Samples at a time.", "Samples")]
Json = Annotated[bool, option("json", "One JSON object on standard output.", "Output")]


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
    from opmerge.cli.progress import progress_bar
    from opmerge.distillation.sampling import draw_samples, write_image_grid, write_samples

    prepare_libraries()
    writers = {".png": write_image_grid, ".npy": write_samples}
    if output.suffix not in writers:
        raise InputError("output", "must end in .png or .npy", str(output))
    sampler = _load_sampler(model, steps)
    with progress_bar("sampling", num_samples) as advance:
        samples = draw_samples(
            sampler, num_samples, seed, batch_size, class_label, _counting(advance)
        )
    print(f"written: {writers[output.suffix](output, samples)}")


@takes_options
def evaluate_student(
    student: StudentDir,
    teacher: TeacherDir,
    images: ImageOptions,
    source: Annotated[
        str | None,
        option(
            "source",
            "Samples of the data (digits, a file, a folder …): distances to them, and the paired "
            "error along their covariance's eigenvectors.",
            "Samples",
        ),
    ] = None,
    num_samples: Annotated[int, option("num_samples", "Of each of the two.", "Samples")] = 5000,
    seed: Annotated[int, option("seed", "Of the initial noise.", "Samples")] = _MEASURING_SEED,
    batch_size: BatchSize = 256,
    features: Annotated[
        str | None,
        option(
            "features",
            "A function from samples to features, package.module:name, for Fréchet distances.",
            "Samples",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        option("plan", "The plan file: its predicted W2 beside the paired error.", "Samples"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a student against its teacher on samples from equal noise, with intervals."""
    from opmerge.cli.progress import progress_bar
    from opmerge.data import open_source
    from opmerge.distillation.evaluation import evaluate_student as measure
    from opmerge.distillation.evaluation import load_feature_extractor
    from opmerge.distillation.pipeline import load_student
    from opmerge.distillation.samples import load_samples
    from opmerge.distillation.teacher_folder import load_teacher
    from opmerge.distillation.trainer import best_device
    from opmerge.plans import PlanFile
    from opmerge.spectra import resolve_spectrum

    prepare_libraries()
    made_for = None if plan is None else PlanFile.read(plan)
    loaded = load_student(student).to(best_device())
    original = load_teacher(teacher, loaded.num_steps).to(best_device())
    if made_for is not None:
        _check_executed(made_for, loaded)
    predicted = None if made_for is None else made_for.predicted["w2"]
    spectrum: Spectrum | None = None
    reference = None
    if source is not None:
        options = images.source_options()
        spectrum = resolve_spectrum(source, options=options)
        reference = load_samples(open_source(source, options), loaded.sample_shape)
    extractor = None if features is None else load_feature_extractor(features)
    with progress_bar("sampling", 2 * num_samples) as advance:
        result = measure(
            original,
            loaded,
            num_samples,
            seed,
            spectrum,
            reference,
            extractor,
            batch_size,
            progress=_counting(advance),
        )
    if as_json:
        print(json.dumps({**result.to_dict(), "predicted_w2": predicted}))
        return
    _show_evaluation(result, predicted)


@takes_options
def calibrate(
    samples: SampleOptions,
    teacher: TeacherDir,
    steps: Annotated[int, option("steps", "T, the teacher's steps.", "Teacher")],
    output_dir: Annotated[Path, option("output_dir", "Folder for calibration.json.", "Run")],
    optimization: OptimizationOptions,
    num_iterations: Annotated[
        int, option("num_iterations", "Iterations of a merge to predict for.", "Training")
    ] = 400,
    merge_rule: Annotated[
        str, option("merge_rule", "denoiser-copy or operator-copy.", "Training")
    ] = "denoiser-copy",
    loss_weighting: Annotated[
        str, option("loss_weighting", "As of the run to come.", "Training")
    ] = "snr-truncated",
    half_rate: Annotated[
        bool,
        option(
            "half_rate",
            "Also train probes at half the learning rate, to predict for other rates.",
            "Training",
        ),
    ] = False,
) -> None:
    """Fit the training model to short probe merges on the real network.

    `opmerge plan --training calibration.json` then predicts this network.
    """
    from opmerge.cli import networks, runs
    from opmerge.cli.progress import progress_bar
    from opmerge.distillation.calibration import calibrate as fit
    from opmerge.distillation.config import DistillationConfig
    from opmerge.distillation.inputs import DataInputs
    from opmerge.distillation.probes import default_probes
    from opmerge.distillation.teacher_folder import load_teacher
    from opmerge.spectra import estimate_spectrum

    defaults = DistillationConfig()
    given: dict[str, Any] = {
        "merge_rule": merge_rule.replace("_", "-"),
        "loss_weighting": loss_weighting,
    }
    config = replace(
        defaults,
        **given,
        num_iterations=num_iterations,
        optimization=networks.build_optimization(optimization, defaults.optimization),
    )
    loaded = load_teacher(teacher, steps)
    runs.prepare_folder(output_dir)
    accelerator = networks.start(config.optimization, output_dir)
    inputs = networks.training_inputs(accelerator, samples, loaded, False, output_dir)
    assert isinstance(inputs, DataInputs), "a calibration is never data-free"
    spectrum = estimate_spectrum(networks.open_samples(samples))
    rate = config.optimization.learning_rate
    probes = default_probes(steps, num_iterations, rate, slower=half_rate)
    main = accelerator.is_main_process
    with progress_bar("training probes", 1.0, main) as advance:
        found = fit(loaded, inputs, spectrum, config, accelerator, probes, _share(advance))
    if not main:
        return
    path = found.write(output_dir / "calibration.json")
    runs.write_config(output_dir, "calibrate", {**asdict(samples), **asdict(config)})
    for key, value in found.training.to_dict().items():
        print(f"{key.replace('_', ' '):>22}: {value}")
    print(f"{'residual':>22}: a factor {math.exp(found.fit.residual):.3g} in squared error")
    for note in found.notes:
        print(f"note: {note}")
    print(f"written: {path}")


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


def _counting(advance: Any) -> Any:
    """A callback for the number done so far, from one for the work done since."""
    done = 0

    def count(number: int) -> None:
        nonlocal done
        advance(number - done)
        done = number

    return count


def _share(advance: Any) -> Any:
    """A callback for (done, total), from one for the share of the work done since."""
    before = 0.0

    def count(done: int, total: int) -> None:
        nonlocal before
        advance(done / total - before)
        before = done / total

    return count


def _show_evaluation(result: Any, predicted: float | None) -> None:
    """The measurements as lines, intervals behind them."""

    def told(measurement: Any) -> str:
        interval = (
            "" if measurement.low is None else f" [{measurement.low:.4g}, {measurement.high:.4g}]"
        )
        return f"{measurement.value:.4g}{interval}"

    rows = {
        "paired error (rms)": told(result.paired_rms),
        "W2 of Gaussian fits": f"{told(result.gaussian_w2)}, floor {result.gaussian_w2_floor:.4g}",
        "sliced W2": f"{told(result.sliced_w2)}, floor {result.sliced_w2_floor:.4g}",
    }
    if predicted is not None:
        rows["predicted W2"] = f"{predicted:.4g} (of the linear theory, beside the paired error)"
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
    for name, value in rows.items():
        print(f"{name:>22}: {value}")
