"""Transformers that are told a class by adaptive layer norms (Peebles & Xie 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import LABELS, Condition, as_condition
from opmerge.denoisers.families.family import Config, Family, Rows
from opmerge.denoisers.networks import NULL_CLASS


class DiT(Family):
    """diffusers' DiT, also as diffusers before 0.29 saved it: a ``Transformer2DModel``.

    The index after its classes stands for none: training drops some labels, and DiTPipeline
    guides away from it. The config of a teacher that was trained here with every label says that
    none does. A network of a single class is told nothing.
    """

    class_names = ("DiTTransformer2DModel",)
    null_first = False
    adapted_layers = (nn.Linear,)

    def reads(self, config: Config) -> bool:
        name, norm = config.get("_class_name"), config.get("norm_type")
        return super().reads(config) or (name == "Transformer2DModel" and norm == "ada_norm_zero")

    def network_class(self, config: Config, place: Path) -> Any:
        return diffusers.DiTTransformer2DModel

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        needs = super().needs(config, place)
        return {} if needs == {LABELS: Rows(below=1)} else needs

    def null_class(self, config: Config) -> int | None:
        known = config.get("num_embeds_ada_norm")
        null = config.get(NULL_CLASS, known)
        return None if known == 1 or null is None else int(null)

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        if told is None:  # of a network with one class
            told = as_condition(torch.zeros(len(z), dtype=torch.long, device=z.device))
        return super().call(network, z, times, told)

    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        super().null_condition(pipeline, negative_prompt)
        label = self.null_class(pipeline.transformer.config)
        return None if label is None else as_condition(torch.tensor([label]))
