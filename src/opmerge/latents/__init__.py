"""Images as latents: autoencoders behind the same verbs; needs the extra ``torch``."""

from __future__ import annotations

from opmerge.errors import not_installed

try:
    import diffusers  # noqa: F401
    import torch  # noqa: F401
    import torchmetrics  # noqa: F401
except ImportError as error:
    raise not_installed("opmerge.latents", error.name) from error

from opmerge.latents.encoders import (
    DiffusersEncoder,
    Encoder,
    PCAEncoder,
    Quality,
    VAEEncoder,
    decode_latents,
    encode_source,
    fit_pca,
    load_encoder,
    reconstruct,
    reconstruction_quality,
)
from opmerge.latents.encoding import Encoding, read_encoding
from opmerge.latents.images import Images, Opened, load_images, open_images, rows_source
from opmerge.latents.preparing import Contents, prepare, read_contents
from opmerge.latents.training import VAERecord, train_vae
from opmerge.latents.vae import ConvVAE, ms_ssim, ms_ssim_loss
from opmerge.settings.networks import VAEConfig

__all__ = [
    "Contents",
    "ConvVAE",
    "DiffusersEncoder",
    "Encoder",
    "Encoding",
    "Images",
    "Opened",
    "PCAEncoder",
    "Quality",
    "VAEConfig",
    "VAEEncoder",
    "VAERecord",
    "decode_latents",
    "encode_source",
    "fit_pca",
    "load_encoder",
    "load_images",
    "ms_ssim",
    "ms_ssim_loss",
    "open_images",
    "prepare",
    "read_contents",
    "read_encoding",
    "reconstruct",
    "reconstruction_quality",
    "rows_source",
    "train_vae",
]
