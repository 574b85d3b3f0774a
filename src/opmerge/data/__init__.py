"""Sources of data: built-in samples, array files and folders of images, read in batches."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from opmerge.arrays import Array
from opmerge.data.arrays import ARRAY_SUFFIXES, SAMPLE_SUFFIXES, array_folder_source, array_source
from opmerge.data.celeba import celeba_source, find_celeba, ignored_partition, refuse_archives
from opmerge.data.images import folder_source, image_suffixes, sample_files
from opmerge.data.prepared import is_prepared, open_prepared
from opmerge.data.source import Progress, Source, source_from_array, source_from_rows
from opmerge.errors import InputError, not_installed
from opmerge.files import expand_home
from opmerge.settings.data import SourceOptions

__all__ = ["BUILTIN_SOURCES", "Progress", "Source", "SourceOptions", "open_source"]

EIGENVALUES_PREFIX = "eigenvalues:"

_NUM_FACES = 100
_DEFAULT_OPTIONS = SourceOptions()


def open_source(
    argument: str, options: SourceOptions = _DEFAULT_OPTIONS, progress: Progress | None = None
) -> Source:
    """Open ``digits``, ``patches``, ``faces``, a file of samples, or a folder.

    A folder holds images, or arrays of a sample each, or is a prepared data set, whose samples are
    as the network reads them.
    A built-in name wins over a file of that name; write ``./digits`` for the file. Files are
    ``.npy``, ``.npz``, ``.csv``, ``.tsv``, ``.pt`` or ``.safetensors``. A folder that holds CelebA
    is recognised, and cropped and split as usual for CelebA; nothing else takes a ``split``.
    Progress is told the number of a folder's files checked so far.

    Raises:
        InputError: if there is no such source, if it does not hold samples, or if it has no
            partition and a split is asked for.
    """
    if argument.startswith(EIGENVALUES_PREFIX):
        raise InputError("data", "must be samples here, not eigenvalues", argument)
    path = None if argument in _BUILTIN else existing_path(argument)
    celeba, names = None, []
    if path is not None and path.is_dir():
        names = sample_files(path, (*image_suffixes(), *SAMPLE_SUFFIXES), progress)
        celeba = find_celeba(path, names)
    elif path is not None:
        refuse_archives(path.parent, [path.name])
    if celeba is not None and celeba.images:
        return celeba_source(celeba, options, progress)
    if options.split is not None:
        raise InputError(
            "split", f"must be left out: {argument} is not CelebA and has none", options.split
        )
    if path is None:
        return _BUILTIN[argument](options)
    if not path.is_dir():
        suffix = path.suffix.lower()
        if suffix not in ARRAY_SUFFIXES and suffix in image_suffixes():
            remedy = f"give the folder of images: {path.parent}"
            raise InputError(argument, "must be a folder of images, not one", path.name, remedy)
        return array_source(path)
    if is_prepared(path):
        return open_prepared(path).source()
    arrays = [name for name in names if name.lower().endswith(SAMPLE_SUFFIXES)]
    if arrays and not any(name.lower().endswith(image_suffixes()) for name in names):
        source = array_folder_source(path, arrays)
    else:
        source = folder_source(path, names, options, progress)
    if celeba is None:
        return source
    return replace(source, notes=(*source.notes, ignored_partition(celeba)))


def check_source(argument: str) -> None:
    """Refuse at once, with nothing of it read, a source of samples that is not there.

    Raises:
        InputError: as ``open_source``.
    """
    if argument not in _BUILTIN and not argument.startswith(EIGENVALUES_PREFIX):
        existing_path(argument)


def existing_path(argument: str) -> Path:
    """The path that ``argument`` names.

    Raises:
        InputError: if nothing is there; the message lists the choices and the closest name.
    """
    path = expand_home(argument)
    try:
        if argument and path.exists():
            return path
        beside = [str(path.with_name(entry.name)) for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        beside = []
    close = difflib.get_close_matches(argument, [*BUILTIN_SOURCES, *beside], n=1)
    raise InputError(
        "data",
        f"must be {', '.join(BUILTIN_SOURCES)}, {EIGENVALUES_PREFIX}0.5,2, "
        f"a {'/'.join(ARRAY_SUFFIXES)} file, a folder of images or arrays, or a prepared data set",
        argument or "nothing",
        f"did you mean {close[0]}?" if close else "",
    )


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
        return stored[key]


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
        raise not_installed("patches", "scikit-learn", "images") from error

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

    def rows(start: int, stop: int) -> Array:
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
        raise not_installed("faces", "scikit-image", "images") from error

    load: Callable[[], ArrayLike] = data.lfw_subset  # it carries no types itself
    # The other hundred images of the set are backgrounds.
    images = np.asarray(load(), dtype=np.float64)[:_NUM_FACES] * 2.0 - 1.0
    return source_from_array("faces", images, "pixel values from [0, 1] to [-1, 1]")


_BUILTIN: dict[str, Callable[[SourceOptions], Source]] = {
    "digits": digits,
    "patches": patches,
    "faces": faces,
}

BUILTIN_SOURCES = tuple(_BUILTIN)
"""Names of the sources that need no file."""
