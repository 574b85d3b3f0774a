"""Sources of data: built-in samples, array files and folders of images, read in batches."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from opmerge.data import builtin
from opmerge.data.arrays import ARRAY_SUFFIXES, array_source
from opmerge.data.celeba import celeba_source, find_celeba, ignored_partition
from opmerge.data.images import folder_source
from opmerge.data.source import Progress, Source
from opmerge.errors import InputError
from opmerge.files import expand_home
from opmerge.settings.data import SourceOptions

__all__ = ["BUILTIN_SOURCES", "Progress", "Source", "SourceOptions", "open_source"]

EIGENVALUES_PREFIX = "eigenvalues:"

_BUILTIN: dict[str, Callable[[SourceOptions], Source]] = {
    "digits": builtin.digits,
    "patches": builtin.patches,
    "faces": builtin.faces,
}

BUILTIN_SOURCES = tuple(_BUILTIN)

_DEFAULT_OPTIONS = SourceOptions()


def open_source(
    argument: str,
    options: SourceOptions = _DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> Source:
    """Open ``digits``, ``patches``, ``faces``, a file of samples or a folder of images.

    A built-in name wins over a file of that name; write ``./digits`` for the file. Files are
    ``.npy``, ``.npz``, ``.csv``, ``.pt`` or ``.safetensors``. A folder that holds CelebA is
    recognised, and cropped and split as usual for CelebA; nothing else takes a ``split``.
    Progress is told the number of a folder's files checked so far.

    Raises:
        InputError: if there is no such source, if it does not hold samples, or if it has no
            partition and a split is asked for.
    """
    if argument.startswith(EIGENVALUES_PREFIX):
        raise InputError("data", "must be samples here, not eigenvalues", argument)
    path = None if argument in _BUILTIN else existing_path(argument)
    celeba = None if path is None else find_celeba(path)
    if celeba is not None and celeba.images:
        return celeba_source(celeba, options, progress)
    if options.split is not None:
        raise InputError(
            "split", f"must be left out: {argument} is not CelebA and has none", options.split
        )
    if path is None:
        return _BUILTIN[argument](options)
    if not path.is_dir():
        return array_source(path)
    source = folder_source(path, options, progress)
    if celeba is None:
        return source
    return replace(source, notes=(*source.notes, ignored_partition(celeba)))


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
        f"a {'/'.join(ARRAY_SUFFIXES)} file or a folder of images",
        argument or "nothing",
        f"did you mean {close[0]}?" if close else "",
    )
