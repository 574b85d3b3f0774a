"""Training a variational autoencoder on images, saved in diffusers' layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.inputs import DataInputs, split_rows
from opmerge.files import folder_beside
from opmerge.latents import encoders
from opmerge.latents.images import check_range, held_out_images
from opmerge.latents.vae import ConvVAE, VAEBatch, check_image_shape, vae_loss
from opmerge.loop import Draws, Iteration, Trainer
from opmerge.settings.networks import VAEConfig
from opmerge.store import digest

_NUM_PAIRS = 32


@dataclass(frozen=True, eq=False)
class VAERecord(Iteration):
    """What one iteration did, and how well held-out images come back, where it was looked at."""

    held_out: encoders.Quality | None = None


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
    and variances of the batch normalisation are always the latest. The folder is written when the
    generator, of a record an iteration, ends.

    Args:
        images: (N, C, H, W) in [-1, 1]; may be a memory-mapped file.
        resume: ``latest`` or a checkpoint of the run to go on from; ``warn`` is told about every
            one that is refused.
        split: (n,) rows of ``images`` to train on and (M, C, H, W) images to measure on, instead
            of a random share.

    Raises:
        InputError: at once, if the images, the settings or the checkpoint do not fit; while it
            runs, if a loss is not finite (the last checkpoint is kept) or a file cannot be written.
    """
    shape, settings = tuple(images.shape[1:]), config.optimization
    check_image_shape(shape)
    check_range(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = ConvVAE(list(shape), config.num_latents, config.base_channels)
    _lay_out(network, torch.channels_last)
    if split is None:
        rows, others = split_rows(len(images), config.validation_fraction, settings.seed)
        held_out = held_out_images(images, others)
    else:
        rows, held_out = split[0], held_out_images(split[1])
    content = {
        **config.model_dump(exclude={"validation_steps"}),  # looking changes nothing
        "optimization": settings.what_decides(accelerator.num_processes),
        "images": [DataInputs(each).identity() for each in (images, rows)],
    }
    checkpoints = Checkpoints(folder, digest(content), settings.checkpoints_total_limit, warn)
    trainer = Trainer(accelerator, network.train(), settings, config.num_iterations)
    run = _Run(config, images, rows, held_out, trainer, folder, checkpoints)
    return run.iterate(None if resume is None else checkpoints.find(resume))


def _lay_out(network: Any, memory_format: torch.memory_format) -> None:
    """Lay weights out in memory; an iteration with channels last takes a CPU two thirds."""
    network.to(memory_format=memory_format)


@dataclass(eq=False)
class _Run:
    """A training run on the images of some rows."""

    config: VAEConfig
    images: Tensor
    rows: Tensor
    held_out: Tensor
    trainer: Trainer
    folder: Path
    checkpoints: Checkpoints

    def iterate(self, checkpoint: Checkpoint | None) -> Iterator[VAERecord]:
        config, accelerator = self.config, self.trainer.accelerator
        if checkpoint is not None:
            self.trainer.restore(checkpoint, checkpoint.step)
        total = config.num_iterations
        loop = self.trainer.iterations(
            partial(vae_loss, kind=config.loss, kl_weight=config.kl_weight),
            self._draw,
            lambda n: self.checkpoints.save(accelerator, n, {}, self.trainer.average_tensors()),
            config.optimization.is_checkpoint(total),
        )
        for done in loop:
            due = done.iteration % config.validation_steps == 0 or done.iteration == total
            quality = self._look(done.iteration) if due and len(self.held_out) else None
            yield VAERecord(done.iteration, done.loss, done.learning_rate, quality)
        network: Any = self.trainer.finish()
        _lay_out(network, torch.contiguous_format)
        if accelerator.is_main_process:
            with folder_beside(self.folder / "vae") as unfinished:
                network.save_pretrained(unfinished)
        accelerator.wait_for_everyone()

    def _draw(self, iteration: int) -> list[VAEBatch]:
        """This process' part of the batch of an iteration."""
        settings = self.config.optimization
        draws = Draws.of(self.trainer.accelerator, settings, iteration)
        place = draws.integers(0, len(self.rows))
        flip = draws.uniform() < 0.5
        noise = draws.normal(self.config.num_latents)
        images = self.images[self.rows[place.cpu()]].to(draws.device, torch.float32)
        if self.config.random_flip:
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        images = images.contiguous(memory_format=torch.channels_last)
        return VAEBatch(images, noise).chunk(settings.gradient_accumulation_steps)

    def _look(self, done: int) -> encoders.Quality:
        """The quality of held-out images, and some of them as a picture."""
        with self.trainer.as_saved() as network:
            encoder = encoders.VAEEncoder(cast(ConvVAE, network))
            quality = encoders.reconstruction_quality(encoder, self.held_out)
            if self.trainer.accelerator.is_main_process:
                some = held_out_images(self.held_out, most=_NUM_PAIRS)
                path = self.folder / "reconstructions" / f"{done:06d}.png"
                encoders.write_pairs(path, some, encoders.reconstruct(encoder, some))
        return quality
