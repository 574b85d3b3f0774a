"""The perceptron of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opmerge.denoisers.families.family import Config, Family
from opmerge.denoisers.networks import MLPDenoiser


class MLP(Family):
    """The perceptron of this package, for samples of any shape, with classes or without."""

    class_names = ("MLPDenoiser",)
    solves_linear_part = True

    def network_class(self, config: Config, place: Path) -> Any:
        return MLPDenoiser

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        return tuple(config["sample_shape"])

    def null_class(self, config: Config) -> int | None:
        return config.get("num_classes") if config.get("null_class") else None
