"""Schedules of models that are named as the hub names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from opmerge import resolve_schedule
from opmerge.cli import main
from opmerge.errors import InputError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two models, as huggingface_hub lays it, and no network."""
    place = tmp_path / "hub"
    for name, inside in (("whole", "scheduler"), ("flat", ".")):
        model = place / f"models--someone--{name}"
        FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(
            model / "snapshots" / "abc" / inside
        )
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return place


@pytest.mark.parametrize("name", ["whole", "flat"])
def test_a_name_is_the_scheduler_of_that_model(cache: Path, name: str) -> None:
    found = resolve_schedule(f"someone/{name}", 4)
    config = cache / f"models--someone--{name}" / "snapshots" / "abc"
    expected = resolve_schedule(str(config), 4)
    np.testing.assert_array_equal(found.sigmas, expected.sigmas)
    assert found.timesteps == expected.timesteps


def test_offline_one_line_says_what_to_do(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="download its scheduler_config") as caught:
        resolve_schedule("someone/else", 4)
    assert "\n" not in str(caught.value)
    assert main(["plan", "eigenvalues:2", "--steps", "4", "--schedule", "someone/else"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "someone/else" in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err


def test_files_and_folders_of_ones_own_are_not_asked_of_the_hub(cache: Path) -> None:
    for text in ("someone/levels.npz", f"{cache.name}/nothing"):
        with pytest.raises(InputError, match="or an existing file"):
            resolve_schedule(text, 4)
