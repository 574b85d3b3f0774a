"""Certified plans of the built-in sources: W2, proved gap and gain over the named strategies.

    python examples/certify_sources.py              # a row each, as JSON
    python examples/certify_sources.py rows.json    # into a file

Both merge rules, optimisation times s = 1, 3 and 6.4, T = 64.
"""

import json
import sys
from itertools import product
from pathlib import Path

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

SOURCES = {"digits": 16, "patches 16²": 16, "patches 32²": 32, "faces": 16}
CANONICAL = ("vanilla", "boot", "progressive", "consistency")

rows = []
for source, size in SOURCES.items():
    spectrum = resolve_spectrum(source.split()[0], options=SourceOptions(patch_size=size))
    for rule, time in product(("operator-copy", "denoiser-copy"), (1.0, 3.0, 6.4)):
        problem = Problem(spectrum, cosine_schedule(64), GradientFlow(time), merge_rule=rule)
        result = find_plan(problem)
        named = {name: evaluate(problem, build_strategy(name, 64)).w2 for name in CANONICAL}
        best = min(named, key=lambda name: named[name])
        rows.append(
            {
                "source": source,
                "rule": rule,
                "s": time,
                "w2": result.w2,
                "gap": result.gap,
                "strategy": best,
                "ratio": named[best] / result.w2,
                "merges": len(result.plan.merges),
                "seconds": result.seconds,
            }
        )
        print(json.dumps(rows[-1], ensure_ascii=False))
if sys.argv[1:]:
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")
