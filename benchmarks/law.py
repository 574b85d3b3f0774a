"""``python -m benchmarks.law``: the prior law of merges fitted to trained plans, and its forecasts.

``trained_plans/`` holds plans of `opmerge study budgets` and others that were trained beside them
(T = 32, rate 9e-4 of perceptrons and 3e-4 of UNets, whose linear parts are trained), with the
errors that they left, and the tables of their teachers. The prior of perceptrons is a fit to those
of four data sets, as wide as laws of single ones are apart. How it does elsewhere is told by
latents of CIFAR-10, which are in no fit, by fits to all but one of the four, and to that one alone.
The factor of the first network is free in the last alone, and else held at about their mean.
The prior of UNets is a fit to the plans of two, on digits and on CIFAR-10 of 8 x 8, with the
exponent of shares that perceptrons have; it is told for three ways in which rates may depend on the
number D of values, ``(D/64)^(power e)``, to each of which a law of UNets is fitted as well. A DiT
on 3,072 values is in no fit.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from opmerge.forecast import (
    LAW_PRIORS,
    LawPrior,
    MergeLaw,
    TeacherTable,
    forecast,
    read_table,
)
from opmerge.forecast.composition import squared_errors
from opmerge.plans.drawing import plan_from_merges
from opmerge.plans.tree import Plan

FOLDER = Path(__file__).with_name("trained_plans")
START = MergeLaw((4.0,), 1.0, 0.5, 0.5, 1.0, share_exponent=1.0, onset=30.0)
SPREADS = np.array([3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.5])  # of its vector: hardly any prior
NOISE = 0.1  # of the logarithm of an error
NAMES = (
    "rates",
    "first",
    "behind",
    "share_exponent",
    "shape",
    "length_exponent",
    "onset",
)  # as a vector has them
STEP = 1e-4  # of the vector, for derivatives
UNSEEN = "cifar10-latents"
UNETS, DIT = ("digits-unet", "cifar10-unet"), "cifar10-dit"
POWERS = {"a share alone": 0.0, "between": 0.5, "a share beside the average one's": 1.0}
SHARES = LAW_PRIORS["mlp-solved"].centre.share_exponent
IS_SHARE = np.array(NAMES) == "share_exponent"
FIRST = LAW_PRIORS["mlp-solved"].centre.first  # about the mean of laws of single data sets
HELD = replace(START, first=FIRST), np.where(np.array(NAMES) == "first", 0.02, SPREADS)
NUM_LEAST = 3  # of the UNet's plans, the last: those of least forecast by a fit to the others
LONG = 900  # iterations of all merges of a plan for 6.4e5 evaluations


@dataclass(frozen=True)
class TrainedPlan:
    """A plan, what its merges were trained for, and the paired error that it left."""

    data: str
    plan: Plan
    iterations: tuple[int, ...]
    measured: float


def trained_plans() -> dict[str, list[TrainedPlan]]:
    """All of the folder, by data set."""
    plans: dict[str, list[TrainedPlan]] = {}
    for entry in json.loads(gzip.decompress((FOLDER / "plans.json.gz").read_bytes())):
        data, iterations, measured = entry["data"], entry["iterations"], entry["measured"]
        plans.setdefault(data, []).append(TrainedPlan(data, _plan(entry), iterations, measured))
    return plans


def _plan(entry: dict[str, Any]) -> Plan:
    merges = [{"boundaries": boundaries} for boundaries in entry["merge_list"]]
    return plan_from_merges(merges, entry["boundaries"], "free_step" in entry)


def ratios(
    laws: Sequence[MergeLaw],
    plans: Sequence[TrainedPlan],
    tables: dict[str, TeacherTable],
    power: float = 0.0,
) -> NDArray[np.float64]:
    """(laws, plans) foretold over measured errors, with rates (D/64)^(power e) times as large."""
    errors = []
    for each in plans:
        table = tables[each.data]
        there = [_on_values(law, table.num_dimensions, power) for law in laws]
        squares = squared_errors(there, table, each.plan, each.iterations)
        errors.append(np.sqrt(squares) / each.measured)
    return np.array(errors).T


def _on_values(law: MergeLaw, count: float, power: float) -> MergeLaw:
    faster = (count / 64) ** (power * law.share_exponent)
    return replace(law, rates=tuple(faster * rate for rate in law.rates))


def fitted_law(
    plans: Sequence[TrainedPlan],
    tables: dict[str, TeacherTable],
    start: MergeLaw = START,
    spreads: NDArray[np.float64] = SPREADS,
    power: float = 0.0,
) -> MergeLaw:
    """The law of least squares of log(foretold / measured), large ones softened, near another."""
    first = start.to_vector()
    count = {each.data: sum(other.data == each.data for other in plans) for each in plans}
    weights = np.sqrt([40 / count[each.data] for each in plans]) / NOISE  # data sets count alike

    def logs(*vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        laws = [MergeLaw.from_vector(each) for each in vectors]
        return np.log(ratios(laws, plans, tables, power))

    def residuals(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([weights * logs(at)[0], (at - first) / spreads])

    def slopes(at: NDArray[np.float64]) -> NDArray[np.float64]:
        here, *moved = logs(at, *(at + STEP * np.eye(len(at))))
        by_vector = (np.array(moved) - here).T / STEP
        return np.concatenate([weights[:, None] * by_vector, np.diag(1 / spreads)])

    return MergeLaw.from_vector(least_squares(residuals, first, slopes, loss="soft_l1").x)


def tell(
    title: str,
    law: MergeLaw,
    plans: dict[str, list[TrainedPlan]],
    tables: dict[str, TeacherTable],
    power: float = 0.0,
) -> None:
    """Print how a law foretells the plans of each data set."""
    print(f"{title}: {law}")
    for data, own in plans.items():
        measured = np.array([each.measured for each in own])
        found = ratios([law], own, tables, power)[0]
        close = int((np.abs(np.log(found)) < np.log(1.3)).sum())
        rho = spearmanr(found * measured, measured).statistic
        spread = np.sqrt(np.mean(np.log(found) ** 2))
        print(f"  {data}: {close} of {len(own)} within 1.3, ρ {rho:.2f}, rms of logs {spread:.3f}")


def tell_intervals(
    prior: LawPrior, plans: dict[str, list[TrainedPlan]], tables: dict[str, TeacherTable]
) -> None:
    """Print how many plans of each data set lie in their 90 % interval, and how wide it is."""
    for data, own in plans.items():
        law = prior.fitted(tables[data].sizes)
        found = [forecast(law, tables[data], each.plan, each.iterations) for each in own]
        pairs = zip(found, own, strict=True)
        inside = sum(each.low <= plan.measured <= each.high for each, plan in pairs)
        width = np.median([each.high / each.low for each in found])
        print(
            f"  {data}: {inside} of {len(own)} in their interval, of ends {width:.1f} times apart"
        )


def tell_of_perceptrons(
    plans: dict[str, list[TrainedPlan]], tables: dict[str, TeacherTable]
) -> None:
    """The prior, laws fitted to data sets, and to all but one of them."""
    prior = LAW_PRIORS["mlp-solved"]
    tell("the prior", prior.centre, plans, tables)
    tell_intervals(prior, plans, tables)
    seen = {data: own for data, own in plans.items() if data != UNSEEN}
    every = [each for own in seen.values() for each in own]
    tell("fitted to all", fitted_law(every, tables, *HELD), plans, tables)
    both = [*plans["digits"], *plans["patches"]]
    tell("fitted to digits and patches", fitted_law(both, tables, *HELD), plans, tables)
    for data, own in seen.items():
        others = [each for each in every if each.data != data]
        tell(f"fitted to {data}", fitted_law(own, tables), plans, tables)
        tell(f"fitted to all but {data}", fitted_law(others, tables, *HELD), {data: own}, tables)


def tell_of_shared_weights(
    plans: dict[str, list[TrainedPlan]], tables: dict[str, TeacherTable]
) -> None:
    """The prior of UNets, laws fitted to UNets, and how a DiT is foretold by each."""
    prior, of_unets = LAW_PRIORS["unet"], [each for data in UNETS for each in plans[data]]
    near = replace(HELD[0], share_exponent=SHARES), np.where(IS_SHARE, 0.05, HELD[1])
    tell_intervals(prior, plans, tables)
    for way, power in POWERS.items():
        tell(f"the prior of UNets, {way}", prior.centre, plans, tables, power)
        law = fitted_law(of_unets, tables, *near, power)
        tell(f"fitted to UNets, {way}", law, plans, tables, power)
    digits, half = plans[UNETS[0]], POWERS["between"]
    for data in UNETS:
        tell(f"fitted to {data}", fitted_law(plans[data], tables, *near, half), plans, tables, half)
    least = {f"{UNETS[0]} of least forecast": digits[-NUM_LEAST:]}
    tell("the prior of UNets", prior.centre, least, tables, half)
    small = [each for each in digits if sum(each.iterations) < LONG]
    large = {f"{UNETS[0]} of more": [each for each in digits if sum(each.iterations) >= LONG]}
    tell("fitted to up to 2.5e5 evaluations", fitted_law(small, tables, *near), large, tables)


def main() -> None:
    plans = trained_plans()
    tables = {data: read_table(FOLDER / f"{data}.npz") for data in plans}
    shared = {data: plans.pop(data) for data in (*UNETS, DIT)}
    tell_of_perceptrons(plans, tables)
    tell_of_shared_weights(shared, tables)


if __name__ == "__main__":
    main()
