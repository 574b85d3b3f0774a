"""A folder of pictures with captions, and the commands that prepare it for a teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES = 12
CAPTIONS = [f"number {index % 5}" for index in range(NUM_IMAGES)]


def captioned_images(folder: Path) -> Path:
    """A dozen coloured pictures, wider than high, with captions in metadata.jsonl."""
    rng, rows = np.random.default_rng(0), []
    for index, caption in enumerate(CAPTIONS):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
        rows.append({"file_name": f"{index:02d}.png", "text": caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prepare_words(teacher: Path, folder: Path, *more: object) -> list[object]:
    """Words of `opmerge prepare` in small shards."""
    small = ("--batch_size", 2, "--shard_size", 4)
    return ["prepare", *more, "--teacher", teacher, "--output_dir", folder, *small]


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Status 2, nothing on standard output, and a last line that says all these words."""
    status, out, err = result
    assert (status, out) == (2, ""), result
    last = err.splitlines()[-1]
    assert last.startswith("opmerge: `"), err
    for word in words:
        assert word in last, (word, last)
