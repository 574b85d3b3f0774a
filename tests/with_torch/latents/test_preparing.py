"""Data sets prepared by a teacher's own pipeline, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState, debug_launcher
from captioned_images import CAPTIONS, NUM_IMAGES, captioned_images, prepare_words, refused
from diffusers import DDIMPipeline, DDIMScheduler, StableDiffusionPipeline
from PIL import Image, ImageOps
from tiny_pipelines import SAMPLE, TINY_PIPELINES, WIDTH
from torch_helpers import scrambled

from opmerge.cli import main
from opmerge.data import open_source, prepared
from opmerge.data.prepared import SAMPLES, open_prepared
from opmerge.denoisers.conditions import check_told, kept_conditions, null_condition
from opmerge.denoisers.denoiser import LABELS
from opmerge.denoisers.networks import MLPDenoiser, make_unet
from opmerge.denoisers.teacher_folder import write_teacher_folder
from opmerge.latents import read_encoding

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]

TEXT = "encoder_hidden_states"
SIDE = 2 * SAMPLE


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    TINY_PIPELINES["stable_diffusion"]().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captioned_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def cache(teacher: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "cache"
    assert main([str(word) for word in prepare_words(teacher, folder, images)]) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a data set but the options of the command, which name its folder."""
    files = (path for path in folder.iterdir() if path.name != "config.json")
    return {path.name: path.read_bytes() for path in files}


def pixels(folder: Path) -> torch.Tensor:
    """(N, 3, SIDE, SIDE) the images as Pillow fits them, in [-1, 1]."""
    size = (SIDE, SIDE)
    fitted = [
        np.asarray(ImageOps.fit(Image.open(path), size, method=Image.Resampling.BILINEAR))
        for path in sorted(folder.glob("*.png"))
    ]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2) / 127.5 - 1


def test_latents_and_embeddings_are_those_of_the_teachers_pipeline(
    cache: Path, images: Path, teacher: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(teacher)
    found = open_prepared(cache)
    assert (found.num_samples, found.num_conditions) == (NUM_IMAGES, 5)  # equal prompts are one row
    assert found.sample_shape == (4, SAMPLE, SAMPLE)
    samples = torch.from_numpy(found.shards["samples"].read(SAMPLES, 0, NUM_IMAGES))
    with torch.no_grad():
        mode = pipeline.vae.encode(pixels(images)).latent_dist.mode()
        states = pipeline.encode_prompt([*CAPTIONS, ""], "cpu", 1, False)[0]
    torch.testing.assert_close(
        samples, mode * pipeline.vae.config.scaling_factor, atol=1e-6, rtol=1e-6
    )
    told, null = kept_conditions(found), null_condition(found)
    assert told is not None
    assert null is not None
    torch.testing.assert_close(told[:].rows[TEXT], states[:-1], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(null.rows[TEXT], states[-1:], atol=1e-6, rtol=1e-6)
    config = json.loads((cache / "config.json").read_text())
    assert (config["command"], config["options"]["shard_size"]) == ("prepare", 4)
    prompts = [json.loads(line) for line in (cache / "prompts.jsonl").read_text().splitlines()]
    assert prompts == [f"number {index}" for index in range(5)]
    assert open_source(str(cache)).shape == (4, SAMPLE, SAMPLE)


def test_embeddings_of_half_the_size_are_the_same_to_their_digits(
    run: Run, cache: Path, images: Path, teacher: Path, tmp_path: Path
) -> None:
    words = prepare_words(teacher, tmp_path / "half", images)
    assert run(*words, "--embeddings", "float16")[0] == 0
    whole, half = (open_prepared(folder) for folder in (cache, tmp_path / "half"))
    sizes = [folder / half.shards["conditions"].paths[0].name for folder in (cache, half.folder)]
    assert sizes[1].stat().st_size < 0.6 * sizes[0].stat().st_size
    assert half.rows[TEXT].dtype == "float16"
    pairs = [[kept_conditions(each), null_condition(each)] for each in (whole, half)]
    for known, found in zip(*pairs, strict=True):
        assert known is not None
        assert found is not None
        one, other = (each[torch.arange(len(each))].rows[TEXT] for each in (known, found))
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=2.0**-11, atol=1e-6)
        assert found.row_bytes == known.row_bytes  # of what is read
    assert run(*words)[0] == 2  # another data set has the folder


def _prepare_until(words: list[str], shards: int) -> None:
    """Kill this process once so many shards of samples are written."""
    write = prepared.write_atomic

    def counted(path: Path, *given: object) -> Path:
        if path.name.startswith(f"samples-0000{shards + 1}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, *given)  # type: ignore[arg-type]

    prepared.write_atomic = counted  # type: ignore[assignment]
    main(words)


def test_a_preparation_that_was_killed_ends_with_the_same_bytes(
    run: Run, cache: Path, images: Path, teacher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    words = [str(word) for word in prepare_words(teacher, folder, images)]
    process = multiprocessing.get_context("fork").Process(target=_prepare_until, args=(words, 1))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    whole, begun = contents(cache), contents(folder)
    assert begun.items() < whole.items()
    assert sum(name.startswith("samples") for name in begun) == 1
    refused(run("spectrum", folder), "a preparation that was not finished")
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(*words)[0] == 0
    assert contents(folder) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times  # kept, not made again


def _prepare_on_two(words: list[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    PartialState._reset_state()
    assert main(words) == 0
    assert PartialState().num_processes == 2


def test_two_processes_share_the_shards_of_one_data_set(
    cache: Path, images: Path, teacher: Path, tmp_path: Path
) -> None:
    words = [str(word) for word in prepare_words(teacher, tmp_path / "two", images)]
    debug_launcher(_prepare_on_two, (words,), num_processes=2)
    assert contents(tmp_path / "two") == contents(cache)


def test_what_is_prepared_is_checked_again_and_another_data_set_refused(
    run: Run, cache: Path, images: Path, teacher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(cache, folder)
    (folder / "conditions-00001-of-00002.safetensors").write_bytes(b"damaged")
    assert run(*prepare_words(teacher, folder, images))[0] == 0
    assert contents(folder) == contents(cache)
    more = prepare_words(teacher, folder, images, "--batch_size", 3)
    refused(run(*more[:-4], "--shard_size", 4), "output_dir", "another data set", "choose another")
    assert contents(folder) == contents(cache)


def test_prompts_alone_are_a_data_set_without_samples(
    run: Run, teacher: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\na cat\n")
    folder = tmp_path / "prompts"
    assert run(*prepare_words(teacher, folder, "--prompts", tmp_path / "p.txt"))[0] == 0
    found = open_prepared(folder)
    assert (found.num_samples, found.num_conditions, found.sample_shape) == (3, 2, None)
    assert found.index().tolist() == [0, 1, 0]
    refused(run("spectrum", folder), "must hold samples", "--data_free")


def test_arrays_take_a_prompt_a_line(run: Run, teacher: Path, images: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(images)[:4].numpy())
    (tmp_path / "p.txt").write_text("one\ntwo\none\nthree\n")
    with_prompts = ("--prompts", tmp_path / "p.txt")
    one, other = tmp_path / "one", tmp_path / "other"
    assert run(*prepare_words(teacher, one, tmp_path / "a.npy", *with_prompts))[0] == 0
    found = open_prepared(one)
    assert found.index().tolist() == [0, 1, 0, 2]
    refused(run(*prepare_words(teacher, other, tmp_path / "a.npy")), "prompts", "must be given")
    refused(
        run(*prepare_words(teacher, other, images, *with_prompts)),
        "a prompt for each of 12",
        "got 4 in",
    )
    np.save(tmp_path / "b.npy", pixels(images)[:4].numpy() / 2 + 0.5)
    refused(
        run(*prepare_words(teacher, other, tmp_path / "b.npy", *with_prompts)),
        "from -1 (black) to 1",
    )
    np.save(tmp_path / "c.npy", pixels(images)[:4, :2].numpy())
    refused(
        run(*prepare_words(teacher, other, tmp_path / "c.npy", *with_prompts)),
        f"(3, {SIDE}, {SIDE}), or grey ones, got (2,",
    )


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Images in folders of three classes, some broken."""
    folder = tmp_path / "classes"
    for index in range(7):
        path = folder / f"class {index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 30 * index).save(path)
    (folder / "class 1" / "broken.png").write_bytes(b"\x89PNG")
    return folder


def classes_teacher(folder: Path, num_classes: int | None) -> Path:
    """A pipeline on grey pixels, which reads a class or nothing."""
    network = scrambled(make_unet((1, 8, 8), (8,), num_classes))
    DDIMPipeline(network, DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


def test_folders_are_the_classes_of_a_class_conditional_teacher(
    run: Run, folders: Path, tmp_path: Path
) -> None:
    pixel = classes_teacher(tmp_path / "t", 3)
    status, _, err = run(*prepare_words(pixel, tmp_path / "c", folders))
    assert status == 0
    assert "1 unreadable file: class 1/broken.png" in err
    found = open_prepared(tmp_path / "c")
    assert found.sample_shape == (1, 8, 8)
    told = kept_conditions(found)
    assert told is not None
    assert told[:].rows[LABELS].tolist() == [0, 0, 0, 1, 1, 2, 2]
    levels = found.shards["samples"].read(SAMPLES, 0, 7)[:, 0, 0, 0]
    np.testing.assert_allclose(levels, np.array([0, 90, 180, 30, 120, 60, 150]) / 127.5 - 1, 1e-6)
    np.save(tmp_path / "l.npy", [2, 1, 0, 2, 1, 0, 0])
    labelled = prepare_words(pixel, tmp_path / "d", folders, "--labels", tmp_path / "l.npy")
    assert run(*labelled)[0] == 0
    told = kept_conditions(open_prepared(tmp_path / "d"))
    assert told is not None
    assert told[:].rows[LABELS].tolist() == [2, 1, 0, 2, 1, 0, 0]
    few = classes_teacher(tmp_path / "few", 2)
    refused(run(*prepare_words(few, tmp_path / "e", folders)), "labels", "must be < 2", "got 2")
    (folders / "loose.png").write_bytes((folders / "class 0" / "0.png").read_bytes())
    refused(run(*prepare_words(pixel, tmp_path / "e", folders)), "labels", "loose.png")
    assert not (tmp_path / "e").exists()


def test_teachers_that_are_told_nothing_take_images_alone(
    run: Run, folders: Path, tmp_path: Path
) -> None:
    pixel = classes_teacher(tmp_path / "t", None)
    folder = tmp_path / "c"
    assert run(*prepare_words(pixel, folder, folders))[0] == 0
    found = open_prepared(folder)
    assert (found.rows, kept_conditions(found), null_condition(found)) == ({}, None, None)
    assert open_source(str(folder)).num_samples == 7
    flat, other = tmp_path / "flat", tmp_path / "d"
    shutil.copytree(pixel / "unet", flat)
    shutil.copy(pixel / "scheduler" / "scheduler_config.json", flat)
    assert run(*prepare_words(flat, other, folders))[0] == 0
    pairs = [open_prepared(each).shards["samples"].read(SAMPLES, 0, 7) for each in (folder, other)]
    np.testing.assert_array_equal(*pairs)
    (tmp_path / "p.txt").write_text("x\n")
    given: list[tuple[str, Any]] = [("--prompts", tmp_path / "p.txt"), ("--labels", "digits")]
    for option in given:
        refused(run(*prepare_words(pixel, tmp_path / "e", folders, *option)), "must be left out")
    refused(run(*prepare_words(pixel, tmp_path / "e")), "source", "must be given")


def test_samples_that_are_no_images_are_prepared_as_they_are(run: Run, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", points)
    write_teacher_folder(tmp_path / "t", MLPDenoiser([5], 8, 1), DDIMScheduler(clip_sample=False))
    assert run(*prepare_words(tmp_path / "t", tmp_path / "c", tmp_path / "a.npy"))[0] == 0
    found = open_prepared(tmp_path / "c")
    np.testing.assert_array_equal(found.shards["samples"].read(SAMPLES, 0, 9), points)
    np.save(tmp_path / "b.npy", points[:, :4])
    refused(run(*prepare_words(tmp_path / "t", tmp_path / "d", tmp_path / "b.npy")), "(5,)", "(4,)")


def test_what_cannot_be_prepared_is_refused_in_a_line(
    run: Run, teacher: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    bare = tmp_path / "bare"
    shutil.copytree(images, bare)
    (bare / "metadata.jsonl").unlink()
    refused(run(*prepare_words(teacher, folder, bare)), "captions", "12 images", "00.png, 01.png")
    (tmp_path / "empty").mkdir()
    refused(run(*prepare_words(teacher, folder, tmp_path / "empty")), "must hold images")
    refused(run(*prepare_words(teacher, folder)), "source", "must be given")
    column = prepare_words(teacher, folder, images, "--caption_column", "caption")
    refused(run(*column), "row 1", "must have a caption as caption", "got columns text")
    refused(
        run(*prepare_words(teacher, folder, images, "--labels", "digits")), "labels", "left out"
    )
    sized = prepare_words(teacher, folder, images, "--image_size", 3 * SIDE)
    refused(run(*sized), f"(3, {SIDE}, {SIDE})", f"got (3, {3 * SIDE}, {3 * SIDE})")
    mute = tmp_path / "mute"
    pipeline = TINY_PIPELINES["stable_diffusion"]()
    pipeline.register_modules(text_encoder=None, tokenizer=None)
    pipeline.save_pretrained(mute)
    refused(run(*prepare_words(mute, folder, images)), "prompts", "text encoder")
    assert not folder.exists()
    narrow = tmp_path / "narrow"
    shutil.copytree(teacher, narrow)
    config = json.loads((narrow / "unet" / "config.json").read_text())
    changed = {**config, "cross_attention_dim": 2 * WIDTH}
    (narrow / "unet" / "config.json").write_text(json.dumps(changed))
    wide = run(*prepare_words(narrow, folder, images))
    refused(wide, "teacher", TEXT, f"(any, {2 * WIDTH})", str(WIDTH))


@pytest.mark.parametrize("family", sorted(set(TINY_PIPELINES) - {"stable_diffusion"}))
def test_every_family_is_prepared_as_its_network_reads(
    run: Run, images: Path, tmp_path: Path, family: str
) -> None:
    TINY_PIPELINES[family]().save_pretrained(tmp_path / "t")
    np.save(tmp_path / "l.npy", [2, 0])
    (tmp_path / "two").mkdir()
    for name in ("00.png", "01.png", "metadata.jsonl"):
        shutil.copy(images / name, tmp_path / "two")
    encoding = read_encoding(tmp_path / "t")
    labels = ("--labels", tmp_path / "l.npy") if LABELS in encoding.needs else ()
    words = prepare_words(tmp_path / "t", tmp_path / "c", tmp_path / "two", *labels)
    assert run(*words)[0] == 0
    found = open_prepared(tmp_path / "c")
    assert found.sample_shape == encoding.sample_shape
    told = kept_conditions(found)
    check_told(encoding.needs, told)
    null = encoding.family.null_condition(encoding.pipeline) if encoding.needs else None
    assert found.has_null is (null is not None)
    if not encoding.reads_text:
        return
    assert told is not None
    expected = encoding.family.encode_prompts(encoding.pipeline, CAPTIONS[:2]).rows
    for name, values in told[:].rows.items():
        torch.testing.assert_close(values, expected[name], atol=1e-5, rtol=1e-5)
