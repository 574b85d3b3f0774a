"""The numbers of a record of the study `stabilisation` on which its sentences and figures rest."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log
from typing import Any

__all__ = [
    "SEQUENTIAL",
    "crossing_shifts",
    "in_phase",
    "kept_plans",
    "operator_copy_losses",
    "regrets",
    "simulation_order",
    "time_factors",
]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

SEQUENTIAL = ("boot", "consistency")
"""The strategies that are mixed."""

_ABOVE_BAND = 2.1  # above λ*(T) for every T >= 8


def crossing_shifts(record: Record) -> list[float]:
    """How far averaging moves the first crossing, for each T and rate."""
    rows = record["tables"]["ema_crossings"]
    plain = {row["num_steps"]: row["first_crossing"] for row in rows if row["turnovers"] is None}
    return [
        abs(row["first_crossing"] - plain[row["num_steps"]])
        for row in rows
        if row["turnovers"] is not None
        and row["first_crossing"] is not None
        and plain[row["num_steps"]] is not None
    ]


def regrets(record: Record) -> list[float]:
    """What the plan of plain flow loses with averaged weights, relative to the best."""
    return [row["regret"] for row in record["tables"]["ema_plans"]]


def kept_plans(record: Record) -> int:
    """In how many cases averaging leaves the best plan as it is."""
    return sum(row["same_plan"] for row in record["tables"]["ema_plans"])


def operator_copy_losses(record: Record) -> tuple[int, int]:
    """At how many (λ, T) mixed BOOT errs more than vanilla under operator copy, and of how many."""
    rows = [row for row in record["tables"]["mixing"] if row["merge_rule"] == "operator-copy"]
    return sum(row["mixed_boot"] > row["vanilla"] for row in rows), len(rows)


def time_factors(record: Record) -> list[Row]:
    """The rows in which mixing makes up for its delay, targets read as they are."""
    rows = record["tables"]["mixing_time"]
    return [row for row in rows if row["factor"] is not None and row["turnovers"] is None]


def simulation_order(record: Record) -> float:
    """Power of N with which averaged descent nears the closed form, from its two largest N."""
    worst: dict[int, float] = {}
    for row in record["tables"]["ema_simulation"]:
        count = int(row["num_iterations"])
        worst[count] = max(worst.get(count, 0.0), float(row["difference"]))
    *_, ((fewer, before), (more, after)) = pairwise(sorted(worst.items()))
    return log(after / before) / log(more / fewer)


def in_phase(row: Row, phase: str) -> bool:
    """Whether λ lies ``below`` the band of the transition, inside the ``band`` or ``above`` it."""
    value = row["eigenvalue"]
    found = "below" if value <= 1 else "band" if value < _ABOVE_BAND else "above"
    return found == phase
