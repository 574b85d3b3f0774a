"""Notebooks are run from their first cell to their last, and hold what that shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
NEEDED = {"read_a_certificate": (), "flow_text_model": ("diffusers", "transformers")}
LESS_SPENT = (r"budget=\"100000\"", r"budget=\"50000\"")
MOST_LINES, MOST_BYTES = 30, 400_000


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[tuple[str, list[str]]]:
    """Kinds of a cell's outputs. What they say follows from training, which processors round."""
    return [(each.output_type, sorted(each.get("data", ()))) for each in cell.outputs]


@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_runs_and_holds_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tenth of its training, on which the kinds of outputs do not depend.

    Garbage is collected at every merge: what the notebook first imports is passed over.
    """
    for module in NEEDED.get(path.stem, ("diffusers",)):
        pytest.importorskip(module)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("make_notebooks", ROOT / "docs/make_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    quick = tmp_path / path.name
    text = re.sub(r"(num_iterations=\d+)0\b", r"\1", path.read_text(encoding="utf-8"))
    less = nbformat.reads(text.replace(*LESS_SPENT), as_version=4)
    code_cells(less)[0].source += "\nimport gc\n\ngc.freeze()"
    nbformat.write(less, quick)
    stored, run = nbformat.read(path, as_version=4), program.executed(quick)
    for kept, found in zip(code_cells(stored), code_cells(run), strict=True):
        assert shown(kept) == shown(found), kept.source
    if path.stem == "read_a_certificate":  # nothing of it is trained: its numbers are the same
        assert [each.get("text") for each in all_outputs(stored)] == [
            each.get("text") for each in all_outputs(run)
        ]


def all_outputs(notebook: Any) -> list[Any]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_outputs_are_those_of_one_run_and_name_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    for output in all_outputs(notebook):
        assert output.output_type in ("stream", "execute_result")
        assert output.get("name") != "stderr"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|tmp|root|work|Users)/", text)
    assert len(text) < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_cells_are_short_and_begin_with_a_heading(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    assert all(len(cell.source.splitlines()) <= MOST_LINES for cell in notebook.cells)


def test_the_page_of_notebooks_names_each() -> None:
    page = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\((\w+)\.ipynb\)", page)) == NAMES
