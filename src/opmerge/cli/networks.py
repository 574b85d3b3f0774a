"""From options to what training needs: accelerator, samples, settings and a log."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from opmerge.cli.progress import progress_bar
from opmerge.cli.training_options import OptimizationOptions, SampleOptions
from opmerge.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from opmerge.data import Source, SourceOptions
    from opmerge.denoisers.inputs import TrainingInputs
    from opmerge.denoisers.models import Teacher
    from opmerge.settings.distillation import OptimizationConfig
    from opmerge.spectra import Spectrum

__all__ = [
    "build_optimization",
    "load_training_data",
    "log_to",
    "open_samples",
    "prepare_libraries",
    "read_samples",
    "read_spectrum",
    "resumable",
    "say",
    "start",
    "training_inputs",
    "whole_numbers",
]

NO_SOURCE = "none"


class Log(Protocol):
    """Logs the values of an iteration to metrics.jsonl and to the tracker."""

    def __call__(self, step: int, **values: float) -> None: ...


def say(line: str) -> None:
    """One line on standard error, from the first of several processes alone."""
    if os.environ.get("RANK", "0") == "0":  # as torchrun and accelerate number them
        print(f"opmerge: {line}", file=sys.stderr, flush=True)


def whole_numbers(key: str, text: str | None) -> tuple[int, ...] | None:
    """``32,64`` as whole numbers."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(key, "must be whole numbers, separated by commas", text) from error


def build_optimization(
    options: OptimizationOptions, defaults: OptimizationConfig
) -> OptimizationConfig:
    """The settings of the optimizer; what is not given is the command's default."""
    given = {key: value for key, value in asdict(options).items() if value is not None}
    return replace(defaults, **given)


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
        return resolve_spectrum(samples.source, options=samples.source_options(), progress=report)


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

    from opmerge.data.builtin import digits_labels
    from opmerge.denoisers.samples import load_labels, stand_in

    source = open_samples(samples.source, samples.source_options(), accelerator.is_main_process)
    shape = shape_of(source)
    if folder is None:
        data = stand_in(source, shape)
    else:
        data = read_samples(accelerator, source, shape, folder)
    if samples.labels is None:
        return data, None
    if samples.labels == "digits":
        return data, torch.from_numpy(digits_labels())
    return data, load_labels(Path(samples.labels), len(data))


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
def resumable(how: str, checkpoints: Path | None = None) -> Iterator[None]:
    """Says how the work goes on if Ctrl-C stops it; if by checkpoints, once one is there."""
    try:
        yield
    except KeyboardInterrupt:
        if checkpoints is None or any(checkpoints.glob("checkpoint-*")):
            say(f"what is finished is kept; {how} goes on from there")
        raise


@contextmanager
def log_to(
    accelerator: Accelerator, folder: Path, settings: Mapping[str, Any], done: int = 0
) -> Iterator[Log]:
    """metrics.jsonl, and the tracker of --report_to."""
    from opmerge.distillation.metrics_log import MetricsLog

    flat = {key: value for key, value in settings.items() if isinstance(value, int | float | str)}
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
