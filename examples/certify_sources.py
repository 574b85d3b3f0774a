"""Certified plans of the built-in sources: W2, proved gap and gain over the named strategies.

    python examples/certify_sources.py            # the table of the README

Both merge rules, optimisation times s = 1, 3 and 6.4, T = 64.
"""

from __future__ import annotations

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


def main() -> None:
    print(
        "| source | rule | s | W2 | proved gap | best of the four | its ratio | merges | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, size in SOURCES:
        spectrum = resolve_spectrum(name, options=SourceOptions(patch_size=size or 16))
        label = f"{name} {size}²" if size else name
        for rule in ("operator-copy", "denoiser-copy"):
            for time in (1.0, 3.0, 6.4):
                problem = Problem(
                    spectrum, cosine_schedule(NUM_STEPS), GradientFlow(time), merge_rule=rule
                )
                result = find_plan(problem)
                named = {
                    strategy: evaluate(problem, build_strategy(strategy, NUM_STEPS)).w2
                    for strategy in CANONICAL
                }
                best = min(named, key=lambda strategy: named[strategy])
                print(
                    f"| {label} | {rule} | {time:g} | {result.w2:.4g} | {result.gap:.0e} "
                    f"| {best} | {named[best] / result.w2:.4g} | {len(result.plan.merges)} "
                    f"| {result.seconds:.2f} |"
                )


if __name__ == "__main__":
    main()
