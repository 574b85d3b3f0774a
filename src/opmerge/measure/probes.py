"""Probes: single merges, trained for the sake of measuring how far training gets.

A probe is a plan: of the students of T - (j - i) + 1 steps the one in which j → i is merged and
all others are teacher steps. So it is trained by the same code as any plan. The merge is of teacher
steps, or of a few equal students that are trained as long before it; the last one is measured, of
which a network starts as its first child.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pydantic import TypeAdapter

from opmerge.arrays import Array
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Jump, Teacher, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.executor import Distillation
from opmerge.distillation.stages import TargetLimits, plan_stages
from opmerge.errors import InputError
from opmerge.files import parse_json, read_text
from opmerge.forecast.cost import STUDENT_PASSES, fewest_targets, operator_passes
from opmerge.loop import Draws, seeded_generator
from opmerge.measure.linearity import as_rows, denoise, in_parts, require_basis
from opmerge.merging import initial_coefficients
from opmerge.plans import Merge, Plan, Tree
from opmerge.problem import Problem
from opmerge.schedules import NoiseSchedule, arrays_schedule
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.types import MergeRule
from opmerge.spectra import Spectrum
from opmerge.store import MISSING, Store, digest

MOST_STATES = 2000
"""Held-out states that a probe is measured on, unless told: 1 % of a sum over many directions."""

_SEED = 1  # added to the run's, so that these states are no training batch


@dataclass(frozen=True)
class ProbeSettings:
    """A merge to train, of the teacher steps start, …, stop + 1, and its highest learning rate.

    One that ``tells_floor`` starts so near its target that it shows what training adds, not how
    fast it learns. With ``students`` above 0 the steps are first merged into so many, which are
    then merged into one. It is measured on ``num_states`` held-out states.
    """

    start: int
    stop: int
    num_iterations: int
    learning_rate: float
    tells_floor: bool = False
    students: int = 0
    num_states: int = MOST_STATES

    @property
    def num_merges(self) -> int:
        """Merges that are trained."""
        return len(probe_plan(self.start, self.start, self.stop, self.students).merges)


@dataclass(frozen=True)
class Probe:
    """What training left of a student's initial deviation from its target.

    Args:
        variances: (k,) n_j of each direction.
        before, after: (k,) mean squared deviation of x̂ from its target along each direction, of
            the first child and of the trained student; the last stands for all that the spectrum's
            eigenvectors leave out.
        dimensions: D, the number of directions in all.
        expected: sum of ``before`` by the linear theory, if the merge is of teacher steps.
        untrained: (k,) of the student before its first iteration, which is not its first child
            where a linear part was solved; empty if it is, or in a file of version 1.
        network_evaluations: in training, and in measuring, of one sample; 0 in version 1.
    """

    settings: ProbeSettings
    variances: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    dimensions: int
    expected: float
    untrained: tuple[float, ...] = ()
    network_evaluations: float = 0.0

    @property
    def starts(self) -> tuple[float, ...]:
        """(k,) deviations before the first iteration."""
        return self.untrained or self.before

    @property
    def left(self) -> float:
        """Σ ``after``."""
        return sum(self.after)


_PROBE = TypeAdapter(Probe)


def default_probes(
    num_steps: int,
    num_iterations: int,
    learning_rate: float,
    slower: bool = False,
    num_states: int = MOST_STATES,
) -> tuple[ProbeSettings, ...]:
    """Long merges at a quarter of the iterations and at all; the shortest, and of students, at all.

    Long ones show what is left of a deviation, from step T, T/2 and T/4, and how that falls with
    the iterations and the length. The shortest start next to their target, and show what training
    adds. Those of students show how their errors are learned. In all about ten merges; ``slower``
    trains some of them at half the learning rate too.

    Raises:
        InputError: if there is one iteration, which has no quarter.
    """
    if num_iterations < 2:
        raise InputError(
            "num_iterations",
            "must be >= 2 to calibrate, which sets fewer beside them",
            num_iterations,
        )
    half, quarter = num_steps // 2, num_steps // 4
    pairs = [(num_steps, 0), (num_steps, half), (half, 0), (half, quarter), (quarter, 0)]
    pairs.append((num_steps, num_steps - quarter))
    long = list(dict.fromkeys(pair for pair in pairs if pair[0] - pair[1] >= 2))
    short = dict.fromkeys([(num_steps, num_steps - 2), (half, half - 2)])
    counts = dict.fromkeys((max(1, num_iterations // 4), num_iterations))
    every = [ProbeSettings(*pair, count, learning_rate) for pair in long for count in counts]
    every += [
        ProbeSettings(*pair, num_iterations, learning_rate, tells_floor=True)
        for pair in short
        if pair[1] >= 0 and pair not in long
    ]
    every += [
        ProbeSettings(start, 0, num_iterations, learning_rate, students=students)
        for start, students in ((num_steps, 4), (half, 2))
        if start >= 2 * students
    ]
    if slower:
        every += [ProbeSettings(*pair, num_iterations, learning_rate / 2) for pair in long[:5:2]]
    return tuple(replace(each, num_states=num_states) for each in every)


def probe_plan(num_steps: int, start: int, stop: int, students: int = 0) -> Plan:
    """Teacher steps, but for one student start → stop: of the steps, or of equal students."""
    merges = []
    edges = tuple(range(start, stop - 1, -1))
    if students:
        edges = tuple(np.linspace(start, stop, students + 1).round().astype(int).tolist())
        parts = (range(a, b - 1, -1) for a, b in pairwise(edges))
        merges = [Merge(tuple(part)) for part in parts if len(part) > 2]
    merges.append(Merge(edges))
    ends = [*range(num_steps, start - 1, -1), *range(stop, -1, -1)]
    return Plan(tuple(Tree(a, b, tuple(merges) if a == start else ()) for a, b in pairwise(ends)))


def schedule_of(ddim: DDIM) -> NoiseSchedule:
    """The schedule that a sampler really has, whatever it was made from."""
    return arrays_schedule(as_rows(ddim.alphas[None])[0], as_rows(ddim.sigmas[None])[0])


def spectrum_identity(spectrum: Spectrum) -> dict[str, Any]:
    """All of a spectrum that what is measured along its eigenvectors depends on."""
    basis, _ = require_basis(spectrum, spectrum.num_dimensions)
    return {
        "eigenvalues": spectrum.sha256,
        "eigenvectors": hashlib.sha256(basis.tobytes()).hexdigest(),
        "remaining": [spectrum.remaining_trace, spectrum.remaining_dimensions],
    }


@dataclass(frozen=True, eq=False)
class ProbeRunner:
    """Trains and measures probes, and keeps those that are finished.

    Args:
        inputs, held_out: what students read, and what they are measured on.
        spectrum: of the data, with eigenvectors.
        config: how they are trained, but for the iterations and the learning rate.
        folder: where each finished probe is kept, as ``probes/DIGEST.json``; none are without it.
    """

    teacher: Teacher
    inputs: DataInputs
    held_out: DataInputs
    spectrum: Spectrum
    config: DistillationConfig
    accelerator: Accelerator
    folder: Path | None = None

    def run(self, settings: ProbeSettings) -> Iterator[Probe | None]:
        """Train a merge and measure it: yields None an iteration, then the probe.

        One that is kept is not trained again: it is yielded at once.
        """
        optimization = self.config.optimization.replaced(
            learning_rate=settings.learning_rate, checkpointing_steps=0
        )
        config = self.config.replaced(
            num_iterations=settings.num_iterations, optimization=optimization
        )
        identity = {
            **self._shared,
            "merge": [settings.start, settings.stop],
            "config": config.what_decides(self.accelerator.num_processes),
        }
        if settings.students:  # which version 1 did not know
            identity["students"] = settings.students
        if settings.num_states != MOST_STATES:
            identity["states"] = settings.num_states
        name = f"probes/{digest(identity)}"
        found = self._kept(settings, name, identity)
        if found is None:
            ends = (settings.start, settings.stop, settings.students)
            plan = probe_plan(self.teacher.num_steps, *ends)
            run = Distillation(self.teacher, plan, self.inputs, config, self.accelerator)
            children: list[Jump] = []
            for record in run.run():
                if record.stage == len(run.stages) - 1 and not children:
                    children = self._within(run, settings)
                yield None
            found = self._measure(settings, run, children)
            if self.folder is not None and self.accelerator.is_main_process:
                value = _PROBE.dump_python(found, mode="json")
                Store(self.folder).write(name, identity, value)
        yield found

    def _within(self, run: Distillation, settings: ProbeSettings) -> list[Jump]:
        """The operators that stand between the start and the stop of a probe."""
        jumps = run.student().jumps
        return [jump for jump in jumps if settings.stop < jump.start <= settings.start]

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """What all probes depend on: once, as the eigenvectors may be half a gigabyte."""
        return {
            "teacher": self.teacher.digest,
            "inputs": [self.inputs.identity(), self.held_out.identity()],
            **spectrum_identity(self.spectrum),
        }

    def _kept(self, settings: ProbeSettings, name: str, identity: dict[str, Any]) -> Probe | None:
        """The probe that an earlier run finished: what the main process reads holds for all."""
        found: list[Probe | None] = [None]
        if self.folder is not None and self.accelerator.is_main_process:
            store = Store(self.folder, warn=lambda line: None)
            value = store.read(name, identity)
            with suppress(OSError, ValueError, TypeError, RecursionError):
                if value is MISSING:  # version 1.0 kept the value alone, as its name identifies it
                    value = parse_json(read_text(store.path(name)))
                found = [_PROBE.validate_python({**value, "settings": settings})]
        broadcast_object_list(found)
        return found[0]

    def _measure(
        self, settings: ProbeSettings, run: Distillation, children: Sequence[Jump]
    ) -> Probe:
        """Deviations of x̂ from the student's target: its first child's, untrained and trained."""
        teacher, (student,) = run.teacher, self._within(run, settings)
        ddim, start, stop, spectrum = teacher.ddim, settings.start, settings.stop, self.spectrum
        seed = self.config.optimization.seed + _SEED
        generator = seeded_generator(self.accelerator.device, seed, start, stop)
        draws = Draws(generator, settings.num_states, slice(0, settings.num_states))
        batch = self.held_out.draw(ddim, [start], draws)
        targets = []
        for part in in_parts(batch):
            landing = compose(ddim, [children], part.z, condition=part.condition)
            targets.append(ddim.x0_target(part.z, start, student.readout, landing))
        target = as_rows(torch.cat(targets))
        first, last = children[0].denoiser, student.denoiser
        before, untrained, after = (
            tuple(_by_direction(denoise(denoiser, batch, start) - target, spectrum).tolist())
            for denoiser in (first, last.using(first.network), last)
        )
        eigenvalues, left_out = spectrum.eigenvalues, spectrum.remaining_dimensions
        if left_out:
            eigenvalues = np.append(eigenvalues, spectrum.remaining_trace / left_out)
        variances = float(ddim.alphas[start]) ** 2 * eigenvalues + float(ddim.sigmas[start]) ** 2
        return Probe(
            settings,
            tuple(variances.tolist()),
            before,
            after,
            spectrum.num_dimensions,
            _expected(ddim, spectrum, student, stop),
            () if untrained == before else untrained,
            self._evaluations(settings),
        )

    def _evaluations(self, settings: ProbeSettings) -> float:
        """Network evaluations of one sample, in training (κ = 3) and in measuring."""
        processes = self.accelerator.num_processes
        targets, iterations = training_work(self.teacher, settings, self.config, processes)
        batch = self.config.optimization.global_batch_size(processes)
        trained = batch * (targets + STUDENT_PASSES * iterations)
        return trained + measuring_evaluations(self.teacher, settings)


def training_work(
    teacher: Teacher, settings: ProbeSettings, config: DistillationConfig, num_processes: int = 1
) -> tuple[float, int]:
    """Evaluations of a sample for the targets of a probe's merges, and their iterations."""
    count, ends = settings.num_iterations, (settings.start, settings.stop, settings.students)
    stages = plan_stages(probe_plan(teacher.num_steps, *ends))
    batch = config.optimization.global_batch_size(num_processes)
    fewest = fewest_targets(math.prod(teacher.sample_shape), batch)
    limits = TargetLimits(teacher.guided_steps, fewest=fewest)
    evaluations = sum(stage.network_evaluations(count, config, limits) for stage in stages)
    iterations = count * len(stages)
    return evaluations - STUDENT_PASSES * iterations, iterations


def measuring_evaluations(teacher: Teacher, settings: ProbeSettings) -> int:
    """Network evaluations of one sample in measuring a probe: its children, and three of x̂.

    One of these is the first child's, twice where that is a guided step of the teacher.
    """
    plan = probe_plan(settings.start, settings.start, settings.stop, settings.students)
    passes = operator_passes(plan.merges[-1].boundaries, teacher.guided_steps)
    return settings.num_states * int(passes.sum() + passes[0] + 2)


def _by_direction(deviations: Array, spectrum: Spectrum) -> Array:
    """(k,) mean squares of (N, D) deviations along eigenvectors, then along all the rest."""
    basis, _ = require_basis(spectrum, deviations.shape[1])
    along: Array = ((deviations @ basis.T) ** 2).mean(axis=0)
    if not spectrum.remaining_dimensions:
        return along
    total = float((deviations**2).sum(axis=1).mean())
    return np.append(along, max(total - along.sum(), 0.0))


def _expected(ddim: DDIM, spectrum: Spectrum, student: Jump, stop: int) -> float:
    """Σ w n_j ((initial - target) / c)², the linear theory's deviation of x̂ at the start."""
    start = student.start
    rule: MergeRule = "denoiser-copy" if student.readout == stop else "operator-copy"
    problem = Problem(spectrum, schedule_of(ddim), merge_rule=rule)
    offset, _ = initial_coefficients(problem, start, start - 1, stop)
    composite = np.exp(problem.teacher.log_composite(stop, start))
    reached = float(ddim.jump_weight(start, student.readout))
    squares = problem.teacher.variances[start] * (offset * composite / reached) ** 2
    return float(problem.multiplicities @ squares)
