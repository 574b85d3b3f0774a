"""What started this process, and several others with it: its place among them, and no more.

torchrun, accelerate and mpirun tell each process of theirs in variables which it is. These may be
left over of something else (a notebook, a container, a scheduler). accelerate reads many more of
its own, some of which would win over settings of ours without a word: here it is left what a
launcher alone can know, which is ranks, addresses, and how FSDP is to shard.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opmerge.errors import InputError

if TYPE_CHECKING:
    from accelerate import FullyShardedDataParallelPlugin, PartialState

# of torchrun and accelerate, and of three kinds of MPI
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANKS = (
    *("LOCAL_RANK", "MPI_LOCALRANKID"),
    *("OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)
_ON_CPU, _SHARDED = "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP"
_REMEDY = "start with torchrun, or unset {}"


@dataclass(frozen=True)
class Place:
    """The number of a process, from 0, of so many, and that among those of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None


def place() -> Place:
    """The place of this process, as its launcher says it; the only one if there was none.

    Raises:
        InputError: if it is one of several, and the rest of what it must know is not there.
    """
    group: Any = sys.modules.get("torch.distributed")
    if group and group.is_available() and group.is_initialized():  # of functions, launched so
        return Place(group.get_rank(), group.get_world_size())
    size = _number(_SIZES)
    if size is None or size[1] <= 1:
        return Place()
    name = f"{size[0]}={size[1]}"
    remedy, ranks = _REMEDY.format(size[0]), []
    for names in (_RANKS, _LOCAL_RANKS):
        value = _number(names)
        if value is None or value[1] not in range(size[1]):
            requirement = f"must be 0 to {size[1] - 1} with {name}"
            raise InputError(names[0], requirement, "none" if value is None else value[1], remedy)
        ranks.append(value[1])
    if not os.environ.get("MASTER_ADDR"):
        raise InputError("MASTER_ADDR", f"must be set with {name}", remedy=remedy)
    return Place(ranks[0], size[1], ranks[1])


def is_first() -> bool:
    """Whether this process is the first of its launcher's, or the only one."""
    try:
        return place().rank == 0
    except InputError:  # which is raised where it matters
        return True


def _number(names: Sequence[str]) -> tuple[str, int] | None:
    """The first of some variables that is set, with its value, a whole number."""
    for name in names:
        value = os.environ.get(name, "")
        if value.strip().lstrip("-").isdecimal():
            return name, int(value)
        if value.strip():
            raise InputError(name, "must be a whole number", value, _REMEDY.format(name))
    return None


def process_state(cpu: bool = False) -> PartialState:
    """What accelerate knows of the processes, whose group it joins, and of this one's device.

    From here on accelerate finds no variable but a launcher's.

    Raises:
        InputError: if what the launcher says is not whole, or the processes do not meet.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils.environment import parse_flag_from_env

    mine = place()
    try:
        asks_for_cpu = parse_flag_from_env(_ON_CPU)
    except ValueError as error:
        raise InputError(_ON_CPU, "must be true or false", os.environ[_ON_CPU]) from error
    alone = {*_SIZES, *_RANKS, *_LOCAL_RANKS, _SHARDED} if mine.size == 1 else set()
    kept = {_ON_CPU, _SHARDED} - alone
    for name in [*os.environ]:
        if name in alone or (name.startswith("ACCELERATE_") and name not in kept):
            del os.environ[name]
    if mine.local_rank is not None:  # on devices accelerate knows torchrun's names alone
        ranks = {"RANK": mine.rank, "WORLD_SIZE": mine.size, "LOCAL_RANK": mine.local_rank}
        os.environ.update({name: str(value) for name, value in ranks.items()})
        os.environ.setdefault("MASTER_PORT", "29500")  # torch's own
    try:
        # without a device, accelerate starts several processes only if it is told so
        return PartialState(cpu or asks_for_cpu or not torch.accelerator.is_available())
    except (ValueError, RuntimeError, OSError) as error:
        if mine.size == 1:
            raise
        requirement = f"must be where process {mine.rank} of {mine.size} meets the others ({error})"
        raise InputError("MASTER_ADDR", requirement, os.environ.get("MASTER_ADDR")) from error


def sharding() -> FullyShardedDataParallelPlugin | None:
    """How FSDP is to shard what is trained, as accelerate's launcher says it, if it is to.

    Raises:
        InputError: if that is no configuration of accelerate's.
    """
    from accelerate import FullyShardedDataParallelPlugin

    if os.environ.get(_SHARDED, "false").lower() != "true":
        return None
    try:
        return FullyShardedDataParallelPlugin()
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        requirement = f"must come with variables FSDP_… that accelerate can read ({error})"
        raise InputError(_SHARDED, requirement, "true") from error
