"""Stable Diffusion 3: a transformer that reads states and pooled states of three text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Rows
from opmerge.denoisers.families.text import (
    POOLED,
    TEXT,
    TextFamily,
    encode,
    told_rows,
)


class SD3(TextFamily):
    """diffusers' SD3Transformer2DModel (Esser et al. 2024)."""

    class_names = ("SD3Transformer2DModel",)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        features, pooled = config["joint_attention_dim"], config["pooled_projection_dim"]
        return {TEXT: Rows((None, features)), POOLED: Rows((pooled,))}

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        return network(z, timestep=times, **told_rows(told))

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        options = dict(prompt_2=None, prompt_3=None, do_classifier_free_guidance=False)
        states, _, pooled, _ = encode(pipeline, prompts, ["max_sequence_length"], **options)
        return Condition({TEXT: states, POOLED: pooled})
