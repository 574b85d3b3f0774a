"""Settings of the study `celeba`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from opmerge.data import BUILTIN_SOURCES
from opmerge.errors import InputError
from opmerge.settings.base import Settings, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.settings.networks import TeacherConfig, VAEConfig
from opmerge.settings.types import Ascending, Count, NonNegative, Positive
from opmerge.training import DEFAULT_MERGE_TIME
from opmerge_studies.celeba.labels import unique_labels
from opmerge_studies.real_networks.settings import Distinct

__all__ = ["BUILT_IN", "TRAINED", "CelebaSettings"]

TRAINED: dict[str, Literal["ms-ssim", "mse"]] = {"ms-ssim-vae": "ms-ssim", "mse-vae": "mse"}
"""Autoencoders that the study trains, and their reconstruction losses."""

BUILT_IN = (*TRAINED, "pca")
"""Encoders that need no folder."""

AtLeastTwo = Annotated[int, Field(ge=2)]

_VAE = VAEConfig(
    num_iterations=1000, optimization=OptimizationConfig(train_batch_size=64, learning_rate=2e-3)
)
_SETTLED = {"loss": "encoders", "optimization.seed": "seeds"} | {
    key: key for key in ("num_latents", "base_channels")
}  # settings of autoencoders, by the settings of the study that settle them


class CelebaSettings(Settings):
    """Settings of the study."""

    source: str | tuple[str, ...] = option(
        ("patches", "faces"),
        "patches, faces, a folder of CelebA or of other images; or a list of such",
    )
    source_options: SourceOptions = option(
        SourceOptions(patch_size=32, stride=11), "how images are cut"
    )
    encoders: tuple[str, ...] = option(
        BUILT_IN,
        "ms-ssim-vae and mse-vae (a β-VAE), which are trained; pca, which is there "
        "anyway; or folders of saved ones, diffusers' AutoencoderKL among them",
    )
    num_latents: AtLeastTwo = option(128, "of what is made here; fewer of few images")
    latents: Literal["means", "samples"] = option(
        "means", "of the encoder, or draws from it where it has variances"
    )
    seeds: Annotated[tuple[int, ...], Distinct] = option((0, 1), "of the training and of the draws")
    base_channels: Count | None = option(
        None,
        "of the autoencoders that are trained; by default 32, as published, for images "
        "of 64 pixels a side and more, and 16 for smaller ones",
    )
    vae: VAEConfig = option(_VAE, "how they are trained, for at most 200 epochs")
    mse_kl_weight: NonNegative = option(0.00025, "of the KL divergence under loss mse")
    steps: AtLeastTwo = option(64, "T")
    merge_times: Annotated[tuple[Positive, ...], Ascending] = option((0.5, DEFAULT_MERGE_TIME), "s")
    num_resamples: AtLeastTwo = option(200, "of the images, for intervals")
    num_samples: AtLeastTwo = option(512, "decoded, for errors in pixels")
    neural: bool = option(
        False, "also distill a teacher of the first encoder's latents by every plan"
    )
    neural_steps: AtLeastTwo = option(16, "its T")
    teacher: TeacherConfig = option(TeacherConfig(num_iterations=6000), "what teacher is trained")
    distillation: DistillationConfig = option(DistillationConfig(), "how each plan is executed")

    @model_validator(mode="after")
    def _check(self) -> Self:
        assert self.source_labels, "they refuse what is given twice"
        assert self.encoder_labels, "they refuse what is given twice"
        given, usual = self.vae.model_dump(), VAEConfig().model_dump()
        for values in (given, usual):
            values["optimization.seed"] = values["optimization"]["seed"]
        for key, instead in _SETTLED.items():
            if given[key] != usual[key]:
                remedy = f"set {instead} instead"
                raise InputError(f"vae.{key}", "is not used here", given[key], remedy)
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, of which there may be one."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def source_labels(self) -> dict[str, str]:
        """What tables and the page call each source."""
        return unique_labels("source", self.sources, BUILTIN_SOURCES)

    @property
    def encoder_labels(self) -> dict[str, str]:
        """What tables and the page call each encoder, PCA among them."""
        return {**unique_labels("encoders", self.encoders, BUILT_IN), "pca": "pca"}

    @classmethod
    def quick(cls) -> Self:
        """Patches of 16 × 16 pixels, 32 latents and one seed: a few minutes."""
        return cls(
            source="patches",
            source_options=SourceOptions(patch_size=16, stride=11),
            num_latents=32,
            seeds=(0,),
            vae=_VAE.replaced(num_iterations=800),
            num_resamples=100,
            num_samples=256,
            neural_steps=8,
            teacher=TeacherConfig(num_iterations=3000),
            distillation=DistillationConfig(num_iterations=200),
        )
