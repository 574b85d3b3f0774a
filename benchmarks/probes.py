"""``python -m benchmarks.probes FOLDER DATA``: what probes kept, beside what the prior law says.

FOLDER has a ``calibration.json``: that of `opmerge calibrate`, or ``calibration`` in that of
`opmerge study budgets --set law=probes`. A row for each merge of teacher steps: of its squared
deviation in each group of directions, from the largest eigenvalue on, the part that training left.
Before them, how its law foretells the plans of DATA, a data set of ``trained_plans/``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.law import tell, trained_plans
from opmerge.forecast import LAW_PRIORS, TeacherTable, read_calibration
from opmerge.forecast.law import kept, progress, waiting
from opmerge.forecast.table import direction_groups


def prior_keeps(table: TeacherTable, start: int, stop: int, iterations: int) -> ArrayLike:
    """(G,) E[r²] by the prior of the kind of network."""
    law = LAW_PRIORS["mlp-solved" if table.is_nonlinear else "unet"].centre
    j, i = table.node_at(start), table.node_at(stop)
    shares = table.shares(j, i)
    factor = (law.first if start == table.num_steps else 1.0) * shares**law.share_exponent
    angle = table.angles[j] - table.angles[i]
    x = progress(np.array(law.rates), factor, law.length_exponent, angle, iterations)
    return kept(law.shape, x, waiting(shares, law.onset, iterations))[1]


def by_group(values: Sequence[float]) -> NDArray[np.float64]:
    """(G,) sums over the directions of each group."""
    return np.array([sum(values[part]) for part in direction_groups(len(values))])


def percent(values: ArrayLike) -> str:
    """Squares as percentages, in columns."""
    return " ".join(f"{100 * value:4.0f}" for value in np.asarray(values))


def main(folder: Path, data: str) -> None:
    """Print how plans are foretold, and a row for each probe."""
    path = folder / "calibration.json"
    calibration, content = read_calibration(path), json.loads(path.read_text(encoding="utf-8"))
    table = calibration.table
    tell("its law", calibration.law.law, {data: trained_plans()[data]}, {data: table})
    print("merge and iterations; share of a direction, kept, kept by the prior, all in percent")
    for probe in content["probes"]:
        told = probe["settings"]
        if told["students"]:
            continue
        start, stop, count = told["start"], told["stop"], told["num_iterations"]
        before, after = by_group(probe["untrained"] or probe["before"]), by_group(probe["after"])
        shares = table.shares(table.node_at(start), table.node_at(stop)) / 100
        columns = shares, after / before, prior_keeps(table, start, stop, count)
        print(f"{start:3d} → {stop:2d} {count:5d}  ", "   ".join(map(percent, columns)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
