"""One network in training: optimizer, learning rate, clipping, moving average and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from opmerge.checkpoints import Checkpoint
from opmerge.errors import InputError
from opmerge.settings.distillation import OptimizationConfig

__all__ = ["Trainer", "best_device", "first_not_finite", "make_accelerator", "own_rows"]

_Part = TypeVar("_Part")


def best_device() -> torch.device:
    """This machine's accelerator, or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def make_accelerator(
    config: OptimizationConfig, folder: Path | None = None, cpu: bool = False
) -> Accelerator:
    """The accelerator of a run: devices, processes, precision and trackers.

    Raises:
        InputError: if this machine cannot train in that precision, or the tracker is unknown or
            not installed.
    """
    known = [str(tracker) for tracker in get_available_trackers()]
    if config.report_to is not None and config.report_to not in known:
        raise InputError(
            "report_to",
            f"must be a tracker that is installed ({', '.join(known) or 'none is'})",
            config.report_to,
        )
    # without a device, accelerate starts several processes only if it is told so
    on_cpu = cpu or not torch.accelerator.is_available()
    if on_cpu and config.mixed_precision == "fp16":  # accelerate would say nothing, and take no
        raise InputError("mixed_precision", "must be no or bf16 on the CPU", "fp16")
    try:
        return Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            cpu=on_cpu,
            log_with=config.report_to,
            project_dir=folder,
            step_scheduler_with_optimizer=False,  # iterations count, on any number of processes
        )
    except (ValueError, ImportError) as error:
        raise InputError(
            "mixed_precision", f"cannot be used here ({error})", config.mixed_precision
        ) from error


def own_rows(accelerator: Accelerator, config: OptimizationConfig) -> tuple[int, slice]:
    """The size of an iteration's batch, and this process' rows of it."""
    size = config.global_batch_size(accelerator.num_processes)
    share = size // accelerator.num_processes
    first = share * accelerator.process_index
    return size, slice(first, first + share)


def first_not_finite(accelerator: Accelerator, losses: Sequence[Tensor]) -> int | None:
    """Which of some () losses is the first that is not finite on any process, if one is.

    All processes are told the same, so that all stop or none; it waits for the device.
    """
    total = accelerator.reduce(torch.stack(list(losses)), "sum")
    return next(iter(torch.nonzero(~torch.isfinite(total)).flatten().tolist()), None)


class Trainer:
    """Trains one network; a loop that draws batches stands outside.

    Args:
        accelerator: of the run; it forgets the network that it trained before.
        network: trained in place, in the mode (train or eval) that it is in.
        config: how.
        num_iterations: length of the learning rate's schedule.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        config: OptimizationConfig,
        num_iterations: int,
    ) -> None:
        accelerator.free_memory()
        if accelerator.scaler is not None:  # of fp16: how far the last network's loss was scaled
            anew = torch.amp.GradScaler(accelerator.device.type)
            accelerator.scaler.load_state_dict(anew.state_dict())
        network.to(accelerator.device).requires_grad_(True)
        optimizer = _make_optimizer(network, config)
        plain = config.lr_scheduler == "constant"  # which in diffusers ignores the warm-up
        name = "constant_with_warmup" if plain else config.lr_scheduler
        schedule = get_scheduler(name, optimizer, None, config.lr_warmup_steps, num_iterations)
        self.accelerator, self.config = accelerator, config
        self.network, self.optimizer, self.schedule = accelerator.prepare(
            network, optimizer, schedule
        )
        self.average = (
            EMAModel(network.parameters(), config.ema_decay) if config.ema_decay else None
        )

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next iteration."""
        return float(self.schedule.get_last_lr()[0])

    def step(self, loss_of: Callable[[nn.Module, _Part], Tensor], parts: Sequence[_Part]) -> Tensor:
        """One iteration: the gradient of the mean loss over equal parts of a batch.

        Args:
            loss_of: loss of the network on a part; called under the precision of the run.
            parts: one an accumulation step.

        Returns:
            () the mean loss on this process, detached.
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
            self.average.step(self.network.parameters())
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def average_tensors(self) -> dict[str, Tensor]:
        """The moving average for a checkpoint; nothing if there is none."""
        shadows = [] if self.average is None else self.average.shadow_params
        return {f"average.{number}": shadow for number, shadow in enumerate(shadows)}

    def restore(self, checkpoint: Checkpoint, iteration: int) -> None:
        """Go on from a checkpoint that was made after so many iterations."""
        checkpoint.restore(self.accelerator)
        if self.average is not None:
            saved = checkpoint.tensors()
            for name, shadow in self.average_tensors().items():
                shadow.copy_(saved[name])
            self.average.optimization_step = iteration

    def require_finite(self, losses: Sequence[Tensor], done: int) -> None:
        """Refuse losses that are not finite.

        Args:
            losses: () of the iterations up to the one numbered ``done``.
            done: iterations done.

        Raises:
            InputError: naming the first iteration at fault.
        """
        place = first_not_finite(self.accelerator, losses)
        if place is not None:
            raise InputError(
                "learning_rate",
                "must keep the loss finite, and it is not from iteration "
                f"{done - len(losses) + place + 1} on",
                self.config.learning_rate,
                "pass a lower `learning_rate`; the last checkpoint is kept",
            )

    def finish(self) -> nn.Module:
        """The trained network, or its moving average, ready to be read."""
        network: nn.Module = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        if self.average is not None:
            self.average.copy_to(network.parameters())
        return network.requires_grad_(False).eval()


def _make_optimizer(network: nn.Module, config: OptimizationConfig) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    # One call for all parameters: a third of a small network's step. In fp16 it is the optimizer's
    # own affair to leave out a step that overflows, and the schedule sees one in every iteration.
    shared: Any = {"lr": config.learning_rate, "fused": True}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, **shared)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, **shared)
    return torch.optim.AdamW(parameters, weight_decay=config.weight_decay, **shared)
