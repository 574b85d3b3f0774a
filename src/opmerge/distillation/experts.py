"""Several networks in the place of one: each is asked at the timesteps of its own.

A pipeline of diffusers has one network. Where the steps of a student have one each, this stands
for all of them; a saved ``model_index.json`` names this module and the class, so neither may be
renamed, and diffusers looks here for ``ModelMixin``, by which it knows how to load it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from opmerge.denoisers.families import config_of, family_of
from opmerge.errors import InputError

_UNITS = (1.0, 1000.0)  # of a time: training steps, or their share of 1000, as Flux' network reads
_APART = 1e-3  # of times, in training steps


class TimestepExperts(ModelMixin, ConfigMixin):
    """Networks of one architecture, of which a timestep chooses.

    What a pipeline asks of its network beside a prediction (its config, an embedding) is the
    first one's.

    Args:
        network: config of the architecture, with its ``_class_name``.
        timesteps: of each network, those at which it is asked.
    """

    @register_to_config
    def __init__(self, network: Mapping[str, Any], timesteps: Sequence[Sequence[float]]) -> None:
        super().__init__()
        network_class = family_of(network).network_class(network, Path("config.json"))
        self.experts = nn.ModuleList(network_class.from_config(dict(network)) for _ in timesteps)
        self._argument = list(inspect.signature(network_class.forward).parameters)[1:].index(
            "timestep"
        )

    @classmethod
    def of(
        cls, networks: Sequence[ModelMixin], timesteps: Sequence[Sequence[float]]
    ) -> TimestepExperts:
        """Copies of networks, each with the timesteps at which it is asked."""
        architecture = config_of(networks[0])
        known = {key: architecture[key] for key in architecture if not key.startswith("_")}
        network = {**known, "_class_name": architecture["_class_name"]}
        made: TimestepExperts = cls(network, [list(times) for times in timesteps])
        for expert, trained in zip(made.experts, networks, strict=True):
            expert.load_state_dict(trained.state_dict())
        made.eval()
        return made

    @property
    def config(self) -> FrozenDict:
        """The first network's, with what this one is made of."""
        first: Any = self.experts[0]
        return FrozenDict({**first.config, **self._internal_dict})

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The prediction of the network whose timestep it is, called as each of them is."""
        place = self._argument
        times = named["timestep"] if "timestep" in named else arguments[place]
        return self.experts[self._number(times)](*arguments, **named)

    def _number(self, times: torch.Tensor | float) -> int:
        told = float(torch.as_tensor(times).reshape(-1)[0])
        for unit in _UNITS:
            for number, own in enumerate(self._internal_dict["timesteps"]):
                if any(abs(unit * told - time) <= _APART for time in own):
                    return number
        known = ", ".join(f"{t:g}" for own in self._internal_dict["timesteps"] for t in own)
        raise InputError("timestep", f"must be one of {known}", told)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "experts":  # not there yet
                raise
            return getattr(self.experts[0], name)
