"""What networks are trained by themselves, and how: a teacher, an autoencoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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

    network: Literal["mlp", "unet", "dit"] = option("mlp", "mlp, unet or dit (a transformer).")
    hidden_size: Count = option(256, "Width of the mlp or dit.")
    num_layers: Layers = option(3, "Blocks of the mlp or dit.")
    token_side: Count | None = option(
        None, "Pixels a side of a token of the dit.", shown="an eighth of the side"
    )
    block_out_channels: _Channels | None = option(
        None, "Channels of the unet's resolutions, such as 32,64.", shown="by the side"
    )
    prediction_type: PredictionType = option(
        "v_prediction",
        "v_prediction, sample or epsilon; flow_prediction with --schedule flow.",
        shown="v_prediction, or flow_prediction",
    )
    schedule: TeacherSchedule = option(
        "cosine", "cosine, nichol-dhariwal, linear, scaled-linear or flow (flow matching)."
    )
    label_dropout: Share = option(
        0.0,
        "Share of the labels that are left out in training, so that the teacher can be guided.",
    )
    num_train_timesteps: Count = option(1024, "N; take T among its divisors.")
    num_iterations: Count = option(20_000, "Optimizer steps.")
    validation_fraction: Share = option(
        0.1, "Share of the samples held out; the weights of the least held-out loss are kept."
    )
    validation_steps: Count = option(500, "Iterations between held-out losses.")
    optimization: OptimizationConfig = option(
        OptimizationConfig(learning_rate=1e-3, lr_warmup_steps=0, ema_decay=0.999),
        "How the network is trained.",
    )

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
    base_channels: Count = option(32, "Channels of the first level.")
    loss: ReconstructionLoss = option("ms-ssim", "Reconstruction loss: ms-ssim, or mse (a β-VAE).")
    kl_weight: NonNegative = option(0.00025, "Of the KL divergence.")
    random_flip: bool = option(False, "Mirror half of the images in training.", "Data")
    num_iterations: Count = option(2000, "Optimizer steps.", "Training")
    validation_fraction: Share = option(
        0.1,
        "Share of the images held out: of patches a strip of the photos, for CelebA's training "
        "split its validation split. 0: none.",
        "Data",
    )
    validation_steps: Count = option(
        250, "Iterations between looks at held-out images.", "Training"
    )
    optimization: OptimizationConfig = option(
        OptimizationConfig(train_batch_size=64, learning_rate=2e-3, lr_warmup_steps=0),
        "How the network is trained.",
    )
