"""Samples of a teacher or a student, and the files that show them."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opmerge.checks import check_count, check_whole
from opmerge.data import Progress
from opmerge.denoisers.conditions import KeptConditions, check_told
from opmerge.denoisers.denoiser import LABELS, SCALE, Condition, as_condition
from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.inputs import TrainingInputs
from opmerge.denoisers.models import Student, Teacher, initial_noise
from opmerge.denoisers.pipelines import load_pipeline, other_parts
from opmerge.errors import InputError
from opmerge.files import write_atomic

_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, less their whole parts, are spread evenly


def draw_samples(
    sampler: Teacher | Student,
    count: int,
    seed: int,
    batch_size: int,
    class_label: int | None = None,
    progress: Progress | None = None,
    told: Condition | KeptConditions | None = None,
) -> Tensor:
    """(count, *sample_shape) samples, on the CPU.

    Sample i starts from noise that depends on the seed and on i alone, so a teacher and its
    student start from the same, whatever the batch size; a network's own arithmetic may round
    otherwise in batches of another size.

    Args:
        seed: of the noise.
        class_label: of all samples, of a class-conditional sampler; without one, sample i is of
            class i modulo the number of classes.
        progress: called with the number of samples drawn so far.
        told: (N, …) conditions, such as those of prompts: sample i is told those of i modulo N.

    Raises:
        InputError: if a number is out of range, the sampler has no such class, or what it is told
            is not what its network reads.
    """
    check_count("count", count)
    check_count("batch_size", batch_size)
    check_whole("seed", seed)
    classes = sampler.num_classes
    if told is not None and class_label is not None:
        requirement = "must be left out where `prompts` tell of classes"
        raise InputError("class_label", requirement, class_label)
    if unread := sorted(sampler.needs.keys() - {LABELS}) if told is None else []:
        requirement = f"must be given for this sampler, which reads {', '.join(unread)}"
        raise InputError("prompts", requirement, remedy="a folder that `opmerge prepare` wrote")
    if told is not None:
        check_told(sampler.needs, told)
    if class_label is not None:
        if classes is None:
            requirement = "must be left out: the sampler has no classes"
            raise InputError("class_label", requirement, class_label)
        if not 0 <= check_whole("class_label", class_label) < classes:
            raise InputError("class_label", f"must be in 0 … {classes - 1}", class_label)
    device = sampler.ddim.alphas.device
    samples = torch.empty(count, *sampler.sample_shape)
    for first in range(0, count, batch_size):
        rows = torch.arange(first, min(first + batch_size, count))
        noise = initial_noise(sampler.sample_shape, len(rows), seed, first, str(device))
        condition = None
        if told is not None:
            condition = told[rows % len(told)].to(device)
        elif classes is not None:
            labels = rows % classes if class_label is None else torch.full_like(rows, class_label)
            condition = as_condition(labels.to(device))
        if condition is not None and (scales := _scales(sampler, rows)) is not None:
            condition = Condition({**condition.rows, SCALE: scales.to(device)})
        samples[rows] = sampler.sample(noise, condition).cpu()
        if progress is not None:
            progress(first + len(rows))
    return samples


def _scales(sampler: Teacher | Student, rows: Tensor) -> Tensor | None:
    """Guidance scales of samples by their numbers, spread over the range of one that has it."""
    record = sampler.guidance_record if isinstance(sampler, Teacher) else sampler.guidance
    if not isinstance(scale := record.get("scale"), list):
        return None
    shares = rows.double() * _GOLDEN % 1
    scales: Tensor = scale[0] + (scale[1] - scale[0]) * shares
    return scales.float()


def told_of(
    sampler: Teacher | Student, inputs: TrainingInputs
) -> Condition | KeptConditions | None:
    """What samples are told where nothing is asked for: what inputs are, if it is not classes.

    Without it ``draw_samples`` takes each class in turn, which needs no data.
    """
    return inputs.condition if sampler.needs.keys() - {LABELS} else None


def decoded(
    samples: Tensor, sampler: Teacher | Student, folder: Path | None, batch_size: int = 16
) -> Tensor:
    """(N, C, H, W) images of samples, by the decoder of the pipeline in whose folder the sampler
    lies; samples as they are where nothing stands around its network."""
    if folder is None or not other_parts(folder):
        return samples
    chain = sampler.steps() if isinstance(sampler, Teacher) else sampler.jumps
    network: Any = chain[-1].network
    pipeline, family = load_pipeline(folder, network), family_of(config_of(network))
    parts = torch.split(samples, batch_size)
    return torch.cat([family.decode(pipeline, part).cpu() for part in parts])


def is_image(sample_shape: tuple[int, ...]) -> bool:
    """Whether samples of a shape are shown as images: grey ones, or one or three channels first."""
    return len(sample_shape) == 2 or (len(sample_shape) == 3 and sample_shape[0] in (1, 3))


def image_grid(samples: Tensor, num_columns: int | None = None) -> Image.Image:
    """Samples side by side, row by row, [-1, 1] as black to white; places left over are white.

    By default it has as many columns as make it about square.

    Raises:
        InputError: for samples of other shapes than (N, H, W), (N, 1, H, W) and (N, 3, H, W).
    """
    pixels = samples.unsqueeze(1) if samples.ndim == 3 else samples
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise InputError(
            "samples",
            "must have shape (N, H, W), (N, 1, H, W) or (N, 3, H, W) to be shown as images",
            tuple(samples.shape),
            "write a .npy file",
        )
    columns = check_count("num_columns", num_columns or math.ceil(math.sqrt(len(pixels))))
    rows = math.ceil(len(pixels) / columns)
    white = pixels.new_ones(rows * columns - len(pixels), *pixels.shape[1:])
    tiles = torch.cat([pixels, white]).detach().cpu().float()
    grid = tiles.view(rows, columns, *tiles.shape[1:]).permute(0, 3, 1, 4, 2)
    picture = grid.flatten(0, 1).flatten(1, 2)  # (height, width, channels)
    levels = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def image_png(samples: Tensor, num_columns: int | None = None) -> bytes:
    """``image_grid`` as the bytes of a PNG file."""
    stream = io.BytesIO()
    image_grid(samples, num_columns).save(stream, format="PNG")
    return stream.getvalue()


def write_image_grid(
    path: str | os.PathLike[str], samples: Tensor, num_columns: int | None = None
) -> Path:
    """Write ``image_grid`` as a PNG file, whole or not at all: else ``InputError``."""
    return write_atomic(path, image_png(samples, num_columns))


def write_samples(path: str | os.PathLike[str], samples: Tensor) -> Path:
    """Write (N, …) samples as float32 ``.npy``, whole or not at all: else ``InputError``."""
    stream = io.BytesIO()
    np.save(stream, samples.detach().cpu().float().numpy(), allow_pickle=False)
    return write_atomic(path, stream.getvalue())
