"""Arrays as PyTorch, NumPy and caches of latents keep them, beside what their own readers read."""

from __future__ import annotations

import codecs
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from opmerge.data import Source, open_source
from opmerge.denoisers.inputs import load_labels
from opmerge.errors import InputError

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]
TEACHER = Path(__file__).parents[2] / "fixtures" / "v0_1" / "teacher"
RANDOM = np.random.default_rng(0)
SAMPLES: NDArray[np.float64] = RANDOM.normal(size=(6, 2, 3))
PIXELS = RANDOM.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(6) % 3


def read(source: Source) -> NDArray[np.float64]:
    return np.concatenate(list(source.batches()))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read(open_source(str(path)))
    return str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".PT", ".SafeTensors"])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float64,
        torch.int16,
        torch.bool,
    ],
)
def test_tensors_of_any_type_are_read(
    tmp_path: Path, seen: Seen, dtype: torch.dtype, suffix: str
) -> None:
    tensor = torch.tensor(SAMPLES).to(dtype)
    path = tmp_path / f"a{suffix}"
    if suffix.lower() == ".pt":
        torch.save(tensor.requires_grad_(dtype == torch.float64), path)
    else:
        save_file({"any": tensor}, path)
    expected = tensor.detach().double().numpy().reshape(6, 6)
    got = read(open_source(str(path)))
    seen(f"{dtype} in {suffix}", expected[0, :2], got[0, :2])
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("suffix", [".NPY", ".Npz", ".CSV", ".PT", ".SAFETENSORS"])
def test_upper_case_endings_are_read(tmp_path: Path, run: Run, seen: Seen, suffix: str) -> None:
    path, flat = tmp_path / f"a{suffix}", SAMPLES.reshape(6, 6)
    with path.open("wb") as stream:
        if suffix == ".NPY":
            np.save(stream, flat)
        elif suffix == ".Npz":
            np.savez(stream, flat)
        elif suffix == ".CSV":
            np.savetxt(stream, flat, delimiter=",")
        elif suffix == ".PT":
            torch.save(torch.tensor(flat), stream)
    if suffix == ".SAFETENSORS":
        save_file({"a": torch.tensor(flat)}, path)
    status, out, _ = run("spectrum", path, "--json")
    seen(f"spectrum of a{suffix}", 0, status)
    assert (status, '"num_samples": 6' in out) == (0, True)


FOUND = {
    "images and labels": ({"images": PIXELS, "labels": LABELS}, "images"),
    "labels first": ({"labels": LABELS, "x": PIXELS}, "x"),
    "one-hot labels": ({"x": PIXELS, "y": np.eye(3)[LABELS]}, "x"),
    "names and a mean": (
        {"data": PIXELS, "mean": np.zeros(3), "names": np.array(["a"] * 6)},
        "data",
    ),
    "as evaluators have them": ({"arr_0": PIXELS, "arr_1": LABELS}, "arr_0"),
    "arr_0 the labels": ({"arr_0": LABELS, "arr_1": PIXELS}, "arr_1"),
    "two of them": ({"latents": PIXELS, "moments": PIXELS}, "latents"),
    "an object beside": ({"images": PIXELS, "meta": np.array({"a": 1}, dtype=object)}, "images"),
}


@pytest.mark.parametrize("case", FOUND)
def test_the_only_array_that_can_be_the_samples_is_taken(
    tmp_path: Path, seen: Seen, case: str
) -> None:
    arrays, name = FOUND[case]
    np.savez(tmp_path / "a.npz", **arrays)
    source = open_source(str(tmp_path / "a.npz"))
    note = f"{name} is read as the samples, of the arrays {', '.join(arrays)}"
    seen(f".npz of {list(arrays)}", note, source.notes[0])
    assert source.notes[0] == note
    expected = PIXELS.transpose(0, 3, 1, 2).reshape(6, -1) / 127.5 - 1  # as Pillow's pixels are
    np.testing.assert_array_equal(read(source), expected)
    assert source.shape == (3, 4, 4)


def test_the_same_of_a_dict_in_pt_and_of_labels(tmp_path: Path) -> None:
    content = {"epoch": 3, "labels": torch.tensor(LABELS), "images": torch.tensor(SAMPLES)}
    torch.save(content, tmp_path / "a.pt")
    np.testing.assert_array_equal(read(open_source(str(tmp_path / "a.pt"))), SAMPLES.reshape(6, 6))
    np.testing.assert_array_equal(load_labels(tmp_path / "a.pt", 6), LABELS)
    (tmp_path / "labels.csv").write_text("label\n" + "".join(f"{label}\n" for label in LABELS))
    np.testing.assert_array_equal(load_labels(tmp_path / "labels.csv", 6), LABELS)


@pytest.mark.parametrize("names", [("x_train", "x_test"), ("a", "b"), ("images", "samples2", "c")])
def test_several_that_may_be_the_samples_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, SAMPLES), y=LABELS)
    if "images" in names:
        assert open_source(str(tmp_path / "a.npz")).notes[0].startswith("images is read as")
    else:
        told = refusal(tmp_path / "a.npz")
        assert "must hold one array, or one named samples" in told
        assert told.endswith("; save it alone, or as samples")


def latents(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).normal(size=(4, 2, 2)).astype(np.float32)


def write_npz(path: Path, values: NDArray[Any]) -> None:
    np.savez(path, latents=values, original_size=np.array([16, 16]), crop=np.arange(4))


def write_pt(path: Path, values: NDArray[Any]) -> None:
    torch.save(torch.tensor(values).bfloat16(), path)


def write_safetensors(path: Path, values: NDArray[Any]) -> None:
    save_file({"latents": torch.tensor(values)}, path)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".npy", np.save),
        (".npz", write_npz),
        (".pt", write_pt),
        (".safetensors", write_safetensors),
    ],
)
def test_a_folder_of_an_array_a_file_is_samples(
    tmp_path: Path, run: Run, seen: Seen, suffix: str, write: Callable[[Path, Any], None]
) -> None:
    for number in range(12):
        path = tmp_path / f"{number % 2}" / f"{number:02d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        write(path, latents(number))
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "0" / "captions.txt").write_text("a\n")
    (tmp_path / "@eaDir").mkdir()
    write(tmp_path / "@eaDir" / f"x{suffix}", latents(0))
    source = open_source(str(tmp_path))
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    expected = np.stack([latents(number) for number in order]).reshape(12, -1)
    if suffix == ".pt":
        expected = torch.tensor(expected).bfloat16().float().numpy()
    seen(f"a folder of latents in {suffix}", (12, 4, 2, 2), (source.num_samples, *source.shape))
    np.testing.assert_array_equal(read(source), expected)
    assert source.notes[0] == "12 files with an array each, taken as samples of (4, 2, 2)"
    status, _, err = run("plan", tmp_path, "--steps", "4", "--json")
    assert (status, err) == (0, "")


def test_folders_of_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", latents(0))
    assert "got one file of arrays, a.npy; pass that file" in refusal(tmp_path)
    np.save(tmp_path / "b.npy", latents(0)[:2])
    assert f"`{tmp_path / 'b.npy'}` must have the shape of a.npy, (4, 2, 2)" in refusal(tmp_path)
    (tmp_path / "b.npy").write_bytes(b"")
    assert f"`{tmp_path / 'b.npy'}` must be a readable .npy file" in refusal(tmp_path)
    (tmp_path / "b.npy").unlink()
    os.mkfifo(tmp_path / "b.npy")
    assert f"`{tmp_path / 'b.npy'}` must be a file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.parquet", "save its numbers as .npy"),
        ("a.h5", "save its numbers as .npy"),
        ("a.csv.gz", "unpack it first"),
        ("a.npz.zip", "unpack it first"),
        ("a.PNG", "give the folder of images: {}"),
    ],
)
def test_other_files_are_refused_with_the_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).touch()
    assert refusal(tmp_path / name).endswith(f"; {remedy.format(tmp_path)}")


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">i2", "<f8", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_any_order_of_bytes_and_axes_are_read(
    tmp_path: Path, dtype: str, order: Any
) -> None:
    values = np.asarray(np.abs(10 * SAMPLES), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", values)
    for name in ("a.npy", "a.npz"):
        got = read(open_source(str(tmp_path / name)))
        np.testing.assert_array_equal(got, values.astype(np.float64).reshape(6, 6))


def test_the_scale_is_told_before_training(run: Run, tmp_path: Path, seen: Seen) -> None:
    for name, values, told in (
        ("pixels", PIXELS, "values of uint8: pixel values from [0, 255] to [-1, 1]"),
        ("floats", PIXELS.transpose(0, 3, 1, 2) * 1.0, "values are as given, with a root mean"),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        status, _, err = run(
            "train-teacher", tmp_path / f"{name}.npy", "--network", "mlp", "--num_iterations", 1,
            "--output_dir", tmp_path / name, "--train_batch_size", 2,
        )  # fmt: skip
        seen(f"train-teacher with {name} of 0 to 255", told, err)
        assert (status, told in err) == (0, True), err


@pytest.mark.parametrize(
    ("name", "status"),
    [("model_index.json", 0), ("scheduler/scheduler_config.json", 0), ("unet/config.json", 2)],
)
def test_marks_in_a_teachers_files_are_read_or_refused_with_the_remedy(
    tmp_path: Path, run: Run, seen: Seen, name: str, status: int
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(TEACHER, teacher)
    (teacher / name).write_bytes(codecs.BOM_UTF8 + (teacher / name).read_bytes())
    got, _, err = run("sample", teacher, "--steps", 4, "--output", tmp_path / "s.NPY")
    seen(f"a byte order mark in {name}: exit status", status, got)
    assert (got, "save it again as that" in err) == (status, status == 2)
    assert (tmp_path / "s.NPY").exists() == (status == 0)


@pytest.mark.parametrize("others", [(), ("samples.npy",)])
def test_what_is_no_array_in_an_archive(
    tmp_path: Path, others: tuple[str, ...], seen: Seen
) -> None:
    """NumPy gives such members as bytes."""
    content = io.BytesIO()
    np.save(content, SAMPLES)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.npy", b"no array")
        for name in others:
            archive.writestr(name, content.getvalue())
    if others:
        got = np.concatenate(list(open_source(str(tmp_path / "a.npz")).batches()))
        seen("an archive with more than arrays", SAMPLES.size, got.size)
        assert np.array_equal(got, SAMPLES.reshape(got.shape))
    else:
        told = refusal(tmp_path / "a.npz")
        seen("an archive without an array", "one line", told[-60:])
        assert "is no array" in told
