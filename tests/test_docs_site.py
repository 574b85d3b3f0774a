"""The site is built strictly, asks no other host for anything, and shows every public name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_asks_another_host(site: Path) -> None:
    """Links that a reader follows may; scripts, styles, fonts and images may not."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        asked = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?([^\s\">]+)", text)
        asked += re.findall(r"<link[^>]*rel=\"?(?!canonical)[^>]*href=\"?([^\s\">]+)", text)
        assert asked
        assert not [address for address in asked if re.match("(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?https?:", style.read_text(encoding="utf-8")), style


def test_every_public_name_is_on_a_page_with_its_docstring(site: Path) -> None:
    """mkdocstrings leaves out what has none."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    shown = {anchor.rpartition(".")[::2] for anchor in re.findall(r'id="(opmerge[\w.]+)"', pages)}
    for module in (ROOT / "src" / "opmerge").rglob("__init__.py"):
        package = ".".join(module.parent.relative_to(ROOT / "src").parts)
        for name in names_of(module):
            if package == "opmerge":
                assert any(name == each for _, each in shown), name
            elif package != "opmerge.cli":
                assert (package, name) in shown, (package, name)


def names_of(module: Path) -> list[str]:
    """``__all__`` of a package, read without importing it."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def test_formulas_become_mathml(site: Path) -> None:
    text = (site / "theory.html").read_text(encoding="utf-8")
    assert text.count("<math") > 300
    assert "arithmatex" not in text
