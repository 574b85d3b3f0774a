"""Commands of every page of the documents run, one after the other, on small settings.

A page stands in a world: a folder with images, latents, prompts and ``path/to/model``, a tiny
pipeline of the real classes. Equal commands of a world are run once. What is not run: `explore`
(tests/explorer does, in a browser), and most studies, whose settings are read and checked
(tests/studies runs each, small). CelebA is a few ellipses in files of its names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image
from shown_commands import commands_in, parsed
from tiny_pipelines import SAMPLE, TINY_PIPELINES, side_of

from opmerge.cli.studies import load_study

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.usefixtures("one_thread", "fresh_accelerator"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),  # FLUX in bf16
]

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORLDS = ("pixels", "celeba", "dit", "stable_diffusion", "sdxl", "flux")
WORLD_OF = {  # of a page, or of a section of one; the others are of pixels, or of CelebA
    "index: My latent model with classes": "dit",
    "how_to/dit": "dit",
    "how_to/flux": "flux",
    "how_to/guided: A student that is told its scale": "stable_diffusion",
    "how_to/lora": "stable_diffusion",
    "how_to/prepare": "stable_diffusion",
    "how_to/sdxl": "sdxl",
    "how_to/stable_diffusion": "stable_diffusion",
    "options: opmerge run": "dit",
}
FIRST = ("how_to/distil", "how_to/dit", "how_to/latents", "how_to/prepare", "how_to/studies")
"""What these make, other pages take as there."""
NUM_IMAGES, NUM_FACES, STEPS, BUDGET = 12, 36, 4, 16000
SHORT = {"--train_batch_size": 4, "--checkpointing_steps": 0}
FEW = {**SHORT, "--train_batch_size": 64}
"""Batches: of a budget, which must suffice for the teacher's table, or to fit a free step to."""
SMALL: dict[str, dict[str, object]] = {
    "calibrate": {"--num_iterations": 3, "--train_batch_size": 4},
    "distill": FEW,
    "evaluate-student": {"--num_samples": 8, "--num_resamples": 0},
    "run": {
        "--num_samples": 8,
        "--linear_part": "train",
        "--pilot_share": 0,
        "--max_seconds": 1,
        **FEW,
    },
    "sample": {"--num_samples": 4},
    "train-teacher": {"--num_iterations": 3, "--num_train_timesteps": 8, **SHORT},
    "vae train": {"--num_iterations": 2, "--base_channels": 4, **SHORT},
}
SMALLER = {  # where they are shown
    "--budget": BUDGET,
    "--steps": STEPS,
    "--student_steps": 2,
    "--lora_rank": 2,
    "--hidden_size": 16,
    "--num_layers": 1,
    "--train_batch_size": 4,
}
GO_ON = {"--dry_run", "--resume_from_checkpoint"}
SMALL_STUDY = {
    "phase": ("steps=[16]", "num_eigenvalues=24", "denoiser_steps=[16]"),
    "celeba": (
        "source=celeba",
        "seeds=[0]",
        "num_latents=4",
        "base_channels=4",
        "vae.num_iterations=2",
        "vae.optimization.train_batch_size=4",
        "steps=6",
        "num_resamples=2",
        "num_samples=8",
        "neural_steps=3",
        "teacher.num_iterations=2",
        "budgets=[2e3]",
    ),
}


def sections() -> Iterator[tuple[str, str]]:
    """Names and texts; the first part of a page has the name of the page alone."""
    for path in PAGES:
        page = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")
        first, *others = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        yield page, first
        for text in others:
            yield f"{page}: {text.splitlines()[0]}", text


def inline(text: str) -> Iterator[list[str]]:
    """Words of commands within sentences that have options, unless what they must have is left
    out, as a mention may; that the rest of it parses is checked."""
    for line in re.findall(r"`(opmerge [a-z][^`…]* --[^`…]*)`", text):
        for words in commands_in(f"  {' '.join(line.split())}"):
            try:
                parsed(words)
            except click.MissingParameter:
                continue
            yield words


def shown(world: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of a world, with the section that shows them."""
    ordered = sorted(sections(), key=lambda each: not each[0].startswith(FIRST))
    for name, text in ordered:
        usual = WORLD_OF.get(name, WORLD_OF.get(name.split(":")[0], "pixels"))
        for words in (*commands_in(text), *inline(text)):
            reads_texts = usual == "pixels" and {"--prompt", "--prompts"} & {*words}
            there = "stable_diffusion" if reads_texts else usual
            is_run = "explore" not in words and "…" not in "".join(words)
            if is_run and world == ("celeba" if "celeba" in words else there):
                yield name, words


def page_of(section: str) -> str:
    """What one command leaves, others of its page may take; of options each stands alone."""
    return section if section.startswith("options") else section.split(":", maxsplit=1)[0]


def smaller(words: list[str]) -> list[str]:
    """The command with less to do: an option that is shown gets another value, others are added."""
    verb = " ".join(words[: 2 if words[0] == "vae" else 1])
    options = dict(SMALL.get(verb, {}))
    if verb not in ("compare", "evaluate"):
        options |= {name: value for name, value in SMALLER.items() if name in words}
    if verb == "distill" and "--budget" not in words:
        options["--num_iterations"] = 2
    if verb == "calibrate" and "--budget" in words:
        del options["--num_iterations"]
        options |= {"--budget": 2 * BUDGET, "--train_batch_size": 64}
    if "1,2,4" in words:
        options["--student_steps"] = "1,2"
    words = list(words)
    while "--compare_with" in words:  # a student more each
        at = words.index("--compare_with")
        del words[at : at + 2]
    for name, value in options.items():
        if name in words:
            words[words.index(name) + 1] = str(value)
        else:
            words += [name, str(value)]
    return words


def images(side: int, rng: np.random.Generator) -> None:
    """A folder of images for each of two classes, with captions."""
    for index in range(NUM_IMAGES):
        place = Path("my_images") / f"class_{index % 2}" / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(place)
        place.with_suffix(".txt").write_text(f"number {index}")


def faces(rng: np.random.Generator) -> None:
    """Copies at half size of a few of CelebA's training faces: a light ellipse each."""
    folder = Path("celeba") / "img_align_celeba"
    folder.mkdir(parents=True)
    down, across = np.mgrid[-1:1:109j, -1:1:89j]
    for number in range(1, NUM_FACES + 1):
        width, height, *colour = rng.uniform(0.3, 0.8, 5)
        inside = (across / width) ** 2 + (down / height) ** 2 < 1
        pixels = 255 * np.where(inside[..., None], colour, 0.1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:06d}.jpg")


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """What pages take as there, in the current folder; the name of the world."""
    name: str = request.param
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shutil.copytree(teacher, "runs/teacher/teacher")
    Path("prompts.txt").write_text("a red fox\ntwo dogs\n")
    measuring = (ROOT / "docs" / "how_to" / "measure.md").read_text(encoding="utf-8")
    Path("my_features.py").write_text(re.findall(r"```python\n(.*?)```", measuring, re.DOTALL)[0])
    if name == "pixels":
        images(SAMPLE, rng)
        shutil.copytree(teacher, "path/to/model")
    elif name == "celeba":
        faces(rng)
    else:
        images(side_of(name), rng)
        TINY_PIPELINES[name]().save_pretrained("path/to/model")
    latents = rng.standard_normal((NUM_IMAGES, 4, SAMPLE, SAMPLE), dtype=np.float32)
    np.save("my_latents.npy", latents)
    np.save("my_labels.npy", np.arange(NUM_IMAGES) % 2)
    pixels = rng.integers(0, 256, (NUM_IMAGES, SAMPLE, SAMPLE, 3), dtype=np.uint8)
    np.savez("cifar10.npz", images=pixels, labels=np.arange(NUM_IMAGES) % 2)
    return name


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_the_commands_of_pages_run(run: Run, world: str) -> None:
    made: dict[tuple[str, ...], Path] = {}
    page = ""
    for section, shown_words in shown(world):
        if not section.startswith(FIRST) and page_of(section) != page:
            there = Path("there")
            if not there.exists():
                shutil.copytree("runs", there)
            shutil.rmtree("runs")
            shutil.copytree(there, "runs")
        page = page_of(section)
        words = small_study(smaller(shown_words))
        place = Path(dict(pairwise(words)).get("--output_dir", "nowhere"))
        if place.exists() and not GO_ON & {*words}:  # of another command it may be
            shutil.rmtree(place)
        kept = made.setdefault(tuple(words), Path(f"kept-{len(made)}"))
        if words and not kept.exists():
            AcceleratorState._reset_state(reset_partial_state=True)  # of a precision before
            status, _, err = run(*words)
            assert status == 0, (section, words, err)
            promised(words)
            shutil.copytree(place, kept) if place.exists() else kept.mkdir()
        elif words and place != Path("nowhere"):
            shutil.copytree(kept, place, dirs_exist_ok=True)


def small_study(words: list[str]) -> list[str]:
    """A study with less to do; no words where its settings alone are checked."""
    if words[0] != "study":
        return words
    asked = dict(pairwise(words))
    name = asked["study"]
    if name in SMALL_STUDY:
        changes = [word for change in SMALL_STUDY[name] for word in ("--set", change)]
        given = {"--num_workers": "1", "--output_dir": f"runs/{name}"}
        left = [word for option in given.items() if option[0] not in words for word in option]
        return [*words, *changes, *left]
    if not name.startswith("--") and name not in ("all", "NAME"):
        changes = [word for before, word in pairwise(words) if before == "--set"]
        load_study(name).configured("--quick" in words, changes)
    return words if name == "--list" else []


def promised(words: list[str]) -> None:
    """Files and folders that a command is told to write are there, pictures can be seen."""
    asked: dict[str, Any] = dict(pairwise(words))
    if "--output_dir" in asked and "--dry_run" not in words:
        assert any(Path(asked["--output_dir"]).iterdir())
    if str(picture := asked.get("--output")).endswith(".png"):
        with Image.open(picture) as image:
            assert min(image.size) > 1
