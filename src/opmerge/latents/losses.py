"""What an autoencoder minimises: a reconstruction error and the divergence of its latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from opmerge.latents.ms_ssim import ms_ssim_loss
from opmerge.loop import Columns
from opmerge.settings.types import ReconstructionLoss

__all__ = ["ReconstructionLoss", "VAEBatch", "kl_divergence", "reconstruction_loss", "vae_loss"]


@dataclass(frozen=True, eq=False)
class VAEBatch(Columns):
    """Inputs of one iteration.

    Args:
        images: (B, C, H, W) in [-1, 1].
        noise: (B, num_latents) standard normal, by which latents are drawn.
    """

    images: Tensor
    noise: Tensor


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mean, exp(log_variance)) ‖ N(0, I)) = 1/2 Σ (mean² + variance - 1 - log variance)``.

    Args:
        mean: (B, d).
        log_variance: (B, d).

    Returns:
        (B,) nats.
    """
    mean, log_variance = mean.float(), log_variance.float()
    each: Tensor = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return each.sum(dim=1)


def reconstruction_loss(images: Tensor, targets: Tensor, kind: ReconstructionLoss) -> Tensor:
    """() mean over a batch of ``1 - MS-SSIM``, or of the squared error of a value."""
    if kind == "ms-ssim":
        return ms_ssim_loss(images, targets)
    return (images.float() - targets.float()).square().mean()


def vae_loss(
    network: nn.Module, batch: VAEBatch, kind: ReconstructionLoss, kl_weight: float
) -> Tensor:
    """() reconstruction loss + ``kl_weight · KL``, both as means over a batch.

    With "mse" and D values an image it is, times ``D / 2 sigma²``, the β-VAE's
    ``-log p(x | z) + β KL`` of Gaussian pixels of variance sigma², with
    ``β sigma² = kl_weight · D / 2`` (Higgins et al. 2017).
    """
    images, mean, log_variance = network(batch.images, batch.noise)
    divergence = kl_divergence(mean, log_variance).mean()
    return reconstruction_loss(images, batch.images, kind) + kl_weight * divergence
