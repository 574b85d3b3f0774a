"""The command ``calibrate``: the training model of a real network."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from opmerge.cli.options import option, takes_options
from opmerge.cli.output import show_rows
from opmerge.cli.progress import bars_in_turn
from opmerge.cli.training_options import OptimizationOptions, SampleOptions

if TYPE_CHECKING:
    from opmerge.measure.calibration import Calibration
    from opmerge.measure.linearity import Linearity
    from opmerge.settings.distillation import DistillationConfig

__all__ = ["calibrate"]


@dataclass(frozen=True)
class ProbeOptions:
    """How the merges of a calibration are trained: as those of the run to come."""

    num_iterations: Annotated[
        int, option("num_iterations", "Iterations of a merge to predict for.", "Training")
    ] = 400
    merge_rule: Annotated[
        str, option("merge_rule", "denoiser-copy or operator-copy.", "Training")
    ] = "denoiser-copy"
    loss_weighting: Annotated[
        str, option("loss_weighting", "As of the run to come.", "Training")
    ] = "snr-truncated"
    half_rate: Annotated[
        bool,
        option(
            "half_rate",
            "Also train probes at half the learning rate, to predict for other rates.",
            "Training",
        ),
    ] = False


@takes_options
def calibrate(
    samples: SampleOptions,
    teacher: Annotated[Path, option("teacher", "A diffusers pipeline folder.", "Teacher")],
    steps: Annotated[int, option("steps", "T, the teacher's steps.", "Teacher")],
    output_dir: Annotated[
        Path,
        option("output_dir", "Folder for calibration.json; finished probes are kept.", "Run"),
    ],
    probing: ProbeOptions,
    optimization: OptimizationOptions,
) -> None:
    """Fit the training model to short probe merges on the real network.

    Says first how linear the teacher is, and where a plan should not be trusted.
    `opmerge plan --training calibration.json` then predicts runs on this network with these
    settings, a network for each merge (--sharing merge) and no curriculum. An interrupted
    calibration goes on when it is started again.
    """
    from opmerge.cli import networks, runs
    from opmerge.denoisers.inputs import DataInputs
    from opmerge.denoisers.teacher_folder import load_teacher
    from opmerge.measure.calibration import calibrate as fit
    from opmerge.measure.probes import default_probes

    config = _calibrated_config(probing, optimization)
    rate = config.optimization.learning_rate
    probes = default_probes(steps, probing.num_iterations, rate, slower=probing.half_rate)
    loaded = load_teacher(teacher, steps)
    runs.prepare_folder(output_dir)
    accelerator = networks.start(config.optimization, output_dir)
    inputs = networks.training_inputs(accelerator, samples, loaded, False, output_dir)
    assert isinstance(inputs, DataInputs), "a calibration is never data-free"
    spectrum = networks.read_spectrum(samples, accelerator.is_main_process)
    with (
        networks.resumable("the same command"),
        bars_in_turn(accelerator.is_main_process) as report,
    ):
        found = fit(
            loaded,
            inputs,
            spectrum,
            config,
            accelerator,
            probes,
            output_dir,
            lambda done, total: report("training probes", done, total),
            _show_linearity if accelerator.is_main_process else lambda linear: None,
        )
    if accelerator.is_main_process:
        path = found.write(output_dir / "calibration.json")
        options = {"teacher": str(teacher), "steps": steps, "half_rate": probing.half_rate}
        options |= {**asdict(samples), **asdict(config)}
        runs.write_config(output_dir, "calibrate", options)
        _show_calibration(found, path)


def _calibrated_config(
    probing: ProbeOptions, optimization: OptimizationOptions
) -> DistillationConfig:
    from opmerge.cli.networks import build_optimization
    from opmerge.settings.distillation import DistillationConfig

    given: dict[str, Any] = {
        "merge_rule": probing.merge_rule.replace("_", "-"),
        "loss_weighting": probing.loss_weighting,
        "num_iterations": probing.num_iterations,
    }
    defaults = DistillationConfig().optimization
    return DistillationConfig(**given, optimization=build_optimization(optimization, defaults))


def _show_linearity(linear: Linearity) -> None:
    """How far the premise of the theory holds, by step, and where a plan is not to be trusted."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="R² of the teacher's denoiser x̂ against linear ones", title_justify="left")
    for name in ("t", "best affine map", "the spectrum's denoiser", "var x̂ / var data"):
        table.add_column(name, justify="right")
    rows = zip(linear.steps, linear.affine, linear.spectral, linear.signal, strict=True)
    for step, affine, spectral, signal in rows:
        table.add_row(f"{step}", f"{affine:.3f}", f"{spectral:.3f}", f"{signal:.1%}")
    Console().print(table)
    for note in linear.notes:
        print(f"note: {note}")
    sys.stdout.flush()  # to a file as well before the probes, which may take hours


def _show_calibration(found: Calibration, path: Path) -> None:
    """The model and the notes that were not told before its probes."""
    rows = {
        key.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else f"{value}"
        for key, value in found.training.to_dict().items()
    }
    rows["residual"] = f"a factor {math.exp(found.fit.residual):.3g} in squared error"
    show_rows(rows)
    for note in found.notes[len(found.linearity.notes) :]:
        print(f"note: {note}")
    print(f"written: {path}")
