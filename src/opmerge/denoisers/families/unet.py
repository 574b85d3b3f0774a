"""UNets that read no text."""

from __future__ import annotations

from pathlib import Path

from opmerge.denoisers.families.family import Config, Family, Rows, class_rows
from opmerge.denoisers.networks import NULL_CLASS
from opmerge.errors import InputError


class UNet(Family):
    """diffusers' UNet2DModel for images, with classes or without.

    Its config does not know of a class that stands for none; of teachers that are trained here,
    with some labels left out, it says so: it is the last one.
    """

    class_names = ("UNet2DModel",)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        if config.get("class_embed_type") is not None:
            requirement = "must be null (classes are read from num_class_embeds)"
            raise InputError(f"{place}: class_embed_type", requirement, config["class_embed_type"])
        null = self.null_class(config)
        if null is None:
            return super().needs(config, place)
        if config.get("num_class_embeds") != null + 1:
            requirement = f"must be the last of num_class_embeds = {config.get('num_class_embeds')}"
            raise InputError(f"{place}: {NULL_CLASS}", requirement, null)
        return class_rows(null)

    def null_class(self, config: Config) -> int | None:
        return None if (null := config.get(NULL_CLASS)) is None else int(null)
