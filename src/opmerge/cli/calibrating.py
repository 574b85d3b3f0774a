"""The command `calibrate`: probes of a network, the laws that fit them, what is told of both."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from opmerge.cli import networks, runs
from opmerge.cli.output import show_notes, show_rows, show_table
from opmerge.cli.progress import bars_in_turn, resumable, say
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.measure.calibration import Calibration
    from opmerge.measure.linearity import Linearity
    from opmerge.settings.commands import CalibrationOptions
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import OptimizationConfig
    from opmerge.settings.guidance import GuidanceOptions


def calibrate(
    samples: SampleOptions,
    asked: CalibrationOptions,
    guidance: GuidanceOptions,
    optimization: OptimizationConfig,
) -> None:
    """Fit the training model and the law of merges to short probe merges on the real network.

    Says first how linear the teacher is, and where a plan should not be trusted.
    `opmerge plan --training calibration.json` then predicts runs on this network with these
    settings (of --linear_part and --target_reuse too), a network for each merge (--sharing merge)
    and no curriculum. An interrupted calibration goes on when it is started again.

    Examples:
        opmerge calibrate digits --teacher runs/teacher/teacher --steps 32 --budget 5m \\
            --output_dir runs/calibration
    """
    networks.check_there(samples.source, asked.teacher)

    networks.load_libraries()
    from opmerge.denoisers.inputs import DataInputs
    from opmerge.distillation.executor import settled
    from opmerge.measure.calibration import calibrate as fit
    from opmerge.measure.calibration_budget import size_within
    from opmerge.measure.probes import default_probes
    from opmerge.settings.distillation import DistillationConfig

    guidance.check_one()
    names = {"num_iterations", "merge_rule", "loss_weighting", "linear_part", "target_reuse"}
    config = DistillationConfig(**asked.model_dump(include=names), optimization=optimization)
    folder, rate, budget = asked.output_dir, optimization.learning_rate, asked.budget
    if budget is not None and asked.given("num_iterations") is not None:
        raise InputError("budget", "must not be given together with --num_iterations")
    probes = default_probes(asked.steps, asked.num_iterations, rate, slower=asked.half_rate)
    table_samples, looks = None, True
    teacher = networks.read_teacher(asked.teacher, asked.steps, asked.ignore_clipping)
    samples = samples.fitted(teacher.sample_shape)
    teacher = networks.guided(teacher, guidance, samples.source)
    accelerator = networks.start(optimization, folder)
    config = settled(config, teacher.network)
    inputs = networks.training_inputs(accelerator, samples, teacher, False, folder)
    assert isinstance(inputs, DataInputs), "a calibration is never data-free"
    spectrum = networks.read_spectrum(samples)
    main = accelerator.is_main_process
    with resumable("the same command"), bars_in_turn(are_named=True) as report:
        if budget is not None:
            report("pricing the budget", 0, 1)
            given = (teacher, inputs, spectrum, config, accelerator, folder)
            size = size_within(budget, *given, slower=asked.half_rate, look=True)
            probes, table_samples, looks = size.probes, size.table_samples, size.looks
            config = config.replaced(num_iterations=max(each.num_iterations for each in probes))
        found = fit(
            teacher,
            inputs,
            spectrum,
            config,
            accelerator,
            probes,
            folder,
            report,
            _tell_first,
            table_samples,
            looks,
        )
    if main:
        path = found.write(folder / "calibration.json")
        options = asked.model_dump(
            include={"teacher", "ignore_clipping", "steps", "half_rate", "budget"}
        )
        runs.write_config(folder, "calibrate", options, samples, guidance, config)
        if found.linearity is not None:
            _show_linearity(found.linearity)
        _show_calibration(found)
        print(f"written: {path}")


def _tell_first(linear: Linearity) -> None:
    """Where a plan is not to be trusted, before the probes, which may take hours."""
    for note in linear.notes:
        say(f"note: {note}")


def _show_calibration(found: Calibration) -> None:
    """The training model and the law, and how well they foretell the probes."""
    model = {key.replace("_", " "): value for key, value in found.training.to_dict().items()}
    residual = f"a factor {math.exp(found.fit.residual):.3g} in squared error"
    show_rows({**model, "residual": residual})
    law = found.law_fit.law.law
    rows: dict[str, object] = {
        "rates of directions": ", ".join(f"{rate:.3g}" for rate in law.rates),
        "at step T": f"{law.first:.3g} times",
        "students behind": f"e^{law.behind:.3g} times",
        "shape": f"{law.shape:.3g}",
        "exponent of the length": f"{law.length_exponent:.3g}",
        "exponent of the share": f"{law.share_exponent:.3g}",
        "onset": f"{law.onset:.3g} iterations",
        "probes held out": f"foretold to a factor {math.exp(found.law_fit.held_out_error):.3g}",
        "network evaluations": f"{sum(found.network_evaluations.values()):,.0f} (samples)",
    }
    show_rows(rows)
    show_notes(found.notes)


def _show_linearity(linear: Linearity) -> None:
    """How far the premise of the theory holds, by step."""
    columns = (linear.steps, linear.affine, linear.spectral, linear.signal)
    show_table(
        "R² of the teacher's denoiser x̂ against linear ones",
        ("t", "best affine map", "the spectrum's denoiser", "var x̂ / var data"),
        [(f"{t}", f"{a:.3f}", f"{s:.3f}", f"{v:.1%}") for t, a, s, v in zip(*columns, strict=True)],
    )
