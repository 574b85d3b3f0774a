"""The executor: walks a plan's merges and trains one student network a stage.

An iteration draws states z_j, composes the children as they are, turns where they land into the
estimate x̂ with which the student would land there, and regresses on that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.inputs import NoiseInputs, ScaledInputs, TrainingInputs
from opmerge.denoisers.models import Student, Teacher, compose
from opmerge.distillation.adapters import Adapters
from opmerge.distillation.free_step import fit_free_step, num_runs
from opmerge.distillation.memory import working_bytes
from opmerge.distillation.operators import LinearParts, Operators, pack, unpack
from opmerge.distillation.stages import (
    MANY_ITERATIONS,
    Stage,
    TargetLimits,
    plan_effort,
    plan_stages,
)
from opmerge.distillation.targets import Part, StageTargets, Targets
from opmerge.distillation.timing import Pace, seconds_of
from opmerge.errors import InputError
from opmerge.forecast.cost import operator_passes
from opmerge.loop import Iteration, Trainer, check_able, save_activations, seeded_generator
from opmerge.plans import Merge, Plan
from opmerge.settings.distillation import DistillationConfig
from opmerge.store import digest

_BY_HEART = 2.0  # held-out over trained loss; 1.2 where reuse was best, 2 where it was too much
_NEW = -3  # a stream beside those of a stage's iterations, of weights that are new
_SOLVED = "solved"  # prefix of the linear parts of the stage in training, in a checkpoint


def settled(config: DistillationConfig, network: nn.Module) -> DistillationConfig:
    """The settings with ``linear_part`` decided by the kind of network, if it is ``auto``.

    Raises:
        InputError: if they ask for what the network does not know.
    """
    check_able(network, config.optimization)
    return config.for_network(family_of(config_of(network)).solves_linear_part)


@dataclass(frozen=True, eq=False)
class TrainingRecord(Iteration):
    """What one iteration of a stage did; ``step`` counts those of the run."""

    stage: int
    step: int


class Distillation:
    """Executes a plan: iterate over ``run()``, then ask for ``student()``.

    Args:
        plan: any plan for the teacher's number of steps.
        inputs: what students read.
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
            requirement = f"must have {teacher.num_steps} steps, as the teacher"
            raise InputError("plan", requirement, plan.num_steps)
        self.teacher = teacher.to(accelerator.device)
        if plan.free_step is not None and isinstance(inputs, NoiseInputs):
            requirement = "must be left out with a free step: students then read data below step T"
            raise InputError("data_free", requirement)
        config = settled(config, teacher.network)
        self._drawn = inputs
        if teacher.guidance is not None and isinstance(scale := teacher.guidance.scale, tuple):
            self._drawn = ScaledInputs(inputs, *scale)
        self.plan, self.inputs, self.config = plan, inputs, config
        self.accelerator, self._warn = accelerator, warn
        self.stages = plan_stages(plan, config.sharing)
        adapters = None
        if config.lora_rank is not None:
            adapters = Adapters(config.lora_rank, config.lora_target_modules)
        self._operators = Operators(self.teacher, plan.free_step or plan.num_steps, adapters)
        self.targets = Targets(self.teacher, self._drawn, config, accelerator, self._operators)
        effort = plan_effort(self.stages, config, accelerator.num_processes, self.limits)
        self.iterations, self.seconds = list(effort.iterations), effort.seconds
        self._stage = 0
        self._checkpoint: Checkpoint | None = None
        self._checkpoints: Checkpoints | None = None
        self._training: tuple[Trainer, LinearParts] | None = None
        self._kept = 0  # iterations of the run at its last checkpoint
        if folder is not None:
            limit = config.optimization.checkpoints_total_limit
            self._checkpoints = Checkpoints(folder, self.identity(), limit, warn)
        if config.optimization.torch_compile:
            self.teacher.network.compile()
        for stage in self.stages:  # refuse what does not fit before anything is trained
            self.targets.check(stage.merges)
        if self.stages and adapters is not None:
            self.new_student()

    def resume(self, wanted: str = "latest") -> int:
        """Go on from what ``Checkpoints.find`` finds: after how many iterations, 0 if nothing."""
        assert self._checkpoints is not None, "a run without a folder has no checkpoints"
        self._checkpoint = self._checkpoints.find(wanted)
        if self._checkpoint is None:
            return 0
        state, self._kept = self._checkpoint.state, self._checkpoint.step
        self._stage, self.iterations = state["stage"], list(state["iterations"])
        self._operators.restore(state["jumps"], self._checkpoint.tensors())
        return self._kept

    def run(self) -> Iterator[TrainingRecord]:
        """Train, stage by stage; a record an iteration, and a checkpoint of the end.

        Raises:
            InputError: if a loss or weights are not finite (see ``Trainer.iterations``; the message
                names the merge too), or a checkpoint cannot be written.
        """
        self._fit_free_step()
        while self._stage < len(self.stages):
            yield from self._train_stage()
            self._stage += 1
        total = sum(self.iterations)
        if self.config.optimization.checkpointing_steps and self._kept < total:
            # the finished networks, should the student find no room; no optimizer with them
            self.accelerator.free_memory()
            self._write(total, len(self.stages), 0, {})

    def solve(self) -> Student:
        """The student that costs nothing but targets: linear parts are solved, nothing is trained.

        Each network stays its first child's, ``x̂ = net(z) + A z + b``; (A, b) is solved merge by
        merge on the targets that the iterations of the settings would learn from. It cannot be
        run afterwards.

        Raises:
            InputError: if ``linear_part`` is not solve.
        """
        if self.config.linear_part != "solve":
            raise InputError("linear_part", "must be solve", self.config.linear_part)
        self._fit_free_step()
        while self._stage < len(self.stages):
            number, stage = self._stage, self.stages[self._stage]
            network = self.new_student().requires_grad_(False)
            made = StageTargets(self.targets, stage, number, self.iterations[number])
            made.solve(network)
            self._put(stage.merges, network, made.linear)
            self._stage += 1
        return self.student()

    def student(self) -> Student:
        """The operators that stand at this moment, as a sampler; the student after ``run``."""
        return self._operators.student()

    @contextmanager
    def standing(self) -> Iterator[Student]:
        """The sampler as it stands between two records of ``run``.

        The network in training, as it would be saved now, is in the place of its merges.
        """
        if self._training is None:
            yield self.student()
            return
        trainer, linear = self._training
        operators = self._operators.copy()
        with trainer.as_saved() as network, torch.no_grad():
            merges = self.stages[self._stage].merges
            operators.put(merges, network, self.config.merge_rule, linear)
            yield operators.student()

    @property
    def limits(self) -> TargetLimits:
        """What an iteration's cost depends on beside the settings."""
        targets = self.targets
        return TargetLimits(self.teacher.guided_steps, targets.most_kept, targets.fewest)

    def new_student(self) -> nn.Module:
        """The network of the stage that comes next, as its training begins."""
        key = self.config.optimization.seed, self._stage, _NEW
        generator = seeded_generator(torch.device("cpu"), *key)
        if self.config.sharing == "all":
            return self._operators.copy_of_latest(generator)
        return self._operators.copy_of_first(self.stages[self._stage].merges[0], generator)

    def pace(self, report: Callable[[str], None] = lambda doing: None) -> Pace:
        """Seconds of the parts of an iteration of the stage that comes next, on a copy.

        ``report`` is told what is timed.
        """
        merges, settings = self.stages[self._stage].merges, self.config.optimization
        network = self.new_student()
        trainer = Trainer(self.accelerator, network, settings, MANY_ITERATIONS)
        parts = self.targets.stand_in(merges, self._stage).chunk(
            settings.gradient_accumulation_steps
        )
        loss, size = self._loss_of(merges), len(parts[0].target)
        chains = [self._operators.children(merge)[:1] for merge in merges]
        ddim = self.teacher.ddim

        def through_an_operator(count: int) -> None:
            batch = parts[0].first(count).batch
            with self.accelerator.autocast():
                compose(ddim, chains, batch.z, batch.choice, batch.condition)

        report("timing a batch through the network")
        operator = len(parts) * seconds_of(self.accelerator, through_an_operator, size)
        firsts = [
            operator_passes(each.boundaries[:2], self.teacher.guided_steps) for each in merges
        ]
        report("timing a training step")
        step = seconds_of(
            self.accelerator,
            lambda count: float(trainer.step(loss, [part.first(count) for part in parts])),
            size,
        )
        draw = seconds_of(
            self.accelerator, lambda count: self.targets.stand_in(merges, self._stage), 1
        )
        return Pace(draw, operator / float(np.mean(firsts)), step)

    def working_bytes(self) -> int:
        """Bytes of activations and gradients at the peak of an iteration of the next stage.

        Raises:
            RuntimeError: of torch, for a network whose steps depend on values.
        """
        merges = self.stages[self._stage].merges
        network = self.new_student()
        save_activations(network, self.config.optimization)
        whole, loss_of = self.targets.stand_in(merges, self._stage), self._loss_of(merges)
        parts = whole.chunk(self.config.optimization.gradient_accumulation_steps)

        def learn(network: nn.Module, part: Part) -> None:
            for _ in parts[:2]:  # the second finds the gradients of the first
                with self.accelerator.autocast():
                    loss = loss_of(network, part)
                loss.backward()  # type: ignore[no-untyped-call]

        def look(network: nn.Module, part: Part) -> None:
            with torch.no_grad(), self.accelerator.autocast():
                self.targets.estimate(network, merges, part.batch)

        needed = working_bytes(network, parts[0], learn)
        if len(parts) > 1:  # targets are made of all parts at once
            needed = max(needed, working_bytes(self.teacher.network, whole, look))
        return needed

    def free_evaluations(self) -> int:
        """Network evaluations of the runs that the free step is fitted to; 0 without one."""
        if self.plan.free_step is None:
            return 0
        size = self.config.optimization.global_batch_size(self.accelerator.num_processes)
        passes = self.teacher.evaluations(self.plan.num_steps, self.plan.free_step)
        return num_runs(self.teacher, size) * passes

    def _fit_free_step(self) -> None:
        """Fit the plan's free step, unless it has none or a checkpoint had it."""
        landing, settings = self.plan.free_step, self.config.optimization
        if landing is not None and self._operators.free_step is None:
            given = self.teacher, self._drawn, settings, self.accelerator, landing
            self._operators.free_step = fit_free_step(*given)

    def _train_stage(self) -> Iterator[TrainingRecord]:
        number, stage = self._stage, self.stages[self._stage]
        checkpoint, self._checkpoint = self._checkpoint, None
        if self.seconds is not None and checkpoint is None:
            given = self.config, self.pace(), self.limits
            self.iterations[number] = stage.iterations_in(self.seconds[number], *given)
        before, total = sum(self.iterations[:number]), self.iterations[number]
        network = self.new_student()
        targets = StageTargets(self.targets, stage, number, total)
        if targets.times_used > stage.reuse(self.config):
            often = f"targets are learned from {targets.times_used} times each"
            self._warn(f"{stage.name}: {often}, for more of them do not fit into memory")
        if checkpoint is not None:
            starts = [merge.start for merge in stage.merges]
            device = self.accelerator.device
            targets.linear = unpack(checkpoint.tensors(), starts, _SOLVED, device)
        elif self.config.linear_part == "solve":
            targets.solve(network)
        trainer = Trainer(self.accelerator, network, self.config.optimization, total)
        if checkpoint is not None:
            trainer.restore(checkpoint, int(checkpoint.state["iteration"]))
        self._training = trainer, targets.linear
        every = self.config.optimization.checkpointing_steps

        def save(n: int) -> None:
            own = pack(targets.linear, _SOLVED) | trainer.average_tensors()
            self._write(before + n, number, n, own)

        loop = trainer.iterations(
            self._loss_of(stage.merges),
            targets,
            save,
            lambda n: bool(every) and (before + n) % every == 0,
            f" of the merge {stage.name}",
        )
        for each in loop:
            step = before + each.iteration
            yield TrainingRecord(each.iteration, each.loss, each.learning_rate, number, step)
        network, self._training = trainer.finish(), None
        if targets.times_used > 1:
            self._watch(stage, network, learned=targets(total - 1), unseen=targets.unseen())
        self._put(stage.merges, network, targets.linear)

    def _watch(
        self, stage: Stage, network: nn.Module, learned: list[Part], unseen: list[Part]
    ) -> None:
        """Say where a network has learned its targets by heart, by a batch that it has not seen."""
        loss = self._loss_of(stage.merges)
        with torch.no_grad(), self.accelerator.autocast():
            means = (
                torch.stack([loss(network, part) for part in own]) for own in (unseen, learned)
            )
            held, trained = (float(self.accelerator.reduce(m.mean(), "mean")) for m in means)
        if held > _BY_HEART * trained:
            missed = f"the loss on targets that were not learned from is {held / trained:.1f} times"
            self._warn(f"{stage.name}: {missed} that on those that were: lower target_reuse")

    def _loss_of(self, merges: Sequence[Merge]) -> Callable[[nn.Module, Part], Tensor]:
        """The weighted square error of a network's x̂ at the steps where the merges start."""

        def loss(network: nn.Module, part: Part) -> Tensor:
            x0 = self.targets.estimate(network, merges, part.batch)
            return (part.weight * (x0 - part.target) ** 2).mean()

        return loss

    def _put(self, merges: Sequence[Merge], network: nn.Module, linear: LinearParts) -> None:
        self._operators.put(merges, network, self.config.merge_rule, linear)

    def _write(self, step: int, stage: int, iteration: int, own: dict[str, Tensor]) -> None:
        """A checkpoint after so many iterations of a stage (its tensors ``own``) and of the run."""
        if self._checkpoints is None:
            return
        jumps, tensors = self._operators.state()
        state = dict(stage=stage, iteration=iteration, iterations=self.iterations, jumps=jumps)
        self._checkpoints.save(self.accelerator, step, state, tensors | own)
        self._kept = step

    def identity(self) -> str:
        """Digest of all that the result depends on."""
        content: dict[str, Any] = {
            "plan": [list(merge.boundaries) for merge in self.plan.merges],
            "teacher": self.teacher.digest,
            "inputs": self.inputs.identity(),
            "config": self.config.what_decides(self.accelerator.num_processes),
        }
        if self.plan.free_step is not None:
            content["free_step"] = self.plan.free_step
        return digest(content)
