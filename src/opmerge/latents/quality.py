"""How well an encoder gives images back: MS-SSIM and squared error, and the pairs to look at."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opmerge.distillation.sampling import image_grid
from opmerge.files import write_atomic
from opmerge.latents.encoders import Encoder
from opmerge.latents.ms_ssim import ms_ssim

__all__ = ["Quality", "reconstruct", "reconstruction_quality", "write_pairs"]

_COLUMNS = 8


@dataclass(frozen=True)
class Quality:
    """Means over images of what decoding the mean latents gives back, cut off at [-1, 1].

    Args:
        ms_ssim: multi-scale structural similarity, 1 for equal images.
        mse: squared error of a value.
        num_images: of how many.
    """

    ms_ssim: float
    mse: float
    num_images: int


@torch.no_grad()
def reconstruct(encoder: Encoder, images: Tensor, batch_size: int = 64) -> Tensor:
    """(N, C, H, W) images decoded from the mean latents of images, cut off at [-1, 1]."""
    parts = [encoder.decode(encoder.encode(part)[0]) for part in torch.split(images, batch_size)]
    return torch.cat(parts).clamp(-1, 1).to(images.device)


@torch.no_grad()
def reconstruction_quality(encoder: Encoder, images: Tensor, batch_size: int = 64) -> Quality:
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
    stream = io.BytesIO()
    image_grid(torch.stack(rows, dim=1).flatten(0, 2), columns).save(stream, format="PNG")
    return write_atomic(path, stream.getvalue())
