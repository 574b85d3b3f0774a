"""``opmerge explore``: the page of plans that change live, on this machine alone."""

from __future__ import annotations

import webbrowser
from importlib.util import find_spec
from typing import TYPE_CHECKING

from opmerge.cli.progress import progress_bar
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.settings.commands import ExploreOptions

_NEEDED = ("starlette", "uvicorn")


def explore(asked: ExploreOptions) -> None:
    """Explore plans in a page of this machine: change anything, and see what it costs.

    DATA is a source as of `plan`; RUN the folder of a `plan` or a `run`, which opens with its plan,
    law and budget. Nothing leaves this machine. Ctrl-C ends it.

    Examples:
        opmerge explore digits
        opmerge explore runs/spent
    """
    for name in _NEEDED:
        if find_spec(name) is None:
            need = "must be installed for the explorer"
            raise InputError(name, need, remedy="pip install 'opmerge[explore]'")
    from opmerge.explorer.answers import answer
    from opmerge.explorer.premises import Run, read_source
    from opmerge.explorer.serving import HOST, listen, serve
    from opmerge.explorer.view import View

    with progress_bar(f"reading {asked.source}") as report:
        found = read_source(asked.source, report)
    view = found.view if isinstance(found, Run) else View(source=asked.source)
    with progress_bar("a first plan"):  # what cannot be planned is refused, and kernels compile
        answer(view, is_first=True)
    with listen(asked.port) as opened:
        address = f"http://{HOST}:{opened.getsockname()[1]}/?{view.address}".rstrip("?")

        def ready() -> None:
            print(f"exploring at {address} (Ctrl-C ends it)", flush=True)
            if not asked.no_browser:
                webbrowser.open(address)

        serve(opened, ready)
