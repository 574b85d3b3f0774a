"""What the teacher alone says of every merge: deviations, and gains of an error up to the output.

A student that reads z_j and lands on step i is asked for the estimate

    x̂(j, i) = (z_i - sigma_i/sigma_j z_j) / c(j, i),    c(j, i) = alpha_i - alpha_j sigma_i/sigma_j,

z_i being where the teacher arrives from z_j. One that starts as x̂(j, k) is off by
``D(j; k, i)² = E ‖x̂(j, k) - x̂(j, i)‖²``. An error of x̂ is one of c(j, i) times as much at z_i,
and W_i times that at the output. All this comes from forward passes of the teacher, or, for
Gaussian data, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.linear_teacher import LinearTeacher
from opmerge.schedules import NoiseSchedule, arrays_schedule
from opmerge.spectra import Spectrum

MOST_NODES = 64
"""Steps that a table knows at most; of longer samplers evenly spread ones."""

_GROUPS = 7
_LEAST, _LEAST_SHARE = 1e-300, 1e-6


@dataclass(frozen=True, eq=False)
class TeacherTable:
    """Deviations and gains between the nodes of a sampler, by groups of eigen-directions.

    Nodes are steps of the teacher, 0 and T among them: all of them where T is at most
    ``MOST_NODES``. Indices below are those of nodes; index 0 is step 0.

    Args:
        schedule: of the teacher, T steps.
        nodes: (M+1,) int64 ascending steps, from 0 to T.
        products: (M+1, M+1, M+1, G): at [j, k, i] ``E x̂(j, k)·x̂(j, i)`` for k, i < j, summed over
            the directions of each group. At k = j stands the network's own x̂ at z_j, which is
            x̂(j, j - 1) of one teacher step.
        gains: (M+1, G) W of each group; 1 at step 0.
        sizes: (G,) directions in each group.
        output_spread: root of the total variance of the teacher's output, Σ over directions.
        is_nonlinear: whether the products are of what is left of x̂ when its best affine function
            of z_j is taken away: all that is to be trained where the linear part is solved.
        free_steps: (M+1, G) mean squares of what the best affine function of z_T leaves of the
            state at each node: the error of a free step to there; nothing unless given.

    Raises:
        InputError: if shapes do not fit one another, or a number is not finite.
    """

    schedule: NoiseSchedule
    nodes: NDArray[np.int64]
    products: Array
    gains: Array
    sizes: Array
    output_spread: float
    is_nonlinear: bool = False
    free_steps: Array | None = None

    def __post_init__(self) -> None:
        count, groups = len(self.nodes), len(self.sizes)
        free = np.zeros((count, groups)) if self.free_steps is None else self.free_steps
        object.__setattr__(self, "free_steps", free)
        is_right = (
            self.nodes[0] == 0
            and self.nodes[-1] == self.schedule.num_steps
            and bool((np.diff(self.nodes) > 0).all())
            and self.products.shape == (count, count, count, groups)
            and self.gains.shape == (count, groups) == free.shape
        )
        if not is_right:
            shapes = (self.nodes.shape, self.products.shape, self.gains.shape, self.sizes.shape)
            raise InputError("table", "must have nodes from 0 to T and fitting shapes", shapes)
        for name in ("products", "gains", "sizes", "free_steps"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"table.{name}", "must be finite")

    @property
    def num_steps(self) -> int:
        """T."""
        return self.schedule.num_steps

    @property
    def num_dimensions(self) -> float:
        """D, the number of values of a sample."""
        return float(self.sizes.sum())

    @cached_property
    def carry(self) -> Array:
        """(M+1, M+1) c(j, i) for i < j: the error of z_i when x̂ at z_j errs by 1; 0 elsewhere."""
        return carries(self.schedule, self.nodes)

    @cached_property
    def angles(self) -> Array:
        """(M+1,) ``arctan(sigma/alpha)`` in radians: a jump's length is the difference of two."""
        schedule = self.schedule
        return np.arctan2(schedule.sigmas[self.nodes], schedule.alphas[self.nodes])

    @cached_property
    def deviations(self) -> Array:
        """(M+1, M+1, M+1, G) every ``deviation``, at [start, split, stop]."""
        norms = np.einsum("jkkg->jkg", self.products)
        return np.maximum(norms[:, :, None] + norms[:, None] - 2 * self.products, 0.0)

    def node_at(self, step: int) -> int:
        """Index of the node nearest to a step; step 0 and T have their own."""
        after = int(np.searchsorted(self.nodes, step))
        if after == 0 or self.nodes[after] == step:
            return after
        is_nearer = self.nodes[after] - step < step - self.nodes[after - 1]
        inner = after if is_nearer else after - 1
        return min(max(inner, 1), len(self.nodes) - 2) if len(self.nodes) > 2 else inner

    def free_error(self, step: int) -> Array:
        """(G,) squared error at the output of a free step from T to there."""
        assert self.free_steps is not None, "set when built"
        node = self.node_at(step)
        return np.maximum(self.free_steps[node], 0.0) * self.gains[node] ** 2

    def below(self, step: int) -> TeacherTable:
        """The table of the sampler that starts at a node, where a free step lands, or
        ``InputError`` where there is none."""
        if step not in self.nodes[1:]:
            raise InputError("step", "must be a node of the table", step)
        schedule, nodes = self.schedule, slice(self.node_at(step) + 1)
        return replace(
            self,
            schedule=arrays_schedule(schedule.alphas[: step + 1], schedule.sigmas[: step + 1]),
            nodes=self.nodes[nodes],
            products=self.products[nodes, nodes, nodes],
            gains=self.gains[nodes],
            free_steps=None,
        )

    def shares(self, start: int, stop: int) -> Array:
        """(G,) what a direction of each group has of a jump's squared deviation, in percent."""
        return self.shares_of(self.deviation(start, start, stop))

    def shares_of(self, squares: Array) -> Array:
        """(…, G) those shares of (…, G) squared deviations."""
        whole = np.maximum(squares.sum(axis=-1, keepdims=True), _LEAST)
        return np.maximum(100 * squares / self.sizes / whole, _LEAST_SHARE)

    def deviation(self, start: int, split: int, stop: int) -> Array:
        """(G,) D(j; k, i)²; ``split = start`` is a first child that is the network itself, as a
        teacher step is."""
        deviation: Array = self.deviations[start, split, stop]
        return deviation


def carries(schedule: NoiseSchedule, nodes: NDArray[np.int64]) -> Array:
    """(M+1, M+1) ``c(j, i) = alpha_i - alpha_j sigma_i/sigma_j`` for i < j, 0 elsewhere."""
    alpha, sigma = schedule.alphas[nodes], schedule.sigmas[nodes]
    carried = alpha[None, :] - alpha[:, None] * sigma[None, :] / np.maximum(sigma, 1e-300)[:, None]
    return np.tril(carried, -1)


def table_nodes(num_steps: int) -> NDArray[np.int64]:
    """(M+1,) the nodes of a sampler of T steps: all of them, or ``MOST_NODES`` evenly spread."""
    count = min(num_steps, MOST_NODES) + 1
    return np.linspace(0, num_steps, count).round().astype(np.int64)


def direction_groups(num_directions: int) -> list[slice]:
    """Groups of directions, by descending eigenvalue: each about twice as large as the one before.

    >>> [group.stop for group in direction_groups(64)]
    [1, 2, 4, 8, 16, 32, 64]
    """
    edges = np.unique(np.geomspace(1, num_directions, _GROUPS).round().astype(int))
    return [slice(int(a), int(b)) for a, b in zip([0, *edges[:-1]], edges, strict=True)]


def linear_table(spectrum: Spectrum, schedule: NoiseSchedule) -> TeacherTable:
    """The table of the linear teacher of Gaussian data, in closed form.

    In a direction with P(i, j) the teacher's composite, x̂(j, i) is
    ``u = (P(i, j) - sigma_i/sigma_j) / c(j, i)`` times z_j, so the products are n_j u(j, k) u(j, i)
    and the gains P(0, i).
    """
    groups_of = _grouped_spectrum(spectrum)
    eigenvalues = np.concatenate([values for values, _ in groups_of])
    weights = np.concatenate([counts for _, counts in groups_of])
    ends = np.cumsum([len(values) for values, _ in groups_of])[:-1]
    teacher, nodes = LinearTeacher(schedule, eigenvalues), table_nodes(schedule.num_steps)
    sigma, alpha = schedule.sigmas, schedule.alphas
    count, groups = len(nodes), len(groups_of)

    def grouped(values: Array) -> Array:
        return np.stack([part.sum(axis=-1) for part in np.split(values, ends, axis=-1)], axis=-1)

    products = np.zeros((count, count, count, groups))
    for j in range(1, count):
        step = int(nodes[j])
        slots = np.append(nodes[:j], step - 1)
        composite = np.exp(teacher.log_products[slots] - teacher.log_products[step])
        ratio = sigma[slots] / sigma[step]
        reached = alpha[slots] - alpha[step] * ratio
        coefficients = (composite - ratio[:, None]) / reached[:, None]
        weighted = coefficients * np.sqrt(teacher.variances[step] * weights)
        for group, part in enumerate(np.split(weighted, ends, axis=-1)):
            products[j, : j + 1, : j + 1, group] = part @ part.T
    sizes = grouped(weights[None])[0]
    output = np.exp([2 * teacher.log_composite(0, int(step)) for step in nodes[1:]])
    gains = np.vstack([np.ones(groups), np.sqrt(grouped(output * weights) / sizes)])
    spread = np.exp(2 * teacher.log_output) @ weights
    return TeacherTable(schedule, nodes, products, gains, sizes, float(np.sqrt(spread)))


def _grouped_spectrum(spectrum: Spectrum) -> list[tuple[Array, Array]]:
    """(eigenvalues, multiplicities) of each group of directions; what is left out is the last."""
    values = np.asarray(spectrum.eigenvalues, dtype=np.float64)
    counts = np.asarray(spectrum.multiplicities, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    values, counts = values[order], counts[order]
    groups = [(values[part], counts[part]) for part in direction_groups(len(values))]
    if rest := spectrum.remaining_dimensions:
        groups.append((np.array([spectrum.remaining_trace / rest]), np.array([float(rest)])))
    return groups
