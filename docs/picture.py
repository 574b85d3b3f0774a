"""Draw the picture of the README: ``python docs/picture.py`` writes docs/plan.png."""

from __future__ import annotations

from pathlib import Path

from opmerge import Problem, SourceOptions, cosine_schedule, find_plan, resolve_spectrum
from opmerge.files import write_atomic
from opmerge.plans import plan_figure
from opmerge.plotting import figure_png


def main() -> None:
    spectrum = resolve_spectrum("patches", options=SourceOptions(patch_size=16))
    problem = Problem(spectrum, cosine_schedule(64), merge_rule="operator-copy")
    outcome = find_plan(problem).outcome
    merges = [
        {"boundaries": list(merge.boundaries), "share": float(share)}
        for merge, share in zip(outcome.plan.merges, outcome.error_shares(), strict=True)
    ]
    title = "Photo patches, operator copy: merge steps 64 … 17 at once, then one at a time"
    figure = plan_figure(merges, outcome.plan.boundaries, title)
    write_atomic(Path(__file__).with_name("plan.png"), figure_png(figure))


if __name__ == "__main__":
    main()
