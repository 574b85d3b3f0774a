"""The variational autoencoder behind the paper's experiment on faces, for images of any side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.latents.losses import SMALLEST_SIDE

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
        self.encoder = nn.Sequential(
            *(_down(*pair) for pair in zip([image_shape[0], *widths], widths, strict=False))
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
        images: Tensor = self.decoder(features)
        return images

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images decoded from ``mean + exp(log_variance / 2) · noise``, mean and log variance."""
        mean, log_variance = self.encode(images)
        return self.decode(mean + torch.exp(log_variance / 2) * noise), mean, log_variance


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Refuse what is no image: (1 or 3, height, width) with sides of 3 pixels at least.

    Raises:
        InputError: saying so.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            "images", "must have shape (channels, height, width), 1 or 3 channels", shape
        )
    if min(shape[1:]) < SMALLEST_SIDE:
        raise InputError(
            "images",
            f"must be at least {SMALLEST_SIDE} pixels a side for one scale of MS-SSIM",
            shape,
        )


def most_latents(num_images: int, num_values: int) -> int:
    """Half as many as there are images or values of one, whichever are fewer.

    More could be learned by heart, and would have no covariance.
    """
    return max(min(num_images, num_values) // 2, 1)


def check_num_latents(num_latents: int, num_values: int) -> None:
    """Refuse more latents than an image has values.

    Raises:
        InputError: saying so.
    """
    if check_count("num_latents", num_latents) > num_values:
        raise InputError(
            "num_latents",
            f"must be <= {num_values}, the values of an image",
            num_latents,
            f"pass `num_latents={max(num_values // 2, 1)}`",
        )


def _down(in_channels: int, out_channels: int) -> nn.Sequential:
    """Halves the sides, rounding up."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(),
    )


def _up(in_channels: int, out_channels: int, sides: tuple[int, ...]) -> nn.Sequential:
    """Doubles the sides to ``sides``: less one where they are odd."""
    odd = tuple(1 - side % 2 for side in sides)
    return nn.Sequential(
        nn.ConvTranspose2d(
            in_channels, out_channels, 3, 2, padding=1, output_padding=(odd[0], odd[1])
        ),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(),
    )
