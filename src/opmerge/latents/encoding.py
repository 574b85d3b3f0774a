"""The pipeline of a teacher as what encodes: images and prompts to what its network reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from opmerge.denoisers.autoencoders import autoencoder_of
from opmerge.denoisers.denoiser import LABELS, Condition, as_condition
from opmerge.denoisers.families import Config, Family, Rows, config_of, family_of, shape_of
from opmerge.denoisers.model_folder import find_network, locate_model
from opmerge.denoisers.pipelines import load_pipeline, network_without_weights, other_parts
from opmerge.errors import InputError
from opmerge.files import reading
from opmerge.store import digest, file_digest

_ENCODERS = ("vae", "vqvae", "text_encoder", "tokenizer")  # and text_encoder_2 … beside them


@dataclass(frozen=True, eq=False)
class Encoding:
    """A teacher's pipeline as far as it encodes and decodes; its network was not read.

    Attributes:
        pipeline: None where nothing stands around the network, which reads pixels then.
        config: of the network.
        needs: what the network is told, by the names of its arguments.
        sample_shape: of one sample as the network reads it.
    """

    folder: Path
    pipeline: Any
    family: Family
    config: Config
    needs: Mapping[str, Rows]
    sample_shape: tuple[int, ...]

    @property
    def vae(self) -> Any:
        """The autoencoder, or None of a network that reads pixels."""
        return autoencoder_of(self.pipeline)

    @property
    def text_encoders(self) -> list[nn.Module]:
        """What encodes prompts."""
        parts = {} if self.pipeline is None else self.pipeline.components
        return [part for name, part in parts.items() if name.startswith("text_encoder") and part]

    @property
    def reads_text(self) -> bool:
        """Whether the network is told more than a class."""
        return bool(self.needs.keys() - {LABELS})

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the images that the teacher makes; None if its samples are no images."""
        shape, vae = self.sample_shape, self.vae
        if len(shape) != 3:
            return None
        channels, factor = (shape[0], 1) if vae is None else (_colours(vae), _downsampling(vae))
        return (channels, factor * shape[1], factor * shape[2])

    def samples(self, images: Tensor) -> Tensor:
        """(B, …) samples, float32 on the CPU, of (B, C, H, W) images in [-1, 1].

        Grey images are given to an autoencoder of colours three times.
        """
        if self.vae is not None:
            images = images.expand(-1, _colours(self.vae), -1, -1)
        with torch.no_grad():
            return self.family.encode_images(self.pipeline, images).to("cpu", torch.float32)

    def told(self, prompts: Sequence[str]) -> Condition:
        """What the network is told of (B,) prompts, on the CPU: numbers in float32.

        Raises:
            InputError: if the network reads no text, or the pipeline has nothing to encode it.
        """
        return _plain(self.family.encode_prompts(self.pipeline, prompts))

    def null(self, negative_prompt: str = "") -> Condition | None:
        """One row, of no prompt or class or of what is not to be shown, if the pipeline knows it.

        Raises:
            InputError: for a negative prompt of a network that reads no text, or where the pipeline
                has nothing to encode it.
        """
        if self.reads_text and not self.text_encoders:
            requirement = "must have a text encoder, which prompts are encoded by"
            raise InputError("teacher", requirement, str(self.folder))
        if self.pipeline is None and not negative_prompt:
            label = self.family.null_class(self.config)
            return None if label is None else as_condition(torch.tensor([label]))
        null = self.family.null_condition(self.pipeline, negative_prompt)
        return None if null is None else _plain(null)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all files that decide what encoding gives, and of the network's config."""
        files = {
            path.relative_to(self.folder).as_posix(): file_digest(path)
            for path in sorted(self.folder.rglob("*"))
            if path.relative_to(self.folder).parts[0].startswith(_ENCODERS) and path.is_file()
        }
        needs = {name: repr(rows) for name, rows in self.needs.items()}
        return digest([files, type(self.pipeline).__name__, needs, self.sample_shape])


def read_encoding(folder: str | os.PathLike[str], network: ModelMixin | None = None) -> Encoding:
    """The encoding part of a teacher's folder, on the CPU.

    Args:
        network: takes the place of the folder's own, as of students that have several.

    Raises:
        InputError: if a part of it is missing, or its network is of no known family.
    """
    root = locate_model(folder)
    place = find_network(root)
    config = config_of(network_without_weights(place) if network is None else network)
    family, path = family_of(config), place / "config.json"
    shape = shape_of(config, path)
    with reading(path, "must have settings of a network"):
        needs = family.needs(config, path)
    pipeline = load_pipeline(root, network) if other_parts(root) else None
    return Encoding(root, pipeline, family, config, needs, shape)


@contextmanager
def on_device(parts: Sequence[nn.Module | None], device: torch.device) -> Iterator[None]:
    """Some parts of a pipeline on a device, as long as they are needed: large ones by turns."""
    there = [part for part in parts if part is not None]
    for part in there:
        part.to(device)
    yield
    for part in there:
        part.to("cpu")


def _colours(vae: Any) -> int:
    """Channels of the images that an autoencoder codes."""
    return int(vae.config["in_channels"])


def _downsampling(vae: Any) -> int:
    """How many pixels of a side make one of the latents."""
    ratio = getattr(vae, "spatial_compression_ratio", None)
    return int(ratio or 2 ** (len(vae.config["block_out_channels"]) - 1))


def _plain(told: Condition) -> Condition:
    """The same on the CPU, and numbers in float32."""
    return Condition(
        {
            name: values.to("cpu", torch.float32 if values.is_floating_point() else values.dtype)
            for name, values in told.rows.items()
        }
    )
