"""The variational autoencoder behind the paper's experiment on faces, and what it minimises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.loop import Columns
from opmerge.settings.types import ReconstructionLoss

# Wang, Simoncelli & Bovik 2003: the weight of each scale, finest first, and the window.
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
_SMALLEST_WINDOW = 3  # and so the side of the smallest image
# A scale is added as long as its window keeps this side, so that it still sees a structure.
_LEAST_WINDOW_OF_SEVERAL_SCALES = 7

_WIDEST = 16  # times the first level's channels
_LOG_VARIANCES = (-30.0, 20.0)  # as diffusers bounds them: exp stays within float32


class ConvVAE(ModelMixin, ConfigMixin):
    """Convolutions down to 2 × 2 pixels and back, with Gaussian latents.

    At 64 × 64 × 3 with 128 latents it is the network of AntixK/PyTorch-VAE's ``mssim_vae.py``,
    3,937,635 parameters. The encoder has as many levels, each a convolution of stride 2, as bring
    the shorter side to 2; level l has ``base_channels · 2^l`` channels, at most 16 times
    ``base_channels``. The decoder mirrors it to the very sides of the encoder's maps, so that odd
    sides need no padding. Outputs are in (-1, 1), by tanh.

    Raises:
        InputError: if images of the shape cannot be coded, or in no fewer latents than values.
    """

    @register_to_config
    def __init__(
        self, image_shape: Sequence[int], num_latents: int = 128, base_channels: int = 32
    ) -> None:
        super().__init__()
        check_image_shape(tuple(image_shape))
        check_num_latents(num_latents, math.prod(image_shape))
        num_levels = math.ceil(math.log2(min(image_shape[1:]))) - 1
        widths = [base_channels * min(2**level, _WIDEST) for level in range(num_levels)]
        sides = [
            tuple(math.ceil(side / 2**level) for side in image_shape[1:])
            for level in range(num_levels + 1)
        ]
        self.smallest_map = (widths[-1], *sides[-1])
        num_features = math.prod(self.smallest_map)
        channels = pairwise([image_shape[0], *widths])
        self.encoder = nn.Sequential(
            *(_block(nn.Conv2d(*pair, 3, stride=2, padding=1)) for pair in channels)
        )
        self.mean = nn.Linear(num_features, num_latents)
        self.log_variance = nn.Linear(num_features, num_latents)
        self.decoder_input = nn.Linear(num_latents, num_features)
        self.decoder = nn.Sequential(
            *(
                _up(widths[level], widths[max(level - 1, 0)], sides[level])
                for level in reversed(range(num_levels))
            ),
            nn.Conv2d(widths[0], image_shape[0], 3, padding=1),
            nn.Tanh(),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (B, num_latents) each, of (B, C, H, W) images in [-1, 1]."""
        features = self.encoder(images).flatten(1)
        return self.mean(features), self.log_variance(features).clamp(*_LOG_VARIANCES)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W) images in (-1, 1) of (B, num_latents) latents."""
        features = self.decoder_input(latents).view(-1, *self.smallest_map)
        return self.decoder(features)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images decoded from ``mean + exp(log_variance / 2) · noise``, mean and log variance.

        Images are (B, C, H, W), the others (B, num_latents).
        """
        mean, log_variance = self.encode(images)
        return self.decode(mean + torch.exp(log_variance / 2) * noise), mean, log_variance


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Refuse what is no image: (1 or 3, height, width) with sides of 3 pixels at least."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            "images", "must have shape (channels, height, width), 1 or 3 channels", shape
        )
    fitted_scales(min(shape[1:]))


def most_latents(num_images: int, num_values: int) -> int:
    """Half as many as there are images or values of one, whichever are fewer.

    More could be learned by heart, and would have no covariance.
    """
    return max(min(num_images, num_values) // 2, 1)


def check_num_latents(num_latents: int, num_values: int) -> None:
    """Refuse more latents than an image has values."""
    if check_count("num_latents", num_latents) > num_values:
        raise InputError(
            "num_latents",
            f"must be <= {num_values}, the values of an image",
            num_latents,
            f"pass `num_latents={max(num_values // 2, 1)}`",
        )


def _up(in_channels: int, out_channels: int, sides: tuple[int, ...]) -> nn.Sequential:
    """Doubles the sides to ``sides``: less one where they are odd."""
    more = (1 - sides[0] % 2, 1 - sides[1] % 2)
    return _block(
        nn.ConvTranspose2d(in_channels, out_channels, 3, 2, padding=1, output_padding=more)
    )


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.LeakyReLU())


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
    """() mean of ``1 - MS-SSIM`` over a batch of (N, C, H, W) images; see ``ms_ssim``."""
    return 1 - ms_ssim(images, targets).mean()


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """MS-SSIM of each pair of images, with contrast and structure below 0 taken as 0.

    ``Π_j max(c_j, 0)^β_j`` over the scales j, where ``c_j`` is the mean of contrast times
    structure and at the coarsest scale of SSIM (Wang, Simoncelli & Bovik 2003, Eq. 7), as
    torchmetrics computes it. Intensities are counted from black, ``x + 1`` in [0, 2]: about a
    mid-grey of 0 the luminance of almost equal images would be negative. Half precision is left
    aside, because variances are small differences of large squares: float32 is off by up to 3e-4
    where images are constant, float64 by 1e-12.

    Images are (N, C, H, W) in [-1, 1], of 3 pixels a side at least; values (N,) in [0, 1], 1 for
    equal images.
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
    if side < _SMALLEST_WINDOW:
        raise InputError(
            "images",
            f"must be at least {_SMALLEST_WINDOW} pixels a side for one scale of MS-SSIM",
            side,
        )
    # of n scales, so many windows must fit into the side: 2^(n-1), but torchmetrics asks for (n-1)²
    levels = {n: side // max(1 << (n - 1), (n - 1) ** 2) for n in range(1, len(_BETAS) + 1)}
    several = [n for n in levels if levels[n] >= _LEAST_WINDOW_OF_SEVERAL_SCALES]
    num_scales = max(several, default=1)
    window = min(_WINDOW, (levels[num_scales] - 1) // 2 * 2 + 1)
    betas = _BETAS[:num_scales]
    return Scales(tuple(beta / sum(betas) for beta in betas), window, _SIGMA * window / _WINDOW)
