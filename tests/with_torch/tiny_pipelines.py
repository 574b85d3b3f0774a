"""Tiny pipelines of diffusers' and transformers' own classes, with random weights.

Tokenizers are built on the spot, so nothing is downloaded. No weight of a network is zero, as some
are at first, so that everything that it reads matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from torch import nn
from torch_helpers import scrambled
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from opmerge.denoisers.families import Family, config_of, family_of
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.denoisers.teacher_folder import load_teacher

WIDTH = 16
"""Features of a text encoder's states."""

PROMPTS = ("a red cat", "two dogs on a hill, in the snow")
SAMPLE = 8
"""Pixels a side of a latent."""

_LETTERS = tuple(map(chr, range(ord("!"), ord("~") + 1)))


# Tokenizers, whose tokens are letters: vocabularies without merges know no more.


def clip_tokenizer() -> CLIPTokenizer:
    names = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{each}</w>" for each in _LETTERS)]
    return CLIPTokenizer(vocab=_numbered(names), merges=[], model_max_length=32)


def t5_tokenizer() -> T5Tokenizer:
    known = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in _LETTERS]
    return T5Tokenizer(vocab=known + letters, extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> GemmaTokenizer:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *_LETTERS]
    return GemmaTokenizer(vocab=_numbered(names), merges=[], model_max_length=512)


def _numbered(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


# Text encoders and autoencoders.


def clip_config(**changes: Any) -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    sizes = {"hidden_size": WIDTH, "projection_dim": WIDTH, "intermediate_size": 32}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    known = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return CLIPTextConfig(**sizes, **ids, **layers, **known, **changes)


def tiny_clip(projected: bool = False) -> Any:
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(clip_config()).eval()


def tiny_t5(size: int = WIDTH) -> T5EncoderModel:
    sizes = {"d_model": size, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer()), **sizes)).eval()


def tiny_gemma() -> Gemma2Model:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    sizes = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 1}
    return Gemma2Model(Gemma2Config(vocab_size=len(gemma_tokenizer()), **heads, **sizes)).eval()


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


def tiny_deep_vae() -> AutoencoderDC:
    sides = ("encoder", "decoder")
    blocks = {
        f"{side}_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock") for side in sides
    }
    widths = {f"{side}_block_out_channels": (8, 8, 8) for side in sides}
    scales = {f"{side}_qkv_multiscales": ((), (), (5,)) for side in sides}
    depths = {f"{side}_layers_per_block": (1, 1, 1) for side in sides}
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.4,
        **blocks,
        **widths,
        **scales,
        **depths,
    ).eval()


# Schedulers.


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


def flow_scheduler(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


# Pipelines.


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


def stable_diffusion(
    unet: Mapping[str, Any] | None = None, **scheduler: Any
) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(),
        unet=tiny_conditional_unet(**(unet or {})),
        scheduler=ddim_scheduler(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(unet: Mapping[str, Any] | None = None, **scheduler: Any) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
    }
    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(),
        text_encoder_2=tiny_clip(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=tiny_conditional_unet(**{"cross_attention_dim": 2 * WIDTH, **added, **(unet or {})}),
        scheduler=ddim_scheduler(**scheduler),
        add_watermarker=False,
    )


def dit(**scheduler: Any) -> DiTPipeline:
    """With the 1000 classes that its pipeline takes for granted."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=SAMPLE,
        num_embeds_ada_norm=1000,
        norm_num_groups=1,
    )
    return DiTPipeline(scrambled(transformer), tiny_vae(), ddim_scheduler(**scheduler))


def pixart(
    sample_size: int = SAMPLE, patch_size: int = 2, sigma: bool = False, **scheduler: Any
) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=sample_size,
        patch_size=patch_size,
        caption_channels=WIDTH,
        norm_num_groups=1,
        use_additional_conditions=False if sigma else None,
    )
    return (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        tokenizer=t5_tokenizer(),
        text_encoder=tiny_t5(),
        vae=tiny_vae(),
        transformer=scrambled(transformer),
        scheduler=ddim_scheduler(**scheduler),
    )


def sd3(with_t5: bool = True, **scheduler: Any) -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=SAMPLE,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=scrambled(transformer),
        scheduler=flow_scheduler(**scheduler),
        vae=tiny_vae(shift_factor=0.06),
        text_encoder=tiny_clip(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=tiny_clip(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=tiny_t5(2 * WIDTH) if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux(
    guidance_embeds: bool = True, sample_size: int | None = SAMPLE, **scheduler: Any
) -> FluxPipeline:
    """A network of this family has a ``sample_size`` only where it is added to its config."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    transformer.register_to_config(**({} if sample_size is None else {"sample_size": sample_size}))
    return FluxPipeline(
        scheduler=flow_scheduler(**scheduler),
        vae=tiny_vae(shift_factor=0.1),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=tiny_t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=scrambled(transformer),
    )


def sana(timestep_scale: float = 1.0, **scheduler: Any) -> SanaPipeline:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=SAMPLE,
        timestep_scale=timestep_scale,
    )
    return SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=tiny_gemma(),
        vae=tiny_deep_vae(),
        transformer=scrambled(transformer),
        scheduler=flow_scheduler(**scheduler),
    )


def ldm(**scheduler: Any) -> LDMPipeline:
    torch.manual_seed(0)
    sides = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    unet = UNet2DModel(
        sample_size=SAMPLE,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **sides,
    )
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **sides,
    )
    return LDMPipeline(vqvae.eval(), scrambled(unet), ddim_scheduler(**scheduler))


TINY_PIPELINES: Mapping[str, Callable[..., Any]] = {
    "dit": dit,
    "flux": flux,
    "ldm": ldm,
    "pixart": pixart,
    "sana": sana,
    "sd3": sd3,
    "sdxl": sdxl,
    "stable_diffusion": stable_diffusion,
}
"""By the name of the file in ``denoisers/families``, and latent diffusion without text."""


def tiny_pipeline(name: str, **options: Any) -> Any:
    """A pipeline by its family's name; most options are keys of its scheduler's config."""
    pipeline = TINY_PIPELINES[name](**options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved_teacher(name: str, folder: Path, num_steps: int, **options: Any) -> tuple[Any, Teacher]:
    """A tiny pipeline, and the teacher that is read from where it was saved."""
    pipeline = tiny_pipeline(name, **options)
    pipeline.save_pretrained(folder)
    return pipeline, load_teacher(folder, num_steps)


def student_of(teacher: Teacher, networks: Sequence[nn.Module], starts: Sequence[int]) -> Student:
    """Networks in turn, in jumps that follow one another to the data."""
    steps = zip(cycle(networks), starts, [*starts[1:], 0], strict=False)
    jumps = [Jump(teacher.ddim.denoiser(each), start, stop, stop) for each, start, stop in steps]
    return Student(tuple(jumps), teacher.ddim, teacher.sample_shape, teacher.needs)


def network_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def family_in(pipeline: Any) -> Family:
    return family_of(config_of(network_of(pipeline)))


def side_of(family: str) -> int:
    """Pixels a side of the images of a tiny pipeline."""
    return (4 if family == "sana" else 2) * SAMPLE
