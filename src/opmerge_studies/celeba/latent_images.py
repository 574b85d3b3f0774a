"""The images of a study: every source opened before any is read, and split for its encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from opmerge import latents
from opmerge.data import Source, SourceOptions, open_source
from opmerge.denoisers.samples import load_samples, network_shape
from opmerge.latents import Images, Opened
from opmerge_studies.shared.runner import ProgressBar, no_progress

if TYPE_CHECKING:
    from opmerge_studies.celeba import Config

__all__ = ["load_images", "open_images"]

_HELD_OUT = 0.1
_SPLIT_SEED = 0  # equal for all encoders, so that their qualities are of equal images


def open_images(
    config: Config,
    name: str,
    progress: ProgressBar = no_progress,
    warn: Callable[[str], None] = lambda line: None,
) -> Opened:
    """See ``opmerge.latents.open_images``; a tenth is held out."""

    def open_as(name: str, options: SourceOptions) -> Source:
        with progress(f"looking through {name}", None) as report:
            return open_source(name, options, report)

    options = config.source_options
    return latents.open_images(name, options, _HELD_OUT, _SPLIT_SEED, open_as, warn)


def load_images(
    config: Config, opened: Opened, folder: Path, progress: ProgressBar = no_progress
) -> Images:
    """See ``opmerge.latents.load_images``; they are called as the study calls their source."""
    label = config.source_labels[opened.name]

    def read(source: Source, folder: Path) -> Tensor:
        with progress(f"reading {label}", source.num_samples) as report:
            return load_samples(source, network_shape(source), folder, report)

    return replace(latents.load_images(opened, folder, read), name=label)
