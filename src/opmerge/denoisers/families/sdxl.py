"""Stable Diffusion XL: a UNet that is also told a pooled text and where its image was cut out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Rows
from opmerge.denoisers.families.stable_diffusion import (
    check_null,
    check_reads_no_image,
    unet_default_guidance,
    unet_guidance_rows,
    unet_text_rows,
    unet_with_guidance,
)
from opmerge.denoisers.families.text import TEXT, TextFamily, encode, told_rows

_ADDED, _TIMES = "text_embeds", "time_ids"
_UNREAD = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
_NUM_TIMES = 6  # height and width of the whole image, top and left of the cut, its height and width


class SDXL(TextFamily):
    """diffusers' UNet2DConditionModel with ``addition_embed_type`` text_time.

    Prompts are encoded for whole images of the network's own size, as the pipeline does it.
    """

    class_names = ("UNet2DConditionModel",)

    def reads(self, config: Config) -> bool:
        return super().reads(config) and config.get("addition_embed_type") == "text_time"

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        check_reads_no_image(config, place)
        return super().sample_shape(config, place)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        check_null(config, _UNREAD, place)
        width = config["projection_class_embeddings_input_dim"]
        width -= _NUM_TIMES * config["addition_time_embed_dim"]
        added = {_ADDED: Rows((width,)), _TIMES: Rows((_NUM_TIMES,))}
        return unet_text_rows(config, place) | added

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        rows = told_rows(told)
        added = {name: rows.pop(name) for name in (_ADDED, _TIMES)}
        return network(z, times, added_cond_kwargs=added, **rows)

    def guidance_rows(self, config: Config, scales: Tensor) -> dict[str, Tensor]:
        return unet_guidance_rows(config, scales)

    def with_guidance(self, network: nn.Module) -> nn.Module:
        return unet_with_guidance(network)

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        found = encode(pipeline, prompts, do_classifier_free_guidance=False)
        return _rows(pipeline, found[0], found[2])

    @torch.no_grad()
    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        """Zeros where the pipeline says so of no prompt, not what it makes of an empty one."""
        found = encode(pipeline, [""], negative_prompt=negative_prompt or None)
        return _rows(pipeline, found[1], found[3])


def _rows(pipeline: Any, states: Tensor, pooled: Tensor) -> Condition:
    side = pipeline.unet.config["sample_size"] * pipeline.vae_scale_factor
    times = states.new_tensor([side, side, 0, 0, side, side]).repeat(len(states), 1)
    guidance = unet_default_guidance(pipeline, states)
    return Condition({TEXT: states, _ADDED: pooled, _TIMES: times, **guidance})
