"""The lowest versions that pyproject.toml allows are those that ``make test-lowest`` runs with."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

Seen = Callable[[str, object, object], None]

ROOT = Path(__file__).parents[2]
EXTRAS = ("torch", "text", "studies")
NEWER = {
    "torch": "older builds bring gigabytes of CUDA",
    "click": "the lowest transformers asks for a newer one",
}
_BOUND = re.compile(r"(?P<name>[\w.-]+)>=(?P<version>[\d.]+)")


def test_the_lowest_set_is_that_of_the_bounds(seen: Seen) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for extra in EXTRAS for each in optional[extra])]
    lines = (ROOT / "lowest.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    apart = []
    for each in wanted:
        bound = _BOUND.fullmatch(each)
        assert bound is not None, f"{each} has no lower bound"
        name, version = bound["name"].lower(), bound["version"].split(".")
        if name not in NEWER and pinned[name].split(".")[: len(version)] != version:
            apart.append(f"{name} {pinned[name]}, allowed from {bound['version']}")
    seen("lowest.txt beside pyproject.toml", "equal", apart or "equal")
    assert not apart
