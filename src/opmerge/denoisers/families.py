"""Families of networks: what a config names, what samples it is for, how the network is called.

A family is one subclass of ``Family``, which is found by itself. A teacher's folder is read, and
its network called in training and in sampling, by what that class says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
from torch import Tensor, nn

from opmerge.denoisers.denoiser import LABELS, Condition
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.errors import InputError

Config = Mapping[str, Any]
"""The ``config.json`` of a network."""

Call = Callable[[nn.Module, Tensor, Tensor, Condition | None], Any]
"""A network's output, of the network, (B, …) z, (B,) times and what it is told beside them."""

_CLASSES_KEYS = ("num_classes", "num_class_embeds", "num_embeds_ada_norm")


@dataclass(frozen=True)
class Rows:
    """What rows of a condition are: real numbers of a shape, or classes, whole and ``below``."""

    shape: tuple[int, ...] = ()
    below: int | None = None


class Family:
    """A kind of networks; as it stands, all model classes called as ``network(sample, timestep)``.

    Subclasses register themselves. A config that lacks what they need, or asks for what is not
    known here, is refused (``InputError``) with ``place``, its path.
    """

    class_names: ClassVar[tuple[str, ...]] = ()
    """What ``_class_name`` may be in a config of the family."""

    solves_linear_part: ClassVar[bool] = False
    """Whether ``linear_part="auto"`` solves it: convolutions and attention learn it by themselves,
    and err more with it solved on a few thousand pairs; a perceptron does not (THEORY 10)."""

    def __init_subclass__(cls) -> None:
        FAMILIES.insert(0, cls())

    def reads(self, config: Config) -> bool:
        """Whether a config is one of the family's."""
        return config.get("_class_name") in self.class_names

    def network_class(self, config: Config, place: Path) -> Any:
        """The class that the config names, of diffusers and of no other place."""
        name = str(config.get("_class_name"))
        found: Any = getattr(diffusers, name, None)
        is_model = isinstance(found, type) and issubclass(found, diffusers.ModelMixin)
        if not is_model:
            requirement = "must be a model class of diffusers, or MLPDenoiser"
            remedy = "distil a class of your own in Python, as examples/distil_own_network.py does"
            raise InputError(f"{place}: _class_name", requirement, name, remedy)
        inputs = inspect.signature(found.forward).parameters
        if "encoder_hidden_states" in inputs:
            requirement = "must need no text: this network reads encoder_hidden_states"
            remedy = "take an unconditional or class-conditional network"
            raise InputError("teacher", requirement, name, remedy)
        if "timestep" not in inputs:
            raise InputError("teacher", "must be a denoiser: this network reads no timestep", name)
        return found

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        """Shape of one sample as the network reads it, and as its output has it."""
        for key in ("in_channels", "sample_size"):
            if config.get(key) is None:
                raise InputError(str(place), f"must hold {key}, the shape of samples")
        channels, size = config["in_channels"], config["sample_size"]
        if config.get("out_channels") not in (None, channels, 2 * channels):
            requirement = f"must be in_channels = {channels}, or twice that with a learned variance"
            raise InputError(f"{place}: out_channels", requirement, config["out_channels"])
        if isinstance(size, int):
            size = [size] * (1 if "1D" in config["_class_name"] else 2)
        return (channels, *size)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        """The rows of the ``Condition`` that the network must be told, by their names."""
        known = [config[key] for key in _CLASSES_KEYS if config.get(key) is not None]
        return {LABELS: Rows(below=known[0])} if known else {}

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        """See ``Call``."""
        return network(z, times, **({} if told is None else told.rows))


FAMILIES: list[Family] = [Family()]
"""All families; the last takes what no other reads."""


class MLP(Family):
    """The perceptron of this package, for samples of any shape, with classes or without."""

    class_names = ("MLPDenoiser",)
    solves_linear_part = True

    def network_class(self, config: Config, place: Path) -> Any:
        return MLPDenoiser

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        return tuple(config["sample_shape"])


class UNet(Family):
    """diffusers' UNet2DModel for images, with classes or without."""

    class_names = ("UNet2DModel",)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        if config.get("class_embed_type") is not None:
            requirement = "must be null (classes are read from num_class_embeds)"
            raise InputError(f"{place}: class_embed_type", requirement, config["class_embed_type"])
        return super().needs(config, place)


class DiT(Family):
    """Transformers that are told a class by adaptive layer norms (Peebles & Xie 2023).

    They are diffusers' DiT, also as diffusers before 0.29 saved it: a ``Transformer2DModel``.
    """

    def reads(self, config: Config) -> bool:
        name, norm = config.get("_class_name"), config.get("norm_type")
        is_old = name == "Transformer2DModel" and norm == "ada_norm_zero"
        return is_old or name == "DiTTransformer2DModel"

    def network_class(self, config: Config, place: Path) -> Any:
        return diffusers.DiTTransformer2DModel


def config_of(network: nn.Module) -> dict[str, Any]:
    """The config of a network as its ``config.json`` says it; of a plain module only its class."""
    config = getattr(network, "config", None)
    known = config if isinstance(config, Mapping) else {}
    return {**known, "_class_name": type(network).__name__}


def family_of(config: Config) -> Family:
    """The family of a config."""
    return next((family for family in FAMILIES if family.reads(config)), FAMILIES[-1])
