"""Transformers that are told a class by adaptive layer norms (Peebles & Xie 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from opmerge.denoisers.denoiser import Condition, as_condition
from opmerge.denoisers.families.family import Config, Family


class DiT(Family):
    """diffusers' DiT, also as diffusers before 0.29 saved it: a ``Transformer2DModel``.

    The index after its classes stands for none: training drops some labels, and DiTPipeline
    guides away from it.
    """

    class_names = ("DiTTransformer2DModel",)
    null_first = False
    adapted_layers = (nn.Linear,)

    def reads(self, config: Config) -> bool:
        name, norm = config.get("_class_name"), config.get("norm_type")
        return super().reads(config) or (name == "Transformer2DModel" and norm == "ada_norm_zero")

    def network_class(self, config: Config, place: Path) -> Any:
        return diffusers.DiTTransformer2DModel

    def null_class(self, config: Config) -> int | None:
        return None if (known := config.get("num_embeds_ada_norm")) is None else int(known)

    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        super().null_condition(pipeline, negative_prompt)
        label = self.null_class(pipeline.transformer.config)
        return None if label is None else as_condition(torch.tensor([label]))
