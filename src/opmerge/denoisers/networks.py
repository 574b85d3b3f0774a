"""Denoisers for new teachers: a perceptron saved as diffusers' models are, a small UNet and DiT."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import LabelEmbedding, TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from opmerge.data.source import channels_last_remedy
from opmerge.errors import InputError
from opmerge.settings.networks import MOST_LAYERS, UNET_GROUPS, halvings_of

_TIME_CHANNELS = 128
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 64
_HEAD = 64  # the most channels of an attention head of the DiT

NULL_CLASS = "_null_class"
"""Key of the label that stands for no class, in configs of diffusers' networks that have no own:
keys that begin so it keeps, and passes over."""


class MLPDenoiser(ModelMixin, ConfigMixin):
    """A residual multilayer perceptron on the flattened sample.

    Time (and class) are embedded as in diffusers' UNet2DModel and added in every block:
    ``h ← h + W_2 silu(W_1 norm(h) + W_e silu(e))``. Samples may have any number of axes. With a
    ``null_class`` the label ``num_classes`` stands for no class. ``InputError`` refuses more than
    10,000 layers.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: Sequence[int],
        hidden_size: int = 256,
        num_layers: int = 3,
        num_classes: int | None = None,
        null_class: bool = False,
    ) -> None:
        super().__init__()
        if num_layers > MOST_LAYERS:
            raise InputError("num_layers", f"must be at most {MOST_LAYERS:,}", num_layers)
        num_features = math.prod(sample_shape)
        self.time_proj = Timesteps(_TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(_TIME_CHANNELS, hidden_size)
        self.class_embedding = (
            None if num_classes is None else nn.Embedding(num_classes + null_class, hidden_size)
        )
        self.proj_in = nn.Linear(num_features, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(hidden_size)
        self.proj_out = nn.Linear(hidden_size, num_features)
        # Zero is the best first guess of v, whose mean at mid-noise is near 0; on 8 x 8 digits the
        # loss after 2,500 steps was 1 % lower than with the usual start, for each of two seeds.
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The prediction for (B, *sample_shape) states, at (B,) training timesteps or one for all.

        Raises:
            ValueError: if (B,) labels are missing, or given to a network without classes.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels must be given if num_classes is set, and only then")
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        if times.stride(0) == 0:  # one time, expanded over the batch: half the work is saved
            times = times[:1]
        embedding = self.time_embedding(self.time_proj(times).to(sample.dtype))
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(class_labels)
        embedding = nn.functional.silu(embedding)
        hidden = self.proj_in(sample.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        output = self.proj_out(nn.functional.silu(self.norm_out(hidden))).view_as(sample)
        return UNet2DOutput(sample=output) if return_dict else (output,)


def own_memory(network: nn.Module) -> None:
    """Copy weights that lie in a mapped file into torch's own, aligned memory.

    Products of single rows are rounded by how weights are aligned: only then a network gives the
    same bits wherever it comes from.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()


def make_unet(
    sample_shape: tuple[int, ...],
    block_out_channels: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    null_class: bool = False,
) -> UNet2DModel:
    """A small UNet2DModel for (channels, side, side) images of 8 to 64 pixels a side.

    The channels of its resolutions, each half the one before, are multiples of ``UNET_GROUPS``; by
    default 32, 64, … down to 4 to 8 pixels a side. With a ``null_class`` the label ``num_classes``
    stands for no class, and the config says so (``NULL_CLASS``).

    Raises:
        InputError: if samples are no such images, or their side cannot be halved that often.
    """
    channels, height = _image_size(sample_shape, "unet")
    num_resolutions = halvings_of(height) + 1
    widths = block_out_channels or tuple(32 * 2**level for level in range(num_resolutions))
    halvings = len(widths) - 1
    if height % 2**halvings:
        needed = f"must come with a side divisible by {2**halvings}"
        remedy = 'pass `network="mlp"`, fewer `block_out_channels` or another `image_size`'
        raise InputError("network", f"unet with {len(widths)} resolutions {needed}", height, remedy)
    # Attention at the lowest resolution only: its cost grows with the fourth power of the side.
    network = UNet2DModel(
        sample_size=height,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * halvings + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * halvings,
        norm_num_groups=UNET_GROUPS,
        num_class_embeds=None if num_classes is None else num_classes + null_class,
    )
    if null_class:
        network.register_to_config(**{NULL_CLASS: num_classes})
    return network


def make_dit(
    sample_shape: tuple[int, ...],
    hidden_size: int,
    num_layers: int,
    token_side: int | None = None,
    num_classes: int | None = None,
    null_class: bool = False,
) -> DiTTransformer2DModel:
    """A small DiT (Peebles & Xie 2023) for (channels, side, side) images of 8 to 64 pixels a side.

    Tokens are patches of ``token_side`` pixels, by default 8 × 8 of them. As published, the blocks
    begin as the identity and the output as 0. The index after the classes stands for none; where
    that is not trained the config says so (``NULL_CLASS``). A network without classes is one of a
    single class.

    Raises:
        InputError: if samples are no such images, tokens do not tile them, or the width is no
            multiple of 4, as embeddings of places in two directions need.
    """
    channels, side = _image_size(sample_shape, "dit")
    token_side = max(side // _SMALLEST_SIDE, 1) if token_side is None else token_side
    if side % token_side:
        raise InputError("token_side", f"must divide {side}, the side of the images", token_side)
    if hidden_size % 4:
        raise InputError("hidden_size", "must be a multiple of 4 for a dit", hidden_size)
    heads = next(
        n for n in range(math.ceil(hidden_size / _HEAD), 1 + hidden_size) if hidden_size % n == 0
    )
    network = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=hidden_size // heads,
        in_channels=channels,
        num_layers=num_layers,
        sample_size=side,
        patch_size=token_side,
        num_embeds_ada_norm=num_classes or 1,
    )
    if not null_class:
        network.register_to_config(**{NULL_CLASS: None})
    first = [block.norm1.linear for block in network.transformer_blocks]
    for layer in (*first, network.proj_out_1, network.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for module in network.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0  # by draws of no seed, other ones in every block
    return network


def _image_size(sample_shape: tuple[int, ...], network: str) -> tuple[int, int]:
    """Channels and side of square images of 8 to 64 pixels, or ``InputError``."""
    channels, height, width = sample_shape if len(sample_shape) == 3 else (0, 0, 0)
    if height != width or not _SMALLEST_SIDE <= height <= _LARGEST_SIDE:
        sides = f"{_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels a side"
        requirement = f"{network} must come with square images of {sides}, channels first"
        got = f"samples of shape {sample_shape}"
        remedy = channels_last_remedy(sample_shape) or 'pass `network="mlp"`'
        raise InputError("network", requirement, got, remedy)
    return channels, height


class _Block(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.proj_in = nn.Linear(hidden_size, hidden_size)
        self.proj_embedding = nn.Linear(hidden_size, hidden_size)
        self.proj_out = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        inner = self.proj_in(self.norm(hidden)) + self.proj_embedding(embedding)
        change: Tensor = self.proj_out(nn.functional.silu(inner))
        return hidden + change
