"""The versions that a result was made with."""

from __future__ import annotations

from functools import cache

TRAINING_LIBRARIES = ("torch", "diffusers", "accelerate")
"""What the result of a training depends on besides."""


def versions(*libraries: str) -> dict[str, str]:
    """The versions of opmerge, NumPy, Python and further libraries."""
    import platform

    return {
        **{name: _version(name) for name in ("opmerge", "numpy", *libraries)},
        "python": platform.python_version(),
    }


@cache
def _version(library: str) -> str:
    from importlib.metadata import version

    return version(library)
