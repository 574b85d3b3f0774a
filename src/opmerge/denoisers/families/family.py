"""What a family of networks says of itself: what it reads, what it is told, how it is called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from opmerge.checks import check_count
from opmerge.denoisers.autoencoders import autoencoder_of, decode_latents, encode_images
from opmerge.denoisers.denoiser import LABELS, Condition
from opmerge.errors import InputError
from opmerge.files import reading

Config = Mapping[str, Any]
"""The ``config.json`` of a network."""

Call = Callable[[nn.Module, Tensor, Tensor, Condition | None], Any]
"""A network's output, of the network, (B, …) z, (B,) times and what it is told beside them."""

_MOST_VALUES = 2**30  # of a sample
_CLASSES_KEYS = ("num_classes", "num_class_embeds", "num_embeds_ada_norm")


@dataclass(frozen=True)
class Rows:
    """What rows of a condition are: real numbers of a shape, or classes, whole and ``below``.

    An axis of any length, such as that of the tokens of a text, is None.
    """

    shape: tuple[int | None, ...] = ()
    below: int | None = None


def class_rows(num_classes: int | None) -> dict[str, Rows]:
    """The needs of a network of so many classes, or of one without."""
    return {} if num_classes is None else {LABELS: Rows(below=num_classes)}


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

    null_first: ClassVar[bool] = True
    """Whether samples that are told nothing come first in a batch of the family's pipeline."""

    adapted_layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv1d, nn.Conv2d)
    """The layers that get adapters where nobody names modules."""

    scheduling: ClassVar[Mapping[str, Any]] = {}
    """Keys beside those of the scheduler's config, of how the family's pipeline uses it
    (``diffusers_schedule``)."""

    def __init_subclass__(cls) -> None:
        FAMILIES.insert(0, cls())

    def reads(self, config: Config) -> bool:
        """Whether a config is one of the family's."""
        return config.get("_class_name") in self.class_names

    def network_class(self, config: Config, place: Path) -> Any:
        """The class that the config names, of diffusers and of no other place.

        Raises:
            InputError: if it is none, reads texts or no timestep.
        """
        found = model_class(config, place)
        inputs = inspect.signature(found.forward).parameters
        needed = [each.name for each in inputs.values() if each.default is each.empty]
        told = [name for name in inputs if "encoder_hidden_states" in name]
        if told := told + needed[len(("self", "sample", "timestep")) :]:
            requirement = f"must be of a known family, as it reads {told[0]}: "
            requirement += ", ".join(
                sorted({name for each in FAMILIES for name in each.class_names})
            )
            raise InputError(f"{place}: _class_name", requirement, found.__name__)
        if "timestep" not in inputs:
            requirement = "must be a denoiser: this network reads no timestep"
            raise InputError("teacher", requirement, found.__name__)
        return found

    def sample_shape(self, config: Config, place: Path) -> tuple[int, ...]:
        """Shape of one sample as the network reads it, and as its output has it: (C, H, W).

        Raises:
            InputError: if the config does not say it, or says two.
        """
        for key in ("in_channels", "sample_size"):
            if config.get(key) is None:
                raise InputError(str(place), f"must hold {key}, the shape of samples")
        channels, size = config["in_channels"], config["sample_size"]
        if config.get("out_channels") not in (None, channels, 2 * channels):
            requirement = f"must be in_channels = {channels}, or twice that with a learned variance"
            raise InputError(f"{place}: out_channels", requirement, config["out_channels"])
        num_sides = 1 if "1D" in config["_class_name"] else 2
        if isinstance(size, int):
            size = [size] * num_sides
        if len(size) != num_sides:
            requirement = f"must be one number, or {num_sides}"
            raise InputError(f"{place}: sample_size", requirement, size)
        return (channels, *size)

    def num_tokens(self, config: Config, shape: tuple[int, ...]) -> int:
        """The patches of a sample: schedulers that shift by the size of an image count these."""
        patch, (_, *sides) = config.get("patch_size"), shape
        side = patch if isinstance(patch, int) else 1
        return math.prod(length // side for length in sides)

    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        """The rows of the ``Condition`` that the network must be told, by their names."""
        known = [config[key] for key in _CLASSES_KEYS if config.get(key) is not None]
        return class_rows(known[0] if known else None)

    def null_class(self, config: Config) -> int | None:
        """The label that stands for no class, where the network's own config says which."""
        return None

    def call(self, network: nn.Module, z: Tensor, times: Tensor, told: Condition | None) -> Any:
        """The output (B, …) for z (B, …) at (B,) times, told what is beside them (``Call``)."""
        return network(z, times, **({} if told is None else told.rows))

    def guidance_rows(self, config: Config, scales: Tensor) -> dict[str, Tensor]:
        """What tells a network (B,) guidance scales, if it was made to be told one."""
        return {}

    def with_guidance(self, network: nn.Module) -> nn.Module:
        """The same network, which shares its weights, told a scale that it does not heed yet.

        Raises:
            InputError: if none of the family embeds one.
        """
        requirement = "must be one number: only UNets that read texts are told one of a range"
        raise InputError("guidance_scale", requirement, f"a range for {type(network).__name__}")

    # What the pipeline around the network knows: texts, and images behind an autoencoder. Each
    # is computed on the device of the part of the pipeline that does it, with no gradient.

    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        """What the network is told for each of (B,) prompts, as the pipeline tells it.

        Raises:
            InputError: if it reads no text.
        """
        requirement = "must be left out: the network of this teacher reads no text"
        raise InputError("prompts", requirement, len(prompts))

    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        """One row: what the pipeline guides away from; None where it knows nothing of the kind.

        Raises:
            InputError: for a negative prompt of a network that reads no text.
        """
        if negative_prompt:
            requirement = "must be left out: the network of this teacher reads no text"
            raise InputError("negative_prompt", requirement, negative_prompt)
        return None

    def encode_images(self, pipeline: Any, images: Tensor) -> Tensor:
        """(B, …) samples as the network reads them, of (B, C, H, W) images in [-1, 1]."""
        vae = autoencoder_of(pipeline)
        return images if vae is None else encode_images(vae, images)

    def decode(self, pipeline: Any, samples: Tensor) -> Tensor:
        """(B, C, H, W) images, about [-1, 1], of (B, …) samples as the network reads them."""
        vae = autoencoder_of(pipeline)
        return samples if vae is None else decode_latents(vae, samples)


FAMILIES: list[Family] = [Family()]
"""All families; the last takes what no other reads."""


def model_class(config: Config, place: Path) -> Any:
    """The model class of diffusers that a config names, or ``InputError``: no other is taken."""
    name = str(config.get("_class_name"))
    found: Any = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        requirement = "must be a model class of diffusers, or MLPDenoiser"
        remedy = "distil a class of your own in Python, as examples/distil_own_network.py does"
        raise InputError(f"{place}: _class_name", requirement, name, remedy)
    return found


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, of one that several processes or ``torch.compile`` wrap."""
    # of a wrapper within a compiled one it leaves that: the compiled one is taken off by itself
    inner: nn.Module = extract_model_from_parallel(network)
    return getattr(inner, "_orig_mod", inner)


def config_of(network: nn.Module) -> dict[str, Any]:
    """The config of a network as its ``config.json`` says it; of a plain module only its class.

    What several processes or a compiler wrap is the network that they wrap.
    """
    network = unwrapped(network)
    config = getattr(network, "config", None)
    known = config if isinstance(config, Mapping) else {}
    return {**known, "_class_name": type(network).__name__}


def shape_of(config: Config, place: Path) -> tuple[int, ...]:
    """The ``sample_shape`` that the family of a config says, of sizes that samples can have.

    Raises:
        InputError: if it is of other numbers, or of more values than a sample has.
    """
    with reading(place, "must say the shape of samples"):
        shape = family_of(config).sample_shape(config, place)
    sizes = tuple(check_count(f"{place}: shape of samples", size) for size in shape)
    if math.prod(sizes) > _MOST_VALUES:
        raise InputError(
            str(place), f"must be for samples of at most {_MOST_VALUES:,} values", sizes
        )
    return sizes


def family_of(config: Config) -> Family:
    """The family of a config."""
    return next((family for family in FAMILIES if family.reads(config)), FAMILIES[-1])
