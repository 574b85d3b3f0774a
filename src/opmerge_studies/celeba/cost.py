"""What the study of latents would take on as many images as CelebA has."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from opmerge.data import SourceOptions, open_source
from opmerge.latents import ConvVAE, ms_ssim_loss

__all__ = ["cost_at_full_size"]

_SHAPE = (3, 64, 64)
_NUMBER = 200_000
_FILE_SIZE = (178, 218)  # of CelebA's images
_TIMED = 32  # images of a batch
_TIMED_BATCHES = 2


def cost_at_full_size() -> dict[str, Any]:
    """What 200,000 colour images of 64 × 64 would take with the published network.

    Seconds are of this computer's processor, over all cores, scaled from those of a few batches.
    """
    network = ConvVAE(_SHAPE)
    images = torch.rand(_TIMED, *_SHAPE) * 2 - 1
    noise = torch.zeros(_TIMED, network.config["num_latents"])

    def train() -> None:
        network.zero_grad()
        torch.autograd.backward(ms_ssim_loss(network(images, noise)[0], images))

    def encode() -> None:
        with torch.no_grad():
            network.encode(images)

    photo = Image.fromarray(load_sample_image("china.jpg")).resize(_FILE_SIZE)
    with TemporaryDirectory() as folder:
        for number in range(_TIMED):
            photo.save(Path(folder) / f"{number:06d}.jpg")
        source = open_source(folder, SourceOptions(image_size=_SHAPE[-1], split="all"))
        read_seconds = _seconds(lambda: list(source.batches()))
    return {
        "images": _NUMBER,
        "num_parameters": network.num_parameters(),
        "read_seconds": read_seconds,  # decode, crop and resize files like CelebA's
        "encode_seconds": _seconds(encode),
        "epoch_seconds": _seconds(train),
        "latents_bytes": 4.0 * noise[0].numel() * _NUMBER,
        "images_bytes": 4.0 * images[0].numel() * _NUMBER,
    }


def _seconds(call: Callable[[], object]) -> float:
    """For all images, from a call that does a batch; the first call is left aside."""
    call()
    begin = time.process_time()
    for _ in range(_TIMED_BATCHES):
        call()
    return (time.process_time() - begin) / (_TIMED_BATCHES * _TIMED) * _NUMBER
