"""FLUX.1: a transformer on patches of latents, told texts and, distilled, a guidance scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Rows
from opmerge.denoisers.families.text import (
    POOLED,
    TEXT,
    TextFamily,
    default_of,
    encode,
    told_rows,
)
from opmerge.errors import InputError

_GUIDANCE = "guidance"
_PATCH = 2  # rows and columns of latents in one token
_SIDE = 128  # of the latents that its pipeline makes unless told otherwise


class Flux(TextFamily):
    """diffusers' FluxTransformer2DModel.

    Samples are latents (c, h, w), as the autoencoder has them: they are packed into the h w / 4
    tokens of 4 c features that the network reads, and its output is unpacked, where it is called.
    Configs of such networks say no size: theirs is the pipeline's, 1024 pixels a side, unless a
    ``sample_size`` of latents is written into config.json.
    """

    class_names = ("FluxTransformer2DModel",)
    scheduling: ClassVar[Mapping[str, Any]] = {"sigmas_from_steps": True}

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        features = config["in_channels"]
        if config.get("out_channels") not in (None, features):
            requirement = "must be in_channels: networks that fill or follow an image, which they"
            requirement += " read beside z, are not distilled"
            raise InputError(f"{place}: out_channels", requirement, config["out_channels"])
        side = config.get("sample_size") or _SIDE
        return (features // _PATCH**2, side, side)

    def num_tokens(self, config: Config, shape: tuple[int, ...]) -> int:
        return math.prod(shape[1:]) // _PATCH**2

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        features, pooled = config["joint_attention_dim"], config["pooled_projection_dim"]
        guidance = {_GUIDANCE: Rows()} if config["guidance_embeds"] else {}
        return {TEXT: Rows((None, features)), POOLED: Rows((pooled,)), **guidance}

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        rows = told_rows(told)
        patches = pixel_unshuffle(z, _PATCH)
        height, width = patches.shape[-2:]
        output = network(
            patches.flatten(2).transpose(1, 2),
            timestep=times / 1000,
            txt_ids=z.new_zeros(rows[TEXT].shape[1], 3),
            img_ids=_places(height, width, z),
            return_dict=False,
            **rows,
        )[0]
        return pixel_shuffle(output.transpose(1, 2).unflatten(2, (height, width)), _PATCH)

    def guidance_rows(self, config: Config, scales: Tensor) -> dict[str, Tensor]:
        return {_GUIDANCE: scales} if config["guidance_embeds"] else {}

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        states, pooled, _ = encode(pipeline, prompts, ["max_sequence_length"], prompt_2=None)
        scales = states.new_full((len(states),), default_of(pipeline, "guidance_scale"))
        told = self.guidance_rows(pipeline.transformer.config, scales)
        return Condition({TEXT: states, POOLED: pooled, **told})


def _places(height: int, width: int, like: Tensor) -> Tensor:
    """(height width, 3) the row and the column of each patch, behind a zero."""
    rows, columns = (torch.arange(size, device=like.device) for size in (height, width))
    grid = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)
    return grid.to(like.dtype)
