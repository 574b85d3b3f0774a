"""What networks are trained by themselves, and how: a teacher, an autoencoder."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from opmerge.settings.base import Settings, option
from opmerge.settings.distillation import OptimizationConfig
from opmerge.settings.types import (
    Count,
    NonNegative,
    PredictionType,
    ReconstructionLoss,
    Share,
    must,
)

MOST_LAYERS = 10_000
"""Of a network: what asks for more is a mistake, and would fill memory first."""

Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]

TeacherSchedule = Literal["cosine", "nichol-dhariwal", "linear", "scaled-linear", "flow"]

UNET_GROUPS = 8
"""Groups of the UNet's normalisation; they must divide its channels."""

SMALLEST_UNET, LARGEST_UNET = 16, 64
"""Pixels a side of images for which the UNet is taken where no network is named: on smaller ones
a perceptron does, at far less cost."""


def halvings_of(side: int) -> int:
    """How often the UNet halves a side of so many pixels by default: down to 4 to 8."""
    return max(2, math.ceil(math.log2(side / 8)) + 1) - 1


_Channels = Annotated[
    tuple[Count, ...],
    must(f"be multiples of {UNET_GROUPS}", lambda values: not any(n % UNET_GROUPS for n in values)),
]


class TeacherConfig(Settings):
    """What a teacher is and how it is trained.

    Where samples are held out, the weights of the least held-out loss are kept, so that a few
    samples are not learned by heart; otherwise the last. Overlapping patches or frames tell of
    each other: a random share of them shows too little. Teachers whose T divides
    ``num_train_timesteps`` take their steps evenly from it.
    """

    panel = "Teacher"

    network: Literal["mlp", "unet", "dit"] = option(
        "mlp",
        "mlp, unet or dit (a transformer).",
        shown="unet for square images of 16 to 64 pixels a side, else mlp",
    )
    hidden_size: Count = option(256, "Width of the mlp or dit.", rare=True)
    num_layers: Layers = option(3, "Blocks of the mlp or dit.", rare=True)
    token_side: Count | None = option(
        None, "Pixels a side of a token of the dit.", shown="an eighth of the side", rare=True
    )
    block_out_channels: _Channels | None = option(
        None, "Channels of the unet's resolutions, such as 16,32.", shown="by the side"
    )
    prediction_type: PredictionType = option(
        "v_prediction",
        "v_prediction, sample or epsilon; flow_prediction with --schedule flow.",
        shown="v_prediction, or flow_prediction",
        rare=True,
    )
    schedule: TeacherSchedule = option(
        "cosine", "cosine, nichol-dhariwal, linear, scaled-linear or flow (flow matching)."
    )
    label_dropout: Share = option(
        0.0,
        "Share of the labels that are left out in training, so that the teacher can be guided.",
    )
    num_train_timesteps: Count = option(1024, "N; take T among its divisors.", rare=True)
    num_iterations: Count = option(20_000, "Optimizer steps.")
    validation_fraction: Share = option(
        0.1,
        "Share of the samples held out; the weights of the least held-out loss are kept.",
        rare=True,
    )
    validation_steps: Count = option(500, "Iterations between held-out losses.", rare=True)
    optimization: OptimizationConfig = option(
        OptimizationConfig(learning_rate=1e-3, lr_warmup_steps=0, ema_decay=0.999),
        "How the network is trained.",
    )

    def for_samples(self, shape: tuple[int, ...]) -> Self:
        """The same with its network decided, where none was given, by the samples' shape.

        Sizes that were given decide first: of a UNet, of a DiT, or those that a perceptron has.
        """
        if self.given("network") is not None:
            return self
        side = shape[-1] if len(shape) == 3 and shape[1] == shape[2] else 0
        is_image = SMALLEST_UNET <= side <= LARGEST_UNET and side % 2 ** halvings_of(side) == 0
        if self.given("token_side") is not None:
            return self.replaced(network="dit")
        if self.given("block_out_channels") is not None:
            return self.replaced(network="unet")
        has_sizes = {"hidden_size", "num_layers"} & self.model_fields_set
        return self.replaced(network="unet" if is_image and not has_sizes else "mlp")

    def what_decides(self) -> dict[str, Any]:
        """What the result depends on: older checkpoints do not know what is not used."""
        unused = {name for name in ("label_dropout", "token_side") if not getattr(self, name)}
        return self.model_dump(exclude=unused)


class VAEConfig(Settings):
    """What a variational autoencoder is and how it is trained.

    The KL divergence is summed over latents. For a share held out see ``TeacherConfig``.
    """

    panel = "Model"

    num_latents: Count = option(
        128,
        "Latents of an image.",
        shown="128, or half of an image's values or of the images, if fewer",
    )
    base_channels: Count = option(32, "Channels of the first level.", rare=True)
    loss: ReconstructionLoss = option(
        "ms-ssim", "Reconstruction loss: ms-ssim, or mse (a β-VAE).", rare=True
    )
    kl_weight: NonNegative = option(0.00025, "Of the KL divergence.", rare=True)
    random_flip: bool = option(False, "Mirror half of the images in training.", "Data", rare=True)
    num_iterations: Count = option(2000, "Optimizer steps.", "Training")
    validation_fraction: Share = option(
        0.1,
        "Share of the images held out: of patches a strip of the photos, for CelebA's training "
        "split its validation split. 0: none.",
        "Data",
        rare=True,
    )
    validation_steps: Count = option(
        250, "Iterations between looks at held-out images.", "Training", rare=True
    )
    optimization: OptimizationConfig = option(
        OptimizationConfig(train_batch_size=64, learning_rate=2e-3, lr_warmup_steps=0),
        "How the network is trained.",
    )
