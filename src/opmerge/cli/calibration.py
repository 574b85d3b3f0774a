"""The command ``calibrate``: the training model of a real network."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opmerge.cli import runs
from opmerge.cli.output import show_notes, show_rows, show_table
from opmerge.cli.progress import bars_in_turn, resumable

if TYPE_CHECKING:
    from opmerge.measure.calibration import Calibration
    from opmerge.measure.linearity import Linearity
    from opmerge.settings.commands import CalibrationOptions
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import OptimizationConfig


def calibrate(
    samples: SampleOptions, asked: CalibrationOptions, optimization: OptimizationConfig
) -> None:
    """Fit the training model to short probe merges on the real network.

    Says first how linear the teacher is, and where a plan should not be trusted.
    `opmerge plan --training calibration.json` then predicts runs on this network with these
    settings, a network for each merge (--sharing merge) and no curriculum. An interrupted
    calibration goes on when it is started again.
    """
    from opmerge.cli import networks
    from opmerge.denoisers.inputs import DataInputs
    from opmerge.denoisers.teacher_folder import load_teacher
    from opmerge.measure.calibration import calibrate as fit
    from opmerge.measure.probes import default_probes
    from opmerge.settings.distillation import DistillationConfig

    shared = asked.model_dump(include={"num_iterations", "merge_rule", "loss_weighting"})
    config = DistillationConfig(**shared, optimization=optimization)
    folder, rate = asked.output_dir, optimization.learning_rate
    probes = default_probes(asked.steps, asked.num_iterations, rate, slower=asked.half_rate)
    teacher = load_teacher(asked.teacher, asked.steps)
    runs.prepare_folder(folder)
    accelerator = networks.start(optimization, folder)
    inputs = networks.training_inputs(accelerator, samples, teacher, False, folder)
    assert isinstance(inputs, DataInputs), "a calibration is never data-free"
    spectrum = networks.read_spectrum(samples, accelerator.is_main_process)
    main = accelerator.is_main_process
    with resumable("the same command"), bars_in_turn(main) as report:
        found = fit(
            teacher,
            inputs,
            spectrum,
            config,
            accelerator,
            probes,
            folder,
            lambda done, total: report("training probes", done, total),
            _show_linearity if main else lambda linear: None,
        )
    if main:
        path = found.write(folder / "calibration.json")
        options = asked.model_dump(include={"teacher", "steps", "half_rate"})
        runs.write_config(folder, "calibrate", options, samples, config)
        _show_calibration(found, path)


def _show_linearity(linear: Linearity) -> None:
    """How far the premise of the theory holds, by step, and where a plan is not to be trusted."""
    columns = (linear.steps, linear.affine, linear.spectral, linear.signal)
    show_table(
        "R² of the teacher's denoiser x̂ against linear ones",
        ("t", "best affine map", "the spectrum's denoiser", "var x̂ / var data"),
        [(f"{t}", f"{a:.3f}", f"{s:.3f}", f"{v:.1%}") for t, a, s, v in zip(*columns, strict=True)],
    )
    show_notes(linear.notes)
    sys.stdout.flush()  # to a file as well before the probes, which may take hours


def _show_calibration(found: Calibration, path: Path) -> None:
    """The model and the notes that were not told before its probes."""
    residual = f"a factor {math.exp(found.fit.residual):.3g} in squared error"
    model = {key.replace("_", " "): value for key, value in found.training.to_dict().items()}
    show_rows({**model, "residual": residual})
    show_notes(found.notes[len(found.linearity.notes) :])
    print(f"written: {path}")
