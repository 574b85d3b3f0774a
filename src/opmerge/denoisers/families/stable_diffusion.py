"""Stable Diffusion 1 and 2: a UNet on latents that reads the states of one text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Rows
from opmerge.denoisers.families.text import TEXT, TextFamily, default_of, encode, told_rows
from opmerge.errors import InputError

_GUIDANCE = "timestep_cond"
_EMBEDDED = 256  # values of a scale's embedding, as in latent consistency
_UNREAD = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "addition_embed_type")


class StableDiffusion(TextFamily):
    """diffusers' UNet2DConditionModel, told a text alone."""

    class_names = ("UNet2DConditionModel",)

    def reads(self, config: Config) -> bool:
        return super().reads(config) and config.get("addition_embed_type") != "text_time"

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        check_reads_no_image(config, place)
        return super().sample_shape(config, place)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        check_null(config, _UNREAD, place)
        return unet_text_rows(config, place)

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        return network(z, times, **told_rows(told))

    def guidance_rows(self, config: Config, scales: Tensor) -> dict[str, Tensor]:
        return unet_guidance_rows(config, scales)

    def with_guidance(self, network: nn.Module) -> nn.Module:
        return unet_with_guidance(network)

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        states, _ = encode(
            pipeline, prompts, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Condition({TEXT: states, **unet_default_guidance(pipeline, states)})


def check_reads_no_image(config: Config, place: Path) -> None:
    """Refuse a network that reads an image beside z, in channels of its own."""
    read, given = config.get("in_channels", 4), config.get("out_channels", 4)
    if given not in (read, 2 * read):  # twice as many with a learned variance
        requirement = f"must be out_channels = {given}: inpainting, depth, instructions and"
        requirement += " upscaling, whose network reads an image beside z, are not distilled"
        remedy = "take the teacher that makes images of texts alone"
        raise InputError(f"{place}: in_channels", requirement, read, remedy)


def check_null(config: Config, keys: Sequence[str], place: Path) -> None:
    """Refuse a network that is told what is not known here."""
    for key in keys:
        if config.get(key) is not None:
            requirement = "must be null: what such a network is told beside a text is not known"
            raise InputError(f"{place}: {key}", requirement, config[key])


def unet_text_rows(config: Config, place: Path) -> dict[str, Rows]:
    """The states of a text, of which a UNet reads as many features in each of its blocks.

    One that was trained to be told a guidance scale, as by latent consistency, reads it too.
    """
    features, embedded = config["cross_attention_dim"], config.get("time_cond_proj_dim")
    if not isinstance(features, int):
        requirement = "must be one number, of all blocks"
        raise InputError(f"{place}: cross_attention_dim", requirement, features)
    guidance = {} if embedded is None else {_GUIDANCE: Rows((embedded,))}
    return {TEXT: Rows((None, features)), **guidance}


def unet_guidance_rows(config: Config, scales: Tensor) -> dict[str, Tensor]:
    """Sines and cosines of 1000 (w - 1), for a UNet that was trained to be told w (LCM, Eq. 18)."""
    size = config.get("time_cond_proj_dim")
    return {} if size is None else {_GUIDANCE: get_timestep_embedding(1000 * (scales - 1), size)}


def unet_with_guidance(network: Any) -> nn.Module:
    """A UNet whose times are joined by what a projection, zero at first, makes of a scale."""
    config = {**network.config, "time_cond_proj_dim": _EMBEDDED}
    with init_empty_weights():
        told = UNet2DConditionModel.from_config(config)
    told.load_state_dict(network.state_dict(), strict=False, assign=True)
    own = network.time_embedding.linear_1.weight
    projection = torch.zeros_like(told.time_embedding.cond_proj.weight, device=own.device)
    told.time_embedding.cond_proj.weight = nn.Parameter(projection.to(own.dtype))
    frozen: nn.Module = told.requires_grad_(False).eval()
    return frozen


def unet_default_guidance(pipeline: Any, states: Tensor) -> dict[str, Tensor]:
    """What a UNet that is told a guidance scale is told, unless its pipeline is given another."""
    scales = states.new_full((len(states),), default_of(pipeline, "guidance_scale"))
    return unet_guidance_rows(pipeline.unet.config, scales)
