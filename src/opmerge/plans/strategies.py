"""The named merge orders (THEORY 5), for one-step students and, window by window, K-step ones.

A new strategy is a function with the decorator ``strategy``, here or in a file of its own in this
package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from itertools import pairwise

from opmerge.checks import check_count, check_steps
from opmerge.errors import InputError
from opmerge.plans.tree import Merge, Plan, Tree

Strategy = Callable[..., Tree]

STRATEGIES: dict[str, Strategy] = {}
"""Every strategy by name: ``strategy(start, stop, **its own parameter) -> Tree``."""

EXAMPLES: dict[str, str] = {}
"""How each is written, such as ``uniform:4`` where it takes a number."""

_SIZES: dict[str, Callable[[int], int]] = {}


def strategy(
    example: str, size: Callable[[int], int] | None = None
) -> Callable[[Strategy], Strategy]:
    """Decorator of a function ``(start, stop) -> Tree``: it is known by the name in its example.

    A strategy with a number, or with several, takes it as its one keyword-only parameter, whose
    default is then a number, or a tuple. Where no strategies are named it is compared as in its
    example, or with the number that ``size`` gives for T.
    """
    name = example.partition(":")[0]

    def register(make: Strategy) -> Strategy:
        STRATEGIES[name], EXAMPLES[name] = make, example
        if size is not None:
            _SIZES[name] = size
        return make

    return register


@strategy("vanilla")
def vanilla(start: int, stop: int = 0) -> Tree:
    """One merge of all steps (Luhman & Luhman 2021)."""
    if start - stop < 2:
        return Tree(start, stop)
    return Tree(start, stop, (Merge(tuple(range(start, stop - 1, -1))),))


@strategy("progressive")
def progressive(start: int, stop: int = 0) -> Tree:
    """Neighbours in pairs, round by round; an odd one waits (Salimans & Ho 2022)."""
    return uniform(start, stop, arity=2)


@strategy("consistency")
def consistency(start: int, stop: int = 0) -> Tree:
    """Sequential consistency: merge(t, student of t-1 → stop), t upwards (Song et al. 2023)."""
    return Tree(start, stop, tuple(Merge((t, t - 1, stop)) for t in range(stop + 2, start + 1)))


@strategy("boot")
def boot(start: int, stop: int = 0) -> Tree:
    """Sequential BOOT: one step at a time from the noise side; reads z_start (Gu et al. 2023)."""
    return Tree.chain(start, range(start - 1, stop - 1, -1))


@strategy("uniform:4")
def uniform(start: int, stop: int = 0, *, arity: int = 4) -> Tree:
    """Rounds of k-ary merges from the noise side; what is left of a round waits or merges alone."""
    if arity < 2:
        raise InputError("uniform", "must merge at least 2 operators", arity)
    operators: Sequence[int] = range(start, stop - 1, -1)
    rounds: list[Sequence[int]] = []
    while len(operators) > 2:
        operators = _thin(operators, arity)
        rounds.append(operators)
    return _from_rounds(start, stop, rounds)


@strategy("temporal:8")
def temporal(start: int, stop: int = 0, *, window: int = 8) -> Tree:
    """Windows of w steps merged at once, then the windows one by one from the noise side."""
    if window < 1:
        raise InputError("temporal", "must have windows of at least 1 step", window)
    edges = _thin(range(start, stop - 1, -1), window)
    inside = [merge for ends in pairwise(edges) for merge in vanilla(*ends).merges]
    sequence = [Merge((start, above, below)) for above, below in pairwise(edges[1:])]
    return Tree(start, stop, (*inside, *sequence))


@strategy("phased:32,4", lambda num_steps: max(1, round(num_steps**0.5)))
def phased(start: int, stop: int = 0, *, phases: Sequence[int] = ()) -> Tree:
    """Reduce T → n_1 → n_2 → … → 1, in groups of equal size (TRACT, Berthelot et al. 2023).

    The phases n_1 > n_2 > … >= 1 are by default one of about √T.
    """
    num_steps = start - stop
    counts = list(phases) or [round(num_steps**0.5)]
    if any(a <= b for a, b in pairwise(counts)) or counts[-1] < 1:
        raise InputError("phased", "must have decreasing phases >= 1", counts)
    operators: Sequence[int] = range(start, stop - 1, -1)
    rounds: list[Sequence[int]] = []
    for count in [*(n for n in counts if n < num_steps), 1]:
        chosen = uniform_boundaries(len(operators) - 1, count)
        operators = [operators[-1 - position] for position in chosen]
        rounds.append(operators)
    return _from_rounds(start, stop, rounds)


@strategy("hybrid:8", lambda num_steps: max(1, num_steps // 2))
def hybrid(start: int, stop: int = 0, *, sequential: int = 8) -> Tree:
    """One merge of the noisy steps, then the last ``sequential`` steps one at a time (THEORY 9)."""
    if sequential < 0:
        raise InputError("hybrid", "must leave 0 or more sequential steps", sequential)
    first = min(stop + sequential, start - 1)
    blocks = [start - 1, *range(first, stop - 1, -1)]
    return Tree.chain(start, list(dict.fromkeys(blocks)))


def build_strategy(text: str, num_steps: int, student_steps: int = 1) -> Plan:
    """The plan that a name stands for: ``boot``, ``uniform:4``, ``phased:32,4``.

    A K-step student applies the strategy in K windows of equal length (the longer ones on the
    noise side where K does not divide T).

    Raises:
        InputError: for an unknown name, a bad parameter or more student steps than teacher steps.
    """
    return windowed_strategy(text, uniform_boundaries(num_steps, student_steps))


def windowed_strategy(text: str, boundaries: Sequence[int]) -> Plan:
    """The plan that applies a strategy between each two of these steps (T, …, 0).

    Raises:
        InputError: for an unknown name or a bad parameter.
    """
    name, _, numbers = text.partition(":")
    if name not in STRATEGIES:
        raise InputError("strategy", f"must be one of {', '.join(STRATEGIES)}", name)
    options = _options(name, numbers) if numbers else {}
    return Plan(tuple(STRATEGIES[name](a, b, **options) for a, b in pairwise(boundaries)))


def default_strategies(num_steps: int) -> tuple[str, ...]:
    """The strategies that are compared where none are named."""
    return tuple(
        f"{name}:{_SIZES[name](num_steps)}" if name in _SIZES else example
        for name, example in EXAMPLES.items()
    )


def strategy_family(num_steps: int) -> tuple[str, ...]:
    """The default strategies, and each that has a number with powers of two for it."""
    powers = [2**k for k in range(num_steps.bit_length()) if 1 < 2**k < num_steps]
    sized = [f"{name}:{n}" for name, text in EXAMPLES.items() if ":" in text for n in powers]
    return tuple(dict.fromkeys((*default_strategies(num_steps), *sized)))


def uniform_boundaries(num_steps: int, student_steps: int) -> list[int]:
    """(T, …, 0) in K windows of equal length, the longer ones first where K does not divide T."""
    if check_count("student_steps", student_steps) > check_steps("num_steps", num_steps):
        requirement = f"must be <= the number of teacher steps {num_steps}"
        raise InputError("student_steps", requirement, student_steps)
    length, longer = divmod(num_steps, student_steps)
    return [num_steps - k * length - min(k, longer) for k in range(student_steps + 1)]


def _thin(operators: Sequence[int], group: int) -> list[int]:
    """Boundaries left when groups of ``group`` operators, from the noise side, become one each."""
    return [*operators[:-1:group], operators[-1]]


def _from_rounds(start: int, stop: int, rounds: Sequence[Sequence[int]]) -> Tree:
    """The tree whose rounds leave these boundaries."""
    operators: Sequence[int] = range(start, stop - 1, -1)
    merges = []
    for kept in rounds:
        place = {step: index for index, step in enumerate(operators)}
        for above, below in pairwise(kept):
            if place[below] - place[above] > 1:
                merges.append(Merge(tuple(operators[place[above] : place[below] + 1])))
        operators = kept
    return Tree(start, stop, tuple(merges))


def _options(name: str, text: str) -> dict[str, int | tuple[int, ...]]:
    """The parameter of a strategy, by its own name."""
    own = [p for p in signature(STRATEGIES[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if not own:
        raise InputError("strategy", f"must be plain `{name}`: it takes no parameter")
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError("strategy", f"must have whole numbers after `{name}:`", text) from None
    if isinstance(own[0].default, tuple):
        return {own[0].name: numbers}
    if len(numbers) != 1:
        raise InputError("strategy", f"must have one number after `{name}:`", text)
    return {own[0].name: numbers[0]}
