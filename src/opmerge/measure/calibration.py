"""Calibration: the training model of a real network, fitted to a few merges of its own.

Real training learns parts of a deviation at very different rates, so no one retention foretells
what several merges leave. ``calibrate`` trains a few merges (``probes``) with the settings of the
run to come and fits two things to what they leave: ``GammaRates``, for plans of the linear theory,
and the law of merges, which with the teacher's table forecasts any plan on the network itself.
Notes say which settings of a run are beyond them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from scipy.optimize import least_squares

from opmerge.arrays import Array
from opmerge.denoisers.families import config_of
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.distillation.executor import settled
from opmerge.errors import InputError
from opmerge.files import write_atomic
from opmerge.forecast.files import (
    DIGEST,
    FORMAT,
    TABLE_FILE,
    VERSION,
    content_digest,
    read_table,
    write_table,
)
from opmerge.forecast.fit import LawFit, MergeProbe, fit_law
from opmerge.forecast.law import DEFAULT_PRIOR, LAW_PRIORS, LawPrior
from opmerge.forecast.table import TeacherTable, direction_groups
from opmerge.measure.evaluation import Report
from opmerge.measure.linearity import Linearity, linearity
from opmerge.measure.probes import (
    Probe,
    ProbeRunner,
    ProbeSettings,
    default_probes,
    probe_plan,
    schedule_of,
    spectrum_identity,
)
from opmerge.measure.teacher_table import (
    MeasuredTable,
    default_samples,
    measure_table,
    table_evaluations,
)
from opmerge.schedules import NoiseSchedule
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.guidance import GuidanceRecord
from opmerge.spectra import Spectrum
from opmerge.store import MISSING, Store, file_digest
from opmerge.training import GammaRates

_HELD_OUT = 0.2
_START = {  # first guess and bounds; logarithms of shape and scale
    "shape": (0.0, math.log(0.05), math.log(1e3)),
    "scale": (math.log(10.0), math.log(1e-3), math.log(1e6)),
    "exponent": (1.0, 0.0, 2.0),
    "learning_rate_exponent": (1.0, 0.0, 2.0),
}
_PAIRS_A_VALUE = 8  # measured: at 2, forecasts of chains were 1.2 to 1.4 times too large
_FAR = 1.5  # factor in the (unsquared) error at which theory and probe disagree


@dataclass(frozen=True)
class Fit:
    """A training model and how well it fits.

    Args:
        predicted: what the model says is left in each probe, Σ over directions.
        residual: root mean square of log(predicted / measured), of squared errors; probes for
            the floor apart.
        standard_errors: of the rates' parameters, relative for shape and scale; infinite where
            the probes do not determine one.
    """

    training: GammaRates
    predicted: tuple[float, ...]
    residual: float
    standard_errors: Mapping[str, float]


@dataclass(frozen=True)
class Calibration:
    """What was measured and fitted.

    Args:
        fit: the training model of the linear theory, to the probes of teacher steps.
        law_fit: the law of merges, to all probes.
        settings: with which the probes were trained (``DistillationConfig.what_decides``); the
            model is for runs with the same.
        linearity: of the teacher, if it was looked at.
        schedule: of the teacher, which the model is for too.
        teacher: its digest.
        guidance: of the teacher.
    """

    fit: Fit
    law_fit: LawFit
    table: MeasuredTable
    probes: tuple[Probe, ...]
    linearity: Linearity | None
    settings: Mapping[str, Any]
    schedule: NoiseSchedule
    teacher: str
    notes: tuple[str, ...]
    guidance: GuidanceRecord = field(default_factory=dict)

    @property
    def training(self) -> GammaRates:
        """The model, for ``Problem``."""
        return self.fit.training

    @property
    def network_evaluations(self) -> dict[str, float]:
        """Of one sample, that ``probes`` and ``table`` took, whenever that was."""
        probes = sum(probe.network_evaluations for probe in self.probes)
        return {"probes": probes, "table": float(self.table.network_evaluations)}

    def to_dict(self) -> dict[str, Any]:
        """Contents of ``calibration.json`` but for its ``table``; ``opmerge plan --training`` reads
        its ``training``, ``read_calibration`` its ``law``."""
        errors, law = self.fit.standard_errors, self.law_fit
        predicted = dict(zip(_of_steps(self.probes), self.fit.predicted, strict=True))
        return {
            "format": FORMAT,
            "version": VERSION,
            "training": self.training.to_dict(),
            "law": law.law.to_dict(),
            "held_out_error": law.held_out_error,
            "merge_rule": self.settings["merge_rule"],
            "settings": dict(self.settings),
            "steps": self.schedule.num_steps,
            "schedule": self.schedule.to_dict(),
            "teacher_sha256": self.teacher,
            **({"guidance": dict(self.guidance)} if self.guidance else {}),
            "network_evaluations": self.network_evaluations,
            "residual": self.fit.residual,
            "standard_errors": {k: v if math.isfinite(v) else None for k, v in errors.items()},
            "probes": [
                {
                    **asdict(probe),
                    "left": probe.left,
                    "predicted": predicted.get(probe),
                    "foretold": foretold,
                    "held_out": held_out,
                }
                for probe, foretold, held_out in zip(
                    self.probes, law.foretold, law.held_out, strict=True
                )
            ],
            "linearity": None if self.linearity is None else asdict(self.linearity),
            "notes": list(self.notes),
        }

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write ``calibration.json`` and ``table.npz`` beside it, or raise ``InputError``."""
        digest = write_table(Path(path).parent / TABLE_FILE, self.table.table)
        content = {**self.to_dict(), "table": {"file": TABLE_FILE, "sha256": digest}}
        content[DIGEST] = content_digest(content)
        return write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def calibrate(
    teacher: Teacher,
    inputs: DataInputs,
    spectrum: Spectrum,
    config: DistillationConfig,
    accelerator: Accelerator,
    probes: Sequence[ProbeSettings] | None = None,
    folder: Path | None = None,
    progress: Report = lambda what, done, total: None,
    tell: Callable[[Linearity], None] = lambda linear: None,
    table_samples: int | None = None,
    looks: bool = True,
) -> Calibration:
    """Train a few merges as the run will, and fit training model and law to what they leave.

    A fifth of the samples is held out of the probes' training and used to measure them. The
    result is a function of ``config.optimization.seed``. With a folder, an interrupted
    calibration goes on after the last probe that was finished, to the same result; the teacher's
    table, measured before them, is kept as well.

    Args:
        inputs, spectrum: data, in the teacher's units, and their spectrum, with eigenvectors.
        config: of the run to come; ``num_iterations`` must be one number. Each probe has a
            network of its own, whatever its ``sharing``.
        probes: the merges to train; ``default_probes`` unless given.
        progress: told what is being done, how much of it, and of how much.
        tell: called with how linear the teacher is, before the first probe.
        table_samples: that the table is measured on, ``default_samples`` unless given.
        looks: whether to look how linear the teacher is (``linearity_evaluations``), which law and
            model do without.

    Raises:
        InputError: if the spectrum does not fit the teacher, there are fewer than 5 samples, T
            is below 4, or the settings do not fit a plan.
    """
    config = settled(config, teacher.network)
    count, settings = config.num_iterations, config.optimization
    if isinstance(count, tuple) or config.merge_seconds is not None or config.budget is not None:
        raise InputError("num_iterations", "must be one number to calibrate for", count)
    if teacher.num_steps < 4:
        raise InputError("steps", "must be >= 4 to calibrate", teacher.num_steps)
    wanted = probes or default_probes(teacher.num_steps, count, settings.learning_rate)
    train, held_out = _split(inputs, settings.seed)
    looked = partial(progress, "looking how linear the teacher is")
    teacher = teacher.to(accelerator.device)
    linear = None
    if looks:
        linear = linearity(teacher, inputs, spectrum, seed=settings.seed, progress=looked)
        tell(linear)
    alone = config.replaced(sharing="merge")
    given = teacher, inputs, spectrum, alone, accelerator, folder, table_samples
    table = kept_table(*given, progress)
    runner = ProbeRunner(teacher, train, held_out, spectrum, alone, accelerator, folder)
    measured, done = [], 0
    total = sum(each.num_iterations * each.num_merges for each in wanted)
    for each in wanted:
        end = done + each.num_iterations * each.num_merges
        for probe in runner.run(each):
            if probe is not None:
                measured.append(probe)
            if done < end:  # the iterations of one that was kept are done at once
                done = end if probe is not None else done + 1
                progress("training probes", done, total)
    fit = fit_rates(measured, count, settings.learning_rate)
    return Calibration(
        fit,
        fit_network(teacher, spectrum, table.table, measured, alone),
        table,
        tuple(measured),
        linear,
        alone.what_decides(accelerator.num_processes),
        schedule_of(teacher.ddim),
        teacher.digest,
        (
            *(linear.notes if linear is not None else ()),
            *_scope_notes(config),
            *_pair_notes(alone, wanted, spectrum.num_dimensions, accelerator.num_processes),
            *_fit_notes(fit, _of_steps(measured)),
        ),
        teacher.guidance_record,
    )


def fit_network(
    teacher: Teacher,
    spectrum: Spectrum,
    table: TeacherTable,
    probes: Sequence[Probe],
    config: DistillationConfig,
) -> LawFit:
    """The law of merges of a network, from its probes and what is known of its kind.

    It is for the learning rate of the settings.
    """
    schedule, steps = schedule_of(teacher.ddim), teacher.num_steps
    angles = np.arctan2(schedule.sigmas, schedule.alphas)
    groups = direction_groups(len(spectrum.eigenvalues))
    sizes = [float(group.stop - group.start) for group in groups]
    sizes += [float(spectrum.remaining_dimensions)] if spectrum.remaining_dimensions else []
    merges = []
    for probe in probes:
        s = probe.settings
        boundaries = probe_plan(steps, s.start, s.stop, s.students).merges[-1].boundaries
        students = [a - b for a, b in pairwise(boundaries[1:]) if a - b > 1]
        merges.append(
            MergeProbe(
                (s.start, s.stop, s.students),
                float(angles[s.start] - angles[s.stop]),
                s.start == steps,
                sum(students) / (boundaries[1] - s.stop),
                s.num_iterations * s.learning_rate / config.optimization.learning_rate,
                _by_group(probe.starts, groups),
                _by_group(probe.after, groups),
                table.shares(table.node_at(s.start), table.node_at(s.stop)),
            )
        )
    counts = {probe.settings.num_iterations for probe in probes}
    span = f"{min(counts)} to {max(counts)} iterations" if counts else "no iterations"
    prior = law_prior(teacher, config.linear_part == "solve")
    source = f"{len(probes)} probes of this network, T = {steps}, {span}, from {prior.source}"
    return fit_law(merges, np.array(sizes), prior, source)


def law_prior(teacher: Teacher, is_solved: bool) -> LawPrior:
    """What is known of the law of a kind of network: perceptrons and UNets.

    What is known of UNets stands for all other kinds as well; its source says so.
    """
    name = config_of(teacher.network)["_class_name"]
    kind = "mlp" if name == "MLPDenoiser" else DEFAULT_PRIOR
    solved = f"{kind}-solved"
    prior = LAW_PRIORS[solved if is_solved and solved in LAW_PRIORS else kind]
    if kind == "mlp" or "UNet" in name:
        return prior
    return replace(prior, source=f"{prior.source}, for none is known of {name}")


def _by_group(values: Sequence[float], groups: Sequence[slice]) -> Array:
    """(G,) sums over groups of directions; a value beyond stands for all that are left out."""
    sums = [sum(values[group]) for group in groups]
    return np.array([*sums, *values[groups[-1].stop :]])


def _of_steps(probes: Sequence[Probe]) -> list[Probe]:
    """The probes of teacher steps."""
    return [probe for probe in probes if not probe.settings.students]


def kept_table(
    teacher: Teacher,
    inputs: DataInputs,
    spectrum: Spectrum,
    config: DistillationConfig,
    accelerator: Accelerator,
    folder: Path | None,
    samples: int | None,
    progress: Report = lambda what, done, total: None,
) -> MeasuredTable:
    """The teacher's table, measured or as an earlier run left it in the folder: as the file has it
    in either case, and on every process, so that all that follows has the same bits."""
    is_nonlinear = config.linear_part == "solve"
    settings = config.optimization
    count = default_samples(teacher) if samples is None else samples

    def measured() -> MeasuredTable:
        arguments = (teacher, inputs, spectrum, accelerator, is_nonlinear, settings.seed, count)
        told = partial(progress, "measuring the teacher")
        total = table_evaluations(teacher, spectrum, count)
        return measure_table(*arguments, lambda done: told(done, total))

    if folder is None:
        found = measured()
        with TemporaryDirectory() as temporary:
            path = Path(temporary, TABLE_FILE)
            write_table(path, found.table)
            return MeasuredTable(read_table(path), found.network_evaluations)
    identity = {
        "teacher": teacher.digest,
        "inputs": inputs.identity(),
        "spectrum": spectrum_identity(spectrum),
        "is_nonlinear": is_nonlinear,
        "samples": count,
        "seed": settings.seed,
        "mixed_precision": settings.mixed_precision,
    }
    store, path = Store(folder, warn=lambda line: None), folder / TABLE_FILE
    known: list[Any] = [MISSING]
    if accelerator.is_main_process:
        known = [store.read("table", identity)]
        if known[0] is MISSING or not path.is_file() or file_digest(path) != known[0]["sha256"]:
            known = [None]
    broadcast_object_list(known)
    if known[0] is None:
        found = measured()
        known = [{"network_evaluations": found.network_evaluations}]
        if accelerator.is_main_process:
            value = {"sha256": write_table(path, found.table), **known[0]}
            store.write("table", identity, value)
        accelerator.wait_for_everyone()
    return MeasuredTable(read_table(path), int(known[0]["network_evaluations"]))


def fit_rates(probes: Sequence[Probe], num_iterations: int, learning_rate: float) -> Fit:
    """Least squares of ``GammaRates`` on the logarithms of what the probes' training left.

    A probe of teacher steps is foretold as ``Σ_d before_d E[retention²](n_d) + D floor``; those of
    students are left out. In logarithms all that are not kept for the floor count alike, however
    large their deviations are: plans mix merges of all lengths, and the relative error of each is
    that of its part in the plan's error. The
    floor is the mean of what rates alone miss in the others, where that is more than 0.
    A learning rate's exponent is fitted where there are several, and is 1 otherwise: only rate
    times iterations counts then. The model is used at ``num_iterations`` and ``learning_rate``, and
    its scale refers to them.

    Raises:
        InputError: if fewer than four probes are not kept for the floor, or one has no deviation to
            learn from.
    """
    probes = _of_steps(probes)
    long = [probe for probe in probes if not probe.settings.tells_floor]
    for_floor = [probe for probe in probes if probe.settings.tells_floor]
    if len(long) < 4:
        raise InputError("probes", "must be at least 4, those for the floor apart", len(long))
    if not all(sum(probe.before) > 0 and probe.left > 0 for probe in probes):
        raise InputError("probes", "must start and end off their target")
    names = ["shape", "scale", "exponent"]
    if len({probe.settings.learning_rate for probe in long}) > 1:
        names.append("learning_rate_exponent")

    def model(point: Array) -> GammaRates:
        values = dict(zip(names, point.tolist(), strict=True))
        values["shape"], values["scale"] = math.exp(values["shape"]), math.exp(values["scale"])
        rates = GammaRates(
            **values,
            num_iterations=num_iterations,
            learning_rate=learning_rate,
            fitted_iterations=num_iterations,
            fitted_learning_rate=learning_rate,
        )
        missed = [(probe.left - _left(rates, probe)) / probe.dimensions for probe in for_floor]
        return replace(rates, floor=float(np.maximum(missed or [0.0], 0.0).mean()))

    def residuals(point: Array) -> Array:
        training = model(point)
        return np.log([_left(training, probe) / probe.left for probe in long])

    first, low, high = np.array([_START[name] for name in names]).T
    found = least_squares(residuals, first, bounds=(low, high))
    errors = _standard_errors(found.jac, found.fun)
    errors[found.active_mask != 0] = np.inf
    training = model(found.x)
    return Fit(
        training,
        tuple(_left(training, probe) for probe in probes),
        float(np.sqrt(np.mean(found.fun**2))),
        dict(zip(names, errors.tolist(), strict=True)),
    )


def _left(training: GammaRates, probe: Probe) -> float:
    """Σ over directions of what the model leaves of a probe's deviation."""
    settings = probe.settings
    used = replace(
        training, num_iterations=settings.num_iterations, learning_rate=settings.learning_rate
    )
    kept = used.mean_square(np.array(probe.variances))
    return float(np.array(probe.before) @ kept) + training.floor * probe.dimensions


def _standard_errors(jacobian: Array, residuals: Array) -> Array:
    """Standard errors of a least-squares fit, to first order; infinite where undetermined."""
    spare = max(len(residuals) - jacobian.shape[1], 1)
    _, sizes, directions = np.linalg.svd(jacobian, full_matrices=False)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = directions / sizes[:, None]
    return np.sqrt(np.nansum(spread**2, axis=0) * (residuals @ residuals) / spare)


def _split(inputs: DataInputs, seed: int) -> tuple[DataInputs, DataInputs]:
    """Four fifths to train on and one fifth to measure on."""
    count = len(inputs.data)
    if count < 5:
        raise InputError("data", "must hold at least 5 samples", count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = round(count * (1 - _HELD_OUT))
    return inputs.take(order[:cut].sort().values), inputs.take(order[cut:].sort().values)


def _scope_notes(config: DistillationConfig) -> Iterator[str]:
    """What of the run to come the probes do not measure."""
    if config.sharing != "merge":
        yield (
            "the probes have a network each: what merges that share one do to each other is not "
            "in the model"
        )
    if config.linear_part == "solve":
        yield (
            "linear parts are solved: plans of the linear theory, which has nothing else, are not "
            "for this run, and its training model says what is left of all; the law is for it"
        )
    if config.curriculum != "none":
        yield (
            f"the curriculum {config.curriculum} slows merges of many operators, as the probes "
            "are, but not those of two: the model is not for plans of both"
        )


def _pair_notes(
    config: DistillationConfig,
    probes: Sequence[ProbeSettings],
    num_values: int,
    num_processes: int,
) -> Iterator[str]:
    """Whether linear parts are solved from so few pairs that their own error is in the law."""
    if config.linear_part != "solve":
        return
    batch = config.optimization.global_batch_size(num_processes)
    reuses = (config.reuse_of(p.students or p.start - p.stop) for p in probes)
    batches = (math.ceil(p.num_iterations / r) for p, r in zip(probes, reuses, strict=True))
    pairs = batch * min(batches)
    if pairs < _PAIRS_A_VALUE * num_values:
        yield (
            f"the linear part of a probe is solved from {pairs} pairs, fewer than {_PAIRS_A_VALUE} "
            f"for each of {num_values} values: the law is not for merges that train for longer; "
            "calibrate with more iterations, or a lower target_reuse"
        )


def _fit_notes(fit: Fit, probes: Sequence[Probe]) -> Iterator[str]:
    """What the model or the linear theory misses by more than a factor, and what is unsure."""
    for probe, predicted in zip(probes, fit.predicted, strict=True):
        s = probe.settings
        name = f"{s.start} → {s.stop}, {s.num_iterations} iterations at {s.learning_rate:g}"
        ratio = math.sqrt(predicted / probe.left)
        if not 1 / _FAR < ratio < _FAR:
            yield f"the fit gives {ratio:.2g} times the error that is left in {name}"
        start = math.sqrt(probe.expected / sum(probe.before))
        if not 1 / _FAR < start < _FAR:
            yield f"the theory's student starts {start:.2g} times as far off in {name}"
    for name, error in fit.standard_errors.items():
        if not math.isfinite(error):
            yield f"the probes do not determine the model's {name}"
