"""The commands: each builds a problem, calls the package and shows what came out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opmerge.cli.calibration import calibrate
from opmerge.cli.inputs import build_problem, load_spectrum, read_plan, search
from opmerge.cli.options import DataOptions, ProblemOptions, SearchOptions, takes_options
from opmerge.cli.students import evaluate_student, export, sample
from opmerge.cli.studies import study
from opmerge.cli.training import distill, train_teacher
from opmerge.cli.vae import decode, encode, train

if TYPE_CHECKING:
    from opmerge.plans import Plan

__all__ = ["COMMANDS", "GROUPS"]

OutputDir = Annotated[
    Path | None,
    typer.Option("--output_dir", help="Folder for the results.", rich_help_panel="Output"),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON object on standard output, nothing else.", rich_help_panel="Output"
    ),
]


@takes_options
def plan(
    data: DataOptions,
    problem: ProblemOptions,
    searching: SearchOptions,
    output_dir: OutputDir = None,
    as_json: Json = False,
) -> None:
    """Find the best order in which to merge a sampler's steps, with proof."""
    from opmerge.cli import output

    record, best = _plan_and_record("plan", data, problem, searching, output_dir)
    output.show_plan(record, best, output_dir, as_json)


@takes_options
def compare(
    data: DataOptions,
    problem: ProblemOptions,
    searching: SearchOptions,
    output_dir: OutputDir = None,
    as_json: Json = False,
) -> None:
    """Set the named strategies side by side, and beside the best plan."""
    from opmerge.cli import output

    record, best = _plan_and_record("compare", data, problem, searching, output_dir)
    output.show_comparison(record, best, as_json)


@takes_options
def evaluate(
    data: DataOptions,
    problem: ProblemOptions,
    plan: Annotated[
        str,
        typer.Option(
            "--plan",
            metavar="FILE|LISTS",
            help="A plan file, or nested lists such as '[[3,2],1]' (a list of K trees with "
            "--student_steps K). What a plan file says holds where no option is given.",
        ),
    ],
    output_dir: OutputDir = None,
    as_json: Json = False,
) -> None:
    """Evaluate a plan: what it costs in quality, and where the error arises."""
    from dataclasses import replace

    from opmerge.cli import output, runs
    from opmerge.merging import evaluate as evaluate_plan

    runs.prepare_folder(output_dir)

    parsed, made_for = read_plan(plan, problem.student_steps)
    if problem.steps is None:
        problem = replace(problem, steps=parsed.num_steps)
    built = build_problem(load_spectrum(data), problem, made_for)
    outcome = evaluate_plan(built, parsed)
    text = output.evaluation_text(outcome, made_for)
    if output_dir is not None:
        runs.write_evaluation(output_dir, text)
    if as_json:
        print(text)
    else:
        output.show_evaluation(outcome, made_for)


@takes_options
def spectrum(data: DataOptions, output_dir: OutputDir = None, as_json: Json = False) -> None:
    """Estimate the spectrum of the data; with --output_dir, save and draw it."""
    from opmerge.cli import output, runs

    runs.prepare_folder(output_dir)
    estimated = load_spectrum(data)
    if output_dir is not None:
        runs.write_spectrum(output_dir, estimated)
    output.show_spectrum(estimated, output_dir, as_json)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a plan or of studies.")],
) -> None:
    """Draw the report of a run again, from its record; nothing is computed."""
    from opmerge.cli.study_files import redraw

    print(f"written: {redraw(run)}")


COMMANDS = {
    "plan": plan,
    "compare": compare,
    "evaluate": evaluate,
    "spectrum": spectrum,
    "report": report,
    "train-teacher": train_teacher,
    "distill": distill,
    "sample": sample,
    "evaluate-student": evaluate_student,
    "calibrate": calibrate,
    "export": export,
    "study": study,
}

GROUPS = {
    "vae": (
        "Images as latents: train an autoencoder, encode, decode.",
        {"train": train, "encode": encode, "decode": decode},
    ),
}


def _plan_and_record(
    command: str,
    data: DataOptions,
    problem: ProblemOptions,
    searching: SearchOptions,
    folder: Path | None,
) -> tuple[dict[str, Any], Plan]:
    """Plan, set the strategies beside it, and write the run where a folder is given."""
    from opmerge.cli import runs
    from opmerge.planners.record import compare_strategies, plan_record
    from opmerge.plans import default_strategies

    runs.prepare_folder(folder)
    built = build_problem(load_spectrum(data), problem)
    result = search(built, searching, problem.student_steps)
    names = searching.strategy or default_strategies(built.num_steps)
    outcomes = compare_strategies(built, names, result.plan.student_steps)
    record = plan_record(built, result, outcomes)
    if folder is not None:
        options = {**asdict(data), **asdict(problem), **asdict(searching)}
        runs.write_run(folder, built, result, record, command, options)
    return record, result.plan
