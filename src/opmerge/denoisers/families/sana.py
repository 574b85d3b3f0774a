"""Sana: a linear transformer on deeply compressed latents (Xie et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Rows, config_of
from opmerge.denoisers.families.text import (
    MASK,
    TEXT,
    TextFamily,
    encode,
    told_rows,
)
from opmerge.errors import InputError

_DEFAULTS = ("clean_caption", "max_sequence_length", "complex_human_instruction")


class Sana(TextFamily):
    """diffusers' SanaTransformer2DModel.

    Its pipeline puts instructions before a prompt, and none before what it guides away from.
    """

    class_names = ("SanaTransformer2DModel",)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        if config["guidance_embeds"]:
            requirement = "must be false: Sana-Sprint, a few-step student itself, is not distilled"
            raise InputError(f"{place}: guidance_embeds", requirement, "true")
        return {TEXT: Rows((None, config["caption_channels"])), MASK: Rows((None,))}

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        scale = config_of(network).get("timestep_scale", 1.0)
        return network(z, timestep=times * scale, **told_rows(told))

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        states, mask, _, _ = encode(pipeline, prompts, _DEFAULTS, do_classifier_free_guidance=False)
        return Condition({TEXT: states, MASK: mask})

    @torch.no_grad()
    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        _, _, states, mask = encode(pipeline, [""], _DEFAULTS, negative_prompt=negative_prompt)
        return Condition({TEXT: states, MASK: mask})
