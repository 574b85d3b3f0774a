"""From images with classes to a guided student, for the networks that train-teacher makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge.denoisers.teacher_folder import load_teacher

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerator")

CLASSES = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of 8 × 8 pixels of three classes, as CIFAR-10 is kept: brighter by class."""
    rng, labels = np.random.default_rng(0), np.arange(60) % CLASSES
    pixels = rng.integers(0, 100, (60, 8, 8, 3)) + 70 * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "images.npz"
    names = np.array(["dark", "grey", "bright"])
    np.savez(path, images=pixels.astype(np.uint8), labels=labels, classes=names)
    return path


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("unet", ("--block_out_channels", "8,16")),
        ("dit", ("--hidden_size", 16, "--num_layers", 1)),
    ],
)
def test_a_guided_student_of_labelled_images(
    run: Any, images: Path, tmp_path: Path, network: str, size: tuple[object, ...]
) -> None:
    def done(*arguments: object) -> str:
        status, out, err = run(*arguments)
        assert status == 0, err
        return str(out)

    told = (images, "--labels", images)
    short = ("--train_batch_size", 8, "--checkpointing_steps", 0)
    given = ("--network", network, *size, "--label_dropout", 0.2, "--num_iterations", 4)
    given = (*given, *short, "--validation_fraction", 0)
    done("train-teacher", *told, *given, "--output_dir", tmp_path / "run")
    folder = tmp_path / "run" / "teacher"
    teacher = ("--teacher", folder)
    assert load_teacher(folder, 4).num_classes == CLASSES

    data = tmp_path / "data"
    assert "()" not in done("prepare", *told, *teacher, "--output_dir", data)
    plan = tmp_path / "plan"
    asked = ("--schedule", folder, "--steps", 4, "--budget", 16000, "--train_batch_size", 8)
    done("plan", data, *asked, "--guidance_scale", 2, "--output_dir", plan)
    assert json.loads((plan / "plan.json").read_text())["guidance"]["scale"] == 2
    done(
        *("distill", data, *teacher, "--plan", plan / "plan.json", *short),
        *("--num_iterations", 2, "--output_dir", tmp_path / "distilled"),
    )
    student = tmp_path / "distilled" / "student"
    few = ("--num_samples", 30, "--num_resamples", 0, "--json")
    found = json.loads(done("evaluate-student", student, *teacher, "--source", data, *few))
    assert found["paired_rms"]["value"] > 0
    done("sample", student, "--num_samples", 3, "--output", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (3, 3, 8, 8)
