"""A source as latents in a file, and latents as images, batch by batch in constant memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opmerge.checks import check_count, check_whole
from opmerge.data import Progress, Source
from opmerge.data.arrays import write_rows
from opmerge.denoisers.models import initial_noise
from opmerge.errors import InputError
from opmerge.latents.encoders import Encoder, check_black, check_range

__all__ = ["decode_latents", "encode_source"]

_BATCH_SIZE = 64


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
        encoder: the encoder.
        source: images of its shape.
        path: the file.
        sample: draw ``mean + exp(log_variance / 2) · noise`` instead of writing means; the noise
            of image i depends on the seed and on i alone.
        seed: of the noise.
        batch_size: images at a time.
        progress: called with the number of images encoded so far.

    Returns:
        The path.

    Raises:
        InputError: if the images have another shape or values outside [-1, 1], or those of a
            file all in [0, 1]; if samples are asked of an encoder without variances, or the
            latents cannot be written.
    """
    check_count("batch_size", batch_size)
    check_whole("seed", seed)
    _check_fits(encoder, source)
    batches = _encoded(encoder, source, sample, seed, batch_size)
    return write_rows(path, (source.num_samples, encoder.num_latents), batches, progress)


def decode_latents(
    encoder: Encoder, latents: NDArray[np.floating], batch_size: int = _BATCH_SIZE
) -> Iterator[Tensor]:
    """Batches of images, (B, C, H, W) on the CPU.

    Args:
        encoder: the encoder.
        latents: (N, num_latents), or (N, *latent_shape) before they are flattened.
        batch_size: images at a time.

    Raises:
        InputError: at once, if the latents have another shape; later, if one is not finite.
    """
    shapes = {(encoder.num_latents,), encoder.latent_shape}
    if latents.shape[1:] not in shapes or not len(latents):
        wanted = " or ".join(
            f"(N, {', '.join(map(str, shape))})" for shape in sorted(shapes, key=len)
        )
        raise InputError("latents", f"must have shape {wanted} for this encoder", latents.shape)
    latents = latents.reshape(len(latents), -1)
    check_count("batch_size", batch_size)
    return _decoded(encoder, latents, batch_size)


def _check_fits(encoder: Encoder, source: Source) -> None:
    shape = (1, *source.shape) if len(source.shape) == 2 else source.shape
    if shape != encoder.image_shape:
        raise InputError(
            source.name,
            f"must hold images of the encoder's shape, {encoder.image_shape}",
            source.shape,
        )


def _encoded(
    encoder: Encoder, source: Source, sample: bool, seed: int, batch_size: int
) -> Iterator[Tensor]:
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


def _draw(mean: Tensor, log_variance: Tensor | None, seed: int, first: int) -> Tensor:
    if log_variance is None:
        raise InputError("sample", "must be left out: the encoder has no variances")
    noise = initial_noise(tuple(mean.shape[1:]), len(mean), seed, first, str(mean.device))
    return mean + torch.exp(log_variance / 2) * noise


def _decoded(encoder: Encoder, latents: NDArray[np.floating], batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(latents), batch_size):
        rows = np.array(latents[start : start + batch_size], dtype=np.float32)
        if not np.isfinite(rows).all():
            bad = start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise InputError("latents", "must be finite", f"row {bad} is not")
        yield encoder.decode(torch.from_numpy(rows)).cpu()
