"""What a batch holds in memory beside weights, told without computing anything.

The passes are walked through on tensors without values (torch's FakeTensorMode), operation by
operation, at the real size of a batch and in its real precision, and what is alive is added up.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.inputs import Batch
from opmerge.distillation.targets import Part


def working_bytes(
    network: nn.Module, part: Part, passes: Callable[[nn.Module, Part], object]
) -> int:
    """Bytes that passes of a network hold at their peak: activations, and gradients of weights.

    The weights themselves and the part of a batch are not among them, nor what a kernel needs
    for itself while it runs.

    Args:
        passes: any forward and backward passes; it is called with a stand-in of the network and of
            the part, whose tensors have no values.

    Raises:
        RuntimeError: of torch, if what is computed depends on values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    there: list[Tensor] = []

    def hollow(tensor: Tensor) -> Tensor:
        there.append(mode.from_tensor(tensor.detach()))
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(there[-1], requires_grad=tensor.requires_grad)
        return there[-1]

    held = [*network.parameters(), *network.buffers()]
    stand_in = copy.deepcopy(network, {id(each): hollow(each) for each in held})
    batch, told = part.batch, part.batch.condition
    choice = None if batch.choice is None else hollow(batch.choice)
    rows = None if told is None else {name: hollow(each) for name, each in told.rows.items()}
    condition = None if rows is None else Condition(rows)
    empty = Part(
        Batch(hollow(batch.z), choice, condition), hollow(part.target), hollow(part.weight)
    )
    alive = _Alive(there)
    with mode, alive:
        passes(stand_in, empty)
    return alive.peak


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, as long as they are alive, but for some."""

    def __init__(self, apart: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._apart = [each.untyped_storage() for each in apart]
        self._known = {id(storage) for storage in self._apart}
        self._now, self.peak = 0, 0

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        self.peak = max(self.peak, self._now)
        return result

    def _see(self, storage: Any) -> None:
        if id(storage) not in self._known:  # torch keeps one object for a storage
            self._known.add(id(storage))
            self._now += storage.nbytes()
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())

    def _forget(self, number: int, size: int) -> None:
        self._known.discard(number)
        self._now -= size
