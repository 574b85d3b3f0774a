"""What encoders make: latents of a source in a file, images of latents, and how well they fit."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opmerge.checks import check_count, check_whole
from opmerge.data import Progress, Source
from opmerge.data.arrays import write_rows
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.samples import network_shape
from opmerge.distillation.sampling import write_image_grid
from opmerge.errors import InputError
from opmerge.latents.encoders import Encoder
from opmerge.latents.images import check_black, check_range
from opmerge.latents.losses import ms_ssim

_BATCH_SIZE = 64
_COLUMNS = 8  # of pictures


def encode_source(
    encoder: Encoder,
    source: Source,
    path: str | os.PathLike[str],
    *,
    sample: bool = False,
    seed: int = 0,
    batch_size: int = _BATCH_SIZE,
    progress: Progress | None = None,
) -> Path:
    """Write the latents of all samples of a source to a ``.npy`` file, (N, num_latents) float32.

    The file appears when it is whole. Memory does not depend on N.

    Args:
        source: images of its shape.
        sample: draw ``mean + exp(log_variance / 2) · noise`` instead of writing means; the noise
            of image i depends on the seed and on i alone.
        seed: of the noise.
        progress: called with the number of images encoded so far.

    Raises:
        InputError: if the images have another shape or values outside [-1, 1], or those of a
            file all in [0, 1]; if samples are asked of an encoder without variances, or the
            latents cannot be written.
    """
    check_count("batch_size", batch_size)
    check_whole("seed", seed)
    if network_shape(source) != encoder.image_shape:
        raise InputError(
            source.name,
            f"must hold images of the encoder's shape, {encoder.image_shape}",
            source.shape,
        )

    def batches() -> Iterator[Tensor]:
        first, low, high = 0, math.inf, -math.inf
        for rows in source.batches():
            images = torch.from_numpy(rows.astype(np.float32)).view(-1, *encoder.image_shape)
            least, largest = check_range(images)
            low, high = min(low, least), max(high, largest)
            for part in torch.split(images, batch_size):
                mean, log_variance = encoder.encode(part)
                yield (_draw(mean, log_variance, seed, first) if sample else mean).cpu()
                first += len(part)
        check_black(source, low, high)

    return write_rows(path, (source.num_samples, encoder.num_latents), batches(), progress)


def decode_latents(
    encoder: Encoder, latents: NDArray[np.floating], batch_size: int = _BATCH_SIZE
) -> Iterator[Tensor]:
    """Batches of images, (B, C, H, W) on the CPU.

    Latents are (N, num_latents), or (N, *latent_shape) before they are flattened.

    Raises:
        InputError: at once, if the latents have another shape; later, if one is not finite.
    """
    shapes = {(encoder.num_latents,), encoder.latent_shape}
    if latents.shape[1:] not in shapes or not len(latents):
        wanted = " or ".join(
            f"(N, {', '.join(map(str, shape))})" for shape in sorted(shapes, key=len)
        )
        raise InputError("latents", f"must have shape {wanted} for this encoder", latents.shape)
    check_count("batch_size", batch_size)
    flat = latents.reshape(len(latents), -1)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(flat), batch_size):
            rows = np.array(flat[start : start + batch_size], dtype=np.float32)
            for bad in np.flatnonzero(~np.isfinite(rows).all(axis=1))[:1]:
                raise InputError("latents", "must be finite", f"row {start + bad} is not")
            yield encoder.decode(torch.from_numpy(rows)).cpu()

    return batches()


@dataclass(frozen=True)
class Quality:
    """Means over images of what decoding the mean latents gives back, cut off at [-1, 1].

    MS-SSIM is 1 for equal images; the squared error is that of a value.
    """

    ms_ssim: float
    mse: float
    num_images: int


@torch.no_grad()
def reconstruct(encoder: Encoder, images: Tensor, batch_size: int = _BATCH_SIZE) -> Tensor:
    """(N, C, H, W) images decoded from the mean latents of images, cut off at [-1, 1]."""
    parts = [encoder.decode(encoder.encode(part)[0]) for part in torch.split(images, batch_size)]
    return torch.cat(parts).clamp(-1, 1).to(images.device)


@torch.no_grad()
def reconstruction_quality(
    encoder: Encoder, images: Tensor, batch_size: int = _BATCH_SIZE
) -> Quality:
    """The quality of (N, C, H, W) images in [-1, 1].

    Raises:
        InputError: if they are too small for MS-SSIM.
    """
    similarity = error = 0.0
    for part in torch.split(images.float(), batch_size):
        found = reconstruct(encoder, part, batch_size)
        similarity += float(ms_ssim(found.double(), part.double()).sum())
        error += float((found - part).double().square().mean(dim=(1, 2, 3)).sum())
    return Quality(similarity / len(images), error / len(images), len(images))


def write_pairs(path: Path, images: Tensor, reconstructions: Tensor) -> Path:
    """Write a PNG of rows of images, each row above that of their reconstructions.

    Raises:
        InputError: if it cannot be written.
    """
    columns = min(_COLUMNS, len(images))
    count = len(images) // columns * columns
    rows = [x[:count].view(-1, columns, *x.shape[1:]) for x in (images, reconstructions)]
    return write_image_grid(path, torch.stack(rows, dim=1).flatten(0, 2), columns)


def _draw(mean: Tensor, log_variance: Tensor | None, seed: int, first: int) -> Tensor:
    if log_variance is None:
        raise InputError("sample", "must be left out: the encoder has no variances")
    noise = initial_noise(tuple(mean.shape[1:]), len(mean), seed, first, str(mean.device))
    return mean + torch.exp(log_variance / 2) * noise
