"""What training needs, from options: accelerator, samples, settings and a log."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from opmerge.cli.progress import progress_bar, resumable
from opmerge.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from opmerge.data import Source, SourceOptions
    from opmerge.denoisers.inputs import TrainingInputs
    from opmerge.denoisers.models import Teacher
    from opmerge.settings.base import Settings
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import OptimizationConfig
    from opmerge.settings.networks import TeacherConfig, VAEConfig
    from opmerge.spectra import Spectrum

NO_SOURCE = "none"
_LOG_EVERY = 10


class Log(Protocol):
    """Logs the values of an iteration to metrics.jsonl and to the tracker."""

    def __call__(self, step: int, **values: float) -> None: ...


def start(config: OptimizationConfig, folder: Path) -> Accelerator:
    """The accelerator of a run."""
    from opmerge.loop import make_accelerator

    prepare_libraries()
    return make_accelerator(config, folder)


def prepare_libraries() -> None:
    """Keep diffusers' bars and notices off standard error, and what is loaded out of collections.

    accelerate collects garbage at every stage, and going through all of torch's objects each time
    takes longer than many iterations of a small network.
    """
    from diffusers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    gc.freeze()


def open_samples(source: str, options: SourceOptions, enabled: bool = True) -> Source:
    """The source of that name; the files that are looked through are counted if enabled."""
    from opmerge.data import open_source

    with progress_bar(f"looking through {source}", enabled=enabled) as report:
        return open_source(source, options, report)


def read_samples(
    accelerator: Accelerator, source: Source, shape: tuple[int, ...], folder: Path | None
) -> Tensor:
    """All samples of a source; large data go through a file, which the first process sees to."""
    from opmerge.denoisers.samples import load_samples

    with (
        accelerator.main_process_first(),
        progress_bar("reading", source.num_samples, accelerator.is_main_process) as report,
    ):
        first = accelerator.is_main_process
        return load_samples(source, shape, folder, report, compare=first)


def read_spectrum(samples: SampleOptions, enabled: bool = True) -> Spectrum:
    """The spectrum of the samples that the options name; samples are counted if enabled."""
    from opmerge.spectra import resolve_spectrum

    with progress_bar(f"reading {samples.source}", enabled=enabled) as report:
        return resolve_spectrum(samples.source, options=samples, progress=report)


def load_training_data(
    accelerator: Accelerator,
    samples: SampleOptions,
    shape_of: Callable[[Source], tuple[int, ...]],
    folder: Path | None,
) -> tuple[Tensor, Tensor | None]:
    """Samples in the network's shape and their labels; large data go through a file, once.

    Without a folder there is no run, and something of their size stands for the samples.
    """
    import torch

    from opmerge.data import digits_labels
    from opmerge.denoisers.samples import load_labels, stand_in

    source = open_samples(samples.source, samples, accelerator.is_main_process)
    shape, labels = shape_of(source), samples.labels
    if folder is None:
        data = stand_in(source, shape)
    else:
        data = read_samples(accelerator, source, shape, folder)
    if labels is None:
        return data, None
    if labels == "digits":
        return data, torch.from_numpy(digits_labels())
    return data, load_labels(Path(labels), len(data))


def training_inputs(
    accelerator: Accelerator,
    samples: SampleOptions,
    teacher: Teacher,
    data_free: bool,
    folder: Path | None,
) -> TrainingInputs:
    """What students read: noised samples (without a folder, their like), or pure noise.

    Raises:
        InputError: if samples and --data_free contradict one another, or a class-conditional
            teacher lacks labels or has fewer classes.
    """
    from opmerge.denoisers.denoiser import as_condition
    from opmerge.denoisers.inputs import DataInputs, NoiseInputs

    if data_free:
        if samples.source != NO_SOURCE:
            raise InputError("source", "must be none with --data_free", samples.source)
        return NoiseInputs(teacher.sample_shape, teacher.num_classes)
    if samples.source == NO_SOURCE:
        raise InputError("source", "must be given, unless with --data_free", samples.source)
    data, labels = load_training_data(accelerator, samples, lambda _: teacher.sample_shape, folder)
    if (labels is None) != (teacher.num_classes is None):
        need = "must be left out" if teacher.num_classes is None else "must be given"
        raise InputError("labels", f"{need} for this teacher", samples.labels or "none")
    if labels is not None and int(labels.max()) >= (classes := teacher.num_classes or 0):
        need = f"must be < {classes}, the number of the teacher's classes"
        raise InputError("labels", need, int(labels.max()))
    return DataInputs(data, as_condition(labels))


@contextmanager
def log_to(
    accelerator: Accelerator, folder: Path, settings: Settings, done: int = 0
) -> Iterator[Log]:
    """metrics.jsonl, and the tracker of --report_to."""
    from opmerge.metrics_log import MetricsLog

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
        if log is not None:
            log.close()
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
    with (
        log_to(accelerator, folder, config, done) as log,
        progress_bar(title, total, accelerator.is_main_process, done) as report,
    ):
        for record in chain(() if first is None else (first,), records):
            report(record.iteration)
            if record.iteration % _LOG_EVERY == 0 or record.iteration == total:
                log(record.iteration, loss=float(record.loss), learning_rate=record.learning_rate)
            yield record, log
