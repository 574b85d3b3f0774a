"""Probes: single merges, trained for the sake of measuring how far training gets.

A probe is a plan: of the students of T - (j - i) + 1 steps the one in which j → i is merged and
all others are teacher steps. So it is trained by the same code as any plan. It is one merge with a
network of its own, which starts as the teacher: what merges do to one another, one after the
other or in one network, it does not show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from pydantic import TypeAdapter

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Jump, Teacher, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.executor import Distillation
from opmerge.errors import InputError
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

Array = NDArray[np.float64]

_HELD_OUT = 2000  # states on which deviations are measured: 1 % of a sum over many directions
_SEED = 1  # added to the run's, so that these states are no training batch


@dataclass(frozen=True)
class ProbeSettings:
    """A merge to train, of the teacher steps start, …, stop + 1, and its highest learning rate.

    One that ``tells_floor`` starts so near its target that it shows what training adds, not how
    fast it learns.
    """

    start: int
    stop: int
    num_iterations: int
    learning_rate: float
    tells_floor: bool = False


@dataclass(frozen=True)
class Probe:
    """What training left of a student's initial deviation from its target.

    Args:
        variances: (k,) n_j of each direction.
        before, after: (k,) mean squared deviation of x̂ from its target along each direction, as
            the student starts and when it is trained; the last stands for all that the spectrum's
            eigenvectors leave out.
        dimensions: D, the number of directions in all.
        expected: sum of ``before`` by the linear theory.
    """

    settings: ProbeSettings
    variances: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    dimensions: int
    expected: float

    @property
    def left(self) -> float:
        """Σ ``after``."""
        return sum(self.after)


_PROBE = TypeAdapter(Probe)


def default_probes(
    num_steps: int, num_iterations: int, learning_rate: float, slower: bool = False
) -> tuple[ProbeSettings, ...]:
    """Long merges at a quarter of the iterations and at all, and the shortest at all.

    Long ones show what is left of a deviation, from step T, T/2 and T/4, and how that falls with
    the iterations. The shortest start next to their target, and show what training adds. In all
    about nine merges; ``slower`` trains some of them at half the learning rate too.

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
    long = list(dict.fromkeys(pair for pair in pairs if pair[0] - pair[1] >= 2))
    short = dict.fromkeys([(num_steps, num_steps - 2), (half, half - 2)])
    counts = dict.fromkeys((max(1, num_iterations // 4), num_iterations))
    every = [ProbeSettings(*pair, count, learning_rate) for pair in long for count in counts]
    every += [
        ProbeSettings(*pair, num_iterations, learning_rate, tells_floor=True)
        for pair in short
        if pair[1] >= 0 and pair not in long
    ]
    if slower:
        every += [ProbeSettings(*pair, num_iterations, learning_rate / 2) for pair in long[::2]]
    return tuple(every)


def probe_plan(num_steps: int, start: int, stop: int) -> Plan:
    """Teacher steps, but for one merge of the steps start, …, stop + 1."""
    merge = Merge(tuple(range(start, stop - 1, -1)))
    edges = [*range(num_steps, start - 1, -1), *range(stop, -1, -1)]
    return Plan(tuple(Tree(a, b, (merge,) if a == start else ()) for a, b in pairwise(edges)))


def schedule_of(ddim: DDIM) -> NoiseSchedule:
    """The schedule that a sampler really has, whatever it was made from."""
    return arrays_schedule(as_rows(ddim.alphas[None])[0], as_rows(ddim.sigmas[None])[0])


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
        name = f"probes/{digest(identity)}"
        found = self._kept(settings, name, identity)
        if found is None:
            plan = probe_plan(self.teacher.num_steps, settings.start, settings.stop)
            run = Distillation(self.teacher, plan, self.inputs, config, self.accelerator)
            for _ in run.run():
                yield None
            (student,) = (jump for jump in run.student().jumps if jump.start == settings.start)
            found = self._measure(settings, run.teacher, student)
            if self.folder is not None and self.accelerator.is_main_process:
                value = _PROBE.dump_python(found, mode="json")
                Store(self.folder).write(name, identity, value)
        yield found

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """What all probes depend on: once, as the eigenvectors may be half a gigabyte."""
        basis, _ = require_basis(self.spectrum, self.spectrum.num_dimensions)
        return {
            "teacher": self.teacher.digest,
            "inputs": [self.inputs.identity(), self.held_out.identity()],
            "eigenvalues": self.spectrum.sha256,
            "eigenvectors": hashlib.sha256(basis.tobytes()).hexdigest(),
            "remaining": [self.spectrum.remaining_trace, self.spectrum.remaining_dimensions],
        }

    def _kept(self, settings: ProbeSettings, name: str, identity: dict[str, Any]) -> Probe | None:
        """The probe that an earlier run finished: what the main process reads holds for all."""
        found: list[Probe | None] = [None]
        if self.folder is not None and self.accelerator.is_main_process:
            store = Store(self.folder, warn=lambda line: None)
            value = store.read(name, identity)
            with suppress(OSError, ValueError, TypeError):
                if value is MISSING:  # version 1.0 kept the value alone, as its name identifies it
                    value = json.loads(store.path(name).read_text(encoding="utf-8"))
                found = [_PROBE.validate_python({**value, "settings": settings})]
        broadcast_object_list(found)
        return found[0]

    def _measure(self, settings: ProbeSettings, teacher: Teacher, student: Jump) -> Probe:
        """Deviations of the teacher's and the student's x̂ from the student's target."""
        ddim, start, stop, spectrum = teacher.ddim, settings.start, settings.stop, self.spectrum
        seed = self.config.optimization.seed + _SEED
        generator = seeded_generator(self.accelerator.device, seed, start, stop)
        draws = Draws(generator, _HELD_OUT, slice(0, _HELD_OUT))
        batch = self.held_out.draw(ddim, [start], draws)
        chain = [jump for jump in teacher.steps() if stop < jump.start <= start]
        targets = []
        for part in in_parts(batch):
            landing = compose(ddim, [chain], part.z, condition=part.condition)
            targets.append(ddim.x0_target(part.z, start, student.readout, landing))
        target = as_rows(torch.cat(targets))
        before, after = (
            tuple(_by_direction(denoise(denoiser, batch, start) - target, spectrum).tolist())
            for denoiser in (teacher.denoiser, student.denoiser)
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
        )


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
