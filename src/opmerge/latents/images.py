"""The images that autoencoders are made from, and those that they are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from opmerge.data import Source, SourceOptions, open_source
from opmerge.data.source import AS_GIVEN, source_from_rows
from opmerge.denoisers.inputs import DataInputs, load_samples, network_shape, split_rows
from opmerge.errors import InputError
from opmerge.latents.vae import check_image_shape

Split = Literal["official", "strip", "random", "last", "none"]  # how held-out images were chosen

_PHOTO_WIDTH = 640  # of the photos that patches are cut from


@dataclass(frozen=True, eq=False)
class Opened:
    """A source of images that are not yet read, and which of them are trained on and held out.

    The latter are the (n,) ``rows`` and (m,) ``others``, or with an official split CelebA's
    validation faces.
    """

    name: str
    source: Source
    rows: Tensor
    others: Tensor
    split: Split
    validation: Source | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return network_shape(self.source)


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source, of which some are never trained on.

    Args:
        train: source of the images that are trained on.
        data: (N, C, H, W) all images, in [-1, 1]; may be a memory-mapped file.
        rows: (n,) which of them are those of ``train``.
        held_out: (M, C, H, W) images to measure reconstructions on.
    """

    name: str
    train: Source
    data: Tensor
    rows: Tensor
    held_out: Tensor
    split: Split

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.data.shape[1:])

    @cached_property
    def identity(self) -> list[str]:
        """Digests of what the work on them depends on."""
        return [DataInputs(each).identity() for each in (self.data, self.rows, self.held_out)]

    def some(self, count: int) -> Tensor:
        """(n, C, H, W) held-out images, n <= count of them, spread evenly."""
        return held_out_images(self.held_out, most=count)


def open_images(
    name: str,
    options: SourceOptions,
    fraction: float,
    seed: int,
    open_as: Callable[[str, SourceOptions], Source] = open_source,
    warn: Callable[[str], None] = lambda line: None,
) -> Opened:
    """A source, found to hold images by their shape, and split; nothing is read yet.

    CelebA's training faces are held against its validation faces; where those are not there, the
    last ones by number stand for them, and ``warn`` is told so. Patches of a photo overlap, so
    those held out are a strip at its right edge, of ``fraction`` of its width, and patches that
    reach into the strip are left out. Of other images that fraction is held out at random; of 0
    nothing is.

    Raises:
        InputError: if there is no such source, it holds no images, or patches leave none to hold
            out.
    """
    source = open_as(name, options)
    check_image_shape(network_shape(source))
    count = source.num_samples
    if fraction == 0:
        return Opened(name, source, *split_rows(count, 0, seed), "none")
    if source.split == "train":
        try:
            validation = open_as(name, options.replaced(split="validation"))
        except InputError as error:
            warn(f"the last faces of the training split are held out: {error}")
            every, num_trained = torch.arange(count), len(split_rows(count, fraction, seed)[0])
            return Opened(name, source, every[:num_trained], every[num_trained:], "last")
        else:
            return Opened(name, source, *split_rows(count, 0, seed), "official", validation)
    if name == "patches":
        return Opened(name, source, *_split_patches(options, fraction, count), "strip")
    return Opened(name, source, *split_rows(count, fraction, seed), "random")


def load_images(
    opened: Opened, folder: Path, read: Callable[[Source, Path], Tensor] | None = None
) -> Images:
    """The images of a source, as ``open_images`` split them.

    ``read`` gives (N, C, H, W) images of a source; by default it is ``load_samples``, which keeps
    many in a file in the folder.

    Raises:
        InputError: if their values are not in [-1, 1], or those of a file all in [0, 1].
    """
    read = read or (lambda source, folder: load_samples(source, network_shape(source), folder))
    source, rows = opened.source, opened.rows
    data = read(source, folder)
    check_black(source, *check_range(data))
    if opened.validation is None:
        held_out = held_out_images(data, opened.others)
    else:
        held_out = held_out_images(read(opened.validation, folder / "validation"))
    part = rows_source(data, rows, source)
    return Images(source.name, part, data, rows, held_out, opened.split)


def held_out_images(images: Tensor, rows: Tensor | None = None, most: int = 1024) -> Tensor:
    """The images of at most so many of the held-out rows (of all), spread evenly, in float32."""
    rows = torch.arange(len(images)) if rows is None else rows
    count = min(len(rows), most)
    return images[rows[torch.arange(count) * len(rows) // max(count, 1)]].float()


def rows_source(data: Tensor, rows: Tensor, source: Source) -> Source:
    """Some rows of all (N, …) samples of a source, as a source of its own."""
    return source_from_rows(
        source.name,
        source.shape,
        len(rows),
        lambda start, stop: data[rows[start:stop]].numpy(),
        scaling=source.scaling,
        notes=source.notes,
    )


def check_range(images: Tensor) -> tuple[float, float]:
    """Least and largest value of images, which must be in [-1, 1]."""
    low, high = (float(value) for value in torch.aminmax(images))
    if low < -1 or high > 1:
        raise InputError(
            "images", "must have values in [-1, 1]", f"{low:g} to {high:g}", "rescale them first"
        )
    return low, high


def check_black(source: Source, low: float, high: float) -> None:
    """Refuse images of a file without any value below 0, whose black is not -1.

    Photos are scaled where they are read, and may be bright.
    """
    if source.scaling == AS_GIVEN and low >= 0:
        raise InputError(
            "images",
            "must have values from -1 (black) to 1 (white)",
            f"{low:g} to {high:g}",
            "rescale [0, 1] to [-1, 1] by 2 x - 1",
        )


def _split_patches(options: SourceOptions, fraction: float, count: int) -> tuple[Tensor, Tensor]:
    """Rows of patches to train on and to hold out, which share no pixel."""
    columns = (_PHOTO_WIDTH - options.patch_size) // options.stride + 1
    gap = (options.patch_size - 1) // options.stride
    strip = max(round(fraction * columns), 1)
    if columns <= strip + gap + 1:
        raise InputError(
            "patch_size",
            "must leave room for patches that are held out",
            options.patch_size,
            "take a smaller one, or hold out fewer",
        )
    column = torch.arange(count) % columns
    train = torch.nonzero(column < columns - strip - gap)[:, 0]
    return train, torch.nonzero(column >= columns - strip)[:, 0]
