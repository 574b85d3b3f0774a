"""The command `study`: settings from `--set`, a record, and its page."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opmerge.cli.options import option
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.studies import Study

__all__ = ["study"]


def study(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which study; --list tells.")
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
    show_list: Annotated[bool, option("list", "Describe the studies and stop.", "Study")] = False,
) -> None:
    """Answer a question by experiment: a record and a page; an interrupted study goes on."""
    from opmerge.studies import STUDIES

    if show_list:
        for key, entry in STUDIES.items():
            print(f"{key}: {entry.question}")
        return
    if name is None or name not in STUDIES:
        raise InputError("study", f"must be one of {', '.join(STUDIES)}", name or "nothing")
    _run(name, STUDIES[name], output_dir or Path("runs") / name, quick, settings or [])


def _run(name: str, entry: Study, folder: Path, quick: bool, settings: list[str]) -> None:
    from opmerge.cli import runs
    from opmerge.cli.networks import prepare_libraries
    from opmerge.cli.progress import progress_bar
    from opmerge.files import write_atomic

    config = entry.config.quick() if quick else entry.config()
    for setting in settings:
        config = _with_setting(config, setting)
    runs.prepare_folder(folder)
    prepare_libraries()
    record = entry.run(config, folder, progress_bar)
    write_atomic(folder / "record.json", json.dumps(record, allow_nan=False) + "\n")
    page = write_atomic(folder / "report.html", entry.page(record))
    runs.write_config(folder, f"study {name}", {"quick": quick, "set": settings})
    print(entry.finding(record))
    print(f"written: {folder / 'record.json'}, {page}")


def _with_setting(config: Any, setting: str) -> Any:
    """The configuration with one field, or a field of a part of it, set anew."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise InputError("set", "must have the form KEY=VALUE", setting)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return _replaced(config, key.split("."), tuple(value) if isinstance(value, list) else value)


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    first, *rest = path
    names = [field.name for field in fields(config)]
    if first not in names:
        raise InputError("set", f"must name one of {', '.join(names)}", first)
    if not rest:
        if is_dataclass(getattr(config, first)):
            raise InputError("set", "must name a setting inside", first, f"such as {first}.NAME")
        return replace(config, **{first: value})
    part = getattr(config, first)
    if not is_dataclass(part):
        raise InputError("set", f"must not name a part of {first}", ".".join(rest))
    return replace(config, **{first: _replaced(part, rest, value)})
