"""Certified plans of the built-in sources: W2, proved gap and gain over the named strategies.

    python examples/certify_sources.py                     # a table
    python examples/certify_sources.py --json FILE.json    # its rows

Both merge rules, optimisation times s = 1, 3 and 6.4, T = 64.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opmerge import (
    GradientFlow,
    Problem,
    SourceOptions,
    build_strategy,
    cosine_schedule,
    evaluate,
    find_plan,
    resolve_spectrum,
)

SOURCES = (("digits", 0), ("patches", 16), ("patches", 32), ("faces", 0))
CANONICAL = ("vanilla", "boot", "progressive", "consistency")
NUM_STEPS = 64


def certificates() -> Iterator[dict[str, Any]]:
    """A row for each source, merge rule and optimisation time."""
    for name, size in SOURCES:
        spectrum = resolve_spectrum(name, options=SourceOptions(patch_size=size or 16))
        for rule in ("operator-copy", "denoiser-copy"):
            for time in (1.0, 3.0, 6.4):
                schedule = cosine_schedule(NUM_STEPS)
                problem = Problem(spectrum, schedule, GradientFlow(time), merge_rule=rule)
                result = find_plan(problem)
                named = {
                    strategy: evaluate(problem, build_strategy(strategy, NUM_STEPS)).w2
                    for strategy in CANONICAL
                }
                best = min(named, key=lambda strategy: named[strategy])
                yield {
                    "source": f"{name} {size}²" if size else name,
                    "rule": rule,
                    "s": time,
                    "w2": result.w2,
                    "gap": result.gap,
                    "strategy": best,
                    "ratio": named[best] / result.w2,
                    "merges": len(result.plan.merges),
                    "seconds": result.seconds,
                }


def main(arguments: list[str]) -> None:
    rows = list(certificates())
    if arguments[:1] == ["--json"]:
        Path(arguments[1]).write_text(json.dumps(rows, indent=1) + "\n")
        return
    for row in rows:
        told = (
            f"{value:.4g}" if isinstance(value, float) else f"{value}" for value in row.values()
        )
        print("  ".join(told))


if __name__ == "__main__":
    main(sys.argv[1:])
