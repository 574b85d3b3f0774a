"""How far a student is from its teacher, and both from data, with the error of the measurement."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from opmerge.checks import check_whole
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.sampling import draw_samples
from opmerge.errors import InputError
from opmerge.measure.features import FeatureExtractor, extract_features
from opmerge.measure.linearity import require_basis
from opmerge.measure.measurement import Bootstrap, Measurement, Pair, normal_interval
from opmerge.metrics import gaussian_fit_w2, projected_w2, random_directions
from opmerge.spectra import Spectrum

__all__ = [
    "DirectionErrors",
    "FeatureDistances",
    "Measurement",
    "ReferenceDistances",
    "Report",
    "StudentEvaluation",
    "evaluate_student",
]

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

Array = NDArray[np.float64]

_DATA = 1  # a stream of its own beside that of the resamples
_ROUNDING = 1e-4  # of alpha and sigma: a product of a thousand factors in float32 is off by 6e-5


@dataclass(frozen=True)
class DirectionErrors:
    """Paired error along each eigenvector of the data, beside the theory's ``Outcome.errors``.

    Args:
        eigenvalues: (k,) λ of the data covariance.
        errors: (k,) mean of ``(vᵀ(s(z) - t(z)))²``.
        standard_errors: (k,) of these means.
    """

    eigenvalues: tuple[float, ...]
    errors: tuple[float, ...]
    standard_errors: tuple[float, ...]

    def measurements(self) -> list[Measurement]:
        """The errors with normal intervals of 95 %."""
        return [
            normal_interval(*each) for each in zip(self.errors, self.standard_errors, strict=True)
        ]


@dataclass(frozen=True)
class ReferenceDistances:
    """Distances to data, not squared; the samples are independent of the data.

    Args:
        num_samples: how many samples of the data were given.
        student_gaussian_w2, teacher_gaussian_w2: between Gaussian fits.
        student_sliced_w2, teacher_sliced_w2: over as many samples as there are of both.
    """

    num_samples: int
    student_gaussian_w2: Measurement
    teacher_gaussian_w2: Measurement
    student_sliced_w2: Measurement
    teacher_sliced_w2: Measurement


@dataclass(frozen=True)
class FeatureDistances:
    """Fréchet distances: squared W2 between Gaussian fits of features (Heusel et al. 2017).

    Args:
        student_to_teacher: of samples from equal noise.
        floor: of two independent halves of the teacher's samples.
        student_to_reference, teacher_to_reference: to data, where data were given.
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
    take off the bias that a distance has from samples, and may lie below the value itself.

    A distance estimated from n samples is above 0 even between equal laws, by more the more
    dimensions there are. The floors say by how much: they are the same distances between two
    independent halves, n/2 samples each, of the teacher's own. Equal noise makes the distance
    of student and teacher smaller than that (0 for equal samplers), so one below the floor
    still tells students apart; one to data does not. The bootstrap presumes a distance well
    above 0: of samplers that differ although their laws are equal it gives a small one, whose
    interval leaves 0 out.

    Args:
        num_samples: samples of each of the two.
        seed: of the noise, the directions and the resampling.
        paired_error: mean of ``|s(z) - t(z)|²``, summed over a sample's values.
        paired_rms: its root.
        gaussian_w2: W2 between Gaussian fits of student and teacher.
        gaussian_w2_floor: the same between two independent halves of the teacher's samples.
        sliced_w2: sliced W2 between student and teacher.
        sliced_w2_floor: the same between those halves.
        directions: paired error by eigenvalue, where a spectrum was given.
        reference: distances to data, where data were given.
        features: distances in features, where an extractor was given.
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
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


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
) -> StudentEvaluation:
    """Measure a student against its teacher on samples from equal noise.

    Args:
        teacher: the teacher.
        student: its student.
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

    Raises:
        InputError: if a number is out of range, or teacher, student, spectrum, reference or
            features do not fit one another.
    """
    _check_settings(teacher, student, num_samples, num_resamples)
    report, num_values = progress or _silent, math.prod(teacher.sample_shape)
    basis = None if spectrum is None else require_basis(spectrum, num_values)[0]
    data = None if reference is None else _reference_rows(reference, num_values)
    directions = random_directions(num_values, num_projections, seed)
    drawn = _draw_both(teacher, student, num_samples, seed, batch_size, report)
    samples = Pair(*map(_rows, drawn))
    projected = Pair(samples.student @ directions, samples.teacher @ directions)
    in_features = _in_features(features, drawn, reference, batch_size, report)
    rng = np.random.default_rng(seed)
    to_data = data is not None
    number = 2 + 4 * to_data + (1 + 2 * to_data) * (features is not None)
    bootstrap = Bootstrap(num_resamples, number, rng, partial(report, "resampling"))
    return StudentEvaluation(
        num_samples,
        seed,
        *_paired(samples),
        *_between_laws(samples, projected, bootstrap),
        directions=_direction_errors(samples, spectrum, basis),
        reference=_to_reference(samples, projected, data, directions, seed, bootstrap),
        features=_feature_distances(in_features, bootstrap),
    )


def _silent(doing: str, done: int, total: int) -> None:
    """Of those who want to hear nothing."""


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
    _check_sampler(teacher, student)


def _check_sampler(teacher: Teacher, student: Student) -> None:
    """Refuse another teacher than the student's, as far as the student knows its sampler."""
    for name, own, given in _settings_of(student, teacher):
        differ = own != given if isinstance(own, str) else abs(own - given) > _ROUNDING
        if differ:
            raise InputError(
                "teacher",
                f"must have {name} = {_short(own)}, as the student",
                _short(given),
                "give the teacher that the student was distilled from",
            )


def _settings_of(student: Student, teacher: Teacher) -> Iterator[tuple[str, Any, Any]]:
    """Name and the two values of all that makes samplers alike where the student jumps."""
    both = student.ddim, teacher.ddim
    starts = [jump.start for jump in student.jumps]
    places = sorted({*starts, *(jump.readout for jump in student.jumps)}, reverse=True)
    for name in ("num_steps", "prediction_type"):
        yield name, *(getattr(ddim, name) for ddim in both)
    for name, steps in (("timestep", starts), ("alpha", places), ("sigma", places)):
        for step in steps:
            yield f"{name}_{step}", *(getattr(ddim, f"{name}s")[step].item() for ddim in both)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _draw_both(
    teacher: Teacher, student: Student, count: int, seed: int, batch_size: int, report: Report
) -> tuple[Tensor, Tensor]:
    """(n, …) samples of the student and of the teacher, from equal noise."""

    def draw(sampler: Teacher | Student, before: int) -> Tensor:
        return draw_samples(
            sampler,
            count,
            seed,
            batch_size,
            progress=lambda done: report("sampling", before + done, 2 * count),
        )

    original = draw(teacher, 0)
    return draw(student, count), original


def _rows(samples: Tensor | ArrayLike) -> Array:
    """(N, d) in float64."""
    values = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else samples
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), -1) if array.ndim else array


def _reference_rows(reference: Tensor | ArrayLike, num_values: int) -> Array:
    rows = _rows(reference)
    if rows.ndim != 2 or rows.shape[1] != num_values or len(rows) < 2:
        raise InputError(
            "reference", f"must be at least 2 samples of {num_values} values", rows.shape
        )
    return rows


def _paired(samples: Pair) -> tuple[Measurement, Measurement]:
    """The mean squared difference with the normal interval of its standard error; the roots."""
    values = np.sum(samples.difference**2, axis=1)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = normal_interval(float(values.mean()), error)
    return mean, Measurement(*np.sqrt(astuple(mean)).tolist())


def _between_laws(
    samples: Pair, projected: Pair, bootstrap: Bootstrap
) -> tuple[Measurement, float, Measurement, float]:
    """Gaussian and sliced W2 between student and teacher, each with its floor."""
    return (
        bootstrap.paired(gaussian_fit_w2, samples),
        gaussian_fit_w2(*samples.halves_of_teacher()),
        bootstrap.paired(projected_w2, projected),
        projected_w2(*projected.halves_of_teacher()),
    )


def _direction_errors(
    samples: Pair, spectrum: Spectrum | None, basis: Array | None
) -> DirectionErrors | None:
    if spectrum is None or basis is None:
        return None
    squares = (samples.difference @ basis.T) ** 2
    standard_errors = squares.std(axis=0, ddof=1) / math.sqrt(len(squares))
    return DirectionErrors(
        tuple(spectrum.eigenvalues.tolist()),
        tuple(squares.mean(axis=0).tolist()),
        tuple(standard_errors.tolist()),
    )


def _to_reference(
    samples: Pair,
    projected: Pair,
    data: Array | None,
    directions: Array,
    seed: int,
    bootstrap: Bootstrap,
) -> ReferenceDistances | None:
    if data is None:
        return None
    number = min(len(data), len(samples.teacher))
    rng = np.random.default_rng([seed, _DATA])  # data may be in any order
    some = data[rng.permutation(len(data))[:number]] @ directions
    return ReferenceDistances(
        num_samples=len(data),
        student_gaussian_w2=bootstrap.independent(gaussian_fit_w2, samples.student, data),
        teacher_gaussian_w2=bootstrap.independent(gaussian_fit_w2, samples.teacher, data),
        student_sliced_w2=bootstrap.independent(projected_w2, projected.student[:number], some),
        teacher_sliced_w2=bootstrap.independent(projected_w2, projected.teacher[:number], some),
    )


def _in_features(
    features: FeatureExtractor | None,
    drawn: tuple[Tensor, Tensor],
    reference: Tensor | ArrayLike | None,
    batch_size: int,
    report: Report,
) -> list[Array]:
    """Features of the student's samples, of the teacher's and of the data, of what there is."""
    if features is None:
        return []
    sets = [*drawn]
    if reference is not None:
        data = torch.as_tensor(_rows(reference), dtype=torch.float32)
        sets.append(data.reshape(-1, *drawn[0].shape[1:]))
    total = sum(map(len, sets))
    return extract_features(
        features, sets, batch_size, lambda done: report("extracting features", done, total)
    )


def _feature_distances(sets: list[Array], bootstrap: Bootstrap) -> FeatureDistances | None:
    if not sets:
        return None
    student, teacher, *references = sets
    pair = Pair(student, teacher)
    return FeatureDistances(
        bootstrap.paired(_frechet, pair),
        _frechet(*pair.halves_of_teacher()),
        *(
            bootstrap.independent(_frechet, each, references[0]) if references else None
            for each in (student, teacher)
        ),
    )


def _frechet(first: Array, second: Array) -> float:
    return gaussian_fit_w2(first, second) ** 2
