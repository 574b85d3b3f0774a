"""How far a student is from its teacher, and both from data, with the error of the measurement."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from opmerge.arrays import Array
from opmerge.checks import check_whole
from opmerge.denoisers.conditions import KeptConditions
from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.sampling import draw_samples
from opmerge.errors import InputError
from opmerge.measure.linearity import as_rows, require_basis
from opmerge.metrics import gaussian_fit_w2, projected_w2, random_directions
from opmerge.settings.guidance import in_words
from opmerge.spectra import Spectrum

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

FeatureExtractor = Callable[[Tensor], Tensor | ArrayLike]
"""(N, *sample_shape) samples on the CPU to (N, F) features."""

Pair = tuple[Array, Array]  # (n, …) rows of the student and of the teacher, from equal noise
Distance = Callable[[Array, Array], float]

_DATA = 1  # a stream of its own beside that of the resamples
_ROUNDING = 1e-4  # of alpha and sigma: a product of a thousand factors in float32 is off by 6e-5
_NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %


@dataclass(frozen=True)
class Measurement:
    """A number and the interval that covers the truth in 95 of 100 repetitions, if asked for."""

    value: float
    low: float | None
    high: float | None


def normal_interval(mean: float, standard_error: float) -> Measurement:
    """``mean ± 1.96`` standard errors, cut at 0: of a mean of squares."""
    reach = _NORMAL_QUANTILE * standard_error
    return Measurement(mean, max(mean - reach, 0.0), mean + reach)


@dataclass(frozen=True)
class DirectionErrors:
    """Paired error along each eigenvector of the data, beside the theory's ``Outcome.errors``.

    Args:
        eigenvalues: (k,) λ of the data covariance.
        errors, standard_errors: (k,) means of ``(vᵀ(s(z) - t(z)))²`` and those of the means.
    """

    eigenvalues: tuple[float, ...]
    errors: tuple[float, ...]
    standard_errors: tuple[float, ...]

    def measurements(self) -> list[Measurement]:
        """The errors with normal intervals of 95 %."""
        return list(map(normal_interval, self.errors, self.standard_errors))


@dataclass(frozen=True)
class ReferenceDistances:
    """Distances to data, not squared; the samples are independent of the data.

    Gaussian W2 is between fits to all ``num_samples`` of the data, sliced W2 over as many samples
    as there are of both.
    """

    num_samples: int
    student_gaussian_w2: Measurement
    teacher_gaussian_w2: Measurement
    student_sliced_w2: Measurement
    teacher_sliced_w2: Measurement


@dataclass(frozen=True)
class FeatureDistances:
    """Fréchet distances: squared W2 between Gaussian fits of features (Heusel et al. 2017).

    The floor is that of two independent halves of the teacher's samples.
    """

    student_to_teacher: Measurement
    floor: float
    student_to_reference: Measurement | None
    teacher_to_reference: Measurement | None


@dataclass(frozen=True)
class StudentEvaluation:
    """What ``evaluate_student`` measured, with intervals of 95 %.

    That of the paired error is normal, ``mean ± 1.96 s/√n``, and that of its root is the root of
    it. Those of the distances, Fréchet's too, are basic (reverse percentile) bootstrap intervals,
    cut at 0: over pairs between student and teacher, over samples and data apart to data. They
    take off the bias that a distance has from samples; where it is so large that the value lies
    beyond one, the interval reaches to the value.

    A distance estimated from n samples is above 0 even between equal laws, by more the more
    dimensions there are. The floors say by how much: they are the same distances between two
    independent halves, n/2 samples each, of the teacher's own. Equal noise makes the distance
    of student and teacher smaller than that (0 for equal samplers), so one below the floor
    still tells students apart; one to data does not. The bootstrap presumes a distance well
    above 0: of samplers that differ although their laws are equal it gives a small one, whose
    interval leaves 0 out.

    Args:
        seed: of the noise, the directions of sliced W2 and the resampling.
        paired_error, paired_rms: mean of ``|s(z) - t(z)|²``, Σ over a sample's values; its root.
        gaussian_w2, gaussian_w2_floor: W2 between Gaussian fits.
        directions, reference, features: where a spectrum, data or an extractor was given.
    """

    num_samples: int
    seed: int
    paired_error: Measurement
    paired_rms: Measurement
    gaussian_w2: Measurement
    gaussian_w2_floor: float
    sliced_w2: Measurement
    sliced_w2_floor: float
    directions: DirectionErrors | None
    reference: ReferenceDistances | None
    features: FeatureDistances | None

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return dict(json.loads(json.dumps(asdict(self))))


def evaluate_student(
    teacher: Teacher,
    student: Student,
    num_samples: int,
    seed: int,
    spectrum: Spectrum | None = None,
    reference: Tensor | ArrayLike | None = None,
    features: FeatureExtractor | None = None,
    batch_size: int = 256,
    num_projections: int = 128,
    num_resamples: int = 200,
    progress: Report | None = None,
    told: Condition | KeptConditions | None = None,
) -> StudentEvaluation:
    """Measure a student against its teacher on samples from equal noise.

    Args:
        num_samples: n >= 4.
        seed: of the noise, the directions of sliced W2 and the resampling.
        spectrum: of the data, with eigenvectors.
        reference: (N, …) samples of the data, N >= 2.
        features: maps samples to features, for Fréchet distances.
        batch_size: samples drawn at a time.
        num_projections: directions of sliced W2.
        num_resamples: bootstrap resamples, which cost n d² + d³ each; 0 for no intervals of
            distances.
        progress: told what is being done.
        told: (N, …) conditions of both, such as those of prompts: see ``draw_samples``.

    Raises:
        InputError: if a number is out of range, or teacher, student, spectrum, reference or
            features do not fit one another.
    """
    _check_settings(teacher, student, num_samples, num_resamples)
    report, num_values = progress or (lambda *what: None), math.prod(teacher.sample_shape)
    basis = None if spectrum is None else require_basis(spectrum, num_values)[0]
    data = None if reference is None else as_rows(reference)
    if data is not None and (data.shape[1:] != (num_values,) or len(data) < 2):
        raise InputError(
            "reference", f"must be at least 2 samples of {num_values} values", data.shape
        )
    axes = random_directions(num_values, num_projections, seed)
    drawn = _draw_both(teacher, student, num_samples, seed, batch_size, report, told)
    pair = as_rows(drawn[0]), as_rows(drawn[1])
    projected = pair[0] @ axes, pair[1] @ axes
    in_features = _in_features(features, drawn, data, batch_size, report)
    to_data, rng = data is not None, np.random.default_rng(seed)
    number = 2 + 4 * to_data + (1 + 2 * to_data) * (features is not None)
    measure = _Bootstrap(num_resamples, number, rng, report)
    return StudentEvaluation(
        num_samples,
        seed,
        *_paired(pair),
        gaussian_w2=measure(gaussian_fit_w2, *pair, is_paired=True),
        gaussian_w2_floor=_floor(gaussian_fit_w2, pair[1]),
        sliced_w2=measure(projected_w2, *projected, is_paired=True),
        sliced_w2_floor=_floor(projected_w2, projected[1]),
        directions=_direction_errors(pair, spectrum, basis),
        reference=_to_reference(pair, projected, data, axes, seed, measure),
        features=_feature_distances(in_features, measure),
    )


def load_feature_extractor(name: str) -> FeatureExtractor:
    """The callable that ``package.module:name`` names; the current folder is looked through first.

    Raises:
        InputError: if the text has another form, or no such callable can be imported.
    """
    if not all(name.partition(":")):
        raise InputError("features", "must have the form package.module:name", name)
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -m` has it, and an installed script has not
    try:
        extractor: FeatureExtractor = resolve_name(name)
    except Exception as error:  # a module of the user's may raise anything
        raise InputError("features", f"cannot be imported ({_reason(error)})", name) from error
    finally:
        sys.path.remove(folder)
    if not callable(extractor):
        raise InputError("features", "must name a callable", name)
    return extractor


@dataclass
class _Bootstrap:
    """Distances with basic (reverse percentile) bootstrap intervals, cut at 0.

    Resampling raises a distance as estimating it from samples did, so the interval runs from
    ``2 value - q`` of the upper quantile to that of the lower, which takes the bias off. It is
    widened to hold the value, which it covers the truth no less for.
    """

    num_resamples: int
    num_distances: int
    rng: np.random.Generator
    report: Report
    done: int = 0

    def __call__(
        self, distance: Distance, first: Array, second: Array, is_paired: bool = False
    ) -> Measurement:
        """Pairs of student and teacher are drawn: equal noise ties their rows."""
        value, replicates = distance(first, second), []
        for _ in range(self.num_resamples):
            rows = self.rng.integers(len(first), size=len(first))
            others = rows if is_paired else self.rng.integers(len(second), size=len(second))
            replicates.append(distance(first[rows], second[others]))
            self.done += 1
            self.report("resampling", self.done, self.num_resamples * self.num_distances)
        if not replicates:
            return Measurement(value, None, None)
        low, high = 2 * value - np.quantile(replicates, [0.975, 0.025])
        return Measurement(value, min(max(float(low), 0.0), value), max(float(high), value))


def _floor(distance: Distance, teacher: Array) -> float:
    """The distance of two sets of the teacher's samples that are independent of one another."""
    half = len(teacher) // 2
    return distance(teacher[:half], teacher[half : 2 * half])


def _check_settings(
    teacher: Teacher, student: Student, num_samples: int, num_resamples: int
) -> None:
    if check_whole("num_samples", num_samples) < 4:
        raise InputError("num_samples", "must be >= 4", num_samples)
    if check_whole("num_resamples", num_resamples) < 0:
        raise InputError("num_resamples", "must be >= 0", num_resamples)
    if student.num_classes != teacher.num_classes:
        wanted, given = (f"{each.num_classes or 'no'} classes" for each in (teacher, student))
        raise InputError("student", f"must have {wanted}, as the teacher", given)
    if student.sample_shape != teacher.sample_shape:
        raise InputError(
            "student", f"must have samples of shape {teacher.sample_shape}", student.sample_shape
        )
    for name, own, other in _settings_of(student, teacher):
        if own != other if isinstance(own, str) else abs(own - other) > _ROUNDING:
            told = [f"{each:.6g}" if isinstance(each, float) else each for each in (own, other)]
            raise InputError(
                "teacher",
                f"must have {name} = {told[0]}, as the student",
                told[1],
                "give the teacher that the student was distilled from",
            )


def _settings_of(student: Student, teacher: Teacher) -> Iterator[tuple[str, Any, Any]]:
    """Name and the two values of all that makes samplers alike where the student jumps."""
    both = student.ddim, teacher.ddim
    starts = [jump.start for jump in student.jumps]
    places = sorted({*starts, *(jump.readout for jump in student.jumps)}, reverse=True)
    yield "guidance_scale", in_words(student.guidance), in_words(teacher.guidance_record)
    for name in ("num_steps", "prediction_type"):
        yield name, *(getattr(ddim, name) for ddim in both)
    for name, steps in (("timestep", starts), ("alpha", places), ("sigma", places)):
        for step in steps:
            yield f"{name}_{step}", *(getattr(ddim, f"{name}s")[step].item() for ddim in both)
    ours, theirs = (ddim.scalings for ddim in both)
    yield "preconditioning", str(ours is not None), str(theirs is not None)
    if ours is not None and theirs is not None:
        for row, name in enumerate(("c_in", "c_skip", "c_out")):
            for step in starts:
                yield f"{name}_{step}", float(ours[row, step]), float(theirs[row, step])


def _draw_both(
    teacher: Teacher,
    student: Student,
    count: int,
    seed: int,
    batch_size: int,
    report: Report,
    told: Condition | KeptConditions | None,
) -> tuple[Tensor, Tensor]:
    """(n, …) samples of the student and of the teacher, from equal noise."""

    def draw(sampler: Teacher | Student, before: int) -> Tensor:
        return draw_samples(
            sampler,
            count,
            seed,
            batch_size,
            progress=lambda done: report("sampling", before + done, 2 * count),
            told=told,
        )

    original = draw(teacher, 0)
    return draw(student, count), original


def _paired(pair: Pair) -> tuple[Measurement, Measurement]:
    """The mean squared difference with the normal interval of its standard error; the roots."""
    values = np.sum((pair[0] - pair[1]) ** 2, axis=1)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = normal_interval(float(values.mean()), error)
    return mean, Measurement(*np.sqrt(astuple(mean)).tolist())


def _direction_errors(
    pair: Pair, spectrum: Spectrum | None, basis: Array | None
) -> DirectionErrors | None:
    if spectrum is None or basis is None:
        return None
    squares = ((pair[0] - pair[1]) @ basis.T) ** 2
    standard_errors = squares.std(axis=0, ddof=1) / math.sqrt(len(squares))
    columns = (spectrum.eigenvalues, squares.mean(axis=0), standard_errors)
    return DirectionErrors(*(tuple(column.tolist()) for column in columns))


def _to_reference(
    pair: Pair, projected: Pair, data: Array | None, axes: Array, seed: int, measure: _Bootstrap
) -> ReferenceDistances | None:
    if data is None:
        return None
    number = min(len(data), len(pair[0]))
    rng = np.random.default_rng([seed, _DATA])  # data may be in any order
    some = data[rng.permutation(len(data))[:number]] @ axes
    return ReferenceDistances(
        len(data),
        *(measure(gaussian_fit_w2, samples, data) for samples in pair),
        *(measure(projected_w2, samples[:number], some) for samples in projected),
    )


def _in_features(
    features: FeatureExtractor | None,
    drawn: tuple[Tensor, Tensor],
    data: Array | None,
    batch_size: int,
    report: Report,
) -> list[Array]:
    """(N, F) features of student's and teacher's samples, and of the data, of what there is."""
    if features is None:
        return []
    sets = [*drawn]
    if data is not None:
        rows = torch.as_tensor(data, dtype=torch.float32)
        sets.append(rows.reshape(-1, *drawn[0].shape[1:]))
    found, done, total = [], 0, sum(map(len, sets))
    for batch in chain.from_iterable(torch.split(samples, batch_size) for samples in sets):
        found.append(_features_of(batch, features))
        done += len(batch)
        report("extracting features", done, total)
    widths = sorted({part.shape[1] for part in found})
    if len(widths) > 1:
        raise InputError("features", "must give as many features for every batch", widths)
    return np.split(np.concatenate(found), np.cumsum([len(samples) for samples in sets])[:-1])


def _features_of(batch: Tensor, features: FeatureExtractor) -> Array:
    try:
        with torch.no_grad():
            given = features(batch)
        if isinstance(given, Tensor):
            real = given.double() if given.is_floating_point() else given  # NumPy has no bfloat16
            given = real.detach().cpu()
        array = np.asarray(given)
    except Exception as error:  # a callable of the user's may raise anything
        raise InputError(
            "features", f"must map samples of shape {tuple(batch.shape)}: {_reason(error)}"
        ) from error
    if array.ndim != 2 or len(array) != len(batch) or not array.shape[1]:
        raise InputError("features", f"must give shape ({len(batch)}, F)", array.shape)
    if array.dtype.kind not in "biuf":
        raise InputError("features", "must give real numbers", array.dtype)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("features", "must give finite numbers")
    return values


def _reason(error: Exception) -> str:
    """The first line of what was raised; torch's messages go on for pages."""
    return f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]


def _feature_distances(sets: list[Array], measure: _Bootstrap) -> FeatureDistances | None:
    if not sets:
        return None
    student, teacher, *data = sets
    return FeatureDistances(
        measure(_frechet, student, teacher, is_paired=True),
        _floor(_frechet, teacher),
        *(measure(_frechet, each, data[0]) if data else None for each in (student, teacher)),
    )


def _frechet(first: Array, second: Array) -> float:
    return gaussian_fit_w2(first, second) ** 2
