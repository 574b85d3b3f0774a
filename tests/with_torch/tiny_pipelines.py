"""Tiny pipelines of diffusers' and transformers' own classes, with random weights.

Tokenizers are built on the spot, so nothing is downloaded. ``TINY_PIPELINES`` has a builder for
each family; what it returns has its network scrambled: no weight of it is zero, as some are at
first, so that everything that the network reads matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from test_networks import scrambled
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 16
"""Features of a text encoder's states."""

PROMPTS = ("a red cat", "two dogs on a hill, in the snow")
SAMPLE = 8
"""Pixels a side of a latent; images have twice as many."""


def clip_tokenizer() -> CLIPTokenizer:
    """Letters as tokens: all that a byte-level vocabulary without merges knows."""
    letters = [*map(chr, range(ord("!"), ord("~") + 1))]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    vocabulary = {name: number for number, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def clip_config(**changes: Any) -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    sizes = {"hidden_size": WIDTH, "projection_dim": WIDTH, "intermediate_size": 32}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}
    known = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return CLIPTextConfig(**sizes, **ids, **layers, **known, **changes)


def tiny_vae(**config: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=config.pop("latent_channels", 4),
        norm_num_groups=4,
        sample_size=2 * SAMPLE,
        **config,
    ).eval()


def tiny_conditional_unet(**config: Any) -> UNet2DConditionModel:
    given = {"cross_attention_dim": WIDTH, **config}
    return scrambled(
        UNet2DConditionModel(
            sample_size=SAMPLE,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=4,
            **given,
        )
    )


def ddim_scheduler(**config: Any) -> DDIMScheduler:
    """Of Stable Diffusion's betas, whose signal at T is not zero."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        **config,
    )


def stable_diffusion(**scheduler: Any) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(clip_config()).eval(),
        tokenizer=clip_tokenizer(),
        unet=tiny_conditional_unet(),
        scheduler=ddim_scheduler(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


TINY_PIPELINES: Mapping[str, Callable[..., Any]] = {"stable_diffusion": stable_diffusion}
"""By the name of the file in ``denoisers/families``."""
