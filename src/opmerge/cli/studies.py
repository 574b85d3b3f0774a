"""The command `study`: settings from `--set`, a record, its tables, figures and page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opmerge.cli.options import option, takes_options
from opmerge.cli.study_files import load_study, study_names
from opmerge.errors import InputError
from opmerge.versions import TRAINING_LIBRARIES

if TYPE_CHECKING:
    from opmerge.cli.study_files import Study

__all__ = ["study"]

_ALL = "all"


@takes_options
def study(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which study, or all; --list tells.")
    ] = None,
    output_dir: Annotated[
        Path | None,
        option(
            "output_dir", "Folder for the record and the page.", "Run", show_default="runs/NAME"
        ),
    ] = None,
    quick: Annotated[bool, option("quick", "A demonstration of a few minutes.", "Study")] = False,
    settings: Annotated[
        list[str] | None,
        option(
            "set",
            "A setting of the study, such as steps=16, seeds=[0,1] or teacher.network=unet; may "
            "be repeated.",
            "Study",
            metavar="KEY=VALUE",
        ),
    ] = None,
    neural: Annotated[
        bool, option("neural", "celeba: also distil networks by the same plans.", "Study")
    ] = False,
    num_workers: Annotated[
        int, option("num_workers", "Processes of a sweep; -1 for one a core.", "Run")
    ] = -1,
    backend: Annotated[
        str, option("backend", "What a sweep runs on: loky, dask or ray.", "Run")
    ] = "loky",
    show_list: Annotated[bool, option("list", "Describe the studies and stop.", "Study")] = False,
) -> None:
    """Answer a question by experiment: a record and a page; an interrupted study goes on."""
    names = study_names()
    if show_list:
        for key in names:
            print(f"{key}: {load_study(key).question}")
        return
    if name is None or name not in (_ALL, *names):
        raise InputError("study", f"must be {_ALL} or one of {', '.join(names)}", name or "none")
    folder = output_dir or Path("runs") / name
    changes = [*(settings or []), *(["neural=true"] if neural else [])]
    execution = Execution(quick, changes, num_workers, backend)
    if name == _ALL:
        _run_all(names, folder, execution)
    else:
        print(_run(load_study(name), folder, execution))
        print(f"written: {folder / 'record.json'}, {folder / 'report.html'}")


@dataclass(frozen=True)
class Execution:
    """How studies are run: as a demonstration or in full, with which settings, on what."""

    quick: bool
    changes: Sequence[str]
    num_workers: int
    backend: str


def _run(study: Study, folder: Path, execution: Execution) -> str:
    """Run a study into a folder; its finding."""
    from opmerge.cli import runs
    from opmerge.cli.networks import prepare_libraries, resumable, say
    from opmerge.cli.progress import progress_bar

    if study.trains_networks:
        prepare_libraries()
    settings = study.configured(execution.quick, execution.changes)
    runs.prepare_folder(folder)
    runner = study.runner(folder, progress_bar, say, execution.num_workers, execution.backend)
    with resumable("the same command"):
        record = study.record(settings, runner)
    page = study.write(folder, record)
    libraries = TRAINING_LIBRARIES if study.trains_networks else ()
    options = {"quick": execution.quick, "set": execution.changes}
    runs.write_config(folder, f"study {study.name}", options, libraries)
    return page.finding


def _run_all(names: Sequence[str], folder: Path, execution: Execution) -> None:
    """Run every study that trains no network; one that fails does not stop the others."""
    from opmerge.cli import runs
    from opmerge.cli.study_files import write_index

    if execution.changes:
        raise InputError("set", "must be left out with all, for studies differ in settings")
    runs.prepare_folder(folder)
    failed = []
    for study in map(load_study, names):
        if study.trains_networks:
            continue
        try:
            print(f"{study.name}: {_run(study, folder / study.name, execution)}")
        except InputError as error:
            failed.append(study.name)
            print(f"opmerge: {study.name}: {error}", file=sys.stderr)
    print(f"written: {write_index(folder)}")
    if failed:
        raise InputError("study", f"must run, and {', '.join(failed)} did not; the rest is written")
