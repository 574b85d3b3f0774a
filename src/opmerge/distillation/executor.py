"""The executor: walks a plan's merges and trains one student network a stage.

An iteration draws states z_j, composes the children as they are, turns where they land into the
estimate x̂ with which the student would land there, and regresses on that.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.ddim import Jump, compose
from opmerge.denoisers.inputs import Batch, TrainingInputs, seeded_generator
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.curriculum import MANY_ITERATIONS, mean_children, merges_at
from opmerge.distillation.losses import loss_weights
from opmerge.distillation.operators import Operators, student_jumps
from opmerge.distillation.stages import plan_stages
from opmerge.errors import InputError
from opmerge.loop import Trainer, first_not_finite, own_rows
from opmerge.plans import Merge, Plan
from opmerge.settings.distillation import DistillationConfig

__all__ = ["Distillation", "TrainingRecord"]

_PROBE_ITERATIONS = 10
_WARM_UP = 3
_CHECK_EVERY = 10


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """What one iteration did.

    Args:
        stage: index of the stage.
        iteration: iterations of the stage done.
        step: iterations of the run done.
        loss: () mean loss of this process' part of the batch; reading it waits for the device.
        learning_rate: of the iteration.
    """

    stage: int
    iteration: int
    step: int
    loss: Tensor
    learning_rate: float


@dataclass(frozen=True, eq=False)
class _Part:
    """One accumulation step: inputs, the estimates to be learned and their weights."""

    batch: Batch
    target: Tensor
    weight: Tensor


class Distillation:
    """Executes a plan: iterate over ``run()``, then ask for ``student()``.

    Args:
        teacher: the teacher.
        plan: any plan for the teacher's number of steps.
        inputs: what students read.
        config: how they are trained.
        accelerator: devices and processes.
        folder: where checkpoints are kept; none are without it.
        warn: told in one line about every checkpoint that is refused.

    Raises:
        InputError: if the plan is for another number of steps, or the settings do not fit it.
    """

    def __init__(
        self,
        teacher: Teacher,
        plan: Plan,
        inputs: TrainingInputs,
        config: DistillationConfig,
        accelerator: Accelerator,
        folder: Path | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        if plan.num_steps != teacher.num_steps:
            raise InputError(
                "plan", f"must have {teacher.num_steps} steps, as the teacher", plan.num_steps
            )
        self.teacher = teacher.to(accelerator.device)
        self.plan, self.inputs, self.config = plan, inputs, config
        self.accelerator = accelerator
        self.stages = plan_stages(plan, config.sharing)
        self.iterations = list(config.iterations_of(len(self.stages)))
        self._operators = Operators(self.teacher)
        self._known_weights: dict[tuple[Merge, ...], Tensor] = {}
        self._stage = 0
        self._checkpoint: Checkpoint | None = None
        self._checkpoints: Checkpoints | None = None
        self._kept = 0  # iterations of the run at its last checkpoint
        if folder is not None:
            limit = config.optimization.checkpoints_total_limit
            self._checkpoints = Checkpoints(folder, self._identity(), limit, warn)
        for stage in self.stages:  # refuse what does not fit before anything is trained
            self._weights(stage.merges)
            self._draw(stage.merges, 0, 0)

    def resume(self, wanted: str = "latest") -> int:
        """Go on from a checkpoint.

        Returns:
            The iterations of the run that are done, 0 if there is no checkpoint yet.

        Raises:
            InputError: see ``Checkpoints.find``.
        """
        assert self._checkpoints is not None, "a run without a folder has no checkpoints"
        self._checkpoint = self._checkpoints.find(wanted)
        if self._checkpoint is None:
            return 0
        state = self._checkpoint.state
        self._stage, self.iterations = state["stage"], list(state["iterations"])
        self._operators.restore(state["jumps"], self._checkpoint.tensors())
        self._kept = self._checkpoint.step
        return self._kept

    def run(self) -> Iterator[TrainingRecord]:
        """Train, stage by stage; a record an iteration, and a checkpoint of the end.

        Raises:
            InputError: if a loss or weights are not finite, or a checkpoint cannot be written.
                Losses are looked at every 10 iterations; both are before a checkpoint or a
                student is kept, so that the last checkpoint is a good one. The message names
                the merge and the first iteration at fault.
        """
        while self._stage < len(self.stages):
            yield from self._train_stage()
            self._stage += 1
        self._save_end()

    def skip_stage(self) -> None:
        """Let the first child of each merge stand for the student, untrained, and go on."""
        for merge in self.stages[self._stage].merges:
            network = self._operators.children(merge)[0].network
            self._put([merge], network)
        self._stage += 1

    def student(self) -> Student:
        """The operators that stand at this moment, as a sampler; the student after ``run``."""
        return self._operators.student()

    def time_iteration(self, progress: float = 1.0) -> float:
        """Seconds of an iteration of the stage that comes next, measured on a copy.

        Args:
            progress: share of the stage's iterations done: how far the curriculum has come.
        """
        merges = merges_at(self.stages[self._stage].merges, progress, self.config.curriculum)
        network = self._operators.copy_of_first(merges[0])
        trainer = Trainer(self.accelerator, network, self.config.optimization, _PROBE_ITERATIONS)
        begin = 0.0
        for iteration in range(_WARM_UP + _PROBE_ITERATIONS):
            if iteration == _WARM_UP:
                begin = time.perf_counter()
            float(self._iterate(trainer, merges, -1 - iteration))
        return (time.perf_counter() - begin) / _PROBE_ITERATIONS

    def _train_stage(self) -> Iterator[TrainingRecord]:
        number, stage = self._stage, self.stages[self._stage]
        checkpoint, self._checkpoint = self._checkpoint, None
        if self.config.merge_seconds is not None and checkpoint is None:
            self.iterations[number] = self._iterations_in(self.config.merge_seconds)
        before, total = sum(self.iterations[:number]), self.iterations[number]
        network = self._operators.copy_of_first(stage.merges[0])
        trainer = Trainer(self.accelerator, network, self.config.optimization, total)
        done = 0
        if checkpoint is not None:
            done = int(checkpoint.state["iteration"])
            trainer.restore(checkpoint, done)
        every = self.config.optimization.checkpointing_steps
        unchecked: list[Tensor] = []
        for iteration in range(done, total):
            rate = trainer.learning_rate
            merges = merges_at(stage.merges, iteration / total, self.config.curriculum)
            loss = self._iterate(trainer, merges, iteration)
            unchecked.append(loss)
            record = TrainingRecord(number, iteration + 1, before + iteration + 1, loss, rate)
            due = bool(every) and record.step % every == 0
            kept = due or iteration + 1 == total
            if kept or len(unchecked) == _CHECK_EVERY:
                weights = trainer.network.parameters() if kept else ()
                self._require_finite(record, unchecked, weights)
                unchecked = []
            yield record
            if due:
                self._save(trainer, record)
        self._put(stage.merges, trainer.finish())

    def _iterate(self, trainer: Trainer, merges: Sequence[Merge], iteration: int) -> Tensor:
        """One optimizer step on a batch of its own."""
        batch = self._draw(merges, self._stage, iteration)
        with self.accelerator.autocast():
            target = self._target(merges, batch)
        weights = self._weights(merges)
        each = weights if batch.choice is None else weights[batch.choice]
        weight = each.reshape(-1, *[1] * (target.ndim - 1)).expand(len(target), *target.shape[1:])
        starts = [merge.start for merge in merges]

        def loss_of(network: nn.Module, part: _Part) -> Tensor:
            step = _at(starts, part.batch)
            x0 = self.teacher.ddim.estimate(network, part.batch.z, step, part.batch.labels).x0
            return (part.weight * (x0 - part.target) ** 2).mean()

        count = self.config.optimization.gradient_accumulation_steps
        pieces = zip(batch.split(count), target.chunk(count), weight.chunk(count), strict=True)
        return trainer.step(loss_of, [_Part(*piece) for piece in pieces])

    def _draw(self, merges: Sequence[Merge], stage: int, iteration: int) -> Batch:
        """This process' part of the batch of an iteration."""
        settings, device = self.config.optimization, self.accelerator.device
        size, rows = own_rows(self.accelerator, settings)
        generator = seeded_generator(device, settings.seed, stage, iteration)
        starts = [merge.start for merge in merges]
        return self.inputs.draw(self.teacher.ddim, starts, size, rows, generator)

    def _target(self, merges: Sequence[Merge], batch: Batch) -> Tensor:
        """The estimates x̂ with which the student would land where its children do."""
        ddim = self.teacher.ddim
        chains = [self._operators.children(merge) for merge in merges]
        landing = compose(ddim, chains, batch.z, batch.choice, batch.labels)
        jumps = self._jumps(merges, self.teacher.network)
        start = _at([jump.start for jump in jumps], batch)
        return ddim.x0_target(batch.z, start, _at([jump.readout for jump in jumps], batch), landing)

    def _weights(self, merges: Sequence[Merge]) -> Tensor:
        """Weights of the merges' losses; kept, as small networks would wait for them."""
        key = tuple(merges)
        if key not in self._known_weights:
            jumps = self._jumps(merges, self.teacher.network)
            weights = loss_weights(self.teacher.ddim, jumps, self.config.loss_weighting)
            self._known_weights[key] = weights
        return self._known_weights[key]

    def _jumps(self, merges: Sequence[Merge], network: nn.Module) -> list[Jump]:
        return student_jumps(merges, network, self.config.merge_rule)

    def _put(self, merges: Sequence[Merge], network: nn.Module) -> None:
        for jump in self._jumps(merges, network):
            self._operators.put(jump)

    def _iterations_in(self, seconds: float) -> int:
        """How many iterations of the stage take that long; the same on every process."""
        count = [max(1, round(seconds / self._mean_seconds()))]
        broadcast_object_list(count)
        return count[0]

    def _mean_seconds(self) -> float:
        """Seconds of an iteration on average over the stage: they grow as its children do."""
        merges, curriculum = self.stages[self._stage].merges, self.config.curriculum
        first, last = (mean_children(merges, 1, kind) for kind in (curriculum, "none"))
        long = self.time_iteration()
        if first == last:
            return long
        short = self.time_iteration(0.0)
        share = (mean_children(merges, MANY_ITERATIONS, curriculum) - first) / (last - first)
        return short + share * (long - short)

    def _require_finite(
        self, record: TrainingRecord, losses: Sequence[Tensor], weights: Iterable[Tensor]
    ) -> None:
        """Refuse losses of the iterations up to this one, or weights, that are not finite."""
        bad = first_not_finite(self.accelerator, losses)
        if bad is None and all(torch.isfinite(values).all() for values in weights):
            return
        after = 0 if bad is None else len(losses) - 1 - bad
        raise InputError(
            "learning_rate",
            "must keep the loss and the weights finite, and they are not at iteration "
            f"{record.iteration - after} of the merge {self.stages[record.stage].name}",
            self.config.optimization.learning_rate,
            "lower it or clip with `max_grad_norm`, in another `folder`; this one is kept",
        )

    def _save(self, trainer: Trainer, record: TrainingRecord) -> None:
        self._write(record.step, record.stage, record.iteration, trainer.average_tensors())

    def _save_end(self) -> None:
        """Keep the finished networks, should the student find no room; no optimizer with them."""
        total = sum(self.iterations)
        if self.config.optimization.checkpointing_steps and self._kept < total:
            self.accelerator.free_memory()
            self._write(total, len(self.stages), 0, {})

    def _write(self, step: int, stage: int, iteration: int, average: dict[str, Tensor]) -> None:
        """A checkpoint in a stage, after so many iterations of it and of the run."""
        if self._checkpoints is None:
            return
        jumps, tensors = self._operators.state()
        state = {
            "stage": stage,
            "iteration": iteration,
            "iterations": self.iterations,
            "jumps": jumps,
        }
        self._checkpoints.save(self.accelerator, step, state, tensors | average)
        self._kept = step

    def _identity(self) -> str:
        """Digest of all that the result depends on."""
        content = {
            "plan": [list(merge.boundaries) for merge in self.plan.merges],
            "teacher": self.teacher.digest,
            "inputs": self.inputs.identity(),
            "config": self.config.what_decides(self.accelerator.num_processes),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _at(steps: Sequence[int], batch: Batch) -> int | Tensor:
    """The step of the batch if there is one merge, else of each sample."""
    if batch.choice is None:
        return steps[0]
    return torch.tensor(steps, device=batch.z.device)[batch.choice]
