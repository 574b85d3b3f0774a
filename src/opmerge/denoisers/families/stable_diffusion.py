"""Stable Diffusion 1 and 2: a UNet on latents that reads the states of one text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Family, Rows, model_class
from opmerge.errors import InputError

TEXT = "encoder_hidden_states"
_UNREAD = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "addition_embed_type")


class StableDiffusion(Family):
    """diffusers' UNet2DConditionModel, told a text alone."""

    class_names = ("UNet2DConditionModel",)

    def network_class(self, config: Config, place: Path) -> Any:
        return model_class(config, place)

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        if (read := config.get("in_channels")) != (given := config.get("out_channels")):
            requirement = f"must be out_channels = {given}: inpainting, depth, instructions and"
            requirement += " upscaling, whose network reads an image beside z, are not distilled"
            remedy = "take the teacher that makes images of texts alone"
            raise InputError(f"{place}: in_channels", requirement, read, remedy)
        return super().sample_shape(config, place)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        for key in _UNREAD:
            if config.get(key) is not None:
                requirement = "must be null: what such a network is told beside a text is not known"
                raise InputError(f"{place}: {key}", requirement, config[key])
        return text_rows(config, place)

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        assert told is not None, "a network that reads texts is told one"
        return network(z, times, **told.rows)

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        device = pipeline.text_encoder.device
        return Condition({TEXT: pipeline.encode_prompt(list(prompts), device, 1, False)[0]})

    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        return self.encode_prompts(pipeline, [negative_prompt])


def text_rows(config: Config, place: Path) -> dict[str, Rows]:
    """The states of a text, of which a UNet reads as many features in each of its blocks."""
    features = config["cross_attention_dim"]
    if not isinstance(features, int):
        requirement = "must be one number, of all blocks"
        raise InputError(f"{place}: cross_attention_dim", requirement, features)
    return {TEXT: Rows((None, features))}
