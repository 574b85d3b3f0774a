"""``python -m benchmarks.retold``: what today's priors foretell of the plans in docs/records.

A record of `opmerge study budgets` keeps the forecasts of its day. Its plans, their iterations and
what they left are there too, and ``trained_plans/`` has tables of their teachers: each is foretold
anew by the prior of its kind of network, without a probe.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from benchmarks.law import FOLDER
from opmerge.forecast import LAW_PRIORS, forecast, read_table
from opmerge.plans.drawing import plan_from_merges

RECORDS = Path(__file__).parents[1] / "docs" / "records"
PERCEPTRON, UNET = "mlp-solved", "unet"
TOLD = {
    "digits": ("digits", PERCEPTRON, ("budgets", "budgets-more", "budgets-more-seeds")),
    "patches": (
        "patches",
        PERCEPTRON,
        ("budgets-patches", "budgets-patches-more", "budgets-patches-more-seeds"),
    ),
    "CIFAR-10, 8 × 8": ("cifar10", PERCEPTRON, ("budgets-cifar10",)),
    "CelebA latents": ("celeba", PERCEPTRON, ("budgets-celeba", "budgets-celeba-seeds")),
    "CIFAR-10 latents, unseen": ("cifar10-latents", PERCEPTRON, ("budgets-cifar10-latents",)),
    "digits, a UNet": (
        "digits-unet",
        UNET,
        ("budgets-unet", "budgets-unet-more", "budgets-unet-today", "budgets-unet-today-less"),
    ),
    "digits, a UNet, seed 3, unseen": ("digits-unet", UNET, ("budgets-unet-seed-3",)),
    "CIFAR-10, 8 × 8, a UNet": ("cifar10-unet", UNET, ("budgets-cifar10-unet",)),
    "CIFAR-10, a DiT, unseen": ("cifar10-dit", UNET, ("budgets-cifar10-dit",)),
}
"""By what a row is called: the table, the prior, and the records."""


def rows(record: Mapping[str, Any], table: str, prior: str) -> Iterator[dict[str, Any]]:
    """For each student of a record: what it left, and was foretold then and now."""
    teacher = read_table(FOLDER / f"{table}.npz")
    law, cells = LAW_PRIORS[prior].fitted(teacher.sizes), pd.DataFrame(record["tables"]["cells"])
    for entry in record["plans"]:
        plan = plan_from_merges(entry["merge_list"], entry["boundaries"], "free_step" in entry)
        told = forecast(law, teacher, plan, entry["iterations"])
        own = "student_steps == @entry['student_steps'] and budget == @entry['budget']"
        for _, cell in cells.query(f"{own} and plan == @entry['plan']").iterrows():
            yield {
                "seed": cell.seed,
                "K": entry["student_steps"],
                "measured": cell.measured,
                "then": cell.forecast,
                "now": told.rms,
                "then, inside": cell.forecast_low <= cell.measured <= cell.forecast_high,
                "now, inside": told.low <= cell.measured <= told.high,
            }


def retold() -> pd.DataFrame:
    """A row for each data set and kind of network: how many of its plans were foretold how well.

    ``by K``: medians of foretold over measured for K = 1, 2 and 4, as far as there are any.
    """
    told = []
    for name, (table, prior, records) in TOLD.items():
        read = [
            json.loads(gzip.decompress((RECORDS / f"{r}.json.gz").read_bytes())) for r in records
        ]
        found = pd.DataFrame([row for record in read for row in rows(record, table, prior)])
        row: dict[str, Any] = {"data": name, "plans": len(found)}
        for when in ("then", "now"):
            logs = np.abs(np.log(found[when] / found.measured))
            row[f"within 1.3, {when}"] = int((logs < np.log(1.3)).sum())
            row[f"within 1.5, {when}"] = int((logs < np.log(1.5)).sum())
            row[f"inside, {when}"] = int(found[f"{when}, inside"].sum())
            medians = (found[when] / found.measured).groupby(found.K).median()
            row[f"by K, {when}"] = ", ".join(f"{ratio:.2f}" for ratio in medians)
        row["rho"] = min(spearmanr(g.now, g.measured).statistic for _, g in found.groupby("seed"))
        told.append(row)
    return pd.DataFrame(told)


if __name__ == "__main__":
    print(retold().to_string(index=False))
