"""Training a variational autoencoder on images, saved in diffusers' layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.denoising import split_rows
from opmerge.denoisers.inputs import DataInputs
from opmerge.files import folder_beside
from opmerge.latents.encoders import VAEEncoder, check_range
from opmerge.latents.images import held_out_images
from opmerge.latents.losses import VAEBatch, vae_loss
from opmerge.latents.quality import Quality, reconstruct, reconstruction_quality, write_pairs
from opmerge.latents.vae import ConvVAE, check_image_shape
from opmerge.loop import Draws, Trainer, iterations
from opmerge.settings.networks import VAEConfig

__all__ = ["VAEConfig", "VAERecord", "train_vae"]

_NUM_PAIRS = 32


@dataclass(frozen=True)
class VAERecord:
    """What one iteration did.

    Args:
        iteration: iterations done.
        loss: () mean loss of this process' part of the batch; reading it waits for the device.
        learning_rate: of the iteration.
        held_out: how well held-out images are given back, where it was looked at.
    """

    iteration: int
    loss: Tensor
    learning_rate: float
    held_out: Quality | None = None


def train_vae(
    config: VAEConfig,
    images: Tensor,
    accelerator: Accelerator,
    folder: Path,
    resume: str | None = None,
    warn: Callable[[str], None] = lambda line: None,
    split: tuple[Tensor, Tensor] | None = None,
) -> Iterator[VAERecord]:
    """Train a variational autoencoder and write it to ``folder/vae``.

    What an iteration draws is a function of the seed and of its number alone. Where images are
    held out, ``folder/reconstructions/{iteration}.png`` shows some of them above what comes back.
    With a moving average of the weights, that is what is shown, measured and written; the means
    and variances of the batch normalisation are always the latest.

    Args:
        config: what is trained and how.
        images: (N, C, H, W) in [-1, 1]; may be a memory-mapped file.
        accelerator: devices and processes.
        folder: the run directory.
        resume: ``latest`` or a checkpoint of the run to go on from.
        warn: told in one line about every checkpoint that is refused.
        split: (n,) rows of ``images`` to train on and (M, C, H, W) images to measure on, instead
            of a random share.

    Returns:
        A generator of a record an iteration; the folder is written when it ends.

    Raises:
        InputError: at once, if the images, the settings or the checkpoint do not fit; while it
            runs, if a loss is not finite (the last checkpoint is kept) or a file cannot be written.
    """
    check_image_shape(tuple(images.shape[1:]))
    check_range(images)
    run = _Run(config, images, split, accelerator, folder, warn)
    return run.iterate(None if resume is None else run.checkpoints.find(resume))


class _Run:
    """The parts of a training run, put together once."""

    def __init__(
        self,
        config: VAEConfig,
        images: Tensor,
        split: tuple[Tensor, Tensor] | None,
        accelerator: Accelerator,
        folder: Path,
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.images = config, images
        self.accelerator, self.folder = accelerator, folder
        network = _make_network(config, tuple(images.shape[1:]))
        self.trainer = Trainer(
            accelerator, network.train(), config.optimization, config.num_iterations
        )
        self.loss = partial(vae_loss, kind=config.loss, kl_weight=config.kl_weight)
        if split is None:
            seed = config.optimization.seed
            self.rows, rest = split_rows(len(images), config.validation_fraction, seed)
            self.held_out = held_out_images(images, rest)
        else:
            self.rows, rest = split
            self.held_out = held_out_images(rest, torch.arange(len(rest)))
        limit = config.optimization.checkpoints_total_limit
        self.checkpoints = Checkpoints(folder, self._identity(), limit, warn)

    def iterate(self, checkpoint: Checkpoint | None) -> Iterator[VAERecord]:
        """Train to the end and write the network."""
        first = 0
        if checkpoint is not None:
            first = checkpoint.step
            self.trainer.restore(checkpoint, first)
        total, is_due = self.config.num_iterations, self.config.optimization.is_checkpoint
        loop = iterations(
            self.trainer, self.loss, self._draw, first, total, self._save, is_due(total)
        )
        for done in loop:
            yield VAERecord(done.number, done.loss, done.learning_rate, self._look(done.number))
        self._write()

    def _save(self, done: int) -> None:
        self.checkpoints.save(self.accelerator, done, {}, self.trainer.average_tensors())

    def _draw(self, iteration: int) -> list[VAEBatch]:
        """This process' part of the batch of an iteration."""
        settings = self.config.optimization
        draws = Draws.of(self.accelerator, settings, iteration)
        place = draws.integers(0, len(self.rows))
        flip = draws.uniform() < 0.5
        noise = draws.normal(self.config.num_latents)
        images = self.images[self.rows[place.cpu()]].to(draws.device, torch.float32)
        if self.config.random_flip:
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        return VAEBatch(images, noise).chunk(settings.gradient_accumulation_steps)

    def _look(self, done: int) -> Quality | None:
        """The quality of held-out images, and some of them as a picture, where it is due."""
        due = done % self.config.validation_steps == 0 or done == self.config.num_iterations
        if not len(self.held_out) or not due:
            return None
        with self.trainer.as_saved() as network:
            encoder = VAEEncoder(cast(ConvVAE, network))
            quality = reconstruction_quality(encoder, self.held_out)
            if self.accelerator.is_main_process:
                every = torch.arange(len(self.held_out))
                some = held_out_images(self.held_out, every, _NUM_PAIRS)
                path = self.folder / "reconstructions" / f"{done:06d}.png"
                write_pairs(path, some, reconstruct(encoder, some))
        return quality

    def _write(self) -> None:
        network: Any = self.trainer.finish()
        if self.accelerator.is_main_process:
            with folder_beside(self.folder / "vae") as unfinished:
                network.save_pretrained(unfinished)
        self.accelerator.wait_for_everyone()

    def _identity(self) -> str:
        """Digest of all that the result depends on."""
        content = {
            **self.config.model_dump(),
            "optimization": self.config.optimization.what_decides(self.accelerator.num_processes),
            "images": [DataInputs(each).identity() for each in (self.images, self.rows)],
        }
        del content["validation_steps"]  # looking changes nothing
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _make_network(config: VAEConfig, image_shape: tuple[int, ...]) -> ConvVAE:
    """A new network with the initial weights of the config's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimization.seed)
        network: ConvVAE = ConvVAE(list(image_shape), config.num_latents, config.base_channels)
    return network
