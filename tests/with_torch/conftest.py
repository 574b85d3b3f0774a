"""Tests that need the extra ``torch``: without it this folder is left out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from opmerge.cli import main

if any(find_spec(name) is None for name in ("torch", "diffusers", "accelerate")):
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small perceptron that has seen some digits; it is only read."""
    folder = tmp_path_factory.mktemp("teacher")
    small = ("--hidden_size", "16", "--num_layers", "1", "--train_batch_size", "32")
    trained = ("train-teacher", "digits", "--output_dir", str(folder), "--num_iterations", "60")
    assert not main([*trained, *small])
    return folder / "teacher"
