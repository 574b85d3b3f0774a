"""The named merge orders (THEORY 5), for one-step students and, window by window, K-step ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from opmerge.errors import InputError
from opmerge.plans.tree import Merge, Plan, Tree

__all__ = [
    "STRATEGIES",
    "boot",
    "build_strategy",
    "consistency",
    "default_strategies",
    "hybrid",
    "phased",
    "progressive",
    "strategy_family",
    "temporal",
    "uniform",
    "uniform_boundaries",
    "vanilla",
]


def vanilla(start: int, stop: int = 0) -> Tree:
    """One merge of all steps (Luhman & Luhman 2021)."""
    if start - stop < 2:
        return Tree(start, stop)
    return Tree(start, stop, (Merge(tuple(range(start, stop - 1, -1))),))


def boot(start: int, stop: int = 0) -> Tree:
    """Sequential BOOT: one step at a time from the noise side; reads z_start (Gu et al. 2023)."""
    return Tree.chain(start, range(start - 1, stop - 1, -1))


def consistency(start: int, stop: int = 0) -> Tree:
    """Sequential consistency: merge(t, student of t-1 → stop), t upwards (Song et al. 2023)."""
    return Tree(start, stop, tuple(Merge((t, t - 1, stop)) for t in range(stop + 2, start + 1)))


def progressive(start: int, stop: int = 0) -> Tree:
    """Neighbours in pairs, round by round; an odd one waits (Salimans & Ho 2022)."""
    return uniform(start, stop, arity=2)


def uniform(start: int, stop: int = 0, *, arity: int = 4) -> Tree:
    """Rounds of k-ary merges from the noise side; what is left of a round waits or merges alone."""
    if arity < 2:
        raise InputError("uniform", "must merge at least 2 operators", arity)
    operators = list(range(start, stop - 1, -1))
    rounds: list[Sequence[int]] = []
    while len(operators) > 2:
        operators = _thin(operators, arity)
        rounds.append(operators)
    return _from_rounds(start, stop, rounds)


def temporal(start: int, stop: int = 0, *, window: int = 8) -> Tree:
    """Windows of w steps merged at once, then the windows one by one from the noise side."""
    if window < 1:
        raise InputError("temporal", "must have windows of at least 1 step", window)
    edges = _thin(list(range(start, stop - 1, -1)), window)
    inside = [vanilla(above, below) for above, below in pairwise(edges)]
    sequence = [Merge((start, above, below)) for above, below in pairwise(edges[1:])]
    return Tree(start, stop, tuple(m for tree in inside for m in tree.merges) + tuple(sequence))


def phased(start: int, stop: int = 0, *, phases: Sequence[int] = ()) -> Tree:
    """Reduce T → n_1 → n_2 → … → 1, in groups of equal size (TRACT, Berthelot et al. 2023).

    Args:
        phases: n_1 > n_2 > … >= 1; by default one phase of about √T.
    """
    num_steps = start - stop
    counts = list(phases) or [round(num_steps**0.5)]
    if any(a <= b for a, b in pairwise(counts)) or counts[-1] < 1:
        raise InputError("phased", "must have decreasing phases >= 1", counts)
    operators: Sequence[int] = range(start, stop - 1, -1)
    rounds: list[Sequence[int]] = []
    for count in [*(n for n in counts if n < num_steps), 1]:
        chosen = uniform_boundaries(len(operators) - 1, count)
        operators = [operators[len(operators) - 1 - position] for position in chosen]
        rounds.append(operators)
    return _from_rounds(start, stop, rounds)


def hybrid(start: int, stop: int = 0, *, sequential: int = 8) -> Tree:
    """One merge of the noisy steps, then the last ``sequential`` steps one at a time (THEORY 9)."""
    if sequential < 0:
        raise InputError("hybrid", "must leave 0 or more sequential steps", sequential)
    first = min(stop + sequential, start - 1)
    blocks = [start - 1, *range(first, stop - 1, -1)]
    return Tree.chain(start, list(dict.fromkeys(blocks)))


STRATEGIES: Mapping[str, Callable[..., Tree]] = {
    "vanilla": vanilla,
    "progressive": progressive,
    "consistency": consistency,
    "boot": boot,
    "uniform": uniform,
    "temporal": temporal,
    "phased": phased,
    "hybrid": hybrid,
}
"""Every strategy by name: ``strategy(start, stop, **its own parameter) -> Tree``."""

_PARAMETERS = {"uniform": "arity", "temporal": "window", "phased": "phases", "hybrid": "sequential"}


def build_strategy(text: str, num_steps: int, student_steps: int = 1) -> Plan:
    """The plan that a name stands for: ``boot``, ``uniform:4``, ``phased:32,4``.

    A K-step student applies the strategy in K windows of equal length (the longer ones on the
    noise side where K does not divide T).

    Raises:
        InputError: for an unknown name, a bad parameter or more student steps than teacher steps.
    """
    name, _, parameter = text.partition(":")
    if name not in STRATEGIES:
        raise InputError("strategy", f"must be one of {', '.join(STRATEGIES)}", name)
    options: dict[str, int | tuple[int, ...]] = {}
    if parameter:
        options = {_parameter_name(name): _parse_parameter(name, parameter)}
    edges = uniform_boundaries(num_steps, student_steps)
    return Plan(tuple(STRATEGIES[name](a, b, **options) for a, b in pairwise(edges)))


def default_strategies(num_steps: int) -> tuple[str, ...]:
    """The strategies that are compared where none are named."""
    half = max(1, num_steps // 2)
    return (
        "vanilla",
        "progressive",
        "consistency",
        "boot",
        "uniform:4",
        "temporal:8",
        f"phased:{max(1, round(num_steps**0.5))}",
        f"hybrid:{half}",
    )


def strategy_family(num_steps: int) -> tuple[str, ...]:
    """Those, and each strategy that has a number with powers of two for it; for planners to try."""
    powers = [2**k for k in range(num_steps.bit_length()) if 1 < 2**k < num_steps]
    sized = [f"{name}:{size}" for name in _PARAMETERS for size in powers]
    return tuple(dict.fromkeys((*default_strategies(num_steps), *sized)))


def uniform_boundaries(num_steps: int, student_steps: int) -> list[int]:
    """(T, …, 0) in K windows of equal length, the longer ones first where K does not divide T."""
    if student_steps < 1:
        raise InputError("student_steps", "must be >= 1", student_steps)
    if num_steps < 1:
        raise InputError("num_steps", "must be >= 1", num_steps)
    if student_steps > num_steps:
        raise InputError(
            "student_steps", f"must be <= the number of teacher steps {num_steps}", student_steps
        )
    length, longer = divmod(num_steps, student_steps)
    return [num_steps - k * length - min(k, longer) for k in range(student_steps + 1)]


def _thin(operators: Sequence[int], group: int) -> list[int]:
    """Boundaries left when groups of ``group`` operators, from the noise side, become one each."""
    return [*operators[:-1:group], operators[-1]]


def _from_rounds(start: int, stop: int, rounds: Sequence[Sequence[int]]) -> Tree:
    return Tree(start, stop, tuple(_round_merges(list(range(start, stop - 1, -1)), rounds)))


def _round_merges(operators: Sequence[int], rounds: Sequence[Sequence[int]]) -> Iterator[Merge]:
    for kept in rounds:
        position = {step: index for index, step in enumerate(operators)}
        for above, below in pairwise(kept):
            boundaries = tuple(operators[position[above] : position[below] + 1])
            if len(boundaries) > 2:
                yield Merge(boundaries)
        operators = kept


def _parameter_name(name: str) -> str:
    if name not in _PARAMETERS:
        raise InputError("strategy", f"must be plain `{name}`: it takes no parameter")
    return _PARAMETERS[name]


def _parse_parameter(name: str, text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError("strategy", f"must have whole numbers after `{name}:`", text) from None
    if name == "phased":
        return numbers
    if len(numbers) != 1:
        raise InputError("strategy", f"must have one number after `{name}:`", text)
    return numbers[0]
