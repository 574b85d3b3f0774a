"""``python -m benchmarks.budget``: seconds of the budget planner, written to ``budget.json``.

A power-law spectrum of 3,072 values in 7 groups of directions, the cosine schedule, the prior law;
kernels are compiled before the clock starts.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from opmerge import cosine_schedule, eigenvalue_spectrum
from opmerge.forecast import PRIORS, TeacherTable, linear_table
from opmerge.forecast.cost import IterationCost
from opmerge.planners.budget import frontier

RESULTS = Path(__file__).with_name("budget.json")
COST = IterationCost(reuse="auto")
CASES = {  # T, budgets
    "one budget, T=32": (32, 1),
    "frontier of 20 budgets, T=64": (64, 20),
    "frontier of 20 budgets, T=1000": (1000, 20),
}


def table_of(num_steps: int) -> TeacherTable:
    """Of a spectrum as that of images."""
    eigenvalues = 3.0 * np.arange(1, 3073) ** -1.5
    return linear_table(eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps))


def main() -> None:
    """Time every case, write the results and print them."""
    law = PRIORS["mlp"]
    frontier(table_of(8), law, [1e6], [1], COST)
    results: dict[str, object] = {"cores": os.cpu_count()}
    for name, (num_steps, count) in CASES.items():
        table, budgets = table_of(num_steps), np.geomspace(2e5, 2e8, count).tolist()
        began, worked = time.perf_counter(), time.process_time()
        frontier(table, law, budgets if count > 1 else [2e6], [1], COST)
        seconds, busy = time.perf_counter() - began, time.process_time() - worked
        results[name] = {"seconds": seconds, "processor_seconds": busy}
        print(f"{name}: {seconds:.1f} s ({busy:.1f} s of processor time)")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
