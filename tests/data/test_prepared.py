"""Prepared data sets: written shard by shard, kept when whole, read back row for row."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge.data import open_source
from opmerge.data.prepared import (
    CONDITION,
    INDEX,
    SAMPLES,
    Arrays,
    Prepared,
    finish,
    identity_of,
    is_prepared,
    open_prepared,
    shard_counts,
    write_shards,
)
from opmerge.errors import InputError
from opmerge.spectra import resolve_spectrum

pytest.importorskip("safetensors")

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(11, 2, 3, 3)).astype(np.float32)
TEXTS = RNG.normal(size=(5, 4, 6)).astype(np.float32)
POOLED = RNG.normal(size=(5, 6)).astype(np.float32)
CHOICE = np.array([0, 1, 2, 3, 4, 3, 2, 1, 0, 0, 4])

Made = list[tuple[str, int, int]]


def prepare(folder: Path, made: Made, *, samples: bool = True, identity: str = "one") -> Prepared:
    """Write the data set of these arrays; ``made`` is told of each shard that is computed."""
    tables: dict[str, tuple[list[int], dict[str, Any]]] = {
        "index": ([11], {CONDITION: CHOICE}),
        "null": ([1], {"text": TEXTS[:1] * 0, "pooled": POOLED[:1] * 0}),
        "conditions": (shard_counts(5, 2), {"text": TEXTS, "pooled": POOLED}),
        "samples": (shard_counts(11, 4) if samples else [], {SAMPLES: DATA}),
    }

    def maker(kind: str, arrays: dict[str, Any]) -> Callable[[int, int], Arrays]:
        def make(start: int, stop: int) -> Arrays:
            made.append((kind, start, stop))
            return {name: values[start:stop] for name, values in arrays.items()}

        return make

    shards = {
        kind: write_shards(folder, kind, counts, identity, maker(kind, arrays))  # type: ignore[arg-type]
        for kind, (counts, arrays) in tables.items()
    }
    shape = {"text": [4, 6], "pooled": [6]}
    content = {
        "identity": identity,
        "teacher": {"pipeline": "None"},
        "scaling": "latents",
        "notes": ["a note"],
        "sample_shape": [2, 3, 3] if samples else None,
        "num_samples": 11,
        "rows": {name: {"shape": shape[name], "dtype": "float32"} for name in shape},
        "shards": shards,
    }
    return finish(folder, content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = prepare(tmp_path / "set", [])
    assert (found.num_samples, found.num_conditions, found.has_null) == (11, 5, True)
    np.testing.assert_array_equal(found.index(), CHOICE)
    for start, stop in ((0, 11), (3, 5), (4, 8), (10, 11)):  # within a shard, a whole, across
        np.testing.assert_array_equal(
            found.shards["samples"].read(SAMPLES, start, stop), DATA[start:stop]
        )
    source = open_source(str(tmp_path / "set"))
    assert (source.name, source.shape, source.scaling) == ("set", (2, 3, 3), "latents")
    assert source.notes == ("a note",)
    np.testing.assert_array_equal(np.concatenate(list(source.batches())), DATA.reshape(11, -1))


def test_its_spectrum_is_that_of_the_same_samples_in_an_array(tmp_path: Path) -> None:
    prepare(tmp_path / "set", [])
    np.save(tmp_path / "a.npy", DATA)
    both = [resolve_spectrum(str(tmp_path / name)) for name in ("set", "a.npy")]
    np.testing.assert_array_equal(both[0].eigenvalues, both[1].eigenvalues)
    assert both[0].shape == (2, 3, 3)


def test_whole_shards_are_kept_and_all_others_made_again(tmp_path: Path) -> None:
    made: Made = []
    prepare(tmp_path / "a", made)
    assert made[2:] == [("conditions", n, min(n + 2, 5)) for n in (0, 2, 4)] + [
        ("samples", n, min(n + 4, 11)) for n in (0, 4, 8)
    ]
    before = contents(tmp_path / "a")
    (tmp_path / "a" / INDEX).unlink()  # as if it had been killed before its end
    first, second, third = sorted((tmp_path / "a").glob("samples-*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-8])  # cut off
    content = third.read_bytes()
    third.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit is another
    made.clear()
    prepare(tmp_path / "a", made)
    assert made == [("samples", 0, 4), ("samples", 4, 8), ("samples", 8, 11)]
    assert contents(tmp_path / "a") == before
    made.clear()
    prepare(tmp_path / "a", made, identity="other")
    assert len(made) == 8
    assert identity_of(tmp_path / "a") == "other"


def test_shards_are_shared_out_over_processes(tmp_path: Path) -> None:
    whole: Made = []
    prepare(tmp_path / "one", whole)
    parts: list[list[int]] = []
    for process in (0, 1):
        done: list[int] = []
        write_shards(
            *(tmp_path / "two", "samples", shard_counts(11, 4), "one"),
            lambda start, stop: {SAMPLES: DATA[start:stop]},
            done.append,
            (process, 2),
        )
        parts.append(done)
    assert parts == [[4, 11], [8]]
    made: Made = []
    prepare(tmp_path / "two", made)
    assert not [each for each in made if each[0] == "samples"]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_shards_of_an_earlier_cut_are_taken_away(tmp_path: Path) -> None:
    assert is_prepared(tmp_path) is False
    write_shards(tmp_path, "samples", [11], "one", lambda start, stop: {SAMPLES: DATA})
    assert is_prepared(tmp_path) is True
    prepare(tmp_path, [])
    assert len(list(tmp_path.glob("samples-*"))) == 3


def test_what_is_unfinished_damaged_or_without_samples_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path / "a", [])
    place = tmp_path / "a" / INDEX
    text = place.read_text()
    shard = next((tmp_path / "a").glob("conditions-00002*"))
    content = shard.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            open_source(str(tmp_path / "a"))
        assert "\n" not in str(caught.value)

    place.unlink()
    refused("a preparation that was not finished; start the same")
    for old, new, message in (
        ('"version": 1', '"version": 2', "must have version 1, got 2"),
        ('"opmerge.prepared"', '"other"', "must have the format"),
        ('"num_samples": 11', '"num_samples": 12', "it was altered"),
        ('"num_samples": 11', "", "must hold JSON"),
    ):
        assert old in text
        place.write_text(text.replace(old, new))
        refused(message)
    place.write_text(text)
    shard.write_bytes(content[:-1])
    refused("conditions-00002-of-00003.safetensors` must be the shard")
    shard.write_bytes(next((tmp_path / "a").glob("conditions-00001*")).read_bytes())
    refused("got another")
    shard.write_bytes(content)
    open_prepared(tmp_path / "a")
    alone = prepare(tmp_path / "b", [], samples=False)
    assert (alone.num_samples, alone.sample_shape) == (11, None)
    with pytest.raises(InputError, match="of prompts alone"):
        open_source(str(tmp_path / "b"))
    with pytest.raises(InputError, match="must be the folder of a prepared data set"):
        open_prepared(tmp_path)


def test_planning_from_it_needs_no_torch(tmp_path: Path) -> None:
    prepare(tmp_path / "a", [])
    program = (
        "import sys; from opmerge.spectra import resolve_spectrum; "
        f"resolve_spectrum({str(tmp_path / 'a')!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_data_set_says_json_alone(tmp_path: Path) -> None:
    prepare(tmp_path, [])
    content = json.loads((tmp_path / INDEX).read_text())
    assert content["format"] == "opmerge.prepared"
    assert [shard["rows"] for shard in content["shards"]["samples"]] == [4, 4, 3]
