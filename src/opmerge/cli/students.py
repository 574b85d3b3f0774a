"""The commands around a student: sampling, measuring, exporting its steps."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from opmerge.cli.networks import prepare_libraries
from opmerge.cli.output import show_rows
from opmerge.cli.progress import bars_in_turn
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.denoisers.models import Student, Teacher
    from opmerge.measure.evaluation import (
        DirectionErrors,
        FeatureDistances,
        Measurement,
        StudentEvaluation,
    )
    from opmerge.plans import PlanFile
    from opmerge.settings.commands import ExportOptions, MeasuringOptions, SamplingOptions

_NUM_DIRECTIONS = 5  # in text; all are in the JSON


def sample(asked: SamplingOptions) -> None:
    """Draw samples from a teacher or a student; equal seeds are equal noise for both."""
    from opmerge.distillation.sampling import draw_samples, write_image_grid, write_samples

    prepare_libraries()
    writers = {".png": write_image_grid, ".npy": write_samples}
    if asked.output.suffix not in writers:
        raise InputError("output", "must end in .png or .npy", str(asked.output))
    sampler = _load_sampler(asked.model, asked.steps)
    with bars_in_turn() as report:
        samples = draw_samples(
            sampler,
            asked.num_samples,
            asked.seed,
            asked.batch_size,
            asked.class_label,
            lambda done: report("sampling", done, asked.num_samples),
        )
    print(f"written: {writers[asked.output.suffix](asked.output, samples)}")


def evaluate_student(asked: MeasuringOptions) -> None:
    """Measure a student against its teacher on samples from equal noise, with intervals."""
    from opmerge.denoisers.teacher_folder import load_teacher
    from opmerge.distillation.pipeline import load_student
    from opmerge.loop import best_device
    from opmerge.plans import PlanFile

    prepare_libraries()
    made_for = None if asked.plan is None else PlanFile.read(asked.plan)
    student = load_student(asked.student).to(best_device())
    teacher = load_teacher(asked.teacher, student.num_steps).to(best_device())
    if made_for is not None:
        _check_executed(made_for, student)
    result = _measure(teacher, student, asked)
    if asked.as_json:
        print(json.dumps({**result.to_dict(), **_predicted(made_for)}))
    else:
        _show_evaluation(result, made_for)


def export(asked: ExportOptions) -> None:
    """Print a plan's step list for another program: FastGen's t_list or ComfyUI's sigmas."""
    from opmerge.plans import PlanFile
    from opmerge.plans import export as formats

    file, time = PlanFile.read(asked.plan), cast(Any, asked.time)
    schedule, boundaries = file.schedule, file.plan.boundaries
    if asked.to == "fastgen":
        print(json.dumps(formats.fastgen_t_list(schedule, boundaries, time)))
    elif asked.to == "comfyui":
        print(formats.comfyui_manual_sigmas(formats.comfyui_sigmas(schedule, boundaries)))
    else:
        raise InputError("to", "must be fastgen or comfyui", asked.to)


def _check_executed(file: PlanFile, student: Student) -> None:
    """Refuse a plan that leads to other jumps than the student's."""
    jumps = [(jump.start, jump.stop) for jump in student.jumps]
    planned = [(tree.start, tree.stop) for tree in file.plan.students]
    if planned != jumps:
        raise InputError("plan", f"must lead to the student's jumps {jumps}", planned)


def _load_sampler(folder: Path, steps: int | None) -> Teacher | Student:
    from opmerge.denoisers.teacher_folder import load_teacher
    from opmerge.distillation.pipeline import is_student_folder, load_student
    from opmerge.loop import best_device

    if not folder.is_dir():
        raise InputError(str(folder), "must be an existing folder, of a student or a teacher")
    for name in ("student", "teacher"):
        if (folder / name / "model_index.json").is_file():
            remedy = f"pass {folder / name}"
            raise InputError(str(folder), "must be the folder of a model", "that of a run", remedy)
    if is_student_folder(folder):
        if steps is not None:
            raise InputError("steps", "must be left out: a student takes its own steps", steps)
        return load_student(folder).to(best_device())
    if steps is None:
        raise InputError("steps", "must be given for a teacher", remedy="pass --steps 64")
    return load_teacher(folder, steps).to(best_device())


def _measure(teacher: Teacher, student: Student, asked: MeasuringOptions) -> StudentEvaluation:
    from opmerge.data import open_source
    from opmerge.denoisers.samples import load_samples
    from opmerge.measure.evaluation import evaluate_student as measure
    from opmerge.measure.evaluation import load_feature_extractor
    from opmerge.spectra import resolve_spectrum

    name, source = asked.features, asked.source
    features = None if name is None else load_feature_extractor(name)
    spectrum = reference = None
    if source is not None:
        spectrum = resolve_spectrum(source, options=asked)
        reference = load_samples(open_source(source, asked), student.sample_shape)
    with bars_in_turn() as report:
        return measure(
            teacher,
            student,
            asked.num_samples,
            asked.seed,
            spectrum,
            reference,
            features,
            asked.batch_size,
            num_resamples=asked.num_resamples,
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
        found = result.reference
        rows["Gaussian W2 to data"] = _both(found.student_gaussian_w2, found.teacher_gaussian_w2)
        rows["sliced W2 to data"] = _both(found.student_sliced_w2, found.teacher_sliced_w2)
    if result.features is not None:
        rows |= _frechet_rows(result.features)
    print(
        f"{result.num_samples} samples from equal noise; "
        "95 % intervals, of distances without the bias of finite samples"
    )
    show_rows(rows)
    if result.directions is not None:
        _show_directions(result.directions)


def _show_directions(directions: DirectionErrors) -> None:
    """The paired error along the first eigenvectors; all of them are in the JSON."""
    number = len(directions.eigenvalues)
    pairs = zip(directions.eigenvalues, directions.measurements(), strict=True)
    first = enumerate(islice(pairs, _NUM_DIRECTIONS), start=1)
    print(f"paired squared error along eigenvectors of the data, of the largest of {number} λ")
    show_rows({f"λ_{n} = {value:.4g}": _told(error) for n, (value, error) in first})


def _frechet_rows(features: FeatureDistances) -> dict[str, str]:
    to_teacher = _told(features.student_to_teacher)
    rows = {"Fréchet distance": f"{to_teacher}, floor {features.floor:.4g}"}
    student, teacher = features.student_to_reference, features.teacher_to_reference
    if student is not None and teacher is not None:
        rows["Fréchet to data"] = _both(student, teacher)
    return rows


def _both(student: Measurement, teacher: Measurement) -> str:
    return f"student {_told(student)}, teacher {_told(teacher)}"


def _told(measurement: Measurement) -> str:
    value, low, high = measurement.value, measurement.low, measurement.high
    return f"{value:.4g}" if low is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"
