"""What linear students of a latent teacher decode to, beside their teacher."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opmerge.data import Progress, Source
from opmerge.distillation.sampling import image_grid
from opmerge.latents import Encoder, decode_latents
from opmerge.merging import evaluate
from opmerge.metrics import sliced_w2
from opmerge.problem import MergeRule
from opmerge.spectra import estimate_spectrum
from opmerge_studies.celeba.latent_plans import by_direction, contending_plans, latent_problem

__all__ = ["decoded_outputs", "picture"]

_RESPONSE = 0.01  # of a latent's deviation: errors below it are decoded at this size
_BRIGHTEST = 0.995  # quantile of an error map that is drawn white

Array = NDArray[np.float64]


def decoded_outputs(
    encoder: Encoder,
    latents: Source,
    num_steps: int,
    merge_times: Sequence[float],
    merge_rule: MergeRule,
    num_samples: int,
    num_shown: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Teacher and students, linear in the eigenbasis of the latents, decoded from equal noise.

    The teacher's latent is ``mean + Σ_k √n_T P_k ε_k v_k`` and a student's has ``P_k exp(e_k)`` in
    its place. Where their difference δ is below a hundredth of a latent's deviation, c δ of that
    size is decoded instead, and what it changes divided by c: float32 does not resolve the rest.
    ``progress`` is called with the number of plans decoded so far, over all merge times.

    Returns:
        ``rows``, one a merge time and plan, with the paired root mean square in a pixel and its
        interval over samples; ``pictures``, PNGs in base64 with the factor of each error map.
    """
    spectrum = estimate_spectrum(latents)
    assert spectrum.basis is not None, "of samples"
    assert spectrum.mean is not None, "of samples"
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_samples, spectrum.num_dimensions)) @ spectrum.basis.T
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for merge_time in merge_times:
        problem = latent_problem(spectrum.eigenvalues, num_steps, merge_time, merge_rule)

        def directions(values: Array, problem: Any = problem) -> Array:
            return by_direction(problem, values, spectrum.eigenvalues)

        clean = noise * np.exp(directions(problem.teacher.log_output))
        teacher = clean @ spectrum.basis + spectrum.mean
        original = _decode(encoder, teacher)
        shown = original[:num_shown]
        pictures.append(
            {"merge_time": merge_time, "plan": "teacher", "factor": None, "png": picture(shown)}
        )
        for name, plan in contending_plans(problem).items():
            excess = directions(evaluate(problem, plan).excess)
            difference = (clean * np.expm1(excess)) @ spectrum.basis
            error = _response(encoder, teacher, difference, original)
            rows.append(
                {
                    "merge_time": merge_time,
                    "plan": name,
                    "latent_rms": float(np.sqrt(np.mean(np.sum(difference**2, axis=1)))),
                    **_paired(error),
                    "sliced_w2": sliced_w2(_rows(original), _rows(original) + _rows(error)),
                }
            )
            pictures += _pictures(merge_time, name, shown, error[:num_shown])
            if progress is not None:
                progress(len(rows))
    return {"rows": rows, "pictures": pictures, "pixel_rms": _rms(original - original.mean(dim=0))}


def picture(images: Tensor) -> str:
    """Images in a row, as a PNG in base64."""
    stream = io.BytesIO()
    image_grid(images.float(), len(images)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _decode(encoder: Encoder, latents: Array) -> Tensor:
    return torch.cat(list(decode_latents(encoder, latents))).double()


def _response(encoder: Encoder, teacher: Array, difference: Array, original: Tensor) -> Tensor:
    """What a difference of latents changes in the decoded images."""
    size, spread = np.sqrt(np.mean(difference**2)), np.std(teacher, axis=0)
    scale = max(1.0, _RESPONSE * float(np.sqrt(np.mean(spread**2))) / float(size))
    return (_decode(encoder, teacher + scale * difference) - original) / scale


def _pictures(merge_time: float, name: str, teacher: Tensor, error: Tensor) -> list[dict[str, Any]]:
    """The student's images, and where they differ: black where equal, white where most."""
    size = error.abs().mean(dim=1, keepdim=True)
    factor = 2.0 / max(float(size.flatten().quantile(_BRIGHTEST)), 1e-300)
    place = {"merge_time": merge_time, "plan": name}
    return [
        {**place, "factor": None, "png": picture(teacher + error)},
        {**place, "factor": factor, "png": picture(size * factor - 1)},
    ]


def _paired(error: Tensor) -> dict[str, float]:
    """Root mean square of a pixel's error, and its normal interval over samples."""
    squares = _rows(error) ** 2
    each = squares.mean(axis=1)
    mean, reach = each.mean(), 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    low, high = max(mean - reach, 0.0), mean + reach
    return {
        "paired_rms": float(np.sqrt(mean)),
        "paired_low": float(np.sqrt(low)),
        "paired_high": float(np.sqrt(high)),
    }


def _rows(images: Tensor) -> Array:
    found: Array = images.flatten(1).numpy()
    return found


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
