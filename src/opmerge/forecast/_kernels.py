"""The composition of ``forecast.composition`` for one law, compiled, with its derivatives.

Students are intervals start → stop in the order of execution, (M,) each; a plan is fully told by
them, because what they leave uncovered are teacher steps. What does not depend on iterations is
computed once a plan (``static_parts``); ``composed`` is then a pass forward and one backward.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.compiling import kernel

Indices = NDArray[np.int64]

_LEAST = 1e-12
_REFERENCE = 400.0
_LARGEST_STEP = 1.5  # of log N
_FIRST_DAMPING, _MOST_DAMPING, _LEAST_DAMPING = 0.45, 0.9, 1e-4


class Tables(NamedTuple):
    """Of a teacher: node of each step and its angle (T+1,), carry, gains and D² (·, ·, ·, G); and
    shares s of jumps, with what the law makes of them, (100 s)^e (·, ·, G)."""

    node_of: Indices
    angles: Array
    carry: Array
    gains: Array
    deviations: Array
    shares: Array
    haste: Array


class Parts(NamedTuple):
    """Of a plan's M merges: where each leads, its number of children, and what they multiply."""

    parent: Indices
    is_first: NDArray[np.bool_]
    children: Array
    angle: Array
    share: Array
    at_start: NDArray[np.bool_]
    gain: Array
    weight: Array
    own: Array
    along: Array
    of_jump: Array
    haste: Array


class Laws(NamedTuple):
    """Of several laws, a row each, with the exponents of the shares."""

    rates: Array
    first: Array
    behind: Array
    shape: Array
    exponent: Array
    onset: Array
    of_share: Array


class Law(NamedTuple):
    """Of a ``MergeLaw``."""

    rates: Array
    first: float
    behind: float
    shape: float
    exponent: float
    onset: float


@kernel(error_model="numpy")
def _nested(
    starts: Indices, stops: Indices, num_steps: int
) -> tuple[bool, Indices, NDArray[np.bool_], Indices, Indices, Indices]:
    """Whether intervals nest; (M,) parents, -1 for none, who is a first child, number of children,
    the split and the steps behind it that students cover."""
    count = len(starts)
    parent, children = np.full(count, -1, dtype=np.int64), starts - stops
    is_first, covered = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.int64)
    splits = starts - 1
    waiting, depth = np.empty(count, dtype=np.int64), 0
    nests = True
    for m in range(count):
        start, stop = starts[m], stops[m]
        nests &= start - stop >= 2 and start <= num_steps and stop >= 0
        while depth > 0:
            child = waiting[depth - 1]
            if starts[child] <= stop or stops[child] >= start:
                break
            length = starts[child] - stops[child]
            nests &= starts[child] <= start and stops[child] >= stop and length < start - stop
            parent[child] = m
            children[m] -= length - 1
            if starts[child] == start:
                is_first[child], splits[m] = True, stops[child]
            else:
                covered[m] += length
            depth -= 1
        waiting[depth] = m
        depth += 1
    return nests, parent, is_first, children, splits, covered


@kernel(error_model="numpy")
def static_parts(starts: Indices, stops: Indices, tables: Tables) -> tuple[bool, int, Parts]:
    """Whether the intervals nest, the number of students left in the end, and the parts.

    They are in the order of execution: by descending stop, then ascending start.
    """
    node_of, angles, carry, gains, deviations, shares, hastes = tables
    count, groups, num_steps = len(starts), gains.shape[1], len(node_of) - 1
    nests, parent, is_first, children, splits, covered = _nested(starts, stops, num_steps)
    gain, weight = np.zeros((count, groups)), np.zeros((count, groups))
    own, along = np.zeros((count, groups)), np.zeros((count, groups))
    of_jump, haste = np.zeros((count, groups)), np.zeros((count, groups))
    angle, left = np.zeros(count), num_steps
    if not nests:
        count = 0
    for m in range(count):
        is_teacher_step = splits[m] == starts[m] - 1
        j, i = node_of[starts[m]], node_of[stops[m]]
        k = j if is_teacher_step else node_of[splits[m]]
        above = parent[m]
        if above < 0:
            left -= starts[m] - stops[m] - 1
        outer, below = (0, 0) if above < 0 else (node_of[starts[above]], node_of[stops[above]])
        angle[m] = max(angles[starts[m]] - angles[stops[m]], _LEAST)
        for g in range(groups):
            reach = carry[j, i] * gains[i, g]  # of an error of x̂, at the output
            gain[m, g] = min(carry[j, k] * gains[k, g] / max(reach, _LEAST), 1.0)
            unit = 1.0 if above < 0 else max(carry[outer, below] * gains[below, g], _LEAST)
            weight[m, g] = reach / unit
            whole, ours = deviations[j, j, i, g], deviations[j, k, i, g]
            root = np.sqrt(ours)
            if not is_teacher_step:
                inner = whole + ours - deviations[j, j, k, g]
                root = min(max(inner / (2 * np.sqrt(whole) + _LEAST), 0.0), root)
            own[m, g], along[m, g] = ours, root
            of_jump[m, g], haste[m, g] = shares[j, i, g], hastes[j, i, g]
    share, at_start = covered / (splits - stops), starts == num_steps
    counts = children.astype(np.float64)
    reach = (gain, weight, own, along, of_jump, haste)
    parts = Parts(parent, is_first, counts, angle, share, at_start, *reach)
    return nests, left, parts


class _Pass(NamedTuple):
    """Of a pass forward, (M, G): the errors that merges meet, what they leave, and by log N; and
    the (G,) squared error of the output."""

    first: Array
    first_scattered: Array
    behind_scattered: Array
    left: Array
    square: Array
    by_left: Array
    by_square: Array
    before: Array
    new: Array
    output: Array


@kernel(error_model="numpy")
def _forward(parts: Parts, law: Law, iterations: Array) -> _Pass:
    """Errors of every student in the order of execution, ``new`` the aligned ones that it has."""
    count, groups = parts.gain.shape
    first, first_scattered = np.zeros((count, groups)), np.zeros((count, groups))
    behind, behind_scattered = np.zeros((count, groups)), np.zeros((count, groups))
    lefts, squares = np.empty((count, groups)), np.empty((count, groups))
    by_left, by_square = np.empty((count, groups)), np.empty((count, groups))
    befores, news, output = np.empty((count, groups)), np.empty((count, groups)), np.zeros(groups)
    for m in range(count):
        scale = np.exp(law.behind * parts.share[m]) * iterations[m] / _REFERENCE
        scale *= (law.first if parts.at_start[m] else 1.0) * parts.angle[m] ** -law.exponent
        above, elapsed = parts.parent[m], iterations[m] / law.onset
        for g in range(groups):
            x, gain = law.rates[g] * scale * parts.haste[m, g], parts.gain[m, g]
            waits = parts.of_jump[m, g] * np.exp(-elapsed)
            left, square = (1 + x) ** -law.shape, (1 + 2 * x) ** -law.shape
            by_left[m, g] = -(1 - waits) * law.shape * x / (1 + x) * left
            by_left[m, g] -= elapsed * waits * (1 - left)
            by_square[m, g] = -2 * (1 - waits) * law.shape * x / (1 + 2 * x) * square
            by_square[m, g] -= elapsed * waits * (1 - square)
            left, square = waits + (1 - waits) * left, waits + (1 - waits) * square
            lefts[m, g], squares[m, g] = left, square
            before = parts.along[m, g] + (1 - gain) * first[m, g] - behind[m, g]
            befores[m, g] = before
            beside = square * (parts.own[m, g] - parts.along[m, g] ** 2)
            beside += (square - left**2) * before**2
            new = gain * first[m, g] + behind[m, g] + left * before
            new_scattered = (gain + (1 - gain) * left) ** 2 * first_scattered[m, g]
            new_scattered += behind_scattered[m, g] * (1 - 2 * left + square)
            new_scattered += max(beside, 0.0)
            weight, news[m, g] = parts.weight[m, g], new
            if above < 0:
                output[g] += weight**2 * (new**2 + new_scattered)
            elif parts.is_first[m]:
                first[above, g], first_scattered[above, g] = new, new_scattered
            else:
                behind[above, g] += weight * new
                behind_scattered[above, g] += weight**2 * new_scattered
    met = (first, first_scattered, behind_scattered)
    return _Pass(*met, lefts, squares, by_left, by_square, befores, news, output)


@kernel(error_model="numpy")
def _backward(parts: Parts, law: Law, iterations: Array, passed: _Pass) -> Array:
    """(M,) derivatives of the squared error of the output by log N, from the last merge back."""
    count, groups = parts.gain.shape
    by_first, by_first_scattered = np.empty((count, groups)), np.empty((count, groups))
    by_behind, by_behind_scattered = np.empty((count, groups)), np.empty((count, groups))
    gradient = np.zeros(count)
    for m in range(count - 1, -1, -1):
        above = parts.parent[m]
        for g in range(groups):
            weight, gain = parts.weight[m, g], parts.gain[m, g]
            if above < 0:
                by_new, by_scattered = 2 * weight**2 * passed.new[m, g], weight**2
            elif parts.is_first[m]:
                by_new, by_scattered = by_first[above, g], by_first_scattered[above, g]
            else:
                by_new = weight * by_behind[above, g]
                by_scattered = weight**2 * by_behind_scattered[above, g]
            left, square, before = passed.left[m, g], passed.square[m, g], passed.before[m, g]
            carried = gain + (1 - gain) * left
            by_before = by_new * left + by_scattered * (square - left**2) * 2 * before
            scattered_by_left = carried * (1 - gain) * passed.first_scattered[m, g]
            scattered_by_left -= passed.behind_scattered[m, g] + left * before**2
            beside = parts.own[m, g] - parts.along[m, g] ** 2 + before**2
            gradient[m] += (by_new * before + 2 * by_scattered * scattered_by_left) * (
                passed.by_left[m, g]
            )
            gradient[m] += by_scattered * (
                (passed.behind_scattered[m, g] + beside) * passed.by_square[m, g]
            )
            by_first[m, g] = by_new * gain + by_before * (1 - gain)
            by_behind[m, g] = by_new - by_before
            by_first_scattered[m, g] = by_scattered * carried**2
            by_behind_scattered[m, g] = by_scattered * (1 - 2 * left + square)
    return gradient


@kernel(error_model="numpy")
def composed(parts: Parts, law: Law, iterations: Array) -> tuple[float, Array]:
    """The squared paired error of a plan, and its (M,) derivatives by log N."""
    passed = _forward(parts, law, iterations)
    return passed.output.sum(), _backward(parts, law, iterations, passed)


@kernel(error_model="numpy")
def errors_by_law(parts: Parts, laws: Laws, iterations: Array) -> Array:
    """(L,) squared paired errors of a plan under each of the laws."""
    errors = np.empty(len(laws.first))
    for place in range(len(errors)):
        rates, first, behind = laws.rates[place], laws.first[place], laws.behind[place]
        shape, exponent = laws.shape[place], laws.exponent[place]
        law = Law(rates, first, behind, shape, exponent, laws.onset[place])
        haste = (100 * parts.of_jump) ** laws.of_share[place]
        errors[place] = _forward(_with_haste(parts, haste), law, iterations).output.sum()
    return errors


@kernel(error_model="numpy")
def _with_haste(parts: Parts, haste: Array) -> Parts:
    parent, is_first, children, angle, share, at_start, gain, weight, own, along, of_jump, _ = parts
    told = (parent, is_first, children, angle, share, at_start)
    return Parts(*told, gain, weight, own, along, of_jump, haste)


@kernel(error_model="numpy")
def fitted(weights: Array, costs: Array, budget: float) -> Array:
    """(M,) N = max(1, c · weights) with the c at which Σ costs N is the budget, >= Σ costs."""
    counts, is_free = np.ones(len(weights)), np.ones(len(weights), dtype=np.bool_)
    while is_free.any():
        scale = (budget - costs[~is_free].sum()) / (costs * weights)[is_free].sum()
        changed = False
        for m in range(len(weights)):
            if is_free[m] and scale * weights[m] < 1:
                is_free[m], changed = False, True
        if not changed:
            counts[is_free] = scale * weights[is_free]
            break
    return counts


@kernel(error_model="numpy")
def best_split(
    parts: Parts, law: Law, costs: Array, budget: float, weights: Array, limit: int
) -> tuple[float, Array, Array]:
    """Iterations (M,) >= 1 that cost the budget with the least error: a local minimum.

    At it, the share of the cost of every merge with N > 1 is in proportion to -dE²/dlog N. From N
    in proportion to ``weights`` on, log N moves by a share of log(elasticity / share of cost): all
    the way to the minimum at once if errors were equal powers of N, and downhill always. Returns
    the squared error, N and the derivatives by log N there.
    """
    here = fitted(weights, costs, budget)
    error, gradient = composed(parts, law, here)
    damping = _FIRST_DAMPING
    for _ in range(limit):
        spent = costs * here
        steepest = max(-gradient.min(), 1e-300)
        ratio = np.log(np.maximum(-gradient, 1e-6 * steepest) / spent)
        ratio -= (spent * ratio).sum() / spent.sum()
        step = np.minimum(np.maximum(damping * ratio, -_LARGEST_STEP), _LARGEST_STEP)
        there = fitted(here * np.exp(step), costs, budget)
        new_error, new_gradient = composed(parts, law, there)
        if new_error < error:
            gain = 1 - new_error / error
            here, error, gradient = there, new_error, new_gradient
            damping = min(1.3 * damping, _MOST_DAMPING)
            if gain < 1e-11:
                break
        else:
            damping /= 2
            if damping < _LEAST_DAMPING:
                break
    return error, here, gradient


@kernel(error_model="numpy")
def whole_iterations(
    counts: Array,
    gradient: Array,
    uses: Array,
    targets: Array,
    passes: float,
    budget: float,
    fewest: float,
) -> Array:
    """(M,) whole N >= 1 near the counts: Σ max(⌈N/R⌉, fewest) targets + passes N is at most the
    budget.

    The largest scale of the counts, rounded down, that fits; what is left goes to the merges whose
    next iteration gains most for its cost. If even N = 1 does not fit, that.
    """
    low, high = 0.0, 1.0 + budget / (passes * counts.min())
    least = np.ones(len(counts))
    found = least
    if (max(fewest, 1.0) * targets + passes).sum() > budget:
        return found
    for _ in range(200):
        middle = (low + high) / 2
        there = np.maximum(least, np.floor(middle * counts))
        if (np.maximum(np.ceil(there / uses), fewest) * targets + passes * there).sum() <= budget:
            low, found = middle, there
        else:
            high = middle
        if high - low <= 1e-12 * high:
            break
    left = budget - (np.maximum(np.ceil(found / uses), fewest) * targets + passes * found).sum()
    worth = -gradient / counts / (targets / uses + passes)
    for m in np.argsort(-worth):
        batches = max(np.ceil(found[m] / uses[m]), fewest)
        more = (max(np.ceil((found[m] + 1) / uses[m]), fewest) - batches) * targets[m]
        if worth[m] > 0 and more + passes <= left:
            found[m] += 1
            left -= more + passes
    return found
