"""UNets that read no text."""

from __future__ import annotations

from pathlib import Path

from opmerge.denoisers.families.family import Config, Family, Rows
from opmerge.errors import InputError


class UNet(Family):
    """diffusers' UNet2DModel for images, with classes or without."""

    class_names = ("UNet2DModel",)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        if config.get("class_embed_type") is not None:
            requirement = "must be null (classes are read from num_class_embeds)"
            raise InputError(f"{place}: class_embed_type", requirement, config["class_embed_type"])
        return super().needs(config, place)
