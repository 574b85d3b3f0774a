"""``opmerge explore`` and what its server answers, and refuses, to whom."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="needs the extra explore")

from opmerge.clock import tick
from opmerge.explorer import serving
from opmerge.explorer.view import View

SMALL = "source=eigenvalues:2,0.5&steps=8&budget=3e4"


class Got(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str


def get(address: str, path: str, **headers: str) -> Got:
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(connection):
        connection.request("GET", path, headers=names)
        answer = connection.getresponse()
        return Got(answer.status, answer.headers, answer.read().decode())


def test_the_page_is_whole_and_allows_nothing_from_elsewhere(address: str) -> None:
    answer = get(address, f"/?{SMALL}")
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200
    assert "default-src 'none'" in policy
    assert not {"http:", "https:", "*", "'unsafe-inline'", "'unsafe-eval'"} & set(policy.split())
    text = answer.text
    assert "//" not in text.replace("<!doctype", "")  # no address but those of its own
    total = len(text) + sum(len(get(address, f"/explorer.{kind}").text) for kind in ("js", "css"))
    assert total < 100_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "rebound.example"}, 400),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}, 200),
    ],
)
def test_only_this_machines_pages_and_links_are_answered(
    address: str, headers: dict[str, str], status: int
) -> None:
    for path in (f"/?{SMALL}", f"/view?{SMALL}&first=1"):
        assert get(address, path, **headers).status == status


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("steps=0", "steps"),
        ("source=nothing-here.npy", "data"),
        ("law=/nothing/here.json", "law"),
        ("law=run", "law"),
        ("schedule=run", "schedule"),
        (f"{SMALL}&plan=[[3,2],1]", "plan"),
        (f"{SMALL}&plan=[8,", "plan"),
        (f"{SMALL}&plan=[8,7,6,5,4,3,2,1]&iterations=1,2", "iterations"),
        (f"{SMALL}&edit=split&merge=8-0&at=9", "at"),
        (f"{SMALL}&edit=everything", "edit"),
    ],
)
def test_what_is_refused_is_said_on_one_line(address: str, query: str, names: str) -> None:
    answer = get(address, f"/view?{query}&first=1")
    assert (answer.status, answer.text.count("\n")) == (422, 0)
    assert answer.text.startswith(f"`{names}")


def test_a_plan_of_a_thousand_steps_is_an_address(address: str) -> None:
    plan = "[" * 999 + "1000," + ",".join(f"{t}]" for t in range(999, 0, -1))
    query = f"source=eigenvalues:2&theory=linear&steps=1000&plan={plan}"
    answer = get(address, f"/view?{query}&first=1")
    assert answer.status == 200
    assert f"plan={plan}" in answer.headers["X-Address"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("nothing-here",), "data"),
        (("eigenvalues:2", "--port", 70000), "port"),
        (("eigenvalues:-1",), "eigenvalues"),
    ],
)
def test_bad_input_is_refused(run: Any, arguments: tuple[object, ...], names: str) -> None:
    status, _, told = run("explore", "--no_browser", *arguments)
    assert status == 2
    assert told.splitlines()[-1].startswith(f"opmerge: `{names}`")


def test_a_port_that_is_taken_is_refused(run: Any, address: str) -> None:
    status, _, told = run("explore", "eigenvalues:2", "--port", urlsplit(address).port)
    assert status == 2
    assert "`port`" in told
    assert "--port 0" in told


def test_it_says_where_it_is_and_ends_when_interrupted(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "opmerge.cli", "explore", "eigenvalues:2", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [*words, "--no_browser"]
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as process:
        try:
            place = next(
                word for word in process.stdout.readline().split() if word.startswith("http://")
            )
            query = urlsplit(place).query
            assert query == "source=eigenvalues:2"
            assert get(place, f"/?{query}").status == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(600) == 130
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_waits_for_is_broken_off(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(view: View, is_first: bool) -> None:
        begun.set()
        try:
            while True:
                tick()
        finally:
            ended.set()

    monkeypatch.setattr(serving, "answer", endless)
    place = urlsplit(address)
    with closing(http.client.HTTPConnection(place.hostname or "", place.port)) as connection:
        connection.request("GET", f"/view?{SMALL}")
        assert begun.wait(600)
    assert ended.wait(600)
