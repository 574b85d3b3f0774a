"""Low-rank adapters (LoRA, Hu et al. 2021): students as a few weights beside the teacher's own.

An adapted network is the teacher's with adapters in it. Its other weights are the teacher's very
tensors, which are there once however many students there are, and its state dict is the adapters'
alone: so are checkpoints, and copies of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.models import Student
from opmerge.errors import InputError

_ADAPTER = "default"  # peft's name for the only one


@dataclass(frozen=True)
class Adapters:
    """What adapters are trained: ``W + B A`` of rank r for the weights W of some modules.

    Args:
        rank: r; the scale alpha of peft is r as well, so that ``B A`` is taken as it is.
        target_modules: names, or ends of names, of the modules; by default those layers that the
            family of the network names.
    """

    rank: int
    target_modules: tuple[str, ...] | None = None


def trainable_copy(
    network: nn.Module, adapters: Adapters | None, generator: torch.Generator
) -> nn.Module:
    """A copy whose weights may be trained: all of them, or adapters on the weights of the network.

    A network that is adapted already gives a copy of its adapters. New ones change nothing at
    first: B = 0, and A is drawn from the generator as peft draws it.

    Raises:
        InputError: if there are no such modules, or they cannot be adapted.
    """
    if adapters is None:
        return copy.deepcopy(network).requires_grad_(True)
    weights = (each for name, each in network.named_parameters() if not _is_adapter(name))
    shared: list[Tensor] = [*weights, *network.buffers()]
    copied = copy.deepcopy(network, {id(each): each for each in shared})
    if not is_adapted(copied):
        _adapt(copied, adapters, generator)
    for name, weight in copied.named_parameters():
        if _is_adapter(name):
            weight.requires_grad_(True)
    return copied


def is_adapted(network: nn.Module) -> bool:
    """Whether a network has adapters."""
    return bool(_layers(network))


def adapters_of(network: nn.Module) -> Adapters:
    """What adapters a network has."""
    layers = _layers(network)
    (rank,) = {layer.r[_ADAPTER] for layer in layers.values()}
    return Adapters(rank, tuple(layers))


def fused(network: nn.Module, base: nn.Module) -> nn.Module:
    """A plain network with weights W + B A, of an adapted one and of the one that it adapts."""
    plain = copy.deepcopy(base)
    modules = dict(plain.named_modules())
    with torch.no_grad():
        for name, layer in _layers(network).items():
            modules[name].weight += layer.get_delta_weight(_ADAPTER)
    return plain


def fused_student(student: Student, base: nn.Module) -> Student:
    """A student of plain networks in the place of adapted ones."""
    networks = {
        jump.network: fused(jump.network, base)
        for jump in student.jumps
        if is_adapted(jump.network)
    }
    jumps = (
        replace(jump, denoiser=jump.denoiser.using(networks.get(jump.network, jump.network)))
        for jump in student.jumps
    )
    return replace(student, jumps=tuple(jumps))


def diffusers_weights(network: nn.Module, component: str) -> dict[str, Tensor]:
    """An adapted network's weights as ``load_lora_weights`` of a diffusers pipeline reads them.

    ``component`` is the pipeline's name for the network, ``unet`` or ``transformer``.
    """
    return {
        f"{component}.{name.replace(f'.{_ADAPTER}.', '.')}": weight.contiguous()
        for name, weight in network.state_dict().items()
    }


def load_diffusers_weights(
    network: nn.Module, component: str, tensors: Mapping[str, Tensor]
) -> None:
    """Give an adapted network the weights of ``diffusers_weights``.

    Raises:
        InputError: if they are not those of its adapters.
    """
    own = network.state_dict()
    names = {f"{component}.{name.replace(f'.{_ADAPTER}.', '.')}": name for name in own}
    fits = names.keys() == tensors.keys() and all(
        tensors[given].shape == own[name].shape for given, name in names.items()
    )
    if not fits:
        requirement = "must hold LoRA weights of this teacher's network"
        raise InputError("student", requirement, remedy="take the teacher that it was trained on")
    with torch.no_grad():
        for given, name in names.items():
            own[name].copy_(tensors[given])


def _adapt(network: nn.Module, adapters: Adapters, generator: torch.Generator) -> None:
    """Put new adapters into a network."""
    from peft import LoraConfig, inject_adapter_in_model  # which imports transformers

    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.rank,
        target_modules=list(adapters.target_modules or _default_modules(network)),
    )
    try:
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, network, _ADAPTER)
    except ValueError as error:
        wanted = ", ".join(adapters.target_modules or ())
        requirement = f"must name linear layers or convolutions of {type(network).__name__}"
        raise InputError("lora_target_modules", requirement, wanted) from error
    for name, weight in network.named_parameters():
        if ".lora_A." in name:
            drawn = torch.empty(weight.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            weight.data.copy_(drawn)
    own: Any = network  # torch does not say the types of these
    own.register_state_dict_post_hook(_leave_the_base_out)
    own.register_load_state_dict_post_hook(_miss_no_base)


def _default_modules(network: nn.Module) -> list[str]:
    layers = family_of(config_of(network)).adapted_layers
    return [name for name, module in network.named_modules() if isinstance(module, layers)]


def _layers(network: nn.Module) -> dict[str, Any]:
    """peft's layers in a network, by their names."""
    return {name: each for name, each in network.named_modules() if hasattr(each, "lora_A")}


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _leave_the_base_out(
    network: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any
) -> None:
    for name in [name for name in state if not _is_adapter(name)]:
        del state[name]


def _miss_no_base(network: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if _is_adapter(name)]
