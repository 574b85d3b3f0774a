"""Routes of the documents' first page, command after command, on small settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shown_commands import commands_in
from tiny_pipelines import TINY_PIPELINES

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = (Path(__file__).parents[3] / "docs" / "index.md").read_text(encoding="utf-8")
TRAINED = {"--train_batch_size": 4, "--checkpointing_steps": 0}
SMALL: dict[str, dict[str, object]] = {
    "train-teacher": {"--num_iterations": 3, "--num_train_timesteps": 8, **TRAINED},
    "run": {"--steps": 4, "--budget": "16000", "--student_steps": 2, "--num_samples": 8, **TRAINED},
    "sample": {"--num_samples": 4},
    "plan": {"--steps": 8},
    "prepare": {},
}


def route(heading: str) -> list[list[str]]:
    """The commands of a section, with less to do."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [reduced(words) for words in commands_in(section)]


def reduced(words: list[str]) -> list[str]:
    """Options that are shown get another value, others come after them."""
    for name, value in SMALL[words[0]].items():
        if name in words:
            words[words.index(name) + 1] = str(value)
        else:
            words += [name, str(value)]
    return words


def pictures(folder: Path, side: int) -> None:
    """A dozen, in a folder for each of two classes."""
    rng = np.random.default_rng(0)
    for index in range(12):
        place = folder / f"class_{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index}.png")


@pytest.mark.parametrize(
    ("heading", "number"),
    [
        ("Ten minutes, from nothing to a student", 3),
        ("My latent model with classes", 3),
        ("Only the plan", 1),
    ],
)
def test_the_routes_of_the_first_page_end_in_what_they_promise(
    heading: str, number: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = route(heading)
    assert len(commands) == number
    if any("my_images/" in words for words in commands):
        pictures(Path("my_images"), 8)
    if any("path/to/model" in words for words in commands):
        TINY_PIPELINES["dit"]().save_pretrained("path/to/model")
    for words in commands:
        status, _, err = run(*words)
        assert status == 0, (words, err)
    if commands[-1][0] == "sample":
        with Image.open("student.png") as image:
            assert min(image.size) > 1
    else:
        assert Path("runs/plan/report.html").exists()
