"""The commands around a student: sampling, measuring, exporting its steps."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import opmerge
from opmerge.cli.networks import (
    check_there,
    encoded,
    guided,
    prepare_libraries,
    read_teacher,
    told_by,
    told_prompts,
)
from opmerge.cli.output import show_rows
from opmerge.cli.progress import bars_in_turn, progress_bar, say
from opmerge.cli.runs import prepare_file
from opmerge.errors import InputError
from opmerge.files import read_json_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from opmerge.denoisers.conditions import KeptConditions
    from opmerge.denoisers.denoiser import Condition
    from opmerge.denoisers.models import Student, Teacher
    from opmerge.measure.evaluation import Measurement, StudentEvaluation
    from opmerge.settings.commands import ExportOptions, MeasuringOptions, SamplingOptions
    from opmerge.settings.guidance import GuidanceOptions

_NUM_DIRECTIONS = 5  # in text; all are in the JSON
_NUM_PICTURES = 8


def sample(asked: SamplingOptions, guidance: GuidanceOptions) -> None:
    """Draw samples from a teacher or a student; equal seeds are equal noise for both.

    Examples:
        opmerge sample runs/student/student --output student.png
        opmerge sample path/to/model --steps 32 --prompt "a red fox" --num_samples 4 \\
            --output teacher.png
    """
    check_there(None, asked.model, "model")
    prepare_file(asked.output)

    from opmerge.denoisers.model_folder import locate_model
    from opmerge.denoisers.models import Teacher
    from opmerge.distillation.lora_folder import pipeline_folder
    from opmerge.distillation.sampling import decoded, draw_samples, write_image_grid, write_samples

    prepare_libraries()
    asked = asked.replaced(model=locate_model(asked.model, "model"))
    sampler = _load_sampler(asked, guidance)
    told = _asked_for(asked, sampler)
    count, seed, batch_size = asked.num_samples, asked.seed, asked.batch_size

    def draw(sampler: Teacher | Student, title: str) -> Tensor:
        with progress_bar(title, count) as report:
            label = asked.class_label
            return draw_samples(sampler, count, seed, batch_size, label, report, told)

    samples = draw(sampler, "sampling")
    if asked.output.suffix.lower() == ".png":
        images = decoded(samples, sampler, pipeline_folder(asked.model))
        written = write_image_grid(asked.output, images)
    else:
        written = write_samples(asked.output, samples)
    print(f"written: {written}")
    if isinstance(sampler, Teacher) and sampler.clipping is not None:
        clipped = draw(replace(sampler, clips=True), "sampling with clipping")
        moved, spread = (samples - clipped).square().mean().sqrt(), clipped.std()
        print(
            f"without the teacher's {sampler.clipping.key} its samples move by {moved:.3g} (rms), "
            f"{moved / spread:.2%} of their spread"
        )


def _asked_for(
    asked: SamplingOptions, sampler: Teacher | Student
) -> Condition | KeptConditions | None:
    """What samples are told: prompts that are given, of a file, or of a prepared data set."""
    from opmerge.distillation.lora_folder import pipeline_folder

    if asked.prompts is not None and asked.prompt:
        raise InputError("prompt", "must not be given together with --prompts")
    folder = pipeline_folder(asked.model)
    if asked.prompts is not None:
        return told_prompts(asked.prompts, sampler, folder)
    return encoded(asked.prompt, sampler, folder) if asked.prompt else None


def evaluate_student(asked: MeasuringOptions, guidance: GuidanceOptions) -> None:
    """Measure a student against its teacher on samples from equal noise, with intervals.

    The teacher is guided as it was when the student was distilled. What is found is told in the
    student's model card too, if it has one.

    Examples:
        opmerge evaluate-student runs/student/student --teacher path/to/model \\
            --source my_images/
    """
    from opmerge.denoisers.model_folder import locate_model

    check_there(asked.source, asked.teacher)
    asked = asked.replaced(student=locate_model(asked.student, "student"))
    file = None if asked.plan is None else opmerge.PlanFile.read(asked.plan)

    from opmerge.denoisers.denoiser import LABELS
    from opmerge.denoisers.inputs import load_samples
    from opmerge.distillation.pipeline import load_student
    from opmerge.loop import best_device
    from opmerge.measure.evaluation import evaluate_student as measure
    from opmerge.measure.evaluation import load_feature_extractor

    prepare_libraries()
    student = load_student(asked.student).to(best_device())
    if isinstance(student.guidance.get("scale"), list):
        student = _at_scale(student, guidance)
        guidance = guidance.of_record(student.guidance)
    teacher = read_teacher(asked.teacher, student.num_steps, asked.ignore_clipping)
    asked = asked.fitted(student.sample_shape)
    place = asked.prompts or asked.source or "none"
    given = guidance, place, student.guidance, "the student's"
    teacher = guided(teacher, *given).to(best_device())
    jumps = [(jump.start, jump.stop) for jump in student.jumps]
    planned = jumps if file is None else [(tree.start, tree.stop) for tree in file.plan.students]
    if planned != jumps:
        raise InputError("plan", f"must lead to the student's jumps {jumps}", planned)
    features = None if asked.features is None else load_feature_extractor(asked.features)
    spectrum = reference = None
    if asked.source is not None:
        spectrum = opmerge.resolve_spectrum(asked.source, options=asked)
        source = opmerge.open_source(asked.source, asked)
        reference = load_samples(source, student.sample_shape)
    prompts = asked.prompts
    told = None if prompts is None else told_prompts(prompts, teacher, teacher.folder)
    if told is None and asked.source is not None and student.needs.keys() - {LABELS}:
        told = told_by(asked.source)
    with bars_in_turn() as report:
        result = measure(
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
            told=told,
        )
    rows = _rows(result, file, _not_foretold(student, asked.student))
    if asked.as_json:
        print(json.dumps({**result.to_dict(), **_predicted(file)}))
    else:
        _show_evaluation(result, rows)
    try:
        _tell_card(asked.student, (teacher, student), result, rows, told)
    except InputError as error:  # a folder that may be read alone is measured all the same
        say(f"not told in the student's model card: {error}")


def export(asked: ExportOptions) -> None:
    """Print a plan's step list for another program: FastGen's t_list or ComfyUI's sigmas.

    Examples:
        opmerge export runs/plan/plan.json --to comfyui
    """
    from opmerge.plans import export as formats

    file = opmerge.PlanFile.read(asked.plan)
    if _has_linear_part(Path(asked.plan).parent / "student"):
        say("the student beside this plan adds solved linear parts, which no such list carries")
    schedule, boundaries = file.schedule, file.plan.boundaries
    first = 0
    if (landing := file.plan.free_step) is not None:
        say(f"the list starts at step {landing}: the free step to it from T is not in it")
        first = 1
    if asked.to == "fastgen":
        print(json.dumps(formats.fastgen_t_list(schedule, boundaries, asked.time)[first:]))
    else:
        sigmas = formats.comfyui_sigmas(schedule, boundaries)[first:]
        print(formats.comfyui_manual_sigmas(sigmas))


def _has_linear_part(student: Path) -> bool:
    """Whether there is a student's folder whose scheduler adds A z + b."""
    folders = (student / "scheduler", student / "jumps")
    return any((folder / "linear_part.safetensors").is_file() for folder in folders)


def _load_sampler(asked: SamplingOptions, guidance: GuidanceOptions) -> Teacher | Student:
    from opmerge.denoisers.model_folder import is_student
    from opmerge.distillation.pipeline import load_student
    from opmerge.loop import best_device

    folder, steps = asked.model, asked.steps
    if is_student(folder):
        if steps is not None:
            raise InputError("steps", "must be left out: a student takes its own steps", steps)
        return _at_scale(load_student(folder), guidance).to(best_device())
    if steps is None:
        raise InputError("steps", "must be given for a teacher", remedy="pass --steps 64")
    teacher = read_teacher(folder, steps, asked.ignore_clipping)
    return guided(teacher, guidance, asked.prompts or "none").to(best_device())


def _at_scale(student: Student, guidance: GuidanceOptions) -> Student:
    """A student, of one that is told its guidance scale at those that are asked for."""
    known, scale = student.guidance.get("scale"), guidance.scale
    if scale is None:
        return student
    if not isinstance(known, list):
        requirement = "must be left out: a student needs none"
        raise InputError("guidance_scale", requirement, guidance.guidance_scale)
    low, high = scale if isinstance(scale, tuple) else (scale, scale)
    if not known[0] <= low <= high <= known[1]:
        requirement = f"must be within {known[0]:g},{known[1]:g}, for which it was distilled"
        raise InputError("guidance_scale", requirement, guidance.guidance_scale)
    return replace(student, guidance={**student.guidance, "scale": [low, high]})


def _predicted(file: opmerge.PlanFile | None) -> dict[str, float | None]:
    """W2 of a plan, and the paired error that is to be expected: W2, or what the file says."""
    predicted = {} if file is None else file.predicted
    w2 = predicted.get("w2")
    to_teacher = w2 if file is not None and file.objective == "teacher" else None
    return {"predicted_w2": w2, "predicted_paired_rms": predicted.get("paired_rms", to_teacher)}


def _not_foretold(student: Student, folder: Path) -> list[str]:
    """In what a student is another than those that forecasts are of: a whole network a merge.

    Of adapters that were fused the run's config.json tells, where the student lies in its folder.
    """
    from opmerge.distillation.lora_folder import is_lora_folder

    options: object = None
    with suppress(InputError):  # of a folder that is in no run's
        options = read_json_object(folder.resolve().parent / "config.json").get("options")
    is_fused = isinstance(options, dict) and options.get("lora_rank") is not None
    is_one = len({jump.network for jump in student.jumps}) == 1 < len(student.jumps)
    found = {
        "one network for all steps": is_one,
        "adapters": is_fused or is_lora_folder(folder),
    }
    return [what for what, holds in found.items() if holds]


def _rows(
    result: StudentEvaluation, file: opmerge.PlanFile | None, not_foretold: Sequence[str]
) -> dict[str, str]:
    """The measurements by name, intervals behind them, what was predicted below them."""
    from opmerge.page.sentences import unknown_phrase

    w2, paired_rms = _predicted(file).values()
    known = {} if file is None else file.predicted
    expected = None if paired_rms is None else f"{paired_rms:.4g}"
    if expected is not None and {"low", "high"} <= known.keys():
        expected += f" [{known['low']:.4g}, {known['high']:.4g}], 90 %"
    rows: dict[str, str | None] = {
        "paired error (rms)": _told(result.paired_rms),
        "predicted error (rms)": expected and f"{expected}{unknown_phrase(not_foretold)}",
        "W2 of Gaussian fits": f"{_told(result.gaussian_w2)}, floor {result.gaussian_w2_floor:.4g}",
        "sliced W2": f"{_told(result.sliced_w2)}, floor {result.sliced_w2_floor:.4g}",
    }
    # the linear theory's, in which merges are trained alike, says nothing of a budget's plan
    if file is not None and w2 is not None and file.budget is None:
        rows["predicted W2"] = f"{w2:.4g} to the {file.objective}"
    if (data := result.reference) is not None:
        rows["Gaussian W2 to data"] = _both(data.student_gaussian_w2, data.teacher_gaussian_w2)
        rows["sliced W2 to data"] = _both(data.student_sliced_w2, data.teacher_sliced_w2)
    if (found := result.features) is not None:
        rows["Fréchet distance"] = f"{_told(found.student_to_teacher)}, floor {found.floor:.4g}"
        rows["Fréchet to data"] = _both(found.student_to_reference, found.teacher_to_reference)
    return {name: told for name, told in rows.items() if told is not None}


def _show_evaluation(result: StudentEvaluation, rows: dict[str, str]) -> None:
    print(
        f"{result.num_samples} samples from equal noise; "
        "95 % intervals, of distances without the bias of finite samples"
    )
    show_rows(rows)
    if (along := result.directions) is not None:
        number = len(along.eigenvalues)
        print(f"paired squared error along eigenvectors of the data, of the largest of {number} λ")
        pairs = zip(along.eigenvalues, along.measurements(), strict=True)
        first = enumerate(islice(pairs, _NUM_DIRECTIONS), start=1)
        show_rows({f"λ_{n} = {value:.4g}": _told(error) for n, (value, error) in first})


def _tell_card(
    folder: Path,
    samplers: tuple[Teacher, Student],
    result: StudentEvaluation,
    rows: dict[str, str],
    told: Condition | KeptConditions | None,
) -> None:
    """What was measured, and samples of both where they are images, in the student's card."""
    from opmerge.distillation.model_card import add_measured, add_pair
    from opmerge.distillation.sampling import draw_samples, is_image

    metrics = {
        "paired_rms": result.paired_rms.value,
        "gaussian_w2": result.gaussian_w2.value,
        "sliced_w2": result.sliced_w2.value,
    }
    if result.features is not None:
        metrics["frechet"] = result.features.student_to_teacher.value
    samples = f"{result.num_samples:,} samples of teacher and student from equal noise"
    if (card := add_measured(folder, rows, metrics, samples)) is None:
        return
    if is_image(samplers[0].sample_shape):
        few = _NUM_PICTURES, result.seed, _NUM_PICTURES
        above, below = (draw_samples(sampler, *few, told=told) for sampler in samplers)
        add_pair(folder, above, below, samplers[0].num_steps, len(samplers[1].jumps))
    say(f"written: {card}")


def _both(student: Measurement | None, teacher: Measurement | None) -> str | None:
    if student is None or teacher is None:
        return None
    return f"student {_told(student)}, teacher {_told(teacher)}"


def _told(measurement: Measurement) -> str:
    value, low, high = measurement.value, measurement.low, measurement.high
    return f"{value:.4g}" if low is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"
