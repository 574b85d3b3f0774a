"""An explorer that runs while a module's tests do."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the explorer, as a browser has it."""
    pytest.importorskip("starlette", reason="needs the extra explore")
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra explore")
    from opmerge.explorer.serving import HOST, explorer, listen

    server = uvicorn.Server(uvicorn.Config(explorer(), log_level="error", lifespan="off"))
    opened = listen(0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield f"http://{HOST}:{opened.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    opened.close()
