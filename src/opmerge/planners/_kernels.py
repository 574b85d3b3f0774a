"""Numba kernels of the planners.

Those of the interval planners work on relative excesses δ = b/P - 1 = expm1(e), in which a merge
is polynomial:

    δ = (1 - ρ_j) t + ρ_j (offset + gain δ_1),    t = δ_1 + u + δ_1 u,

with δ_1 the first child, u the product of the rest and t their composite (THEORY 4). Trees are
indexed [start, stop] and forests [stop, start], so that both are contiguous in the split. Jump
deficits and weights of x_0 in a jump, at [start, stop], are read under denoiser copy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.compiling import kernel, prange

_LOST = 1e-280  # errors whose logarithm is not to be trusted

# NaN never occurs, and letting the compiler reorder a minimum is what makes it vectorise.
_FAST = {"nnan", "nsz", "contract", "arcp", "reassoc"}


@kernel(error_model="numpy")
def jump_deficits(alphas: Array, sigmas: Array, eigenvalue: float, log_cosines: Array) -> Array:
    """1 - J(start→stop) / P(stop, start), (T+1, T+1) at [start, stop], for one eigenvalue."""
    size = len(alphas)
    deficits = np.zeros((size, size))
    for start in range(1, size):
        steps = log_cosines[start]
        for stop in range(start - 2, -1, -1):
            steps += log_cosines[stop + 1]
            inner = alphas[stop] * alphas[start] * eigenvalue + sigmas[stop] * sigmas[start]
            cross = alphas[stop] * sigmas[start] - alphas[start] * sigmas[stop]
            jump = -0.5 * np.log1p(eigenvalue * (cross / inner) ** 2)  # -inf at a right angle
            deficits[start, stop] = -np.expm1(jump - steps)
    return deficits


@kernel(fastmath=_FAST)
def scalar_tables(
    log_products: Array, retentions: Array, deficits: Array, weights: Array, denoiser: bool
) -> tuple[Array, Array]:
    """Smallest and largest δ of every tree and forest, (2, T+1, T+1) each, for one eigenvalue.

    Exact, because a composite and a merge both increase with each child.
    """
    size = len(log_products)
    trees, forests = np.zeros((2, size, size)), np.zeros((2, size, size))
    growth = np.empty((size, size))  # 1/P(stop, split) - 1 at [stop, split]
    for stop in range(size):
        for split in range(stop, size):
            growth[stop, split] = np.expm1(log_products[split] - log_products[stop])
    for start in range(2, size):
        rho = retentions[start]
        for stop in range(start - 2, -1, -1):
            least_tree, least_forest = np.inf, np.inf
            most_tree, most_forest = -np.inf, -np.inf
            for split in range(stop + 1, start):
                gain, offset = 1.0 + growth[stop, split], growth[stop, split]
                if denoiser:
                    gain *= weights[start, stop] / weights[start, split]
                    offset = gain * deficits[start, split] - deficits[start, stop]
                first, rest = trees[0, start, split], forests[0, stop, split]
                target = first + rest + first * rest
                least_forest = min(least_forest, target)
                least_tree = min(least_tree, (1 - rho) * target + rho * (offset + gain * first))
                first, rest = trees[1, start, split], forests[1, stop, split]
                target = first + rest + first * rest
                most_forest = max(most_forest, target)
                most_tree = max(most_tree, (1 - rho) * target + rho * (offset + gain * first))
            trees[0, start, stop], trees[1, start, stop] = least_tree, most_tree
            forests[0, stop, start] = min(least_forest, least_tree)
            forests[1, stop, start] = max(most_forest, most_tree)
    return trees, forests


@kernel(parallel=True)
def scalar_ranges(
    log_products: Array,
    retentions: Array,
    log_cosines: Array,
    eigenvalues: Array,
    alphas: Array,
    sigmas: Array,
    weights: Array,
    denoiser: bool,
    student_steps: int,
) -> Array:
    """(2, d) smallest and largest δ of any plan with K students, eigenvalue by eigenvalue."""
    size, dimensions = log_products.shape
    ranges = np.empty((2, dimensions))
    for d in prange(dimensions):
        deficits = np.zeros((1, 1))
        if denoiser:
            deficits = jump_deficits(alphas, sigmas, eigenvalues[d], log_cosines[:, d].copy())
        trees, _ = scalar_tables(
            log_products[:, d].copy(), retentions[:, d].copy(), deficits, weights, denoiser
        )
        for side in range(2):
            sign, reached = 1.0 - 2.0 * side, trees[side, size - 1].copy()
            for students in range(1, student_steps):
                for stop in range(size - students):
                    least = np.inf
                    for above in range(stop + 1, size - students):
                        first, rest = reached[above], trees[side, above, stop]
                        least = min(least, sign * (first + rest + first * rest))
                    reached[stop] = sign * least  # read are those above, still of the old round
            ranges[side, d] = reached[0]
    return ranges


@kernel(fastmath=_FAST, parallel=True)
def fill_intervals(
    first: int,
    last: int,
    log_products: Array,
    retentions: Array,
    log_variances: Array,
    log_targets: Array,
    multiplicities: Array,
    deficits: Array,
    weights: Array,
    denoiser: bool,
    trees: Array,
    forests: Array,
    tree_splits: NDArray[np.int64],
    forest_splits: NDArray[np.int64],
) -> None:
    """Interval DP of arXiv 2505.16024 (Algorithm 1): per interval, the operator closest in W2.

    For every interval start → stop it keeps the tree, and the forest, whose squared distance
    Σ w n_start P² (δ - δ_target)² to the interval's target is least, built from the best first
    child and the best forest for the rest. O(T³ d); intervals of one length run in parallel.

    Takes (T+1, d) tables, ``log_targets`` the target excesses cumulated from the data side, so that
    an interval's is a difference, and (T+1, T+1, d) deficits. Fills in, for the lengths first …
    last - 1, trees and forests (T+1, T+1, d), and the splits (T+1, T+1) of each at [start, stop];
    a forest's split 0 stands for a single tree.
    """
    size, dimensions = log_products.shape
    products, inverse = np.exp(log_products), np.exp(-log_products)
    for length in range(first, last):
        for stop in prange(size - length):
            start = stop + length
            log_product = log_products[stop] - log_products[start]
            scale = multiplicities * np.exp(log_variances[start] + 2 * log_product)
            target = np.expm1(log_targets[start] - log_targets[stop])
            best_tree, best_forest = np.inf, np.inf
            for split in range(stop + 1, start):
                ratio = weights[start, stop] / weights[start, split] if denoiser else 1.0
                tree_error, forest_error = 0.0, 0.0
                for d in range(dimensions):
                    head, rest = trees[start, split, d], forests[stop, split, d]
                    composite = head + rest + head * rest
                    gain = inverse[stop, d] * products[split, d]
                    offset = gain - 1.0
                    if denoiser:
                        gain *= ratio
                        offset = gain * deficits[start, split, d] - deficits[start, stop, d]
                    rho = retentions[start, d]
                    merged = (1.0 - rho) * composite + rho * (offset + gain * head)
                    tree_error += scale[d] * (merged - target[d]) ** 2
                    forest_error += scale[d] * (composite - target[d]) ** 2
                if tree_error < best_tree:
                    best_tree, tree_splits[start, stop] = tree_error, split
                if forest_error < best_forest:
                    best_forest, forest_splits[start, stop] = forest_error, split
            split, kept = tree_splits[start, stop], retentions[start]
            child, others = trees[start, split], forests[stop, split]
            offsets = np.expm1(log_products[split] - log_products[stop])
            gains = 1.0 + offsets
            if denoiser:
                gains = gains * weights[start, stop] / weights[start, split]
                offsets = gains * deficits[start, split] - deficits[start, stop]
            initial = offsets + gains * child
            trees[start, stop] = (1 - kept) * (child + others + child * others) + kept * initial
            if best_tree <= best_forest:
                forest_splits[start, stop] = 0
                forests[stop, start] = trees[start, stop]
            else:
                split = forest_splits[start, stop]
                child, others = trees[start, split], forests[stop, split]
                forests[stop, start] = child + others + child * others


@kernel(parallel=True)
def add_logarithms(
    first: int, last: int, log_products: Array, retention: Array, weights: Array, total: Array
) -> None:
    """Add Σ_d weights_d log1p(ρ_d (1/P_d(i, k) - 1)) to ``total`` at [k, i], first <= k < last,
    k > i."""
    dimensions = log_products.shape[1]
    for above in prange(first, last):
        for below in range(above):
            value = 0.0
            for d in range(dimensions):
                value += weights[d] * np.log1p(
                    retention[d] * np.expm1(log_products[above, d] - log_products[below, d])
                )
            total[above, below] += value


@kernel()
def cheapest_paths(block_costs: Array, end_costs: Array) -> tuple[Array, NDArray[np.int64]]:
    """See ``combs.cheapest_paths``; entries of the (n, n) block costs with k <= i are not read."""
    costs = end_costs.copy()
    ends = np.full(len(costs), -1, dtype=np.int64)
    for above in range(1, len(costs)):
        for below in range(above):
            cost = block_costs[above, below] + costs[below]
            if cost < costs[above]:
                costs[above], ends[above] = cost, below
    return costs, ends


@kernel(error_model="numpy")
def cheapest_time(
    values: Array, slopes: Array, nodes: Array, node: int, charge: float
) -> tuple[float, float]:
    """Lower bound on the least of f(x) + charge x over x >= 0, and about where that is.

    (X,) values of f and slopes -f' at the nodes. The least lies between ``node``, the last at
    which -f' >= charge, and the next; f is above its tangents in the logarithm there,
    ``f_p exp(-R (x - x_p))`` with R = -f'_p / f_p, whose least with the cost is in closed form.
    """
    if slopes[node] < charge or values[node] <= 0.0:  # nothing pays
        return values[0], 0.0
    first, end = nodes[node], nodes[node + 1] if node + 1 < len(nodes) else np.inf
    best, time = -np.inf, first
    for near in range(node, min(node + 2, len(nodes))):
        value, slope = values[near], slopes[near]
        if value < _LOST:
            break
        rate = slope / value
        at = min(max(nodes[near] + np.log(slope / charge) / rate, first), end)
        least = value * np.exp(-rate * (at - nodes[near])) + charge * at
        if least > best:
            best, time = least, at
    return best, time


@kernel(error_model="numpy")
def add_head(
    start: int,
    values: Array,
    slopes: Array,
    nodes: Array,
    price: float,
    overhead: float,
    trees: Array,
    forests: Array,
    splits: NDArray[np.int64],
    counts: NDArray[np.int64],
    times: Array,
    breaks: NDArray[np.int64],
) -> None:
    """Fill the tables of ``first_order`` for trees and forests that read step ``start``.

    Those of all earlier steps are there. Takes (pairs, X) values f and slopes -f' of what a merge
    at k down to i leaves after the (X,) times of the nodes, at row k (k - 1) / 2 + i.
    """
    trees[start, start - 1] = forests[1, start, start - 1] = 0.0
    for stop in range(start - 2, -1, -1):
        best = np.inf
        for split in range(stop + 1, start):
            pair = split * (split - 1) // 2 + stop
            last = len(nodes) - 1
            while last > 0 and values[pair, last] < _LOST:
                last -= 1
            node = last
            for count in range(1, split - stop + 1):
                inside = trees[start, split] + forests[count, split, stop]
                if inside >= best:
                    continue
                charge = price * (count + 1.0 + overhead)
                while node > 0 and slopes[pair, node] < charge:
                    node -= 1
                paid, time = cheapest_time(values[pair], slopes[pair], nodes, node, charge)
                if inside + paid < best:
                    best, splits[start, stop] = inside + paid, split
                    counts[start, stop], times[start, stop] = count, time
        trees[start, stop] = forests[1, start, stop] = best
    for stop in range(start - 1):
        for count in range(2, start - stop + 1):
            best = np.inf
            for split in range(stop + count - 1, start):
                value = trees[start, split] + forests[count - 1, split, stop]
                if value < best:
                    best, breaks[count, start, stop] = value, split
            forests[count, start, stop] = best
