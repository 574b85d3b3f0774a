"""The linear part of a denoiser, solved in closed form: ``x̂(z) = net(z) + A z + b``.

(A, b) is the ridge regression of what a network misses on what it reads, by sums over pairs in
float64. What limited training leaves of a merge's linear part then needs no training (THEORY 10).
Conditions are not among the regressors: the map is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition, Denoiser, Estimate, Step
from opmerge.denoisers.sampler import DDIM
from opmerge.forecast.cost import NUM_DIRECTIONS, WHOLE_MATRIX
from opmerge.loop import seeded_generator

_RIDGES = tuple(10.0**power for power in range(2, -9, -1))  # the strongest first: it wins a tie
_HELD_OUT = 5  # one pair of so many chooses the ridge
_ROUNDS = 4  # of subspace iteration
_SEED = 0

Reduce = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes."""


@dataclass(frozen=True, eq=False)
class LinearPart:
    """The map ``z ↦ A z + b`` of (B, …) states of D features, ``A = Uᵀ M U + g``.

    Args:
        matrix: (k, k) M.
        offset: (D,) b.
        directions: (k, D) U, orthonormal rows; without them U = 1 and k = D.
        gain: () g.
    """

    matrix: Tensor
    offset: Tensor
    gain: Tensor
    directions: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """A z + b, in the precision of the map: as solved, also where networks run in half."""
        kind = z.device.type
        has_autocast = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
            rows = z.flatten(1).to(self.matrix.dtype)
            return (self.linear(rows) + self.offset).view_as(z).to(z.dtype)

    def linear(self, rows: Tensor) -> Tensor:
        """A z of (…, D) z."""
        if self.directions is None:
            return rows @ self.matrix.T + self.gain * rows
        return rows @ self.directions.T @ self.matrix.T @ self.directions + self.gain * rows

    def to(self, target: torch.device | torch.dtype) -> LinearPart:
        """The same map on a device, or in another precision."""
        return LinearPart(**{name: each.to(target) for name, each in self.tensors().items()})

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Its tensors by their names, which ``find`` reads again."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {prefix + name: value for name, value in values.items() if value is not None}

    @classmethod
    def find(cls, tensors: Mapping[str, Tensor], prefix: str) -> LinearPart | None:
        """The map whose tensors have this prefix, if there is one, in memory of its own.

        A file's tensors lie where it has them, and sums may round otherwise there.
        """
        names = {field.name for field in fields(cls)}
        own = {name: tensors[prefix + name].clone() for name in names if prefix + name in tensors}
        return cls(**own) if own else None


@dataclass(frozen=True, eq=False)
class LinearDenoiser:
    """A ``Denoiser`` that adds a linear part to another's x̂, one for each step; ε̂ follows from z.

    Without another, ``x̂ = A z + b``.
    """

    inner: Denoiser | None
    sampler: DDIM
    parts: Mapping[int, LinearPart]

    @property
    def network(self) -> nn.Module:
        """The inner one's network, which knows nothing of the linear part."""
        assert self.inner is not None, "x̂ = A z + b has no network"
        return self.inner.network

    def __call__(self, z: Tensor, step: Step, condition: Condition | None = None) -> Estimate:
        added = linear_sum(self.parts, z, step)
        if self.inner is None:
            inner = Estimate(torch.zeros_like(z), z / self.sampler.at(step, z.ndim)[1])
        else:
            inner = self.inner(z, step, condition)
        return add(self.sampler, inner, added, step)

    def using(self, network: nn.Module) -> LinearDenoiser:
        return replace(self, inner=None if self.inner is None else self.inner.using(network))

    def to(self, device: torch.device) -> LinearDenoiser:
        inner = None if self.inner is None else self.inner.to(device)
        parts = {start: part.to(device) for start, part in self.parts.items()}
        return LinearDenoiser(inner, self.sampler.to(device), parts)


def linear_sum(parts: Mapping[int, LinearPart], z: Tensor, step: Step) -> Tensor:
    """A z + b of (B, …) states, of the map of their step, or of one step each."""
    if isinstance(step, int):
        return parts[step](z)
    added = torch.zeros_like(z)
    for start, part in parts.items():
        rows = torch.nonzero(step == start).squeeze(1)
        added = added.index_copy(0, rows, part(z[rows]))
    return added


def add(sampler: DDIM, estimate: Estimate, added: Tensor, step: Step) -> Estimate:
    """The estimate with so much more x̂, and the ε̂ with which z stays ``alpha x̂ + sigma ε̂``."""
    alpha, sigma = sampler.at(step, added.ndim)
    return Estimate(estimate.x0 + added, estimate.noise - alpha / sigma * added)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over pairs (z, y) of (D,) vectors, in float64, by which their regression is solved.

    Args:
        count: () N.
        z, y: (D,) sums.
        zz, zy: (k, k) ``Σ (U z)(U z)ᵀ`` and ``Σ (U z)(U y)ᵀ`` in k directions.
        products: (3,) ``Σ z·z``, ``Σ z·y`` and ``Σ y·y``.
    """

    count: Tensor
    z: Tensor
    y: Tensor
    zz: Tensor
    zy: Tensor
    products: Tensor

    @classmethod
    def of(cls, z: Tensor, y: Tensor, directions: Tensor | None = None) -> Moments:
        """Those of (N, …) pairs, N may be 0; ``directions`` are the (k, D) rows of U."""
        z, y = (_as_float64(rows) for rows in (z, y))
        along = [rows if directions is None else rows @ directions.to(rows).T for rows in (z, y)]
        products = torch.stack([(z * z).sum(), (z * y).sum(), (y * y).sum()])
        zz, zy = (along[0].T @ each for each in along)
        return cls(products.new_tensor(float(len(z))), z.sum(0), y.sum(0), zz, zy, products)

    def __add__(self, other: Moments) -> Moments:
        columns = (field.name for field in fields(self))
        return Moments(*(getattr(self, name) + getattr(other, name) for name in columns))

    def reduced(self, reduce: Reduce) -> Moments:
        """The sums over all processes."""
        return Moments(*(reduce(getattr(self, field.name)) for field in fields(self)))


def solve(train: Moments, held_out: Moments, directions: Tensor | None = None) -> LinearPart:
    """The float32 map of least ``Σ ‖y - A z - b‖² + N ρ τ ‖A‖²``, τ the mean variance of z.

    The offset is not penalised. Of the ridges ρ = 100, 10, …, 1e-8 that one is taken with which a
    map of the first pairs errs least on those held out; the result is then solved on all.
    """
    maps = _ridge_maps(train, directions, _RIDGES)
    errors = [_squared_error(part, held_out) for part in maps]
    ridge = _RIDGES[errors.index(min(errors))]
    (part,) = _ridge_maps(train + held_out, directions, (ridge,))
    return part.to(torch.float32)


class Regression:
    """The regression of y on z over the pairs of all processes, batch by batch.

    One pair of five chooses the ridge, by its number in the whole batch: the same on any number
    of processes.
    """

    def __init__(self, directions: Tensor | None, reduce: Reduce) -> None:
        self._directions, self._reduce = directions, reduce
        self._sums: list[Moments] = []

    def add(self, z: Tensor, y: Tensor, rows: Tensor) -> None:
        """Take in (B, …) pairs, which are those of so many (B,) rows of the whole batch."""
        held = rows % _HELD_OUT == _HELD_OUT - 1
        parts = (Moments.of(z[each], y[each], self._directions) for each in (~held, held))
        before = self._sums
        self._sums = [a + b for a, b in zip(before, parts, strict=True)] if before else [*parts]

    def solve(self) -> LinearPart:
        """The map; every process asks for it, in the same order."""
        train, held_out = (moments.reduced(self._reduce) for moments in self._sums)
        return solve(train, held_out, self._directions)


def leading_directions(
    batches: Sequence[Tensor], reduce: Reduce, number: int = NUM_DIRECTIONS
) -> Tensor | None:
    """(k, D) principal directions of (B, …) rows, by subspace iteration; None for small D.

    The same on any number of processes, up to rounding.
    """
    num_features = batches[0][0].numel()
    if num_features <= WHOLE_MATRIX:
        return None
    count = reduce(_as_float64(batches[0]).new_tensor(float(sum(map(len, batches)))))
    mean = reduce(torch.stack([_as_float64(each).sum(0) for each in batches]).sum(0)) / count
    size = (num_features, min(number, num_features))
    start = torch.randn(size, generator=seeded_generator(torch.device("cpu"), _SEED))
    basis = torch.linalg.qr(start.to(mean))[0]
    for _ in range(_ROUNDS):
        image = torch.zeros_like(basis)
        for batch in batches:
            rows = _as_float64(batch) - mean
            image += rows.T @ (rows @ basis)
        basis = torch.linalg.qr(reduce(image))[0]
    return basis.T.contiguous()


def _ridge_maps(
    moments: Moments, directions: Tensor | None, ridges: Sequence[float]
) -> list[LinearPart]:
    """The float64 maps of some ridges, by one eigendecomposition of the covariance of z."""
    count, num_features = moments.count.clamp(min=1), len(moments.z)
    means = [sums / count for sums in (moments.z, moments.y)]
    along = [mean if directions is None else directions.to(mean) @ mean for mean in means]
    covariance = moments.zz / count - torch.outer(along[0], along[0])
    cross = moments.zy / count - torch.outer(along[0], along[1])
    variances, basis = torch.linalg.eigh(covariance)
    scale = variances.clamp(min=0).mean().clamp(min=torch.finfo(variances.dtype).tiny)
    one = torch.eye(len(covariance)).to(covariance)
    gain = torch.zeros_like(count)
    if num_features > len(covariance):  # the gain of all that lies in no direction
        rest_zz = moments.products[0] / count - means[0] @ means[0] - covariance.trace()
        rest_zy = moments.products[1] / count - means[0] @ means[1] - cross.trace()
        gain = rest_zy / rest_zz.clamp(min=torch.finfo(rest_zz.dtype).tiny)
    maps = []
    for ridge in ridges:
        inverse = basis / (variances.clamp(min=0) + ridge * scale) @ basis.T
        own_gain = gain / (1 + ridge)
        matrix = cross.T @ inverse - own_gain * one
        without = LinearPart(matrix, torch.zeros_like(means[0]), own_gain, directions)
        without = without.to(matrix.dtype)
        maps.append(replace(without, offset=means[1] - without.linear(means[0])))
    return maps


def _squared_error(part: LinearPart, moments: Moments) -> float:
    """``Σ ‖y - A z - b‖²`` of the pairs."""
    matrix, gain, offset = part.matrix, part.gain, part.offset
    z_z, z_y, y_y = moments.products
    fitted_y = (matrix.T * moments.zy).sum() + gain * z_y
    fitted = ((matrix @ moments.zz) * (matrix + 2 * gain * torch.eye(len(matrix)).to(matrix))).sum()
    fitted = fitted + gain**2 * z_z
    shift = 2 * offset @ (part.linear(moments.z) - moments.y) + moments.count * offset @ offset
    return float(y_y - 2 * fitted_y + fitted + shift)


def _as_float64(rows: Tensor) -> Tensor:
    """(N, D), on the CPU where the device knows no float64."""
    rows = rows.flatten(1)
    return (rows.cpu() if rows.device.type == "mps" else rows).double()
