"""Memory of ``opmerge vae encode`` on 1,000 and on 20,000 files in CelebA's layout."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NUMBERS = (1_000, 20_000)
_SIZE = (178, 218)


def encoding_memory() -> dict[str, Any]:
    """Peak memory and duration of the command, each in a process of its own.

    The autoencoder is the published one for 64 × 64 pixels with 128 latents, untrained.
    """
    from opmerge.latents import ConvVAE

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        vae = Path(folder) / "vae"
        ConvVAE((3, 64, 64)).save_pretrained(vae)
        faces = Path(folder) / "img_align_celeba"
        faces.mkdir()
        written = 0
        for number in NUMBERS:
            _write_faces(faces, written, number)
            written = number
            found[str(number)] = _encode(faces, vae, Path(folder) / "latents.npy")
    few, many = (found[str(number)]["peak_gib"] for number in NUMBERS)
    return {**found, "ratio": many / few}


def _write_faces(folder: Path, start: int, stop: int) -> None:
    """Files of smooth colours, numbered as CelebA's."""
    rng = np.random.default_rng(start)
    for number in range(start, stop):
        corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        corners.resize(_SIZE, Image.Resampling.BICUBIC).save(folder / f"{number + 1:06d}.jpg")


def _encode(faces: Path, vae: Path, output: Path) -> dict[str, float]:
    arguments = ["vae", "encode", str(faces), "--vae", str(vae), "--output", str(output)]
    code = (
        "from benchmarks.__main__ import peak_memory; from opmerge.cli import main; "
        f"assert main({[*arguments, '--split', 'all']!r}) == 0; print(peak_memory())"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "peak_gib": float(done.stdout.splitlines()[-1]),
        "seconds": time.perf_counter() - began,
    }
