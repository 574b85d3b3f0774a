"""Multi-scale structural similarity, fitted to images of any side, as a measure and as a loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from opmerge.errors import InputError

__all__ = ["SMALLEST_SIDE", "Scales", "fitted_scales", "ms_ssim", "ms_ssim_loss"]

SMALLEST_SIDE = 3
"""Side of the smallest window, and so of the smallest image."""

DATA_RANGE = 2.0
"""Of pixel values in [-1, 1]."""

# Wang, Simoncelli & Bovik 2003: the weight of each scale, finest first, and the window.
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
# A scale is added as long as its window keeps this side, so that it still sees a structure.
_LEAST_WINDOW_OF_SEVERAL_SCALES = 7


@dataclass(frozen=True)
class Scales:
    """The scales of MS-SSIM and the Gaussian window that is moved over each.

    Args:
        betas: weight of every scale, finest first; they sum to 1.
        window: side of the window, odd.
        sigma: standard deviation of the Gaussian, in pixels.
    """

    betas: tuple[float, ...]
    window: int
    sigma: float


@cache
def fitted_scales(side: int) -> Scales:
    """The scales for images whose shorter side is ``side``.

    From 176 pixels they are those of the paper: five scales, a window of 11 with sigma 1.5. Smaller
    images have as many scales as leave the coarsest level 7 pixels, and a window that fits into
    it, with sigma in proportion; the weights are the first ones of the paper over their sum.

    Raises:
        InputError: if the side is below 3.
    """
    if side < SMALLEST_SIDE:
        raise InputError(
            "images",
            f"must be at least {SMALLEST_SIDE} pixels a side for one scale of MS-SSIM",
            side,
        )
    counts = range(1, len(_BETAS) + 1)
    fitting = [n for n in counts if side // _divisor(n) >= _LEAST_WINDOW_OF_SEVERAL_SCALES]
    num_scales = max(fitting, default=1)
    window = min(_WINDOW, (side // _divisor(num_scales) - 1) // 2 * 2 + 1)
    total = sum(_BETAS[:num_scales])
    betas = tuple(beta / total for beta in _BETAS[:num_scales])
    return Scales(betas, window, _SIGMA * window / _WINDOW)


def _divisor(num_scales: int) -> int:
    """How many windows must fit into the side: 2^(n-1), but torchmetrics asks for (n-1)²."""
    return max(1 << (num_scales - 1), (num_scales - 1) ** 2)


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """MS-SSIM of each pair of images, with contrast and structure below 0 taken as 0.

    ``Π_j max(c_j, 0)^β_j`` over the scales j, where ``c_j`` is the mean of contrast times
    structure and at the coarsest scale of SSIM (Wang, Simoncelli & Bovik 2003, Eq. 7), as
    torchmetrics computes it. Intensities are counted from black, ``x + 1`` in [0, 2]: about a
    mid-grey of 0 the luminance of almost equal images would be negative. Half precision is left
    aside, because variances are small differences of large squares: float32 is off by up to 3e-4
    where images are constant, float64 by 1e-12.

    Args:
        images: (N, C, H, W) in [-1, 1].
        targets: as the images.

    Returns:
        (N,) values in [0, 1], 1 for equal images.

    Raises:
        InputError: if the shorter side is below 3.
    """
    scales = fitted_scales(min(images.shape[-2:]))
    dtype = torch.promote_types(images.dtype, torch.float32)
    with torch.autocast(images.device.type, enabled=False):
        values: Tensor = multiscale_structural_similarity_index_measure(
            images.to(dtype) + 1,
            targets.to(dtype) + 1,
            sigma=scales.sigma,
            kernel_size=scales.window,
            reduction="none",
            data_range=DATA_RANGE,
            betas=scales.betas,
            normalize="relu",
        )
    return values


def ms_ssim_loss(images: Tensor, targets: Tensor) -> Tensor:
    """() mean of ``1 - MS-SSIM`` over a batch; see ``ms_ssim``."""
    return 1 - ms_ssim(images, targets).mean()
