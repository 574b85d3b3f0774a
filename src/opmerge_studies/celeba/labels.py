"""Short names for what a study was given: a built-in by its name, a path by its tail."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from opmerge.errors import InputError
from opmerge.files import expand_home

__all__ = ["absolute", "unique_labels"]


def unique_labels(argument: str, names: Sequence[str], built_in: Collection[str]) -> dict[str, str]:
    """A label for each name, no two of them equal.

    A built-in's is its name. A path's is its shortest tail that neither another path nor a
    built-in has: ``a/vae`` and ``b/vae``, or ``vae`` where there is one.

    Args:
        argument: what the names were given as.
        names: of built-ins, or paths.
        built_in: the names that are no paths.

    Raises:
        InputError: if there are none, or two of them are the same.
    """
    paths = {name: absolute(name).parts for name in names if name not in built_in}
    if not names or len(set(names)) < len(names) or len(set(paths.values())) < len(paths):
        raise InputError(argument, "must be given, each of them once", names)
    taken = [*((name,) for name in built_in), *paths.values()]
    return {name: _shortest_tail(paths[name], taken) if name in paths else name for name in names}


def absolute(path: str) -> Path:
    """The path from the root, without ``..``, its links not followed."""
    return Path(os.path.abspath(expand_home(path)))  # noqa: PTH100 - pathlib keeps ".."


def _shortest_tail(parts: tuple[str, ...], taken: Sequence[tuple[str, ...]]) -> str:
    others = [other for other in taken if other != parts]
    tails = (parts[start:] for start in reversed(range(len(parts))))
    tail = next(tail for tail in tails if all(other[-len(tail) :] != tail for other in others))
    return Path(*tail).as_posix()
