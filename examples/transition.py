"""Where the best order flips under operator copy: BOOT against vanilla over λ, and the best plan.

python examples/transition.py
"""

from __future__ import annotations

import numpy as np

from opmerge import Problem, build_strategy, cosine_schedule, eigenvalue_spectrum, evaluate
from opmerge.planners import scalar_plan

NUM_STEPS = 64


def main() -> None:
    print(f"T = {NUM_STEPS}, s = 6.4; W2 of each, and what no plan can go below")
    print(f"{'λ':>6} {'boot':>10} {'vanilla':>10} {'best':>10} {'bound':>10} {'merges':>7}")
    for eigenvalue in np.array([0.2, 0.5, 1.0, 1.02, 1.03, 1.04, 1.1, 1.5, 2.0, 2.1, 5.0]):
        spectrum, schedule = eigenvalue_spectrum([eigenvalue]), cosine_schedule(NUM_STEPS)
        problem = Problem(spectrum, schedule, merge_rule="operator-copy")
        boot, vanilla = (
            evaluate(problem, build_strategy(name, NUM_STEPS)).w2 for name in ("boot", "vanilla")
        )
        best = scalar_plan(problem)
        row = f"{boot:10.3e} {vanilla:10.3e} {best.w2:10.3e} {best.lower_bound:10.3e}"
        print(f"{eigenvalue:6.2f} {row} {len(best.plan.merges):7d}")


if __name__ == "__main__":
    main()
