"""What training needs, from options: accelerator, samples, settings and a log."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import opmerge
from opmerge.cli import runs
from opmerge.cli.progress import progress_bar, resumable, say
from opmerge.clock import time_limit
from opmerge.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from opmerge.data import Source
    from opmerge.denoisers.conditions import KeptConditions
    from opmerge.denoisers.denoiser import Condition
    from opmerge.denoisers.inputs import TrainingInputs
    from opmerge.denoisers.models import Student, Teacher
    from opmerge.settings.base import Settings
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import OptimizationConfig
    from opmerge.settings.guidance import GuidanceOptions, GuidanceRecord
    from opmerge.settings.networks import TeacherConfig, VAEConfig

LOG_EVERY = 10
_LOOKED_AT = 1024  # samples, for their size

_SAME_SCALE = 1.25  # by which the variances of two sets of the same data may differ, far more
# than they do

Log = Callable[..., None]
"""Logs a step and, by name, its values to metrics.jsonl and to the tracker."""


def start(config: OptimizationConfig, folder: Path, writes: bool = True) -> Accelerator:
    """The accelerator of a run, and its folder if anything will be written."""
    from opmerge.loop import make_accelerator

    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError as error:
        requirement = "must be named in UTF-8: safetensors reads no weights elsewhere"
        raise InputError("output_dir", requirement, str(folder)) from error
    runs.prepare_folder(folder if writes else None)
    prepare_libraries()
    return make_accelerator(config, folder)


def tell_of_earlier(folder: Path, checkpoint: str | None) -> None:
    """Say, of a run that starts anew in a folder with checkpoints, what becomes of them."""
    found = sorted(path.name for path in folder.glob("checkpoint-*") if path.is_dir())
    if checkpoint is None and found:
        say(
            f"starting anew: {', '.join(found)} in {folder} are of an earlier run, and stay until "
            "newer ones take their places; --resume_from_checkpoint latest would have gone on"
        )


def check_there(source: str | None, model: Path | None, argument: str = "teacher") -> None:
    """Refuse data or a model that are not there before torch is imported, which takes seconds."""
    from opmerge.data import check_source
    from opmerge.denoisers.model_folder import locate_model

    if source not in (None, "none"):
        check_source(str(source))
    if model is not None:
        locate_model(model, argument)


def load_libraries() -> None:
    """Import what all networks need, which takes seconds."""
    with progress_bar("loading torch and diffusers"):
        import opmerge.denoisers.inputs  # noqa: F401


def prepare_libraries() -> None:
    """Keep libraries' bars and notices off standard error, and what is loaded out of collections.

    accelerate collects garbage at every stage, and going through all of torch's objects each time
    takes longer than many iterations of a small network.
    """
    from diffusers.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # which transformers asks for when it is first imported
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    gc.freeze()


def read_teacher(model: Path, steps: int, ignore_clipping: bool) -> Teacher:
    """A teacher, and what is left out of it."""
    from opmerge.denoisers.teacher_folder import load_teacher

    teacher = load_teacher(model, steps, ignore_clipping)
    if (clipping := teacher.clipping) is not None:
        say(f"{clipping.key} of the teacher is ignored; `opmerge sample` says what that changes")
    return teacher


def check_plan_data(file: opmerge.PlanFile, teacher: Teacher, inputs: TrainingInputs) -> None:
    """Refuse a plan that was made for samples of another size, or scaled otherwise.

    Files that say neither, such as of given eigenvalues, are taken.
    """
    from opmerge.denoisers.inputs import DataInputs, total_variance

    planned, number = file.spectrum, math.prod(teacher.sample_shape)
    if planned.get("dimensions", number) != number:
        shape = teacher.sample_shape
        requirement = f"must be made for samples of the shape that the teacher reads, {shape}"
        value = f"samples of {planned['dimensions']:,} numbers"
        raise InputError("plan", requirement, value, "make it again with the teacher's folder")
    if "trace" not in planned or not isinstance(inputs, DataInputs):
        return
    own = total_variance(inputs.data)
    if not 1 / _SAME_SCALE <= own / planned["trace"] <= _SAME_SCALE:
        requirement = f"must be made for data of this run's total variance, {own:.4g}"
        remedy = "make it from the same data, scaled alike"
        raise InputError("plan", requirement, f"{planned['trace']:.4g}", remedy)


def open_samples(source: str, options: opmerge.SourceOptions) -> Source:
    """The source of that name; the files that are looked through are counted."""
    with progress_bar(f"looking through {source}") as report:
        return opmerge.open_source(source, options, report)


def read_samples(
    accelerator: Accelerator,
    source: Source,
    folder: Path | None,
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """All samples of a source; large data go through a file, which the first process sees to."""
    from opmerge.denoisers.inputs import load_samples, network_shape

    shape, first = shape or network_shape(source), accelerator.is_main_process
    with accelerator.main_process_first(), progress_bar("reading", source.num_samples) as report:
        return load_samples(source, shape, folder, report, compare=first)


def read_spectrum(samples: SampleOptions) -> opmerge.Spectrum:
    """The spectrum of the samples that the options name; samples are counted."""
    with progress_bar(f"reading {samples.source}") as report:
        return opmerge.resolve_spectrum(samples.source, options=samples, progress=report)


def load_training_data(
    accelerator: Accelerator,
    samples: SampleOptions,
    folder: Path | None,
    teacher: Teacher | None = None,
) -> tuple[Tensor, Condition | KeptConditions | None]:
    """Samples in the network's shape and what is told of them; large data go through a file, once.

    Without a folder there is no run, and something of their size stands for the samples.

    Raises:
        InputError: before anything is read, if the teacher needs to be told something else.
    """
    from opmerge.data.source import range_notes
    from opmerge.denoisers.conditions import check_told
    from opmerge.denoisers.inputs import network_shape, stand_in

    source = open_samples(samples.source, samples)
    told = _told(samples, source.num_samples)
    if teacher is not None:
        check_told(teacher.needs, told)
    shape = network_shape(source) if teacher is None else teacher.sample_shape
    if folder is None:
        data = stand_in(source, shape)
    else:
        data = read_samples(accelerator, source, folder, shape)
    size = float(data[:_LOOKED_AT].square().mean().sqrt())
    for note in (*source.notes, *range_notes(source.scaling, size)):
        say(f"note: {note}")
    return data, told


def told_by(folder: str | os.PathLike[str]) -> KeptConditions | None:
    """What a prepared data set tells of its samples; None of any other source of data."""
    from opmerge.data.prepared import is_prepared, open_prepared
    from opmerge.denoisers.conditions import kept_conditions
    from opmerge.files import expand_home

    place = expand_home(folder)
    return kept_conditions(open_prepared(place)) if is_prepared(place) else None


def told_prompts(
    place: Path, sampler: Teacher | Student, model: Path | None, argument: str = "prompts"
) -> Condition | KeptConditions:
    """What samples are told, in turn: prompts of a file, as the pipeline in the folder of a model
    encodes them, or what a prepared data set tells.

    Raises:
        InputError: if ``place`` is neither, naming the ``argument``.
    """
    from opmerge.data.captions import read_prompts
    from opmerge.files import expand_home

    if (told := told_by(place)) is not None:
        return told
    if not expand_home(place).is_file() or model is None:
        requirement = "must be a file of prompts, or a data set prepared with prompts or classes"
        raise InputError(argument, requirement, str(place), "make one with `opmerge prepare`")
    return encoded(read_prompts(place), sampler, model)


def encoded(prompts: Sequence[str], sampler: Teacher | Student, model: Path) -> Condition:
    """What a sampler is told of prompts; a guidance scale, which it is told beside, is not."""
    from opmerge.denoisers.models import Student
    from opmerge.latents import read_encoding

    network: Any = sampler.jumps[0].network if isinstance(sampler, Student) else None
    return read_encoding(model, network).told(prompts).named(sampler.needs)


def _told(samples: SampleOptions, count: int) -> Condition | KeptConditions | None:
    """What is told of samples: by labels, or by the data set that was prepared."""
    from opmerge.denoisers.denoiser import as_condition
    from opmerge.denoisers.inputs import load_labels

    kept = told_by(samples.source)
    if samples.labels is None:
        return kept
    if kept is not None:
        requirement = "must be left out: the data set was prepared with what is told of it"
        raise InputError("labels", requirement, samples.labels)
    return as_condition(load_labels(samples.labels, count))


def guided(
    teacher: Teacher,
    options: GuidanceOptions,
    source: str | os.PathLike[str] = "none",
    recorded: GuidanceRecord | None = None,
    whose: str = "the plan's",
) -> Teacher:
    """The teacher under the guidance that is asked for, or of what was made for it.

    What it is told in the place of a text is the negative prompt, or in the prepared data set
    ``source``, or what its own pipeline encodes of no text.
    """
    if recorded is not None:
        options = options.agreed(recorded, teacher.num_steps, whose)
    return teacher.guided(options, _null_of(teacher, options, source))


def _null_of(
    teacher: Teacher, options: GuidanceOptions, source: str | os.PathLike[str]
) -> Condition | None:
    """The row that a teacher is guided away from, if it is not a class of its own."""
    from opmerge.data.prepared import is_prepared, open_prepared
    from opmerge.denoisers.conditions import null_condition
    from opmerge.denoisers.denoiser import LABELS
    from opmerge.files import expand_home
    from opmerge.latents import read_encoding

    reads_text, place = bool(teacher.needs.keys() - {LABELS}), expand_home(source)
    if options.guidance_scale is None or not (reads_text or options.negative_prompt):
        return None
    if not options.negative_prompt and is_prepared(place):
        null = null_condition(open_prepared(place))
        if null is not None:
            return null
    return (
        None
        if teacher.folder is None
        else read_encoding(teacher.folder).null(options.negative_prompt)
    )


def training_inputs(
    accelerator: Accelerator,
    samples: SampleOptions,
    teacher: Teacher,
    data_free: bool,
    folder: Path | None,
) -> TrainingInputs:
    """What students read: noised samples (without a folder, their like), or pure noise.

    Raises:
        InputError: if samples and --data_free contradict one another, or samples come without
            what the teacher's network is told, or with something else.
    """
    from opmerge.denoisers.conditions import check_told
    from opmerge.denoisers.denoiser import LABELS
    from opmerge.denoisers.inputs import DataInputs, NoiseInputs

    inputs: TrainingInputs
    if data_free:
        kept = told_by(samples.source)
        if kept is None and samples.source != "none":
            need = "must be none, or a prepared data set of prompts, with --data_free"
            raise InputError("source", need, samples.source)
        if kept is not None or teacher.needs.keys() - {LABELS}:  # classes may be drawn evenly
            check_told(teacher.needs, kept)
        inputs = NoiseInputs(teacher.sample_shape, teacher.num_classes, kept)
    elif samples.source == "none":
        raise InputError("source", "must be given, unless with --data_free", samples.source)
    else:
        inputs = DataInputs(*load_training_data(accelerator, samples, folder, teacher))
    _tell_of_another(samples.source, teacher)
    return inputs


def _tell_of_another(source: str, teacher: Teacher) -> None:
    """Say where data were prepared by another folder's pipeline, which may encode otherwise."""
    from opmerge.data.prepared import is_prepared, open_prepared
    from opmerge.files import expand_home

    place = expand_home(source)
    if teacher.folder is None or not is_prepared(place):
        return
    prepared, own = open_prepared(place).teacher["folder"], teacher.folder.resolve().name
    if prepared != own:
        say(f"{source} was prepared by the pipeline in {prepared}, and the teacher is in {own}")


@contextmanager
def log_to(
    accelerator: Accelerator, folder: Path, settings: Settings, done: int = 0
) -> Iterator[Log]:
    """metrics.jsonl, and the tracker of --report_to."""
    from opmerge.checkpoints import MetricsLog

    flat = {key: value for key, value in settings if isinstance(value, int | float | str)}
    accelerator.init_trackers("opmerge", config=flat)
    log = MetricsLog(folder / "metrics.jsonl", done) if accelerator.is_main_process else None

    def write(step: int, **values: float) -> None:
        if log is not None:
            log.write(step=step, **values)
        accelerator.log(values, step=step)

    try:
        with resumable("--resume_from_checkpoint latest", folder):
            yield write
    finally:
        accelerator.end_training()


def followed(
    records: Iterator[Any],
    title: str,
    accelerator: Accelerator,
    folder: Path,
    config: TeacherConfig | VAEConfig,
) -> Iterator[tuple[Any, Log]]:
    """The records of a training as they come, behind a bar; loss and rate are logged."""
    first, total = next(records, None), config.num_iterations
    done = total if first is None else first.iteration - 1  # none where a finished run is resumed
    doing = ""
    with (
        log_to(accelerator, folder, config, done) as log,
        progress_bar(title, total, done) as report,
        time_limit(tell=lambda _, doing: report(done, doing)),
    ):
        for record in chain(() if first is None else (first,), records):
            done = record.iteration
            if record.iteration % LOG_EVERY == 0 or record.iteration == total:
                loss = float(record.loss)  # waits for the device
                log(record.iteration, loss=loss, learning_rate=record.learning_rate)
                doing = f"loss {loss:.3g}"
            report(done, doing)
            yield record, log
