"""What families that read texts share."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families.family import Config, Family, Rows, model_class
from opmerge.errors import InputError

TEXT = "encoder_hidden_states"
"""(B, L, D) states of the tokens of a text."""

MASK = "encoder_attention_mask"
"""(B, L) 1 where there is a token, 0 where it only fills the length."""

POOLED = "pooled_projections"
"""(B, D) one state of a whole text."""


_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class TextFamily(Family):
    """Networks that are told a text for each sample, as ``encode_prompts`` gives it."""

    adapted_layers = (nn.Linear,)

    def network_class(self, config: Config, place: Path) -> Any:
        return model_class(config, place)

    @abstractmethod
    def needs(self, config: Config, place: Path) -> dict[str, Rows]:
        """See ``Family``; texts among them."""

    @abstractmethod
    def encode_prompts(self, pipeline: Any, prompts: Sequence[str]) -> Condition:
        """See ``Family``."""

    def null_condition(self, pipeline: Any, negative_prompt: str = "") -> Condition | None:
        return self.encode_prompts(pipeline, [negative_prompt])


def told_rows(told: Condition | None) -> dict[str, Tensor]:
    """The rows of a condition, which must be there."""
    if told is None:
        raise InputError("condition", "must be given: the network reads texts")
    return dict(told.rows)


def encode(
    pipeline: Any, prompts: Sequence[str], defaults: Sequence[str] = (), **options: Any
) -> Any:
    """What a pipeline's own ``encode_prompt`` gives, where its text encoders are.

    Args:
        defaults: the arguments that are as in the pipeline's call, where nothing else is said.
        options: further arguments, of this pipeline.

    Raises:
        InputError: if it has nothing to do it with, or does it in a way of its own.
    """
    if not hasattr(pipeline, "encode_prompt"):
        requirement = "must come with a pipeline that encodes prompts as newer ones do"
        raise InputError("prompts", requirement, type(pipeline).__name__)
    encoders = [part for name in _ENCODERS if (part := getattr(pipeline, name, None)) is not None]
    if not encoders:
        requirement = "must come with a pipeline that has a text encoder"
        raise InputError("prompts", requirement, type(pipeline).__name__)
    options |= {name: default_of(pipeline, name) for name in defaults}
    return pipeline.encode_prompt(list(prompts), device=encoders[0].device, **options)


def default_of(pipeline: Any, argument: str) -> Any:
    """What a pipeline's own call does, unless it is told otherwise."""
    return inspect.signature(type(pipeline).__call__).parameters[argument].default
