"""How far a student is from its teacher, and both from data, with the error of the measurement."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from opmerge.checks import check_whole
from opmerge.data import Progress
from opmerge.distillation.models import Student, Teacher
from opmerge.distillation.sampling import draw_samples
from opmerge.errors import InputError
from opmerge.metrics import gaussian_fit_w2, projected_w2, random_directions
from opmerge.spectra import Spectrum

__all__ = [
    "DirectionErrors",
    "FeatureDistances",
    "FeatureExtractor",
    "Measurement",
    "ReferenceDistances",
    "StudentEvaluation",
    "evaluate_student",
    "load_feature_extractor",
]

FeatureExtractor = Callable[[Tensor], Tensor | ArrayLike]
"""(N, *sample_shape) samples on the CPU to (N, F) features."""

Array = NDArray[np.float64]

_NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %


@dataclass(frozen=True)
class Measurement:
    """A number and the interval that covers the truth in 95 of 100 repetitions.

    Args:
        value: the estimate.
        low, high: ends of the interval; None if it was not asked for.
    """

    value: float
    low: float | None
    high: float | None


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


@dataclass(frozen=True)
class ReferenceDistances:
    """Distances to data, not squared; the samples are independent of the data.

    Args:
        num_samples: how many samples of the data were given.
        student_gaussian_w2, teacher_gaussian_w2: between Gaussian fits.
        student_sliced_w2, teacher_sliced_w2: over as many samples as there are of both.
    """

    num_samples: int
    student_gaussian_w2: float
    teacher_gaussian_w2: float
    student_sliced_w2: float
    teacher_sliced_w2: float


@dataclass(frozen=True)
class FeatureDistances:
    """Fréchet distances: squared W2 between Gaussian fits of features (Heusel et al. 2017).

    Args:
        student_to_teacher: of samples from equal noise.
        floor: of two independent halves of the teacher's samples.
        student_to_reference, teacher_to_reference: to data, where data were given.
    """

    student_to_teacher: float
    floor: float
    student_to_reference: float | None
    teacher_to_reference: float | None


@dataclass(frozen=True)
class StudentEvaluation:
    """What was measured; see ``evaluate_student``.

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
    progress: Progress | None = None,
) -> StudentEvaluation:
    """Measure a student against its teacher on samples from equal noise.

    All intervals are of 95 %. That of the paired error is normal, ``mean ± 1.96 s/√n``, and that
    of its root is the root of it. Those of the distances are basic (reverse percentile)
    bootstrap intervals over pairs, cut at 0; they cost ``num_resamples`` times ``n d² + d³``.

    A distance estimated from n samples is above 0 even between equal laws, by more the more
    dimensions there are. The floors say by how much: they are the same distances between two
    independent halves, n/2 samples each, of the teacher's own. Equal noise makes the distance
    of student and teacher smaller than that (0 for equal samplers), so one below the floor
    still tells students apart; one to data does not. The bootstrap presumes a distance well
    above 0: of samplers that differ although their laws are equal it gives a small one, whose
    interval leaves 0 out.

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
        num_resamples: bootstrap resamples; 0 for no intervals of distances.
        progress: called with the number of samples drawn so far, out of 2n.

    Raises:
        InputError: if a number is out of range, or the shapes of teacher, student, spectrum,
            reference or features do not fit.
    """
    if check_whole("num_samples", num_samples) < 4:
        raise InputError("num_samples", "must be >= 4", num_samples)
    if check_whole("num_resamples", num_resamples) < 0:
        raise InputError("num_resamples", "must be >= 0", num_resamples)
    if student.num_classes != teacher.num_classes:
        raise InputError(
            "student",
            f"must have {teacher.num_classes} classes, as the teacher",
            student.num_classes,
        )
    if student.sample_shape != teacher.sample_shape:
        raise InputError(
            "student", f"must have samples of shape {teacher.sample_shape}", student.sample_shape
        )
    drawn_teacher = draw_samples(teacher, num_samples, seed, batch_size, progress=progress)
    second_half = None if progress is None else lambda done: progress(num_samples + done)
    drawn_student = draw_samples(student, num_samples, seed, batch_size, progress=second_half)
    samples = _Pair(_rows(drawn_student), _rows(drawn_teacher))
    data = None if reference is None else _reference_rows(reference, samples.teacher.shape[1])
    directions = random_directions(samples.teacher.shape[1], num_projections, seed)
    projected = _Pair(samples.student @ directions, samples.teacher @ directions)
    rng = np.random.default_rng(seed)
    paired_error = _mean_interval(np.sum(samples.difference**2, axis=1))
    return StudentEvaluation(
        num_samples=num_samples,
        seed=seed,
        paired_error=paired_error,
        paired_rms=_root(paired_error),
        gaussian_w2=_bootstrap(gaussian_fit_w2, samples, num_resamples, rng),
        gaussian_w2_floor=gaussian_fit_w2(*samples.halves_of_teacher()),
        sliced_w2=_bootstrap(projected_w2, projected, num_resamples, rng),
        sliced_w2_floor=projected_w2(*projected.halves_of_teacher()),
        directions=None if spectrum is None else _direction_errors(samples, spectrum),
        reference=None
        if data is None
        else _to_reference(samples, projected, data, directions, rng),
        features=None
        if features is None
        else _feature_distances(features, drawn_student, drawn_teacher, reference, batch_size),
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """(n, d) rows of the student and of the teacher, from equal noise."""

    student: Array
    teacher: Array

    @property
    def difference(self) -> Array:
        return self.student - self.teacher

    def resampled(self, rows: NDArray[np.int64]) -> _Pair:
        return _Pair(self.student[rows], self.teacher[rows])

    def halves_of_teacher(self) -> tuple[Array, Array]:
        half = len(self.teacher) // 2
        return self.teacher[:half], self.teacher[half : 2 * half]


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


def _mean_interval(values: Array) -> Measurement:
    """The mean, and the normal interval of its standard error."""
    mean = float(values.mean())
    reach = _NORMAL_QUANTILE * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Measurement(mean, max(mean - reach, 0.0), mean + reach)


def _root(squared: Measurement) -> Measurement:
    assert squared.low is not None
    assert squared.high is not None
    return Measurement(*(math.sqrt(end) for end in (squared.value, squared.low, squared.high)))


def _bootstrap(
    distance: Callable[[Array, Array], float],
    pair: _Pair,
    num_resamples: int,
    rng: np.random.Generator,
) -> Measurement:
    """A distance and its basic bootstrap interval, which takes the bias off that it has."""
    value = distance(pair.student, pair.teacher)
    if not num_resamples:
        return Measurement(value, None, None)
    size = len(pair.teacher)
    replicates = []
    for _ in range(num_resamples):
        again = pair.resampled(rng.integers(size, size=size))
        replicates.append(distance(again.student, again.teacher))
    low, high = 2 * value - np.quantile(replicates, [0.975, 0.025])
    return Measurement(value, max(float(low), 0.0), max(float(high), 0.0))


def _direction_errors(samples: _Pair, spectrum: Spectrum) -> DirectionErrors:
    num_values = samples.teacher.shape[1]
    if spectrum.basis is None or spectrum.basis.shape[1] != num_values:
        raise InputError(
            "spectrum",
            f"must have eigenvectors of {num_values} values, as a sample has",
            "none" if spectrum.basis is None else spectrum.basis.shape,
            "estimate it from the data",
        )
    squares = (samples.difference @ spectrum.basis.T) ** 2
    standard_errors = squares.std(axis=0, ddof=1) / math.sqrt(len(squares))
    return DirectionErrors(
        tuple(spectrum.eigenvalues.tolist()),
        tuple(squares.mean(axis=0).tolist()),
        tuple(standard_errors.tolist()),
    )


def _to_reference(
    samples: _Pair, projected: _Pair, data: Array, directions: Array, rng: np.random.Generator
) -> ReferenceDistances:
    number = min(len(data), len(samples.teacher))
    some = data[rng.permutation(len(data))[:number]] @ directions  # data may be in any order
    return ReferenceDistances(
        num_samples=len(data),
        student_gaussian_w2=gaussian_fit_w2(samples.student, data),
        teacher_gaussian_w2=gaussian_fit_w2(samples.teacher, data),
        student_sliced_w2=projected_w2(projected.student[:number], some),
        teacher_sliced_w2=projected_w2(projected.teacher[:number], some),
    )


def _feature_distances(
    features: FeatureExtractor,
    student: Tensor,
    teacher: Tensor,
    reference: Tensor | ArrayLike | None,
    batch_size: int,
) -> FeatureDistances:
    pair = _Pair(_extract(features, student, batch_size), _extract(features, teacher, batch_size))
    to_data: tuple[float | None, float | None] = (None, None)
    if reference is not None:
        shaped = torch.as_tensor(np.asarray(reference), dtype=torch.float32)
        data = _extract(features, shaped.reshape(-1, *teacher.shape[1:]), batch_size)
        to_data = gaussian_fit_w2(pair.student, data) ** 2, gaussian_fit_w2(pair.teacher, data) ** 2
    return FeatureDistances(
        gaussian_fit_w2(pair.student, pair.teacher) ** 2,
        gaussian_fit_w2(*pair.halves_of_teacher()) ** 2,
        *to_data,
    )


def _extract(features: FeatureExtractor, samples: Tensor, batch_size: int) -> Array:
    rows = []
    with torch.no_grad():
        for batch in torch.split(samples, batch_size):
            found = features(batch)
            array = found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
            if array.ndim != 2 or len(array) != len(batch):
                raise InputError("features", f"must give shape ({len(batch)}, F)", array.shape)
            rows.append(array.astype(np.float64))
    return np.concatenate(rows)


def load_feature_extractor(name: str) -> FeatureExtractor:
    """The callable that ``package.module:name`` names.

    Raises:
        InputError: if the text has another form, the module cannot be imported, or it has no
            such callable.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise InputError("features", "must have the form package.module:name", name)
    try:
        extractor = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError("features", f"cannot be imported ({error})", name) from error
    if not callable(extractor):
        raise InputError("features", "must name a callable", name)
    found: FeatureExtractor = extractor
    return found
