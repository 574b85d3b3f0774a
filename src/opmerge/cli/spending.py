"""``opmerge run``: a budget in, a student out, with what was forecast beside what was measured."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import opmerge
from opmerge.cli import networks, runs
from opmerge.cli.output import show_table
from opmerge.cli.progress import bars_in_turn, resumable, say
from opmerge.errors import InputError
from opmerge.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from opmerge.settings.commands import SpendingOptions
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import OptimizationConfig
    from opmerge.settings.guidance import GuidanceOptions
    from opmerge.spending import Spending, Trained

STUDENT = "students/plan/student"
"""Where in the run's folder the student lies."""

_SHOWN = (0, 1, 2, 5, 6)  # columns of the page's table that fit a terminal
_NUM_PICTURES = 8


def run(
    samples: SampleOptions,
    asked: SpendingOptions,
    guidance: GuidanceOptions,
    optimization: OptimizationConfig,
) -> None:
    """Spend a budget on a few-step student: calibrate, plan, distil, measure, and draw the page.

    Each part is kept in the folder: the same command goes on where it was interrupted.

    Examples:
        opmerge run digits --teacher runs/teacher/teacher --steps 32 --budget 1e6 \\
            --output_dir runs/spent
        opmerge run runs/data --teacher path/to/model --steps 32 --budget 20h \\
            --student_steps 4 --output_dir runs/spent
    """
    networks.check_there(samples.source, asked.teacher)
    if not 1 <= asked.student_steps < asked.steps:
        need = f"must be at least 1 and below {asked.steps}, the teacher's steps"
        raise InputError("student_steps", need, asked.student_steps)
    if asked.fuse_lora and not asked.lora_rank:
        raise InputError("fuse_lora", "must come with --lora_rank")
    for name in asked.compare_with:  # refused before anything is trained
        opmerge.build_strategy(name, asked.steps, asked.student_steps)

    networks.load_libraries()
    from opmerge.denoisers.inputs import DataInputs
    from opmerge.distillation.executor import settled
    from opmerge.settings.distillation import DistillationConfig
    from opmerge.spending import Spending, spending_plan

    guidance.check_one()
    names = {"loss_weighting", "linear_part", "target_reuse", "lora_rank", "lora_target_modules"}
    config = DistillationConfig(
        **asked.model_dump(include=names),
        sharing="all" if asked.one_network else "merge",
        optimization=optimization,
    )
    teacher = networks.read_teacher(asked.teacher, asked.steps, asked.ignore_clipping)
    samples, folder = samples.fitted(teacher.sample_shape), asked.output_dir
    teacher = networks.guided(teacher, guidance, samples.source)
    config = settled(config, teacher.network)  # refused before data are read
    accelerator = networks.start(optimization, folder)
    inputs = networks.training_inputs(accelerator, samples, teacher, False, folder)
    assert isinstance(inputs, DataInputs), "a run reads data"
    spectrum = networks.read_spectrum(samples)
    with resumable("the same command"), bars_in_turn(are_named=True) as report:
        given = teacher, inputs, spectrum, asked, config, accelerator
        spending = Spending.of(*given, report=report, warn=say)
        if accelerator.is_main_process:
            runs.write_config(folder, "run", samples, asked, guidance, optimization)
        _ = spending.chosen  # by all processes: probes and short runs train on each
        if accelerator.is_main_process:
            write_atomic(folder / "plan.json", spending_plan(spending).dumps())
        trained = [spending.best()]
        if config.linear_part == "solve":
            trained.append(spending.closed_form())
        trained += [spending.usual(name) for name in asked.compare_with]
        report("drawing the page", 0, 1)
        if accelerator.is_main_process:
            record = _finished(spending, trained)
    if accelerator.is_main_process:
        _show(record, folder)


def _finished(spending: Spending, trained: Sequence[Trained]) -> dict[str, Any]:
    """The record of a run, written with its page, and told in the cards of its students."""
    from opmerge.distillation.model_card import add_pair
    from opmerge.distillation.sampling import image_png
    from opmerge.page.spending import spending_page
    from opmerge.spending import spending_record

    record, asked = spending_record(spending, trained), spending.asked
    pictures = dict(_pictures(spending, trained))
    record["pictures"] = {
        name: base64.b64encode(image_png(images, _NUM_PICTURES)).decode("ascii")
        for name, images in pictures.items()
    }
    page, folder = spending_page(record), spending.folder
    write_atomic(folder / "record.json", json.dumps(record, allow_nan=False) + "\n")
    write_atomic(folder / "report.html", page)
    for entry in record["trained"]:
        student = spending.student_folder(entry["name"])
        _tell_card(student, entry, record)
        if pictures:
            pair = pictures["teacher"], pictures[entry["name"]]
            add_pair(student, *pair, asked.steps, asked.student_steps)
    return record


def _pictures(spending: Spending, trained: Iterable[Trained]) -> Iterable[tuple[str, Tensor]]:
    """Teacher's and students' samples of equal noise by name, if they are images."""
    from opmerge.distillation.sampling import decoded, draw_samples, is_image, told_of

    samplers: dict[str, Any] = {"teacher": spending.teacher}
    samplers |= {each.name: spending.student(each.name) for each in trained}
    for name, sampler in samplers.items():
        told = told_of(sampler, spending.inputs)
        samples = draw_samples(sampler, _NUM_PICTURES, 0, _NUM_PICTURES, told=told)
        images = decoded(samples, sampler, spending.teacher.folder)
        if not is_image(tuple(images.shape[1:])):
            return
        yield name, images.float()


def _tell_card(folder: Path, entry: dict[str, Any], record: dict[str, Any]) -> None:
    """What was expected and measured of a student that was trained, in the card of its folder."""
    from opmerge.distillation.model_card import add_measured
    from opmerge.page.spending import interval_told

    measured, expected = entry["measured"], entry["forecast"]
    rows = {"paired error (rms), 95 %": interval_told(measured)}
    if expected is not None:
        rows["expected, 90 %"] = interval_told(expected)
    samples = f"{record['run']['samples']:,} samples of teacher and student from equal noise"
    add_measured(folder, rows, {"paired_rms": measured["value"]}, samples)


def _show(record: dict[str, Any], folder: Path) -> None:
    from opmerge.page.spending import COLUMNS, answer, rows

    print(answer(record), end="\n\n")
    cells = [[row[place] for place in _SHOWN] for row in [COLUMNS, *rows(record)]]
    head, *students = map(tuple, cells)
    show_table("Students beside the teacher, from equal noise", head, students)
    print(f"written: {folder / 'report.html'} and, for diffusers, {folder / STUDENT}")
