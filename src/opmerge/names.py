"""The names that help texts list, read from the registries without numba, scipy or torch."""

from __future__ import annotations


def planner_names() -> tuple[str, ...]:
    """What ``find_plan`` and ``--planner`` take."""
    from opmerge.planners import PLANNERS

    return tuple(PLANNERS)


def strategy_names() -> tuple[str, ...]:
    """What ``build_strategy`` takes, before a colon and numbers."""
    from opmerge.plans import STRATEGIES

    return tuple(STRATEGIES)


def strategy_examples() -> tuple[str, ...]:
    """One way to write each strategy, with its number where it has one: ``uniform:4``."""
    from opmerge.plans import EXAMPLES

    return tuple(EXAMPLES.values())


def training_names() -> tuple[str, ...]:
    """The models that ``training_from_dict`` and plan files know."""
    from opmerge.training import MODELS

    return tuple(MODELS)
