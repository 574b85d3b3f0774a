"""Samples that are there without a download: digits of our own, photos of ordinary packages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from opmerge.data.source import Source, source_from_array, source_from_rows
from opmerge.errors import InputError
from opmerge.settings.data import SourceOptions

_NUM_FACES = 100


def digits(options: SourceOptions) -> Source:
    """The 1797 handwritten digits that scikit-learn ships too, 8 × 8, in [−1, 1].

    Test set of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI Machine
    Learning Repository, CC BY 4.0).
    """
    images = _read_digits("images") / 8.0 - 1.0
    return source_from_array("digits", images, "pixel values from [0, 16] to [-1, 1]")


def digits_labels() -> NDArray[np.int64]:
    """(1797,) the digit that each of ``digits`` shows."""
    return _read_digits("labels").astype(np.int64)


def _read_digits(key: str) -> NDArray[np.uint8]:
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        values: NDArray[np.uint8] = stored[key]
        return values


def patches(options: SourceOptions) -> Source:
    """Square grey patches of scikit-learn's photos ``china`` and ``flower``, in [−1, 1].

    Grey is the ITU-R 601 luma, 0.299 R + 0.587 G + 0.114 B, the grey of image folders too.
    Patches start at every ``options.stride``-th pixel of both axes, row by row.

    Raises:
        InputError: if a patch does not fit into the photos, or scikit-learn is not installed.
    """
    from PIL import Image

    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise _missing("patches", "scikit-learn") from error

    size, stride = options.patch_size, options.stride
    photos = np.array(  # of one size
        [
            np.asarray(Image.fromarray(load_sample_image(name)).convert("L"))
            for name in ("china.jpg", "flower.jpg")
        ]
    )
    limit = min(photos.shape[1:])
    if size > limit:
        raise InputError("patch_size", f"must be <= {limit}, the height of the photos", size)
    windows = sliding_window_view(photos, (size, size), (1, 2))[:, ::stride, ::stride]
    grid = windows.shape[:3]

    def rows(start: int, stop: int) -> NDArray[np.float64]:
        return windows[np.unravel_index(np.arange(start, stop), grid)] / 127.5 - 1.0

    return source_from_rows(
        "patches",
        (size, size),
        math.prod(grid),
        rows,
        scaling="grey (ITU-R 601 luma) pixel values from [0, 255] to [-1, 1]",
        notes=(f"{size} x {size} patches of 2 photos at stride {stride}",),
    )


def faces(options: SourceOptions) -> Source:
    """The 100 grey faces of scikit-image's ``lfw_subset``, 25 × 25, in [−1, 1].

    Raises:
        InputError: if scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise _missing("faces", "scikit-image") from error

    load: Callable[[], ArrayLike] = data.lfw_subset  # it carries no types itself
    # The other hundred images of the set are backgrounds.
    images = np.asarray(load(), dtype=np.float64)[:_NUM_FACES] * 2.0 - 1.0
    return source_from_array("faces", images, "pixel values from [0, 1] to [-1, 1]")


def _missing(source: str, package: str) -> InputError:
    remedy = "pip install 'opmerge[images]'"
    return InputError(source, f"needs {package}, which is not installed", remedy=remedy)
