"""Features of samples: where the callable comes from, and what it must give."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from opmerge.data import Progress
from opmerge.errors import InputError

FeatureExtractor = Callable[[Tensor], Tensor | ArrayLike]
"""(N, *sample_shape) samples on the CPU to (N, F) features."""

Array = NDArray[np.float64]


def load_feature_extractor(name: str) -> FeatureExtractor:
    """The callable that ``package.module:name`` names; the current folder is looked through first.

    Raises:
        InputError: if the text has another form, the module cannot be imported, or it has no
            such callable.
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


def extract_features(
    features: FeatureExtractor, sets: Sequence[Tensor], batch_size: int, progress: Progress
) -> list[Array]:
    """(N_i, F) features of several sets of (N_i, …) samples.

    Progress is told the number of samples mapped so far, of all sets together.

    Raises:
        InputError: if the callable raises, or gives anything but finite real numbers in that
            shape with one F for all.
    """
    found, done = [], 0
    for samples in sets:
        rows = []
        for batch in torch.split(samples, batch_size):
            rows.append(_checked(_call(features, batch), len(batch)))
            done += len(batch)
            progress(done)
        found.append(rows)
    widths = sorted({part.shape[1] for rows in found for part in rows})
    if len(widths) > 1:
        raise InputError("features", "must give as many features for every batch", widths)
    return [np.concatenate(rows) for rows in found]


def _call(features: FeatureExtractor, batch: Tensor) -> NDArray[np.generic]:
    try:
        with torch.no_grad():
            given = features(batch)
        if isinstance(given, Tensor):
            real = given.double() if given.is_floating_point() else given  # NumPy has no bfloat16
            given = real.detach().cpu()
        array: NDArray[np.generic] = np.asarray(given)
    except Exception as error:  # a callable of the user's may raise anything
        raise InputError(
            "features", f"must map samples of shape {tuple(batch.shape)}: {_reason(error)}"
        ) from error
    return array


def _checked(array: NDArray[np.generic], count: int) -> Array:
    if array.ndim != 2 or len(array) != count or not array.shape[1]:
        raise InputError("features", f"must give shape ({count}, F)", array.shape)
    if array.dtype.kind not in "biuf":
        raise InputError("features", "must give real numbers", array.dtype)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("features", "must give finite numbers")
    return values


def _reason(error: Exception) -> str:
    """The first line of what was raised; torch's messages go on for pages."""
    return f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0]
