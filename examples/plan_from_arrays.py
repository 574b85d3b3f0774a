"""Plan for your own latents and your own diffusers scheduler, and keep the result.

python examples/plan_from_arrays.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from opmerge import PlanFile, Problem, diffusers_schedule, find_plan, resolve_spectrum
from opmerge.plans import draw_text


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    scales = np.geomspace(2.0, 0.1, 32)  # latents with a decaying spectrum
    np.save(folder / "latents.npy", rng.standard_normal((5000, 32)) * scales)
    config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear",
              "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False,
              "timestep_spacing": "trailing"}  # fmt: skip
    (folder / "scheduler_config.json").write_text(json.dumps(config))

    spectrum = resolve_spectrum(str(folder / "latents.npy"))
    problem = Problem(spectrum, diffusers_schedule(folder, num_steps=50))
    result = find_plan(problem, student_steps=2)
    print(f"W2 {result.w2:.3g}, proved within {result.gap:.1e}; notes: {problem.schedule.notes}")
    print(draw_text(result.plan))
    file = PlanFile(
        result.plan, problem.schedule, problem.training, problem.merge_rule, problem.objective,
        {"w2": result.w2, "lower_bound": result.lower_bound, "gap": result.gap},
        spectrum.identity(),
    )  # fmt: skip
    print("written:", file.write(folder / "plan.json").name)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
