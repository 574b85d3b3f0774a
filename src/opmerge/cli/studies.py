"""The command `study`: settings from `--set`, a record, its tables, figures and page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opmerge.cli.options import option, takes_options
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.studies import Study

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
    from opmerge.studies import STUDIES
    from opmerge.studies.engines import BACKENDS

    if show_list:
        for key, entry in STUDIES.items():
            print(f"{key}: {entry.question}")
        return
    if name is None or name not in (_ALL, *STUDIES):
        raise InputError("study", f"must be {_ALL} or one of {', '.join(STUDIES)}", name or "none")
    if backend not in BACKENDS:
        raise InputError("backend", f"must be one of {', '.join(BACKENDS)}", backend)
    if num_workers < 1 and num_workers != -1:
        raise InputError("num_workers", "must be >= 1, or -1 for one a core", num_workers)
    folder = output_dir or Path("runs") / name
    settings = [*(settings or []), *(["neural=true"] if neural else [])]
    if name == _ALL:
        _run_all(folder, quick, settings, num_workers, backend)
    else:
        print(_run(STUDIES[name], folder, quick, settings, num_workers, backend))
        print(f"written: {folder / 'record.json'}, {folder / 'report.html'}")


def _run(
    entry: Study, folder: Path, quick: bool, settings: list[str], num_workers: int, backend: str
) -> str:
    """Run a study into a folder; its finding."""
    from opmerge.cli import runs, study_files
    from opmerge.cli.networks import prepare_libraries, resumable, say
    from opmerge.cli.progress import progress_bar
    from opmerge.studies import Runner
    from opmerge.studies.settings import configure, settings_named

    if entry.trains_networks:
        prepare_libraries()
    config = configure(entry.config(quick), settings)
    runs.prepare_folder(folder)
    runner = Runner(folder, progress_bar, say, num_workers, backend)  # type: ignore[arg-type]
    with resumable("the same command"), settings_named():
        record = entry.run(config, runner)
    study_files.write_study(folder, entry, record)
    runs.write_config(folder, f"study {entry.name}", {"quick": quick, "set": settings})
    return entry.answer(record).finding


def _run_all(
    folder: Path, quick: bool, settings: list[str], num_workers: int, backend: str
) -> None:
    """Run every study that trains no network; one that fails does not stop the others."""
    from opmerge.cli import runs, study_files
    from opmerge.studies import STUDIES

    if settings:
        raise InputError("set", "must be left out with all, for studies differ in settings")
    runs.prepare_folder(folder)
    failed = []
    for entry in STUDIES.values():
        if entry.trains_networks:
            continue
        try:
            finding = _run(entry, folder / entry.name, quick, [], num_workers, backend)
            print(f"{entry.name}: {finding}")
        except InputError as error:
            failed.append(entry.name)
            print(f"opmerge: {entry.name}: {error}", file=sys.stderr)
    print(f"written: {study_files.write_index(folder)}")
    if failed:
        raise InputError("study", f"must run, and {', '.join(failed)} did not; the rest is written")
