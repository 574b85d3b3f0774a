"""``make benchmarks``: planners, training loop, encoding and start-up, as ratios in one run.

Writes ``benchmarks/results.json`` and prints the table that docs/findings.md shows. Every planner
timing is the best of several repetitions after a warm-up that compiles the kernels; memory is
that of a fresh process that does nothing else.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from opmerge import Problem, cosine_schedule, eigenvalue_spectrum
from opmerge.planners import certified_plan, interval_plan
from opmerge.planners._kernels import fill_intervals
from opmerge.planners.combs import step_signs

RESULTS = Path(__file__).with_name("results.json")
LARGE = (1000, 3072)
MIXED = (1.05, 1.95)  # eigenvalues in (1, λ*), λ* = 2.0000 at T = 1000


def problem(num_steps: int, dimensions: int, num_mixed: int = 0) -> Problem:
    """A power-law spectrum as of natural images, 1 % above 2, and some in (1, λ*)."""
    num_large = max(1, dimensions // 100)
    eigenvalues = np.concatenate(
        [
            np.geomspace(100.0, 2.05, num_large),
            np.linspace(*MIXED, num_mixed),
            np.geomspace(0.99, 1e-4, dimensions - num_large - num_mixed),
        ]
    )
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, merge_rule="operator-copy")


def best_time(work: Callable[[], object], repetitions: int = 3) -> float:
    """Shortest wall-clock time of ``work``, in seconds."""
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def peak_memory() -> float:
    """Peak resident memory of this process in GiB (ru_maxrss would count the parent's too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024**2


def matrix_product(num_steps: int, dimensions: int) -> float:
    """Seconds for one float64 (T x d)·(d x T) matrix product."""
    rng = np.random.default_rng(0)
    left, right = rng.random((num_steps, dimensions)), rng.random((dimensions, num_steps))
    return best_time(lambda: left @ right, 10)


def large_certified() -> dict[str, Any]:
    """Certified plan at T = 1000, d = 3072 against one matrix product; memory of a new process."""
    product = matrix_product(*LARGE)
    found: dict[str, Any] = {"matrix_product_seconds": product}
    for name, num_mixed in (("definite", 0), ("mixed", 8)):
        result = certified_plan(problem(*LARGE, num_mixed))
        seconds = best_time(lambda n=num_mixed: certified_plan(problem(*LARGE, n)))  # type: ignore[misc]
        code = (
            "from benchmarks.__main__ import *; "
            f"certified_plan(problem(*LARGE, {num_mixed})); print(peak_memory())"
        )
        peak = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        found[name] = {
            "eigenvalues_of_mixed_sign": int((step_signs(problem(*LARGE, num_mixed)) == 0).sum()),
            "seconds": seconds,
            "ratio_to_matrix_product": seconds / product,
            "gap": result.gap,
            "peak_gib": float(peak.stdout),
        }
    return found


def exponents(
    planner: Callable[[Problem], object], steps: list[int], dims: list[int]
) -> dict[str, Any]:
    """Times over T and over d, and the exponents fitted on a log-log scale."""
    over_steps = [best_time(lambda t=t: planner(problem(t, 128))) for t in steps]  # type: ignore[misc]
    over_dims = [best_time(lambda d=d: planner(problem(128, d))) for d in dims]  # type: ignore[misc]
    return {
        "steps": dict(zip(map(str, steps), over_steps, strict=True)),
        "dimensions": dict(zip(map(str, dims), over_dims, strict=True)),
        "exponent_in_steps": float(np.polyfit(np.log(steps), np.log(over_steps), 1)[0]),
        "exponent_in_dimensions": float(np.polyfit(np.log(dims), np.log(over_dims), 1)[0]),
    }


def certified_against_interval() -> dict[str, Any]:
    """Both planners at T = 256, d = 128, and how each grows."""
    subject = (256, 128)
    certified = best_time(lambda: certified_plan(problem(*subject)), 5)
    interval = best_time(lambda: interval_plan(problem(*subject)))
    return {
        "certified_seconds": certified,
        "interval_seconds": interval,
        "ratio": interval / certified,
        "certified": exponents(certified_plan, [256, 512, 1024, 2048], [512, 1024, 2048, 4096]),
        "interval": exponents(interval_plan, [64, 128, 256, 384], [64, 128, 256, 512]),
    }


def interval_against_c() -> dict[str, Any]:
    """The interval kernel against the same loops in C, with the same number of threads."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return {"skipped": "no C compiler"}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "interval.so"
        source = Path(__file__).with_name("interval.c")
        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC", "-lm"]
        subprocess.run([compiler, str(source), "-o", str(library), *flags], check=True)
        loops = ctypes.CDLL(str(library)).interval_tables
        for num_steps, dimensions in ((512, 1), (256, 128)):
            found[f"T={num_steps} d={dimensions}"] = _kernel_ratio(loops, num_steps, dimensions)
    return found


def _kernel_ratio(loops: Any, num_steps: int, dimensions: int) -> dict[str, float]:
    subject = problem(num_steps, dimensions) if dimensions > 1 else _single(num_steps)
    teacher, size = subject.teacher, num_steps + 1
    inputs = [
        np.ascontiguousarray(array)
        for array in (teacher.log_products, subject.retentions, np.log(teacher.variances))
    ]
    weights = subject.multiplicities
    targets, unused = np.zeros_like(inputs[0]), np.zeros((1, 1, 1))
    trees, forests = np.zeros((2, size, size, dimensions))
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*inputs, weights, trees, forests)]

    def compiled() -> Any:
        tables = np.zeros((2, size, size, dimensions))
        splits = np.zeros((2, size, size), dtype=np.int64)
        given = (*inputs, targets, weights, unused, unused[0], False)
        fill_intervals(2, size, *given, *tables, *splits)
        return tables[0]

    def in_c() -> None:
        loops(ctypes.c_int(size), ctypes.c_int(dimensions), *pointers)

    difference = np.abs(compiled()[num_steps, 0] - (in_c(), trees[num_steps, 0])[1])
    kernel, reference = best_time(compiled, 5), best_time(in_c, 5)
    return {
        "kernel_seconds": kernel,
        "c_seconds": reference,
        "ratio": kernel / reference,
        "largest_relative_difference": float((difference / np.abs(trees[num_steps, 0])).max()),
    }


def _single(num_steps: int) -> Problem:
    spectrum, schedule = eigenvalue_spectrum([0.5]), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, merge_rule="operator-copy")


def start_up() -> dict[str, Any]:
    """Import and help, and which heavy libraries they load (none)."""
    heavy = ("torch", "matplotlib", "plotly", "numba", "scipy", "sklearn")
    loaded = "import sys; {}; print([name for name in " + repr(heavy) + " if name in sys.modules])"
    imported = "import opmerge"
    helped = "from opmerge.cli import main; main(['--help'])"
    python = [sys.executable, "-c"]

    def seconds(code: str) -> float:
        return best_time(lambda: subprocess.check_output([*python, code]), 7)

    return {
        "python_seconds": seconds("pass"),
        "import_seconds": seconds(imported),
        "help_seconds": seconds(helped),
        "loaded_by_import": _last_line([*python, loaded.format(imported)]),
        "loaded_by_help": _last_line([*python, loaded.format(helped)]),
    }


def _last_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
        -1
    ]


def table(results: dict[str, Any]) -> str:
    """The table of docs/findings.md."""
    large, pair, kernel = results["large"], results["planners"], results["kernel"]
    memory = results["encoding_memory"]
    rows = [
        ("what", "asked", "measured"),
        ("---", "---", "---"),
        *(
            (
                f"certified, T=1000, d=3072, {large[name]['eigenvalues_of_mixed_sign']} eigenvalues"
                " in (1, λ*), in matrix products",
                limit,
                f"{large[name]['ratio_to_matrix_product']:.1f} ({large[name]['seconds']:.2f} s,"
                f" gap {large[name]['gap']:.0e}, {large[name]['peak_gib']:.2f} GiB)",
            )
            for name, limit in (("definite", "≤ 20"), ("mixed", "≤ 100"))
        ),
        ("certified over interval DP, T=256, d=128", "≥ 10 ×", f"{pair['ratio']:.1f} ×"),
        *(
            (
                f"growth of {name}, T {_range(pair[name]['steps'])},"
                f" d {_range(pair[name]['dimensions'])}",
                "–",
                f"T^{pair[name]['exponent_in_steps']:.2f} "
                f"d^{pair[name]['exponent_in_dimensions']:.2f}",
            )
            for name in ("certified", "interval")
        ),
        *(
            (f"interval DP kernel over C, {name}", "≤ 2 ×", f"{entry['ratio']:.2f} ×")
            for name, entry in kernel.items()
            if isinstance(entry, dict)
        ),
        *(
            (
                f"distillation over a bare loop, {name}",
                "≤ 1.05 ×",
                f"{entry['ratio']:.3f} ×",
            )
            for name, entry in results["training_loop"].items()
        ),
        (
            "peak memory of `vae encode`, 20,000 files over 1,000",
            "1 ×",
            f"{memory['ratio']:.2f} × ({memory['20000']['peak_gib']:.2f} GiB,"
            f" {memory['20000']['seconds']:.0f} s)",
        ),
        ("`import opmerge`", "< 0.3 s", f"{results['start_up']['import_seconds']:.2f} s"),
        ("`opmerge --help`", "< 0.5 s", f"{results['start_up']['help_seconds']:.2f} s"),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _range(times: dict[str, float]) -> str:
    """From the first size to the last."""
    sizes = list(times)
    return f"{sizes[0]} … {sizes[-1]}"


def main() -> None:
    """Run everything, write the results and print the table."""
    from benchmarks.encoding_memory import encoding_memory  # torch would count as planners' memory
    from benchmarks.training_loop import training_loop

    certified_plan(problem(32, 64, 2))
    interval_plan(problem(32, 64))
    results = {
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "start_up": start_up(),
        "large": large_certified(),
        "planners": certified_against_interval(),
        "kernel": interval_against_c(),
        "training_loop": training_loop(),
        "encoding_memory": encoding_memory(),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
