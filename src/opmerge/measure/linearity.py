"""How linear a teacher is: the premise of the theory, measured step by step.

The theory's teacher is ``x̂(z_t) = m + Σ_k α_t λ_k / n_t v_kᵀ(z_t - α_t m) v_k``. A real network's
x̂ has a part that no linear map of z_t explains, and what a plan does to that part is not foretold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from opmerge.arrays import Array
from opmerge.checks import check_count
from opmerge.denoisers.denoiser import Denoiser
from opmerge.denoisers.inputs import Batch, DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.loop import Draws, seeded_generator
from opmerge.spectra import Spectrum

LINEAR = 0.9  # least R² at which a step is called linear
_SILENT = 0.01  # variance of x̂, as a share of the data's, below which a step says nothing
_STEPS = 8
_SAMPLES_PER_VALUE = 8
_BATCH = 256


@dataclass(frozen=True)
class Linearity:
    """Share of the teacher's x̂ that a linear map explains, at several steps t, descending.

    Args:
        affine: R² of the best affine map of z_t, found on one half of the samples and scored on
            the other.
        spectral: R² of the theory's denoiser, which follows from the spectrum alone.
        signal: variance of x̂ as a share of the variance of the data.
        expected: what that is of the theory's denoiser: 0 where z_t says nothing of x_0.
    """

    steps: tuple[int, ...]
    affine: tuple[float, ...]
    spectral: tuple[float, ...]
    signal: tuple[float, ...]
    expected: tuple[float, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Steps where a plan should not be trusted; those with hardly any x̂ do not count.

        Nor do those where there should be none, as at zero signal-to-noise ratio, while what there
        is stays small: the share of it that a map explains is then no measure of anything.
        """
        columns = (self.affine, self.spectral, self.signal, self.expected or self.signal)
        rows = zip(self.steps, *columns, strict=True)
        told = [row[:3] for row in rows if row[3] > (_SILENT if row[4] > _SILENT else 1 - LINEAR)]
        curved = [(step, affine) for step, affine, _ in told if affine < LINEAR]
        other = [(step, spectral) for step, affine, spectral in told if spectral < LINEAR <= affine]
        notes = []
        if curved:
            notes.append(
                "the teacher is not linear, as the theory takes it to be, at the steps "
                f"{_listed(curved)} (in brackets: what the best linear map explains); merges that "
                "start there may come out otherwise than predicted"
            )
        if other:
            notes.append(
                "the teacher is linear, but not as this spectrum says, at the steps "
                f"{_listed(other)} (in brackets: what the spectrum's denoiser explains); it may "
                "have been trained too little, or on data of another kind or scale, and merges "
                "that start there may come out otherwise than predicted"
            )
        return tuple(notes)


def _listed(scores: Sequence[tuple[int, float]]) -> str:
    """``8 (37%), 5 (0%)``; below 0 a map explains nothing."""
    return ", ".join(f"{step} ({max(score, 0):.0%})" for step, score in scores)


def linearity(
    teacher: Teacher,
    inputs: DataInputs,
    spectrum: Spectrum,
    steps: Sequence[int] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Linearity:
    """R² of the teacher's x̂ against linear maps of z_t, on forward-noised data.

    ``R² = 1 - Σ|x̂ - prediction|² / Σ|x̂ - mean|²`` over the half of the samples that the affine
    map was not fitted to. It is 1 for a linear teacher; below 0 the mean predicts better. The
    inputs are in the teacher's units, and the spectrum, with eigenvectors, is theirs.

    Args:
        steps: to look at; eight from T down unless given.
        num_samples: >= 2 D + 2 for D values of a sample; unless given 8 D, and 2048 at least.
        progress: called with the number of steps looked at, and of all.

    Raises:
        InputError: if the spectrum does not fit the teacher, or there are too few samples.
    """
    size = int(np.prod(teacher.sample_shape))
    basis, mean = require_basis(spectrum, size)
    count = _default_samples(teacher) if num_samples is None else num_samples
    if check_count("num_samples", count) < 2 * size + 2:
        raise InputError("num_samples", f"must be >= {2 * size + 2} for {size} values", count)
    ddim = teacher.ddim
    chosen = tuple(sorted(_default_steps(teacher) if steps is None else steps, reverse=True))
    scores = []
    for number, step in enumerate(chosen):
        progress(number, len(chosen))
        generator = seeded_generator(ddim.alphas.device, seed, step)
        batch = inputs.draw(ddim, [step], Draws(generator, count, slice(0, count)))
        x0, z = denoise(teacher.denoiser, batch, step), as_rows(batch.z)
        fit, held = slice(0, count // 2), slice(count // 2, count)
        centred = z[fit].mean(axis=0), x0[fit].mean(axis=0)
        slope = np.linalg.lstsq(z[fit] - centred[0], x0[fit] - centred[1], rcond=None)[0]
        affine = centred[1] + (z[held] - centred[0]) @ slope
        spectral = _spectral_denoiser(ddim, step, z[held], spectrum, basis, mean)
        total = float(((x0[held] - x0[held].mean(axis=0)) ** 2).sum())
        left = [float(((x0[held] - guess) ** 2).sum()) for guess in (affine, spectral)]
        r2 = [1.0 - part / total if total > 0 else 1.0 for part in left]
        shares = [((x - x.mean(axis=0)) ** 2).sum() / len(x) for x in (x0[held], spectral)]
        scores.append((*r2, *(float(share) / spectrum.trace for share in shares)))
    return Linearity(chosen, *(tuple(column) for column in zip(*scores, strict=True)))


def linearity_evaluations(teacher: Teacher) -> int:
    """Network evaluations of one sample that ``linearity`` takes unless told otherwise."""
    passes = sum(teacher.evaluations(step, step - 1) for step in _default_steps(teacher))
    return _default_samples(teacher) * passes


def _default_samples(teacher: Teacher) -> int:
    return max(2048, _SAMPLES_PER_VALUE * int(np.prod(teacher.sample_shape)))


def _default_steps(teacher: Teacher) -> list[int]:
    """Eight from T down, or all."""
    evenly = np.linspace(teacher.num_steps, 1, min(_STEPS, teacher.num_steps))
    return [int(step) for step in evenly.round()]


def denoise(denoiser: Denoiser, batch: Batch, step: int) -> Array:
    """(N, D) a denoiser's x̂ of the states of a batch, all at one step; no gradient."""
    with torch.no_grad():
        estimates = [denoiser(part.z, step, part.condition).x0 for part in in_parts(batch)]
    return as_rows(torch.cat(estimates))


def in_parts(batch: Batch) -> list[Batch]:
    """Parts of a large batch that a network can read at once."""
    return batch.chunk(-(-len(batch.z) // _BATCH))


def require_basis(spectrum: Spectrum, size: int) -> tuple[Array, Array]:
    """(k, D) eigenvectors and (D,) mean of a spectrum, which must be of samples with D values."""
    basis = spectrum.basis
    if basis is None or spectrum.mean is None or basis.shape[1] != size:
        raise InputError(
            "spectrum",
            f"must have eigenvectors of {size} values, as a sample has",
            "none" if basis is None else basis.shape,
            "estimate it from the data",
        )
    return basis, spectrum.mean


def _spectral_denoiser(
    ddim: DDIM, step: int, z: Array, spectrum: Spectrum, basis: Array, mean: Array
) -> Array:
    """The optimal linear denoiser; what the eigenvectors do not cover is isotropic."""
    alpha, sigma = float(ddim.alphas[step]), float(ddim.sigmas[step])

    def gain(eigenvalues: Array | float) -> Array | float:
        return alpha * eigenvalues / (alpha**2 * eigenvalues + sigma**2)

    centred = z - alpha * mean
    rest = gain(spectrum.remaining_trace / max(spectrum.remaining_dimensions, 1))
    along = centred @ basis.T * (gain(spectrum.eigenvalues) - rest)
    return mean + rest * centred + along @ basis


def as_rows(values: Tensor | ArrayLike) -> Array:
    """(N, D) in float64, off the device."""
    given = values.detach().cpu().double() if isinstance(values, Tensor) else values
    rows = np.asarray(given, dtype=np.float64)
    return rows.reshape(len(rows), -1) if rows.ndim else rows
