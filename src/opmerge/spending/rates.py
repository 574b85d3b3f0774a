"""Learning rates that a run tries, where none is asked for."""

from __future__ import annotations

from opmerge.settings.distillation import DistillationConfig

_FASTER = 3.0  # how many times the usual rate the other is


def learning_rates(config: DistillationConfig) -> tuple[float, ...]:
    """The rates among which a pilot chooses; without one the first is taken.

    They are the settings' own and three times that, the faster one first where linear parts are
    solved: perceptrons erred less with it wherever it was tried. ``auto`` is to be decided before.
    """
    rate = config.optimization.learning_rate
    rates = rate, _FASTER * rate
    return rates[::-1] if config.linear_part == "solve" else rates
