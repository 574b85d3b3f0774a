"""Training a teacher: a denoiser on samples, saved as a diffusers pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, ModelMixin
from torch import Tensor

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.denoiser import as_condition
from opmerge.denoisers.denoising import (
    Best,
    HeldOut,
    NoisedSamples,
    denoising_loss,
    noise_samples,
    split_rows,
)
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.loop import Draws, Trainer, iterations
from opmerge.schedules import (
    NoiseSchedule,
    cosine_schedule,
    linear_schedule,
    nichol_dhariwal_schedule,
    scaled_linear_schedule,
)
from opmerge.settings.networks import TeacherConfig, TeacherSchedule

__all__ = [
    "TeacherConfig",
    "TeacherRecord",
    "make_network",
    "make_scheduler",
    "train_teacher",
]

_SCHEDULES: dict[TeacherSchedule, Callable[[int], NoiseSchedule]] = {
    "cosine": cosine_schedule,
    "nichol-dhariwal": nichol_dhariwal_schedule,
    "linear": lambda count: linear_schedule(count, num_train_timesteps=count),
    "scaled-linear": lambda count: scaled_linear_schedule(count, num_train_timesteps=count),
}


@dataclass(frozen=True)
class TeacherRecord:
    """What one iteration did.

    Args:
        iteration: iterations done.
        loss: () mean loss of this process' part of the batch; reading it waits for the device.
        learning_rate: of the iteration.
        validation_loss: on the held-out samples, where it was looked at.
        best: iteration of the weights that are kept so far, if samples are held out.
    """

    iteration: int
    loss: Tensor
    learning_rate: float
    validation_loss: float | None = None
    best: int | None = None


def make_scheduler(config: TeacherConfig) -> DDIMScheduler:
    """The diffusers scheduler of a teacher: linear steps, cut with trailing spacing.

    With the N-step schedule of the theory, ``beta_n = 1 - (alpha_{n+1} / alpha_n)²`` for n = 0 …
    N - 1, so that the T-step teacher visits the states t N / T of it where T divides N. With the
    cosine schedule these are those of ``cosine_schedule(T)``, alpha_T = 0 included.

    Raises:
        InputError: if epsilon is predicted where alpha_T = 0.
    """
    count = config.num_train_timesteps
    alphas = _SCHEDULES[config.schedule](count).alphas
    scheduler = DDIMScheduler(
        num_train_timesteps=count,
        trained_betas=(1.0 - (alphas[1:] / alphas[:-1]) ** 2).tolist(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        prediction_type=config.prediction_type,
    )
    DDIM.from_scheduler(scheduler, count)  # refuses what no teacher could be read with
    return scheduler


def make_network(
    config: TeacherConfig, sample_shape: tuple[int, ...], num_classes: int | None = None
) -> ModelMixin:
    """A new network with the initial weights of the config's seed.

    Raises:
        InputError: if a UNet cannot read samples of the shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimization.seed)
        if config.network == "unet":
            return make_unet(sample_shape, config.block_out_channels, num_classes)
        return MLPDenoiser(list(sample_shape), config.hidden_size, config.num_layers, num_classes)


def train_teacher(
    config: TeacherConfig,
    data: Tensor,
    labels: Tensor | None,
    accelerator: Accelerator,
    folder: Path,
    resume: str | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> Iterator[TeacherRecord]:
    """Train a teacher and write it, by its moving average if there is one, to ``folder/teacher``.

    The loss is ``‖prediction - target‖²`` in the space of the prediction type (ε, x_0 or
    ``v = alpha ε - sigma x_0``), with the timestep uniform over the N training timesteps. What an
    iteration draws is a function of the seed and of its number alone.

    Args:
        config: what is trained and how.
        data: (N, …) samples in the network's shape.
        labels: (N,) class labels 0 … C - 1, for a class-conditional teacher.
        accelerator: devices and processes.
        folder: the run directory.
        resume: ``latest`` or a checkpoint of the run to go on from.
        warn: told in one line about every checkpoint that is refused.

    Returns:
        A generator of a record an iteration; the folder is written when it ends.

    Raises:
        InputError: at once, if the settings or the checkpoint do not fit; while it runs, if a loss
            is not finite (the last checkpoint is kept) or a file cannot be written.
    """
    num_classes = None if labels is None else int(labels.max()) + 1
    scheduler = make_scheduler(config)
    network = make_network(config, tuple(data.shape[1:]), num_classes)
    run = _Run(
        config,
        DataInputs(data, as_condition(labels)),
        network,
        scheduler,
        accelerator,
        folder,
        warn,
    )
    return run.iterate(None if resume is None else run.checkpoints.find(resume))


class _Run:
    """The parts of a training run, put together once."""

    def __init__(
        self,
        config: TeacherConfig,
        inputs: DataInputs,
        network: ModelMixin,
        scheduler: DDIMScheduler,
        accelerator: Accelerator,
        folder: Path,
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.inputs, self.scheduler = config, inputs, scheduler
        self.accelerator, self.folder = accelerator, folder
        ddim = DDIM.from_scheduler(scheduler, config.num_train_timesteps)
        self.ddim = ddim.to(accelerator.device)
        self.trainer = Trainer(
            accelerator, network.train(), config.optimization, config.num_iterations
        )
        seed = config.optimization.seed
        self.rows, held_out = split_rows(len(inputs.data), config.validation_fraction, seed)
        self.held_out = HeldOut(self.ddim, inputs, held_out, seed) if len(held_out) else None
        self.best: Best | None = None
        limit = config.optimization.checkpoints_total_limit
        self.checkpoints = Checkpoints(folder, self._identity(), limit, warn)

    def iterate(self, checkpoint: Checkpoint | None) -> Iterator[TeacherRecord]:
        """Train to the end and write the teacher."""
        first = 0 if checkpoint is None else self._restore(checkpoint)
        total, is_due = self.config.num_iterations, self.config.optimization.is_checkpoint
        loop = iterations(
            self.trainer, denoising_loss, self._draw, first, total, self._save, is_due(total)
        )
        for done in loop:
            loss = self._validate(done.number)
            best = None if self.best is None else self.best.iteration
            yield TeacherRecord(done.number, done.loss, done.learning_rate, loss, best)
        self._write()

    def _validate(self, done: int) -> float | None:
        """The held-out loss where it is due; its least is remembered with the weights."""
        due = done % self.config.validation_steps == 0 or done == self.config.num_iterations
        if self.held_out is None or not due:
            return None
        loss = self.held_out.loss(self.trainer)
        if self.best is None or loss < self.best.loss:
            self.best = Best.of(self.trainer, loss, done)
        return loss

    def _draw(self, iteration: int) -> list[NoisedSamples]:
        """This process' part of the batch of an iteration."""
        draws = Draws.of(self.accelerator, self.config.optimization, iteration)
        place = draws.integers(0, len(self.rows))
        steps = draws.integers(1, self.ddim.num_steps + 1)
        noise = draws.normal(*self.inputs.data.shape[1:])
        x0, condition = self.inputs.read(self.rows[place.to(self.rows.device)], draws.device)
        whole = noise_samples(self.ddim, x0, noise, steps, condition)
        return whole.chunk(self.config.optimization.gradient_accumulation_steps)

    def _save(self, done: int) -> None:
        tensors, state = self.trainer.average_tensors(), {}
        if self.best is not None:
            tensors |= {f"best.{n}": weight for n, weight in enumerate(self.best.weights)}
            state["best"] = {"loss": self.best.loss, "iteration": self.best.iteration}
        self.checkpoints.save(self.accelerator, done, state, tensors)

    def _restore(self, checkpoint: Checkpoint) -> int:
        self.trainer.restore(checkpoint, checkpoint.step)
        if "best" in checkpoint.state:
            tensors = checkpoint.tensors()
            count = sum(name.startswith("best.") for name in tensors)
            weights = [tensors[f"best.{number}"] for number in range(count)]
            self.best = Best(**checkpoint.state["best"], weights=weights)
        return checkpoint.step

    def _write(self) -> None:
        network = self.trainer.finish()
        if self.best is not None:
            for parameter, weight in zip(network.parameters(), self.best.weights, strict=True):
                parameter.copy_(weight)
        if self.accelerator.is_main_process:
            write_teacher_folder(self.folder / "teacher", network, self.scheduler)
        self.accelerator.wait_for_everyone()

    def _identity(self) -> str:
        """Digest of all that the result depends on."""
        condition = self.inputs.condition
        labels = None if condition is None else condition.labels
        content = {
            **self.config.model_dump(),
            "optimization": self.config.optimization.what_decides(self.accelerator.num_processes),
            "inputs": self.inputs.identity(),
            "labels": None if labels is None else labels.tolist(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
