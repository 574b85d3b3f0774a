"""The versions that a result was made with."""

from __future__ import annotations

TRAINING_LIBRARIES = ("torch", "diffusers", "accelerate")
"""What the result of a training depends on besides."""


def versions(*libraries: str) -> dict[str, str]:
    """The versions of opmerge, NumPy, Python and further libraries."""
    import platform
    from importlib.metadata import version

    return {
        **{name: version(name) for name in ("opmerge", "numpy", *libraries)},
        "python": platform.python_version(),
    }
