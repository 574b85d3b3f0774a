"""The images of a study: every source opened before any is read, and split for its encoders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from opmerge.data import Source, SourceOptions, open_source
from opmerge.distillation.inputs import DataInputs
from opmerge.distillation.samples import load_samples, network_shape
from opmerge.distillation.validation import split_rows
from opmerge.errors import InputError
from opmerge.latents import rows_source
from opmerge.latents.training import check_images, held_out_images
from opmerge.latents.vae import check_image_shape
from opmerge.studies.runner import ProgressBar, no_progress

if TYPE_CHECKING:
    from opmerge.studies.celeba import Config

__all__ = ["Images", "Opened", "load_images", "open_images"]

_HELD_OUT = 0.1
_PHOTO_WIDTH = 640  # of the photos that patches are cut from
_SPLIT_SEED = 0  # equal for all encoders, so that their qualities are of equal images


@dataclass(frozen=True)
class Opened:
    """A source whose images are not yet read.

    Args:
        name: as it was given.
        source: what is there.
        validation: CelebA's official validation faces, where its training faces are the source.
    """

    name: str
    source: Source
    validation: Source | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return network_shape(self.source)


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source, of which some are never trained on.

    Args:
        name: how the study calls the source.
        train: source of the images that encoders are made from, and whose latents are studied.
        data: (N, C, H, W) all images, in [-1, 1]; may be a memory-mapped file.
        rows: (n,) which of them are those of ``train``.
        held_out: (M, C, H, W) images to measure reconstructions on.
        split: how the two were chosen.
    """

    name: str
    train: Source
    data: Tensor
    rows: Tensor
    held_out: Tensor
    split: str

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.data.shape[1:])

    @cached_property
    def identity(self) -> list[str]:
        """Digests of what the study depends on."""
        return [DataInputs(each).identity() for each in (self.data, self.rows, self.held_out)]

    def some(self, count: int) -> Tensor:
        """At most so many of the held-out images, spread evenly."""
        return held_out_images(self.held_out, torch.arange(len(self.held_out)), count)


def open_images(config: Config, name: str, progress: ProgressBar = no_progress) -> Opened:
    """A source, found to hold images by their shape; nothing is read yet.

    Raises:
        InputError: if there is no such source, or it holds no images.
    """
    options = config.source_options
    source = _open(name, options, progress)
    check_image_shape(network_shape(source))
    if source.name != "CelebA (train)":
        return Opened(name, source, None)
    return Opened(name, source, _open(name, replace(options, split="validation"), progress))


def load_images(
    config: Config, opened: Opened, folder: Path, progress: ProgressBar = no_progress
) -> Images:
    """The images of a source, split.

    CelebA's training faces are held against its validation faces. Patches of a photo overlap, so
    those held out are a strip at its right edge, and patches that reach into the strip are left
    out. Of other images a tenth is held out at random.

    Raises:
        InputError: if their values are not in [-1, 1], or patches leave none to hold out.
    """
    source, label = opened.source, config.source_labels[opened.name]
    data = _read(source, label, folder, progress)
    check_images(data)
    if opened.validation is not None:
        other = _read(opened.validation, label, folder / "validation", progress)
        some = held_out_images(other, torch.arange(len(other)))
        every = torch.arange(len(data))
        return Images(label, source, data, every, some, "official validation split")
    if opened.name == "patches":
        rows, rest, split = _split_patches(config, len(data))
    else:
        rows, rest = split_rows(len(data), _HELD_OUT, _SPLIT_SEED)
        split = "a tenth at random"
    part = rows_source(data, rows, source)
    return Images(label, part, data, rows, held_out_images(data, rest), split)


def _open(name: str, options: SourceOptions, progress: ProgressBar) -> Source:
    with progress(f"looking through {name}", None) as report:
        return open_source(name, options, report)


def _read(source: Source, label: str, folder: Path, progress: ProgressBar) -> Tensor:
    with progress(f"reading {label}", source.num_samples) as report:
        return load_samples(source, network_shape(source), folder, report)


def _split_patches(config: Config, count: int) -> tuple[Tensor, Tensor, str]:
    """Rows of patches to train on and to hold out, which share no pixel."""
    options = config.source_options
    columns = (_PHOTO_WIDTH - options.patch_size) // options.stride + 1
    gap = (options.patch_size - 1) // options.stride
    strip = max(round(_HELD_OUT * columns), 1)
    if columns <= strip + gap + 1:
        raise InputError(
            "patch_size", "must leave room for patches that are held out", options.patch_size
        )
    column = torch.arange(count) % columns
    train = torch.nonzero(column < columns - strip - gap)[:, 0]
    rest = torch.nonzero(column >= columns - strip)[:, 0]
    return train, rest, "a strip at the right of each photo, no pixel of which is trained on"
