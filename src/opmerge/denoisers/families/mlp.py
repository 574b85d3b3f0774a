"""The perceptron of this package, for samples of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opmerge.denoisers.families import Config, Family
from opmerge.denoisers.networks import MLPDenoiser


class MLP(Family):
    """``MLPDenoiser``, unconditional or class-conditional."""

    class_names = ("MLPDenoiser",)

    def network_class(self, config: Config, place: Path) -> Any:
        """See ``Family``."""
        return MLPDenoiser

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        """See ``Family``."""
        return tuple(config["sample_shape"])
