"""The training loop of everything that is trained here: teachers, students, autoencoders.

``Trainer`` is the loop and the network in it (optimizer, learning rate, clipping, moving average,
precision), ``Draws`` the random numbers of a batch, the same on any number of processes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import DistributedType
from accelerate.tracking import get_available_trackers
from accelerate.utils import DynamoBackend
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from opmerge.checkpoints import Checkpoint
from opmerge.errors import InputError
from opmerge.launcher import process_state, sharding
from opmerge.settings.distillation import OptimizationConfig

_Part = TypeVar("_Part")
_CHECK_EVERY = 10  # losses are looked at that often, since looking waits for the device


class Columns:
    """A dataclass of tensors with a row a sample (or None), which can be cut into parts."""

    def chunk(self, parts: int) -> list[Self]:
        """Equal parts, in order, as ``Tensor.chunk``."""
        columns = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        cut = [[None] * parts if each is None else each.chunk(parts) for each in columns]
        return [type(self)(*part) for part in zip(*cut, strict=True)]

    def first(self, count: int) -> Self:
        """The first rows, no more than so many."""
        columns = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(None if each is None else _first(each, count) for each in columns))


def _first(rows: Any, count: int) -> Any:
    return rows.first(count) if isinstance(rows, Columns) else rows[:count]


def seeded_generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose stream depends on the key alone, such as (seed, stage, iteration).

    Batches are then a function of where the run is, and a resumed run needs no state of theirs.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big", signed=True))


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of a batch, of which a process keeps its own rows.

    Those of all ``size`` samples are drawn on every process, which then makes only its own rows:
    the same seed gives the same batch on any number of processes.
    """

    generator: torch.Generator
    size: int
    rows: slice

    @classmethod
    def of(cls, accelerator: Accelerator, config: OptimizationConfig, *key: int) -> Draws:
        """The draws of an iteration: ``key`` says which, beside the seed."""
        size = config.global_batch_size(accelerator.num_processes)
        share = size // accelerator.num_processes
        first = share * accelerator.process_index
        generator = seeded_generator(accelerator.device, config.seed, *key)
        return cls(generator, size, slice(first, first + share))

    @property
    def device(self) -> torch.device:
        """The device that the numbers are on."""
        return self.generator.device

    def integers(self, low: int, high: int) -> Tensor:
        """(B,) evenly in low … high - 1."""
        given: Any = {"generator": self.generator, "device": self.device}
        return torch.randint(low, high, (self.size,), **given)[self.rows]

    def uniform(self) -> Tensor:
        """(B,) evenly in [0, 1)."""
        return torch.rand(self.size, generator=self.generator, device=self.device)[self.rows]

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        whole = (self.size, *shape)
        return torch.randn(whole, generator=self.generator, device=self.device)[self.rows]


@dataclass(frozen=True, eq=False)
class Iteration:
    """What one iteration did; its number counts those that are done.

    The loss is the () mean over this process' part of the batch; reading it waits for the device.
    """

    iteration: int
    loss: Tensor
    learning_rate: float


def best_device() -> torch.device:
    """This machine's accelerator, or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def make_accelerator(
    config: OptimizationConfig, folder: Path | None = None, cpu: bool = False
) -> Accelerator:
    """The accelerator of a run: devices, processes, precision and trackers.

    What accelerate would read of its variables is nothing to it, but what a launcher says.

    Raises:
        InputError: if this machine cannot train in that precision, the tracker is unknown or
            not installed, or what the launcher says is not whole.
    """
    known = [str(tracker) for tracker in get_available_trackers()]
    if config.report_to is not None and config.report_to not in known:
        requirement = f"must be a tracker that is installed ({', '.join(known) or 'none is'})"
        raise InputError("report_to", requirement, config.report_to)
    on_cpu = process_state(cpu).device.type == "cpu"
    if on_cpu and config.mixed_precision == "fp16":  # accelerate would say nothing, and take no
        raise InputError("mixed_precision", "must be no or bf16 on the CPU", "fp16")
    try:
        return Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            cpu=on_cpu,
            fsdp_plugin=sharding(),
            log_with=config.report_to,
            project_dir=folder,
            step_scheduler_with_optimizer=False,  # iterations count, on any number of processes
        )
    except (ValueError, ImportError) as error:
        requirement = f"cannot be used here ({error})"
        raise InputError("mixed_precision", requirement, config.mixed_precision) from error


class Trainer:
    """Trains the weights of a network that ask for gradients, in the mode (train or eval) it is in.

    The accelerator forgets what it trained before.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        config: OptimizationConfig,
        num_iterations: int,
    ) -> None:
        accelerator.free_memory()
        # settings of ours, whatever an accelerator was made with
        accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
        accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        if accelerator.scaler is not None:  # of fp16: how far the last network's loss was scaled
            anew = torch.amp.GradScaler(accelerator.device.type)
            accelerator.scaler.load_state_dict(anew.state_dict())
        network.to(accelerator.device)
        save_activations(network, config)
        if config.torch_compile:
            network.compile()
        self.first, self.total = 0, num_iterations  # the iterations that are done already, and all
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        optimizer = _make_optimizer(weights, config)
        plain = config.lr_scheduler == "constant"  # which in diffusers ignores the warm-up
        name = "constant_with_warmup" if plain else config.lr_scheduler
        schedule = get_scheduler(name, optimizer, None, config.lr_warmup_steps, num_iterations)
        self.accelerator, self.config = accelerator, config
        self._whole = copy.deepcopy(network) if _is_sharded(accelerator, config) else None
        self.network, self.optimizer, self.schedule = accelerator.prepare(
            network, optimizer, schedule
        )
        # these are others, parts of them, where they are sharded
        self.weights = [each for each in self.network.parameters() if each.requires_grad]
        decay = config.ema_decay
        self.average = EMAModel(self.weights, decay) if decay else None

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next iteration."""
        return float(self.schedule.get_last_lr()[0])

    def iterations(
        self,
        loss_of: Callable[[nn.Module, _Part], Tensor],
        draw: Callable[[int], Sequence[_Part]],
        save: Callable[[int], None],
        is_due: Callable[[int], bool],
        place: str = "",
    ) -> Iterator[Iteration]:
        """Train to the end; whoever iterates may look at the network after each iteration.

        Args:
            loss_of: () mean loss of the network on a part of a batch.
            draw: the parts of an iteration's batch, numbered from 0, one an accumulation step.
            save: writes a checkpoint after so many iterations, once the last was looked at.
            is_due: whether there is a checkpoint after so many iterations.
            place: what is trained, for messages.

        Raises:
            InputError: if a loss, or weights to be kept, are not finite: looked at every 10
                iterations and before a checkpoint or the end, so that the last one is good.
        """
        unchecked: list[Tensor] = []
        for iteration in range(self.first, self.total):
            rate = self.learning_rate
            unchecked.append(self.step(loss_of, draw(iteration)))
            done = Iteration(iteration + 1, unchecked[-1], rate)
            due = is_due(done.iteration)
            is_kept = due or done.iteration == self.total
            if is_kept or len(unchecked) == _CHECK_EVERY:
                self._require_finite(unchecked, done.iteration, is_kept, place)
                unchecked = []
            yield done
            if due:
                save(done.iteration)

    def step(self, loss_of: Callable[[nn.Module, _Part], Tensor], parts: Sequence[_Part]) -> Tensor:
        """One iteration, by the gradient of the mean loss over equal parts of a batch.

        Returns the () mean on this process, detached.
        """
        losses = []
        for part in parts:
            with self.accelerator.accumulate(self.network):
                with self.accelerator.autocast():
                    loss = loss_of(self.network, part)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and self.config.max_grad_norm:
                    self.accelerator.clip_grad_norm_(
                        self.network.parameters(), self.config.max_grad_norm
                    )
                self.optimizer.step()
                self.optimizer.zero_grad()
            losses.append(loss.detach())
        self.schedule.step()
        if self.average is not None:
            self.average.step(self.weights)
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def average_tensors(self) -> dict[str, Tensor]:
        """The moving average for a checkpoint; nothing if there is none."""
        shadows = [] if self.average is None else self.average.shadow_params
        return {f"average.{number}": shadow for number, shadow in enumerate(shadows)}

    def restore(self, checkpoint: Checkpoint, iteration: int) -> None:
        """Go on from a checkpoint that was made after so many iterations."""
        self.first = iteration
        checkpoint.restore(self.accelerator)
        if self.average is not None:
            saved = checkpoint.tensors()
            for name, shadow in self.average_tensors().items():
                shadow.copy_(saved[name])
            self.average.optimization_step = iteration

    @contextmanager
    def as_saved(self) -> Iterator[nn.Module]:
        """The network as it would be saved now: in eval mode, by its moving average if any.

        Raises:
            InputError: if it is sharded, and so whole on no process.
        """
        if self._whole is not None:
            requirement = "must be 0 where networks are sharded (FSDP)"
            raise InputError("validation_steps", requirement)
        network: nn.Module = self.accelerator.unwrap_model(self.network)
        if self.average is not None:
            self.average.store(self.weights)
            self.average.copy_to(self.weights)
        is_training = network.training
        yield network.eval()
        network.train(is_training)
        if self.average is not None:
            self.average.restore(self.weights)

    def _require_finite(
        self, losses: list[Tensor], done: int, with_weights: bool, place: str
    ) -> None:
        """Refuse losses up to the iteration ``done``, or weights, not finite, on all processes."""
        total = self.accelerator.reduce(torch.stack(losses), "sum")
        bad = next(iter(torch.nonzero(~torch.isfinite(total)).flatten().tolist()), None)
        weights = self.weights if with_weights else ()
        if bad is None and all(torch.isfinite(values).all() for values in weights):
            return
        first = done if bad is None else done - len(losses) + bad + 1
        where = f"iteration {first}{place}"
        if bad is not None and first == 1:  # nothing has been learned: no rate is at fault
            requirement = f"must lead to finite losses, and does not at {where}"
            remedy = (
                f"look at the samples{place and ', and at what the teacher says of them noised'}"
            )
            raise InputError("teacher" if place else "source", requirement, remedy=remedy)
        requirement = f"must keep the loss and the weights finite, and they are not at {where}"
        remedy = "lower it or clip with `max_grad_norm`, in another `folder`; this one is kept"
        raise InputError("learning_rate", requirement, self.config.learning_rate, remedy)

    def finish(self) -> nn.Module:
        """The trained network, or its moving average, ready to be read."""
        network: nn.Module = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        if self.average is not None:
            self.average.copy_to(self.weights)
        if self._whole is not None:
            network = _gathered(network, self._whole)
        return network.requires_grad_(False).eval()


def _is_sharded(accelerator: Accelerator, config: OptimizationConfig) -> bool:
    """Whether accelerate shards what is trained (FSDP, version 2).

    Raises:
        InputError: for FSDP of version 1, or with checkpoints, which hold whole networks.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return False
    if not accelerator.is_fsdp2:
        raise InputError("fsdp_version", "must be 2 in accelerate's configuration", 1)
    if config.checkpointing_steps:
        requirement = "must be 0 where networks are sharded (FSDP)"
        raise InputError("checkpointing_steps", requirement, config.checkpointing_steps)
    return True


def _gathered(network: nn.Module, whole: nn.Module) -> nn.Module:
    """The whole weights of a sharded network, on every process, in a plain one."""
    with torch.no_grad():
        parts = dict(network.named_parameters())
        for name, weight in whole.named_parameters():
            part: Any = parts[name]
            weight.copy_(part.full_tensor() if isinstance(part, DTensor) else part)
    return whole


def save_activations(network: nn.Module, config: OptimizationConfig) -> None:
    """Let a network compute activations again in its backward pass, if that is asked for."""
    check_able(network, config)
    if config.gradient_checkpointing:
        enable: Any = network
        enable.enable_gradient_checkpointing()


def check_able(network: nn.Module, config: OptimizationConfig) -> None:
    """Refuse ``gradient_checkpointing`` of a network that does not know how, and a missing Adam."""
    if config.use_8bit_adam:
        _bitsandbytes()
    knows_how = getattr(network, "_supports_gradient_checkpointing", False)
    if config.gradient_checkpointing and not knows_how:
        requirement = f"must be left out: {type(network).__name__} does not know how"
        raise InputError("gradient_checkpointing", requirement)


def _make_optimizer(
    weights: list[nn.Parameter], config: OptimizationConfig
) -> torch.optim.Optimizer:
    if config.use_8bit_adam:
        return _make_8bit_adam(weights, config)
    # One call for all parameters: a third of a small network's step. In fp16 it is the optimizer's
    # own affair to leave out a step that overflows, and the schedule sees one in every iteration.
    given: Any = dict(params=weights, lr=config.learning_rate, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(**given, weight_decay=config.weight_decay)
    return torch.optim.Adam(**given) if config.optimizer == "adam" else torch.optim.SGD(**given)


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        remedy = "pip install bitsandbytes, or leave it out"
        need = "needs the package bitsandbytes, which is not installed"
        raise InputError("use_8bit_adam", need, remedy=remedy) from error
    return bitsandbytes


def _make_8bit_adam(
    weights: list[nn.Parameter], config: OptimizationConfig
) -> torch.optim.Optimizer:
    """bitsandbytes' Adam, whose moments are in 8 bits (Dettmers et al. 2022)."""
    bitsandbytes = _bitsandbytes()
    is_decayed = config.optimizer == "adamw"
    kind = bitsandbytes.optim.AdamW8bit if is_decayed else bitsandbytes.optim.Adam8bit
    decay = config.weight_decay if is_decayed else 0.0
    return kind(weights, lr=config.learning_rate, weight_decay=decay)
