"""Jumps between steps, and chains of them: what teachers, students and targets are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition, Denoiser, Step
from opmerge.denoisers.sampler import DDIM

__all__ = ["Jump", "compose"]


@dataclass(frozen=True, eq=False)
class Jump:
    """The operator start → stop that a denoiser stands for.

    Args:
        denoiser: what says x̂ and ε̂ at the start.
        start: step at which it reads its input.
        stop: step that it produces.
        readout: step at which its estimates are landed: ``stop`` for a denoiser; for a direct
            jump network (operator copy) the step where the operator that it started from landed.
    """

    denoiser: Denoiser
    start: int
    stop: int
    readout: int

    @property
    def network(self) -> nn.Module:
        """What holds the denoiser's weights."""
        return self.denoiser.network


def compose(
    ddim: DDIM,
    chains: Sequence[Sequence[Jump]],
    z: Tensor,
    choice: Tensor | None = None,
    condition: Condition | None = None,
) -> Tensor:
    """Apply chains of jumps, sample by sample: where each ends, without a gradient.

    All samples that meet the same denoiser at the same hop go through it in one forward pass, each
    with its own timestep.

    Args:
        ddim: the sampler.
        chains: one or several chains of jumps, noise side first.
        z: (B, …) states at the start of the samples' chains.
        choice: (B,) index of each sample's chain; may be left out if there is one chain.
        condition: what the networks are told of each sample.
    """
    with torch.no_grad():
        for hop in range(max(map(len, chains))):
            for members in _by_denoiser(chains, hop):
                jumps = [chains[member][hop] for member in members]
                if len(chains) == 1:
                    z = _take(ddim, jumps[0], z, jumps[0].start, jumps[0].readout, condition)
                    continue
                assert choice is not None
                place = torch.full((len(chains),), -1, device=z.device)
                place[members] = torch.arange(len(members), device=z.device)
                which = place[choice]
                rows = torch.nonzero(which >= 0).squeeze(1)
                if not len(rows):
                    continue
                starts, readouts = (
                    torch.tensor([getattr(jump, key) for jump in jumps], device=z.device)
                    for key in ("start", "readout")
                )
                which = which[rows]
                told = None if condition is None else condition[rows]
                moved = _take(ddim, jumps[0], z[rows], starts[which], readouts[which], told)
                z = z.index_copy(0, rows, moved)
    return z


def _take(
    ddim: DDIM, jump: Jump, z: Tensor, start: Step, readout: Step, condition: Condition | None
) -> Tensor:
    return ddim.land(jump.denoiser(z, start, condition), readout)


def _by_denoiser(chains: Sequence[Sequence[Jump]], hop: int) -> list[list[int]]:
    """Chains that have this hop, grouped by the denoiser that they meet there."""
    groups: dict[Denoiser, list[int]] = {}
    for member, chain in enumerate(chains):
        if hop < len(chain):
            groups.setdefault(chain[hop].denoiser, []).append(member)
    return list(groups.values())
