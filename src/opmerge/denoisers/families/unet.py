"""UNet2DModel, unconditional or class-conditional."""

from __future__ import annotations

from pathlib import Path

from opmerge.denoisers.families import Config, Family, Rows
from opmerge.errors import InputError


class UNet(Family):
    """diffusers' UNet for images."""

    class_names = ("UNet2DModel",)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        """See ``Family``."""
        if config.get("class_embed_type") is not None:
            raise InputError(
                f"{place}: class_embed_type",
                "must be null (classes are read from num_class_embeds)",
                config["class_embed_type"],
            )
        return super().needs(config, place)
