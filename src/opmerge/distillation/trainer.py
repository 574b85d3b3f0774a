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

from opmerge.distillation.config import OptimizationConfig
from opmerge.errors import InputError

__all__ = ["Trainer", "best_device", "make_accelerator"]

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
    try:
        return Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            # without a device, accelerate starts several processes only if it is told so
            cpu=cpu or not torch.accelerator.is_available(),
            log_with=config.report_to,
            project_dir=folder,
            step_scheduler_with_optimizer=False,  # iterations count, on any number of processes
        )
    except (ValueError, ImportError) as error:
        raise InputError(
            "mixed_precision", f"cannot be used here ({error})", config.mixed_precision
        ) from error


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

    def finish(self) -> nn.Module:
        """The trained network, or its moving average, ready to be read."""
        network: nn.Module = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        if self.average is not None:
            self.average.copy_to(network.parameters())
        return network.requires_grad_(False).eval()


def _make_optimizer(network: nn.Module, config: OptimizationConfig) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.learning_rate)
    fused: Any = {"fused": True}  # one call for all parameters: a third of a small network's step
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, config.learning_rate, **fused)
    return torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay, **fused
    )
