"""PixArt: a transformer on latents that reads masked states of T5 (Chen et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Rows
from opmerge.denoisers.families.text import (
    MASK,
    TEXT,
    TextFamily,
    encode,
    told_rows,
)

_SIZES = {"resolution": Rows((2,)), "aspect_ratio": Rows((1,))}
_SIZED = 128  # the sample size whose networks are told the size of the image, if not said otherwise


class PixArt(TextFamily):
    """diffusers' PixArt, also as diffusers before 0.29 saved it: a ``Transformer2DModel``."""

    class_names = ("PixArtTransformer2DModel",)

    def reads(self, config: Config) -> bool:
        name, norm = config.get("_class_name"), config.get("norm_type")
        return super().reads(config) or (name == "Transformer2DModel" and norm == "ada_norm_single")

    def network_class(self, config: Config, place: Path) -> Any:
        return diffusers.PixArtTransformer2DModel

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        features = config.get("caption_channels") or config["cross_attention_dim"]
        sizes = _SIZES if _is_told_sizes(config) else {}
        return {TEXT: Rows((None, features)), MASK: Rows((None,)), **sizes}

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        rows = told_rows(told)
        sizes = {name: rows.pop(name, None) for name in _SIZES}
        return network(z, timestep=times, added_cond_kwargs=sizes, **rows)

    @torch.no_grad()
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        defaults = ("clean_caption", "max_sequence_length")
        states, mask, _, _ = encode(pipeline, prompts, defaults, do_classifier_free_guidance=False)
        rows, config = {TEXT: states, MASK: mask}, pipeline.transformer.config
        if _is_told_sizes(config):
            side = config["sample_size"] * pipeline.vae_scale_factor
            sizes = (states.new_tensor(values) for values in ([side, side], [1]))
            rows |= {
                name: size.repeat(len(states), 1) for name, size in zip(_SIZES, sizes, strict=True)
            }
        return Condition(rows)


def _is_told_sizes(config: Config) -> bool:
    told = config.get("use_additional_conditions")
    return config["sample_size"] == _SIZED if told is None else bool(told)
