"""Write the layout into CONTRIBUTING.md: ``python docs/make_layout.py``, from the code itself.

The order is that of the import rules in pyproject.toml, which lint-imports holds the code to; the
words are the first sentence of each docstring.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- layout -->", "<!-- /layout -->"
FOLDERS = {
    "tests": "mirror src; what needs torch is in with_torch, field cases in field",
    "docs": "these pages; records of what was measured; the scripts that generate pages",
    "benchmarks": "speed and memory: make benchmarks",
    "examples": "programs of under 60 lines, and a study in a package of its own",
}


def layers() -> list[str]:
    """Modules from those that import nothing to those that import all, each in its layer."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = rules["tool"]["importlinter"]["contracts"]
    (order,) = (each["layers"] for each in contracts if each["type"] == "layers")
    return [name for layer in reversed(order) for name in layer.split(" | ")]


def line(module: str) -> str:
    """A module's path and what it is for."""
    path = ROOT / "src" / Path(*module.split("."))
    is_package = path.is_dir()
    code = path / "__init__.py" if is_package else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(code.read_text(encoding="utf-8"))) or ""
    name = f"{path.relative_to(ROOT / 'src')}{'/' if is_package else '.py'}"
    return f"{name:<28}{' '.join(docstring.split(chr(10) * 2)[0].split())}"


def layout() -> Iterator[str]:
    """Lines of the picture."""
    yield "src/"
    for module in layers():
        yield f"  {line(module)}"
    for folder, words in FOLDERS.items():
        yield f"{folder + '/':<30}{words}"


def written(page: str) -> str:
    """The page with the picture as the code now is."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([f"{before}{BEGIN}", "```text", *layout(), "```", f"{END}{after}"])


if __name__ == "__main__":
    place = ROOT / "CONTRIBUTING.md"
    place.write_text(written(place.read_text(encoding="utf-8")), encoding="utf-8")
