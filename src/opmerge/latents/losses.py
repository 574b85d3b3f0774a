"""What an autoencoder minimises: a reconstruction error and the divergence of its latents.

The reconstruction error is the squared error, or multi-scale structural similarity fitted to images
of any side, by which reconstructions are measured as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from opmerge.errors import InputError
from opmerge.loop import Columns
from opmerge.settings.types import ReconstructionLoss

SMALLEST_SIDE = 3
"""Side of the smallest window of MS-SSIM, and so of the smallest image."""

# Wang, Simoncelli & Bovik 2003: the weight of each scale, finest first, and the window.
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
# A scale is added as long as its window keeps this side, so that it still sees a structure.
_LEAST_WINDOW_OF_SEVERAL_SCALES = 7


@dataclass(frozen=True, eq=False)
class VAEBatch(Columns):
    """(B, C, H, W) images in [-1, 1], and (B, num_latents) noise by which latents are drawn."""

    images: Tensor
    noise: Tensor


def vae_loss(
    network: nn.Module, batch: VAEBatch, kind: ReconstructionLoss, kl_weight: float
) -> Tensor:
    """() reconstruction loss + ``kl_weight · KL``, both as means over a batch.

    The reconstruction loss is ``1 - MS-SSIM``, or with "mse" the squared error of a value. With
    "mse" and D values an image it is, times ``D / 2 sigma²``, the β-VAE's
    ``-log p(x | z) + β KL`` of Gaussian pixels of variance sigma², with
    ``β sigma² = kl_weight · D / 2`` (Higgins et al. 2017).
    """
    images, mean, log_variance = network(batch.images, batch.noise)
    if kind == "ms-ssim":
        error = ms_ssim_loss(images, batch.images)
    else:
        error = (images.float() - batch.images.float()).square().mean()
    return error + kl_weight * kl_divergence(mean, log_variance).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B,) ``KL(N(mean, variance) ‖ N(0, I)) = 1/2 Σ (mean² + variance - 1 - log variance)``."""
    mean, log_variance = mean.float(), log_variance.float()
    each: Tensor = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return each.sum(dim=1)


def ms_ssim_loss(images: Tensor, targets: Tensor) -> Tensor:
    """() mean of ``1 - MS-SSIM`` over a batch; see ``ms_ssim``."""
    return 1 - ms_ssim(images, targets).mean()


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """MS-SSIM of each pair of images, with contrast and structure below 0 taken as 0.

    ``Π_j max(c_j, 0)^β_j`` over the scales j, where ``c_j`` is the mean of contrast times
    structure and at the coarsest scale of SSIM (Wang, Simoncelli & Bovik 2003, Eq. 7), as
    torchmetrics computes it. Intensities are counted from black, ``x + 1`` in [0, 2]: about a
    mid-grey of 0 the luminance of almost equal images would be negative. Half precision is left
    aside, because variances are small differences of large squares: float32 is off by up to 3e-4
    where images are constant, float64 by 1e-12.

    Images are (N, C, H, W) in [-1, 1]; values (N,) in [0, 1], 1 for equal images.

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
            data_range=2.0,
            betas=scales.betas,
            normalize="relu",
        )
    return values


@dataclass(frozen=True)
class Scales:
    """The weights of MS-SSIM's scales, finest first, and the Gaussian window, in pixels."""

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
    # of n scales, so many windows must fit into the side: 2^(n-1), but torchmetrics asks for (n-1)²
    levels = {n: side // max(1 << (n - 1), (n - 1) ** 2) for n in range(1, len(_BETAS) + 1)}
    several = [n for n in levels if levels[n] >= _LEAST_WINDOW_OF_SEVERAL_SCALES]
    num_scales = max(several, default=1)
    window = min(_WINDOW, (levels[num_scales] - 1) // 2 * 2 + 1)
    betas = _BETAS[:num_scales]
    return Scales(tuple(beta / sum(betas) for beta in betas), window, _SIGMA * window / _WINDOW)
