"""``python -m benchmarks.law``: the prior law of merges fitted to trained plans, and its forecasts.

``trained_plans/`` holds plans of `opmerge study budgets` and others that were trained beside them
(T = 32, rate 9e-4 of perceptrons and 3e-4 of the UNet, whose linear part is trained), with the
errors that they left, and the tables of their teachers. The prior of perceptrons is a fit to those
of digits and patches, as wide as laws of single data sets are apart. How it does elsewhere is told
by CIFAR-10 and latents of CelebA, by fits to all but one of the data sets, and to that one alone.
The prior of UNets is a fit to the plans of one, with the exponent of shares that perceptrons have.
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
UNET, DIT = "digits-unet", "cifar10-dit"
SHARES = LAW_PRIORS["mlp-solved"].centre.share_exponent
IS_SHARE = np.array(NAMES) == "share_exponent"
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
    laws: Sequence[MergeLaw], plans: Sequence[TrainedPlan], tables: dict[str, TeacherTable]
) -> NDArray[np.float64]:
    """(laws, plans) foretold over measured errors."""
    errors = [
        np.sqrt(squared_errors(laws, tables[each.data], each.plan, each.iterations)) / each.measured
        for each in plans
    ]
    return np.array(errors).T


def fitted_law(
    plans: Sequence[TrainedPlan],
    tables: dict[str, TeacherTable],
    start: MergeLaw = START,
    spreads: NDArray[np.float64] = SPREADS,
) -> MergeLaw:
    """The law of least squares of log(foretold / measured), large ones softened, near another."""
    first = start.to_vector()
    count = {each.data: sum(other.data == each.data for other in plans) for each in plans}
    weights = np.sqrt([40 / count[each.data] for each in plans]) / NOISE  # data sets count alike

    def logs(*vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(ratios([MergeLaw.from_vector(each) for each in vectors], plans, tables))

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
) -> None:
    """Print how a law foretells the plans of each data set."""
    print(f"{title}: {law}")
    for data, own in plans.items():
        measured = np.array([each.measured for each in own])
        found = ratios([law], own, tables)[0]
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


def tell_one(data: str, plans: Sequence[TrainedPlan], tables: dict[str, TeacherTable]) -> None:
    """Print the parameter that alone, fitted anew, makes the prior foretell a data set best."""
    centre, found = LAW_PRIORS["mlp-solved"].centre, []
    for place, name in enumerate(NAMES):
        spreads = np.where(np.arange(len(NAMES)) == place, 5.0, 1e-3)
        law = fitted_law(plans, tables, centre, spreads)
        logs = np.log(ratios([law], plans, tables)[0])
        close = int((np.abs(logs) < np.log(1.3)).sum())
        value = law.rates[0] if name == "rates" else getattr(law, name)
        found.append((float(np.mean(logs**2)), f"{name} {value:.3g}: {close} of {len(plans)}"))
    print(f"  {data}, one parameter of the prior fitted: {min(found)[1]} within 1.3")


def main() -> None:
    plans = trained_plans()
    tables = {data: read_table(FOLDER / f"{data}.npz") for data in plans}
    of_unet, of_dit = plans.pop(UNET), {DIT: plans.pop(DIT)}
    prior = LAW_PRIORS["mlp-solved"]
    tell("the prior", prior.centre, plans, tables)
    tell_intervals(prior, plans, tables)
    for data in ("cifar10", "celeba"):
        tell_one(data, plans[data], tables)
    of_perceptrons = [*plans["digits"], *plans["patches"]]
    tell("fitted to digits and patches", fitted_law(of_perceptrons, tables), plans, tables)
    for data, own in plans.items():
        others = [each for other, rest in plans.items() if other != data for each in rest]
        tell(f"fitted to {data}", fitted_law(own, tables), plans, tables)
        tell(f"fitted to all but {data}", fitted_law(others, tables), {data: own}, tables)
    unet = LAW_PRIORS["unet"]
    tell("the prior of UNets", unet.centre, {UNET: of_unet}, tables)
    tell("the same on a DiT of 3,072 values", unet.centre, of_dit, tables)
    faster = (tables[DIT].num_dimensions / 64) ** unet.centre.share_exponent
    beside = replace(unet.centre, rates=(faster * unet.centre.rates[0],))
    tell("with shares beside the average one's", beside, of_dit, tables)
    tell("the prior for so many", unet.law_for(tables[DIT].sizes), of_dit, tables)
    tell_intervals(unet, {UNET: of_unet, **of_dit}, tables)
    tell("the prior of UNets", unet.centre, {UNET: of_unet[-NUM_LEAST:]}, tables)
    given = tables, replace(START, share_exponent=SHARES), np.where(IS_SHARE, 0.05, SPREADS)
    tell("fitted to the UNet", fitted_law(of_unet, *given), {UNET: of_unet}, tables)
    small = [each for each in of_unet if sum(each.iterations) < LONG]
    large = {f"{UNET} of more": [each for each in of_unet if sum(each.iterations) >= LONG]}
    tables |= dict.fromkeys(large, tables[UNET])
    tell("fitted to its plans of up to 2.5e5 evaluations", fitted_law(small, *given), large, tables)


if __name__ == "__main__":
    main()
