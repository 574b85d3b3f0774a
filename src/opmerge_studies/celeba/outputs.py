"""What linear students of a latent teacher decode to, beside their teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opmerge.data import Progress, Source
from opmerge.latents import Encoder, decode_latents
from opmerge.merging import evaluate
from opmerge.metrics import sliced_w2
from opmerge.settings.types import MergeRule
from opmerge.spectra import estimate_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.celeba.plans import by_direction, contending_plans
from opmerge_studies.real_networks.execution import picture
from opmerge_studies.shared.strategies import cosine_problem

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
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """Teacher and students, linear in the eigenbasis of the latents, decoded from equal noise.

    The teacher's latent is ``mean + Σ_k √n_T P_k ε_k v_k`` and a student's has ``P_k exp(e_k)`` in
    its place. Where their difference δ is below a hundredth of a latent's deviation, c δ of that
    size is decoded instead, and what it changes divided by c: float32 does not resolve the rest.
    ``progress`` is called with the number of plans decoded so far, over all merge times.

    Returns:
        ``rows``, one a merge time and plan, with the paired root mean square in a pixel and its
        interval over samples; ``pictures``, PNGs in base64 with the factor of each error map;
        ``pixel_rms``, the deviation of the teacher's pixels.
    """
    spectrum = estimate_spectrum(latents)
    assert spectrum.basis is not None, "of samples"
    assert spectrum.mean is not None, "of samples"
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_samples, spectrum.num_dimensions)) @ spectrum.basis.T
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for time in merge_times:
        problem = cosine_problem(spectrum.eigenvalues, num_steps, GradientFlow(time), merge_rule)
        log_output = by_direction(problem, problem.teacher.log_output, spectrum.eigenvalues)
        clean = noise * np.exp(log_output)
        teacher = clean @ spectrum.basis + spectrum.mean
        original = _decode(encoder, teacher)
        shown = original[:num_shown]
        pictures.append(_picture(time, "teacher", shown))
        for name, plan in contending_plans(problem).items():
            excess = by_direction(problem, evaluate(problem, plan).excess, spectrum.eigenvalues)
            difference = (clean * np.expm1(excess)) @ spectrum.basis
            error = _response(encoder, teacher, difference, original)
            rows.append(
                {
                    "merge_time": time,
                    "plan": name,
                    "latent_rms": float(np.sqrt(np.mean(np.sum(difference**2, axis=1)))),
                    **_paired(error),
                    "sliced_w2": sliced_w2(_rows(original), _rows(original) + _rows(error)),
                }
            )
            # an error map is black where images are equal, white where they differ most
            size = error[:num_shown].abs().mean(dim=1, keepdim=True)
            factor = 2.0 / max(float(size.flatten().quantile(_BRIGHTEST)), 1e-300)
            pictures += [
                _picture(time, name, shown + error[:num_shown]),
                _picture(time, name, size * factor - 1, factor),
            ]
            progress(len(rows))
    spread = original - original.mean(dim=0)
    return {"rows": rows, "pictures": pictures, "pixel_rms": float(spread.square().mean().sqrt())}


def _picture(time: float, plan: str, images: Tensor, factor: float | None = None) -> dict[str, Any]:
    return {"merge_time": time, "plan": plan, "factor": factor, "png": picture(images)}


def _decode(encoder: Encoder, latents: Array) -> Tensor:
    return torch.cat(list(decode_latents(encoder, latents))).double()


def _response(encoder: Encoder, teacher: Array, difference: Array, original: Tensor) -> Tensor:
    """What a difference of latents changes in the decoded images."""
    size, spread = np.sqrt(np.mean(difference**2)), np.std(teacher, axis=0)
    scale = max(1.0, _RESPONSE * float(np.sqrt(np.mean(spread**2))) / float(size))
    return (_decode(encoder, teacher + scale * difference) - original) / scale


def _paired(error: Tensor) -> dict[str, float]:
    """Root mean square of a pixel's error, and its normal interval over samples."""
    each = (_rows(error) ** 2).mean(axis=1)
    reach = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    ends = np.maximum(each.mean() + np.array([0.0, -reach, reach]), 0.0)
    names = ("paired_rms", "paired_low", "paired_high")
    return dict(zip(names, np.sqrt(ends).tolist(), strict=True))


def _rows(images: Tensor) -> Array:
    rows: Array = images.flatten(1).numpy()
    return rows
