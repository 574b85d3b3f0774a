"""Samples of a teacher or a student, and the files that show them."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from opmerge.checks import check_count, check_whole
from opmerge.data import Progress
from opmerge.denoisers.models import Student, Teacher, initial_noise
from opmerge.errors import InputError
from opmerge.files import write_atomic

__all__ = ["draw_samples", "image_grid", "write_image_grid", "write_samples"]


def draw_samples(
    sampler: Teacher | Student,
    count: int,
    seed: int,
    batch_size: int,
    class_label: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """(count, *sample_shape) samples, on the CPU.

    Sample i starts from noise that depends on the seed and on i alone, so a teacher and its
    student start from the same, whatever the batch size; a network's own arithmetic may round
    otherwise in batches of another size.

    Args:
        sampler: the teacher or student.
        count: how many.
        seed: of the noise.
        batch_size: how many at a time.
        class_label: the class of all samples, of a class-conditional sampler; without one,
            sample i is of class i modulo the number of classes.
        progress: called with the number of samples drawn so far.

    Raises:
        InputError: if a number is out of range or the sampler has no such class.
    """
    check_count("count", count)
    check_count("batch_size", batch_size)
    check_whole("seed", seed)
    _check_label(sampler, class_label)
    device = sampler.ddim.alphas.device
    samples = torch.empty(count, *sampler.sample_shape)
    for first in range(0, count, batch_size):
        rows = slice(first, min(first + batch_size, count))
        size = rows.stop - first
        noise = initial_noise(sampler.sample_shape, size, seed, first, str(device))
        labels = _labels(sampler, first, size, class_label)
        samples[rows] = sampler.sample(noise, None if labels is None else labels.to(device)).cpu()
        if progress is not None:
            progress(rows.stop)
    return samples


def _labels(
    sampler: Teacher | Student, first: int, size: int, class_label: int | None
) -> Tensor | None:
    if sampler.num_classes is None:
        return None
    if class_label is not None:
        return torch.full((size,), class_label)
    return torch.arange(first, first + size) % sampler.num_classes


def _check_label(sampler: Teacher | Student, class_label: int | None) -> None:
    if class_label is None:
        return
    if sampler.num_classes is None:
        raise InputError("class_label", "must be left out: the sampler has no classes", class_label)
    if not 0 <= check_whole("class_label", class_label) < sampler.num_classes:
        raise InputError("class_label", f"must be in 0 … {sampler.num_classes - 1}", class_label)


def image_grid(samples: Tensor, num_columns: int | None = None) -> Image.Image:
    """Samples side by side, row by row, [-1, 1] as black to white; places left over are white.

    Args:
        samples: (N, H, W), (N, 1, H, W) or (N, 3, H, W).
        num_columns: of the grid; by default as many as make it about square.

    Raises:
        InputError: for samples of another shape.
    """
    pixels = samples.unsqueeze(1) if samples.ndim == 3 else samples
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise InputError(
            "samples",
            "must have shape (N, H, W), (N, 1, H, W) or (N, 3, H, W) to be shown as images",
            tuple(samples.shape),
            "write a .npy file",
        )
    count, channels, height, width = pixels.shape
    columns = check_count("num_columns", num_columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    tiles = np.full((rows * columns, channels, height, width), 255, dtype=np.uint8)
    tiles[:count] = _to_bytes(pixels)
    grid = tiles.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    picture = grid.reshape(rows * height, columns * width, channels)
    return Image.fromarray(picture[..., 0] if channels == 1 else picture)


def _to_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    scaled = (pixels.detach().cpu().float() / 2 + 0.5).clamp(0, 1) * 255
    array: NDArray[np.uint8] = scaled.round().to(torch.uint8).numpy()
    return array


def write_image_grid(path: str | os.PathLike[str], samples: Tensor) -> Path:
    """Write ``image_grid`` as a PNG file, whole or not at all.

    Raises:
        InputError: as ``image_grid``, or if the file cannot be written.
    """
    stream = io.BytesIO()
    image_grid(samples).save(stream, format="PNG")
    return write_atomic(path, stream.getvalue())


def write_samples(path: str | os.PathLike[str], samples: Tensor) -> Path:
    """Write (N, …) samples as a ``.npy`` file of float32, whole or not at all.

    Raises:
        InputError: if the file cannot be written.
    """
    stream = io.BytesIO()
    np.save(stream, samples.detach().cpu().float().numpy(), allow_pickle=False)
    return write_atomic(path, stream.getvalue())
