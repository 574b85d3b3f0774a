"""Transformers that are told a class by adaptive layer norms (Peebles & Xie 2023, DiT)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DiTTransformer2DModel

from opmerge.denoisers.families import Config, Family


class DiT(Family):
    """diffusers' DiT, also as diffusers before 0.29 saved it: a ``Transformer2DModel``."""

    def reads(self, config: Config) -> bool:
        """See ``Family``."""
        name, norm = config.get("_class_name"), config.get("norm_type")
        is_old = name == "Transformer2DModel" and norm == "ada_norm_zero"
        return is_old or name == "DiTTransformer2DModel"

    def network_class(self, config: Config, place: Path) -> Any:
        """See ``Family``."""
        return DiTTransformer2DModel
