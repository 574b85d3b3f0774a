"""Autoencoders as pipelines use them: latents scaled and shifted to what networks read.

With s = ``scaling_factor``, b = ``shift_factor`` and, where a config has them, the moments m and d
of ``latents_mean`` and ``latents_std``, channel by channel, a network reads ``(h - b - m) s / d``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NAMES = ("vae", "vqvae")


def autoencoder_of(pipeline: Any) -> Any:
    """The autoencoder of a pipeline, or None of one on pixels."""
    return next(
        (vae for name in _NAMES if (vae := getattr(pipeline, name, None)) is not None), None
    )


@torch.no_grad()
def encode_images(vae: Any, images: Tensor) -> Tensor:
    """(B, c, h, w) latents, as networks read them, of (B, C, H, W) images in [-1, 1].

    Of a distribution it is the mode, so that the same image gives the same latents.
    """
    latents = latents_of(vae.encode(images.to(vae.device, vae.dtype)))
    offset, scale = latent_affine(vae, latents)
    return (latents - offset) * scale


def latents_of(output: Any) -> Tensor:
    """(B, c, h, w) what an autoencoder's ``encode`` says, of a distribution its mode."""
    if hasattr(output, "latent_dist"):  # AutoencoderKL
        return output.latent_dist.mode()
    # AutoencoderDC, VQModel before its codes
    return output.latent if hasattr(output, "latent") else output.latents


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """(B, C, H, W) images, about [-1, 1], of (B, c, h, w) latents as networks read them."""
    latents = latents.to(vae.device, vae.dtype)
    offset, scale = latent_affine(vae, latents)
    return vae.decode(latents / scale + offset).sample


def latent_affine(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken off latents, and what they are then multiplied with; (1, c, 1, 1) or ()."""
    config = vae.config
    offset = like.new_tensor(config.get("shift_factor") or 0.0)
    scale = like.new_tensor(config.get("scaling_factor") or 1.0)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (
            like.new_tensor(config[key]).view(1, -1, 1, 1)
            for key in ("latents_mean", "latents_std")
        )
        offset, scale = offset + mean, scale / std
    return offset, scale
