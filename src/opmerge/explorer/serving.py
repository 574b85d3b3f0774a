"""The page served to this machine alone: the document, what of it changes, and the plan's file."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from opmerge.clock import AbandonedError, tick, time_limit
from opmerge.errors import InputError
from opmerge.explorer.answers import Answer, answer
from opmerge.explorer.edits import Edit, edited
from opmerge.explorer.page import fragment, whole_page
from opmerge.explorer.view import View, of_address

HOST = "127.0.0.1"
MOST_BYTES = 64 * 1024
"""Of a request's head: a plan by hand of a thousand steps is an address of 8 kB."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_REFUSED = (InputError, OSError, MemoryError)
_ONE_AT_A_TIME = threading.Lock()  # the planners' kernels run in parallel by themselves


def explorer() -> Starlette:
    """The application. It keeps no state but what it has read and found: a view is its address.

    Only pages of this machine may ask, by name: what other sites' scripts send is refused.
    """
    static = StaticFiles(directory=Path(__file__).with_name("static"))
    return Starlette(
        routes=[
            Route("/", _document),
            Route("/view", _changes),
            Route("/plan.json", _plan_file),
            Mount("/", static),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def listen(port: int) -> socket.socket:
    """A socket of this machine alone, at a port; 0 takes a free one.

    Raises:
        InputError: if it is taken or not allowed.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((HOST, port))
        opened.listen()  # whoever comes before the first answer waits for it
    except (OSError, OverflowError) as error:
        opened.close()
        reason = getattr(error, "strerror", None) or error
        need = f"must be free, 0 … 65535 ({reason})"
        raise InputError("port", need, port, "pass `port=0`") from error
    return opened


def serve(opened: socket.socket, ready: Callable[[], object] = lambda: None) -> None:
    """Answer until interrupted; ``ready`` is called before."""
    config = uvicorn.Config(
        explorer(), log_level="error", lifespan="off", h11_max_incomplete_event_size=MOST_BYTES
    )
    ready()
    # a third of a second to import, and first needed by plans of several students
    threading.Thread(target=import_module, args=("scipy.optimize",), daemon=True).start()
    uvicorn.Server(config).run(sockets=[opened])


async def _document(request: Request) -> Response:
    if _is_foreign(request):
        return _foreign()
    try:
        view, problem = of_address(View, request.query_params), ""
    except InputError as error:
        view, problem = View(), str(error)
    found = None
    if not problem:
        try:
            found = await _while_asked(request, partial(_answered, request, True))
        except _REFUSED as error:
            problem = str(error)
    text = await run_in_threadpool(whole_page, found.view if found else view, found, problem)
    return HTMLResponse(text, 422 if problem else 200, _HEADERS)


async def _changes(request: Request) -> Response:
    if _is_foreign(request):
        return _foreign()
    is_first = "first" in request.query_params
    try:
        found = await _while_asked(request, partial(_answered, request, is_first))
    except _REFUSED as error:
        return PlainTextResponse(str(error), 422, _HEADERS)
    except AbandonedError:
        return PlainTextResponse("", 503, _HEADERS)
    headers = {**_HEADERS, "X-Address": found.view.address}
    if found.is_first:
        headers["X-Follows"] = "the whole search"
    return HTMLResponse(fragment(found), headers=headers)


async def _plan_file(request: Request) -> Response:
    if _is_foreign(request):
        return _foreign()
    try:
        found = await _while_asked(request, partial(_answered, request, False))
    except _REFUSED as error:
        return PlainTextResponse(str(error), 422, _HEADERS)
    except AbandonedError:
        return PlainTextResponse("", 503, _HEADERS)
    named = {"Content-Disposition": 'attachment; filename="plan.json"'}
    return Response(found.file.dumps(), 200, {**_HEADERS, **named}, "application/json")


def _answered(request: Request, is_first: bool) -> Answer:
    """The answer to an address, changed by the edit that it asks for."""
    view = of_address(View, request.query_params)
    if request.query_params.get("edit"):
        edit = of_address(Edit, request.query_params)
        before = answer(view, is_first)
        counts = tuple(before.record["best"].get("iterations", ()))
        view = edited(view, before.plan, counts, edit)
    return answer(view, is_first)


async def _while_asked(request: Request, work: Callable[[], Answer]) -> Answer:
    """Work in a thread, broken off once whoever asked has gone."""
    is_gone = threading.Event()
    task = asyncio.ensure_future(run_in_threadpool(_alone, work, is_gone))
    watch = asyncio.ensure_future(_disconnected(request))
    await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    is_gone.set()
    return await task


async def _disconnected(request: Request) -> None:
    """Wait until whoever asked has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _alone(work: Callable[[], Answer], is_gone: threading.Event) -> Answer:
    with _ONE_AT_A_TIME, time_limit(is_over=is_gone.is_set):
        tick()
        return work()


def _is_foreign(request: Request) -> bool:
    """Whether another site's page asks, other than by a link that somebody follows."""
    site, mode = (request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode"))
    return site in ("cross-site", "same-site") and mode != "navigate"


def _foreign() -> Response:
    return PlainTextResponse("this explorer answers its own pages alone", 403, _HEADERS)
