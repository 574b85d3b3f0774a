"""Training a teacher: a denoiser on samples, saved as a diffusers pipeline.

A network that is trained for long on few samples learns them by heart: its loss on them goes on
falling while that on others rises. What a teacher should know is the law of the data, so the
weights of the least loss on samples that it never sees are kept, not the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin, SchedulerMixin
from torch import Tensor, nn

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.clock import tick
from opmerge.denoisers.denoiser import LABELS, PREDICTIONS, Condition, as_condition
from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.inputs import DataInputs, split_rows
from opmerge.denoisers.networks import MLPDenoiser, make_dit, make_unet
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.errors import InputError
from opmerge.loop import Columns, Draws, Iteration, Trainer, seeded_generator
from opmerge.schedules import (
    NoiseSchedule,
    cosine_schedule,
    linear_schedule,
    nichol_dhariwal_schedule,
    scaled_linear_schedule,
)
from opmerge.settings.networks import TeacherConfig
from opmerge.store import digest

_NUM_DRAWS, _DRAWS_A_SAMPLE, _BATCH = 4096, 64, 256  # on which a held-out loss is measured
_PARTS = 4  # of those: a UNet on a CPU takes a third less time for four of 64
_NOISE = -2  # a stream of its own beside those of the iterations

_SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "cosine": cosine_schedule,
    "nichol-dhariwal": nichol_dhariwal_schedule,
    "linear": lambda count: linear_schedule(count, num_train_timesteps=count),
    "scaled-linear": lambda count: scaled_linear_schedule(count, num_train_timesteps=count),
}


@dataclass(frozen=True, eq=False)
class TeacherRecord(Iteration):
    """What one iteration did, the held-out loss where it was looked at, and whose weights are kept.

    ``best`` is the iteration of the least held-out loss so far.
    """

    validation_loss: float | None = None
    best: int | None = None


def make_scheduler(config: TeacherConfig) -> SchedulerMixin:
    """The diffusers scheduler of a teacher: linear steps, cut with trailing spacing.

    With the N-step schedule of the theory, ``beta_n = 1 - (alpha_{n+1} / alpha_n)²`` for n = 0 …
    N - 1, so that the T-step teacher visits the states t N / T of it where T divides N. With the
    cosine schedule these are those of ``cosine_schedule(T)``, alpha_T = 0 included. With ``flow``
    it is that of flow matching, whose T-step teacher goes from sigma = 1 to 1/N evenly, then to 0.

    Raises:
        InputError: if epsilon is predicted where alpha_T = 0; if a velocity is predicted, and not
            with flow matching, or something else with it.
    """
    count, form, is_flow = (
        config.num_train_timesteps,
        config.given("prediction_type"),
        config.schedule == "flow",
    )
    if form is not None and is_flow != (form == "flow_prediction"):
        requirement = f"must {'' if is_flow else 'not '}be flow_prediction with {config.schedule}"
        raise InputError("prediction_type", requirement, form)
    if is_flow:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=count)
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
        InputError: if a UNet or DiT cannot read samples of the shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.optimization.seed)
        classes = num_classes, config.label_dropout > 0
        if config.network == "unet":
            return make_unet(sample_shape, config.block_out_channels, *classes)
        sizes = config.hidden_size, config.num_layers
        if config.network == "dit":
            return make_dit(sample_shape, *sizes, config.token_side, *classes)
        return MLPDenoiser(list(sample_shape), *sizes, *classes)


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
    iteration draws is a function of the seed and of its number alone. There is a record an
    iteration; the folder is written when the generator ends.

    Args:
        data: (N, …) samples in the network's shape.
        labels: (N,) 0 … C - 1, for a class-conditional teacher.
        resume: ``latest`` or a checkpoint of the run to go on from.
        warn: told in one line about every checkpoint that is refused.

    Raises:
        InputError: at once, if the settings or the checkpoint do not fit; while it runs, if a loss
            is not finite (the last checkpoint is kept) or a file cannot be written.
    """
    config = config.for_samples(tuple(data.shape[1:]))
    num_classes = None if labels is None else int(labels.max()) + 1
    if config.label_dropout and labels is None:
        requirement = "must be 0 without labels"
        raise InputError("label_dropout", requirement, config.label_dropout, "pass `labels`")
    scheduler, settings = make_scheduler(config), config.optimization
    network = make_network(config, tuple(data.shape[1:]), num_classes)
    inputs = DataInputs(data, as_condition(labels))
    content = {
        **config.what_decides(),
        "optimization": settings.what_decides(accelerator.num_processes),
        "inputs": inputs.identity(),
        "labels": None if labels is None else labels.tolist(),
    }
    checkpoints = Checkpoints(folder, digest(content), settings.checkpoints_total_limit, warn)
    rows = split_rows(len(data), config.validation_fraction, settings.seed)
    ddim = DDIM.from_scheduler(scheduler, config.num_train_timesteps).to(accelerator.device)
    trainer = Trainer(accelerator, network.train(), settings, config.num_iterations)
    null = num_classes if config.label_dropout else None
    run = _Run(config, inputs, *rows, scheduler, ddim, trainer, folder, checkpoints, null)
    return run.iterate(None if resume is None else checkpoints.find(resume))


@dataclass(frozen=True, eq=False)
class NoisedSamples(Columns):
    """What a network reads, (B, …) and (B,), what it is told, and (B, …) it should predict."""

    z: Tensor
    timesteps: Tensor
    target: Tensor
    condition: Condition | None = None


def denoising_loss(network: nn.Module, samples: NoisedSamples) -> Tensor:
    """() mean of ``(prediction - target)²``."""
    call = family_of(config_of(network)).call
    prediction = call(network, samples.z, samples.timesteps, samples.condition).sample
    return nn.functional.mse_loss(prediction.float(), samples.target)


@dataclass
class _Best:
    """The weights of the least held-out loss so far, in the order of the network's parameters."""

    loss: float
    iteration: int
    weights: list[Tensor]


@dataclass(eq=False)
class _Run:
    """A training run, of which ``train`` and ``held_out`` are the rows of the inputs.

    With a ``null_label`` it takes the place of some labels in training.
    """

    config: TeacherConfig
    inputs: DataInputs
    train: Tensor
    held_out: Tensor
    scheduler: SchedulerMixin
    ddim: DDIM
    trainer: Trainer
    folder: Path
    checkpoints: Checkpoints
    null_label: int | None = None
    best: _Best | None = None

    def iterate(self, checkpoint: Checkpoint | None) -> Iterator[TeacherRecord]:
        """Train to the end and write the teacher."""
        if checkpoint is not None:
            self._restore(checkpoint)
        total, is_due = self.config.num_iterations, self.config.optimization.is_checkpoint
        loop = self.trainer.iterations(denoising_loss, self._draw, self._save, is_due(total))
        for done in loop:
            due = done.iteration % self.config.validation_steps == 0 or done.iteration == total
            loss = self._validate(done.iteration) if due and len(self.held_out) else None
            best = None if self.best is None else self.best.iteration
            yield TeacherRecord(done.iteration, done.loss, done.learning_rate, loss, best)
        network = self.trainer.finish()
        if self.best is not None:
            for parameter, weight in zip(network.parameters(), self.best.weights, strict=True):
                parameter.copy_(weight)
        if self.trainer.accelerator.is_main_process:
            write_teacher_folder(self.folder / "teacher", network, self.scheduler)
        self.trainer.accelerator.wait_for_everyone()

    def _draw(self, iteration: int) -> list[NoisedSamples]:
        """This process' part of the batch of an iteration."""
        draws = Draws.of(self.trainer.accelerator, self.config.optimization, iteration)
        place = draws.integers(0, len(self.train))
        steps = draws.integers(1, self.ddim.num_steps + 1)
        whole = self._noised(self.train[place.to(self.train.device)], steps, draws)
        if self.null_label is not None:
            whole = self._with_dropped_labels(whole, draws, self.null_label)
        return whole.chunk(self.config.optimization.gradient_accumulation_steps)

    def _with_dropped_labels(
        self, samples: NoisedSamples, draws: Draws, null_label: int
    ) -> NoisedSamples:
        """The same samples, a share of them with the label that stands for no class."""
        assert samples.condition is not None, "checked before"
        is_dropped = draws.uniform() < self.config.label_dropout
        labels = samples.condition.rows[LABELS].masked_fill(is_dropped, null_label)
        return replace(samples, condition=Condition({LABELS: labels}))

    def _noised(self, rows: Tensor, steps: Tensor, draws: Draws) -> NoisedSamples:
        """Samples of the inputs, each noised to its step, in 1 … N."""
        noise = draws.normal(*self.inputs.data.shape[1:])
        x0, condition = self.inputs.read(rows, draws.device)
        form = PREDICTIONS[self.ddim.prediction_type]
        target = form.target(x0, noise, *self.ddim.at(steps, x0.ndim))
        z = self.ddim.add_noise(x0, noise, steps)
        return NoisedSamples(z, self.ddim.timesteps[steps], target, condition)

    @torch.no_grad()
    def _validate(self, done: int) -> float:
        """The held-out loss of the network as it would be saved; the weights of its least are kept.

        Its (sample, noise, timestep), 4,096 or about 64 a sample, are the same each time, and the
        timesteps spread evenly over 1 … N, so that two networks are told apart by far less than
        the loss itself would vary.
        """
        device, seed, losses = self.ddim.alphas.device, self.config.optimization.seed, []
        with self.trainer.as_saved() as network, self.trainer.accelerator.autocast():
            for first in range(0, min(_NUM_DRAWS, _DRAWS_A_SAMPLE * len(self.held_out)), _BATCH):
                tick("measuring the held-out loss")
                generator = seeded_generator(device, seed, _NOISE, first)
                place = torch.arange(first, first + _BATCH)
                # the golden ratio's multiples are spread evenly, and independently of the row
                share = torch.frac(place.double() * (5**0.5 - 1) / 2)
                steps = 1 + (share * self.ddim.num_steps).long().to(device)
                rows = self.held_out[place % len(self.held_out)]
                draws = Draws(generator, _BATCH, slice(0, _BATCH))
                parts = self._noised(rows, steps, draws).chunk(_PARTS)
                losses += [denoising_loss(network, part) for part in parts]
            loss = float(torch.stack(losses).mean())
            if self.best is None or loss < self.best.loss:
                self.best = _Best(loss, done, [weight.clone() for weight in network.parameters()])
        return loss

    def _save(self, done: int) -> None:
        tensors, state = self.trainer.average_tensors(), {}
        if self.best is not None:
            tensors |= {f"best.{n}": weight for n, weight in enumerate(self.best.weights)}
            state["best"] = {"loss": self.best.loss, "iteration": self.best.iteration}
        self.checkpoints.save(self.trainer.accelerator, done, state, tensors)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.trainer.restore(checkpoint, checkpoint.step)
        if "best" in checkpoint.state:
            tensors = checkpoint.tensors()
            count = sum(name.startswith("best.") for name in tensors)
            weights = [tensors[f"best.{number}"] for number in range(count)]
            self.best = _Best(**checkpoint.state["best"], weights=weights)
