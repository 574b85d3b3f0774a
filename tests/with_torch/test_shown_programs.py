"""Programs of ``benchmarks`` that documents show, asked as they say; those of pages run small."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = r"python -m (benchmarks\.\w+)((?: [\w./]+)*)"

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerator")


def shown() -> set[tuple[str, str]]:
    """Modules and their arguments, of every page."""
    return {each for page in PAGES for each in re.findall(SHOWN, page.read_text(encoding="utf-8"))}


def test_programs_are_shown_with_the_arguments_that_they_take() -> None:
    assert len(shown()) > 4
    for name, arguments in shown():
        path = ROOT / f"{name.replace('.', '/')}.py"
        usage = re.match(rf'"""``python -m {name}([ A-Z]*)``', path.read_text(encoding="utf-8"))
        assert usage is not None, name
        assert len(arguments.split()) == len(usage[1].split()), (name, arguments)


@pytest.fixture
def from_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are no part of what is installed."""
    monkeypatch.syspath_prepend(str(ROOT))


def test_a_small_stable_diffusion_is_trained(
    from_root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = importlib.import_module("benchmarks.tiny_stable_diffusion")
    for name in ("AUTOENCODER_ITERATIONS", "ITERATIONS", "BATCH"):
        monkeypatch.setattr(program, name, 2)
    program.main(tmp_path)
    assert (tmp_path / "teacher" / "model_index.json").is_file()
    assert any((tmp_path / "images").iterdir())


def test_sharing_is_compared(
    from_root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = importlib.import_module("benchmarks.sharing")
    small = {"num_iterations": 2, "student_steps": (2,), "seeds": (0,), "num_samples": 8}
    case = replace(program.CASES["digits"], **small, teacher_batch=4, batch=4, budget="500")
    monkeypatch.setitem(program.CASES, "digits", case)
    trained = {way: {**arm, "linear_part": "train"} for way, arm in program.ARMS.items()}
    monkeypatch.setattr(program, "ARMS", trained)
    monkeypatch.setattr(program, "NUM_STEPS", 4)
    monkeypatch.setattr(program, "RATES", (1e-3,))
    monkeypatch.setattr(program, "RESULTS", tmp_path / "sharing.json")
    program.main("digits", tmp_path)
    assert {path.stem for path in tmp_path.glob("2 *.json")} == {f"2 {way}" for way in program.ARMS}
