"""What the study `celeba` is given: images and encoders opened first, told apart, never stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from study_records import rows

from opmerge import latents
from opmerge.data import open_source
from opmerge.errors import InputError
from opmerge.latents import ConvVAE, Images, fit_pca, load_encoder
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import OptimizationConfig
from opmerge.settings.networks import VAEConfig
from opmerge_studies.celeba import STUDY, CelebaSettings, unique_labels
from opmerge_studies.celeba.encodings import Encoding, make_encodings
from opmerge_studies.shared import Runner

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**settings: Any) -> CelebaSettings:
    """A run of seconds that trains nothing."""
    given: dict[str, Any] = {
        "source": "patches",
        "source_options": SourceOptions(patch_size=8, stride=24),
        "encoders": ("pca",),
        "num_latents": 5,
        "seeds": (0,),
        "steps": 4,
        "merge_times": (1.0,),
        "num_resamples": 4,
        "num_samples": 16,
        **settings,
    }
    return CelebaSettings(**given)


def loaded(settings: CelebaSettings, folder: Path) -> Images:
    return make_encodings(settings, Runner(folder))[0].images


def made(settings: CelebaSettings, kind: str, images: Images, folder: Path) -> dict[str, Any]:
    return Encoding(settings, images, kind, 0, Runner(folder, warn=print)).made


def noise(path: Path, count: int, *shape: int, seed: int = 0) -> str:
    """Images of uniform noise in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).uniform(-1, 1, (count, *shape))
    np.save(path, values.astype(np.float32))
    return str(path)


def saved_vae(folder: Path, num_latents: int, seed: int) -> ConvVAE:
    torch.manual_seed(seed)
    network = ConvVAE([1, 8, 8], num_latents, base_channels=4).eval()
    network.save_pretrained(folder)
    return network


# Opened first


@pytest.mark.parametrize("wrong", ["no source", "vectors", "no encoder", "another shape"])
def test_what_is_wrong_last_is_refused_before_anything_is_made(tmp_path: Path, wrong: str) -> None:
    fit_pca(open_source("patches", SourceOptions(patch_size=6, stride=40)), 3).save(tmp_path / "6")
    changes: dict[str, Any] = {
        "no source": {"source": ("patches", str(tmp_path / "nowhere"))},
        "vectors": {"source": ("patches", noise(tmp_path / "vectors.npy", 9, 4))},
        "no encoder": {"encoders": ("pca", str(tmp_path / "nowhere"))},
        "another shape": {"encoders": ("pca", str(tmp_path / "6"))},
    }
    with pytest.raises(InputError, match=r"`(data|images|vae)` must"):
        STUDY.record(small(**changes[wrong]), Runner(tmp_path / "run", num_workers=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("study", ["celeba", "real-networks"])
def test_an_argument_that_does_without_is_named_as_a_setting(
    study: str, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    Image.new("RGB", (178, 218)).save(folder / "000001.jpg")
    (tmp_path / "list_eval_partition.txt").write_text("none\n")
    with pytest.raises(InputError) as own:
        open_source(str(tmp_path))
    expected = str(own.value).replace('`split="all"`', "--set source_options.split=all")
    output = tmp_path / "run"
    status, _, err = run("study", study, "--set", f"source={tmp_path}", "--output_dir", output)
    assert (status, err) == (2, f"opmerge: {expected}\n")
    assert expected != str(own.value)


def test_validation_faces_that_are_not_there_and_half_sizes_are_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "img_align_celeba"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (89, 109), (50 * number,) * 3).save(folder / f"{number:06d}.jpg")
    told: list[str] = []
    config = small(source=str(tmp_path), encoders=(str(tmp_path / "nowhere"),))
    with pytest.raises(InputError, match="nowhere"):  # but the faces are taken
        STUDY.record(config, Runner(tmp_path / "run", warn=told.append))
    assert [line.split(":")[0] for line in told[:1]] == [
        "the last faces of the training split are held out"
    ]
    assert [line for line in told if "(not 178 x 218)" in line and "74 x 74" in line]


# Never stale


@pytest.mark.parametrize("step", ["encode_source", "reconstruction_quality"])
def test_what_an_interrupted_run_replaced_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The run of other settings replaces the encoder, and in the second case its latents."""
    images = loaded(small(), tmp_path)

    def make(num_latents: int) -> dict[str, Any]:
        return made(small(num_latents=num_latents), "pca", images, tmp_path / "pca")

    def interrupted(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    first = make(5)
    with monkeypatch.context() as patch:
        patch.setattr(latents, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(4)
    assert {**make(5), "cpu_seconds": 0} == {**first, "cpu_seconds": 0}
    assert load_encoder(tmp_path / "pca" / "vae").num_latents == 5
    assert np.load(tmp_path / "pca" / "latents.npy").shape[1] == 5


def test_altered_latents_are_made_again(tmp_path: Path) -> None:
    images = loaded(small(), tmp_path)
    path = tmp_path / "pca" / "latents.npy"
    for spoil in (lambda: np.save(path, np.zeros((3, 5))), path.unlink):
        made(small(), "pca", images, path.parent)
        whole = path.read_bytes()
        spoil()
        made(small(), "pca", images, path.parent)
        assert path.read_bytes() == whole


# Told apart


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["/a/vae"], ["vae"]),
        (["/a/vae", "/b/vae"], ["a/vae", "b/vae"]),
        (["/a/x/vae", "/b/x/vae", "/x/other"], ["a/x/vae", "b/x/vae", "other"]),
        (["/vae", "/a/vae"], ["/vae", "a/vae"]),
        (["pca", "/a/pca"], ["pca", "a/pca"]),
        (["/a/pca"], ["a/pca"]),  # never the name of what is built in
    ],
)
def test_a_label_is_the_shortest_tail_that_no_other_has(
    names: list[str], labels: list[str]
) -> None:
    assert list(unique_labels("encoders", names, ["pca"]).values()) == labels


def test_two_ways_to_one_folder_are_refused() -> None:
    with pytest.raises(InputError) as found:
        small(encoders=("a/../b/vae", "b/vae"))
    message = "`encoders` must be given, each of them once, got ('a/../b/vae', 'b/vae')"
    assert str(found.value) == message


def test_equal_names_of_sources_and_encoders_are_told_apart_and_never_stale(tmp_path: Path) -> None:
    sources = [
        noise(tmp_path / name / "images.npy", 40, 1, 8, 8, seed=seed)
        for seed, name in enumerate("AB")
    ]
    networks = {
        "one/vae": saved_vae(tmp_path / "one" / "vae", 3, seed=0),
        "two/vae": saved_vae(tmp_path / "two" / "vae", 3, seed=1),
    }
    fit_pca(open_source(sources[0]), 2).save(tmp_path / "one" / "pca")
    folders = [str(tmp_path / name) for name in (*networks, "one/pca")]
    config = small(source=tuple(sources), encoders=tuple(folders))
    bars: dict[str, tuple[float | None, float]] = {}

    @contextmanager
    def progress(title: str, total: float | None) -> Iterator[Any]:
        def report(done: float, doing: str = "") -> None:
            bars[title] = (total, done)

        yield report

    runner = Runner(tmp_path / "run", progress, print, num_workers=1)
    first = STUDY.record(config, runner)
    assert [(row["source"], row["encoder"]) for row in first["tables"]["encoders"]] == [
        (source, encoder)
        for source in ("A/images.npy", "B/images.npy")
        for encoder in ("one/vae", "two/vae", "one/pca", "pca")
    ]
    for source, name in zip(sources, ("A/images.npy", "B/images.npy"), strict=True):
        images = loaded(small(source=source), tmp_path / "again")
        for encoder, network in networks.items():
            with torch.no_grad():
                latents = network.encode(images.data[images.rows])[0]
            largest = float(torch.linalg.eigvalsh(torch.cov(latents.T, correction=0))[-1])
            row = rows(first, "spectra", source=name, encoder=encoder, form="full")[0]
            assert row["largest"] == pytest.approx(largest, rel=1e-4)
    page = STUDY.page(first).html
    for name in ("A/images.npy", "B/images.npy", "one/vae", "two/vae", "one/pca"):
        assert name in page
    for title in ("fitting pca, A/images.npy", "encoding B/images.npy by two/vae"):
        assert bars[title] == (36, 36)
    assert bars["decoding by one/pca, B/images.npy"] == (7, 7)

    # Another decoder alone: the latents stay what they are, and so do the other encoders.
    with torch.no_grad():
        for weight in networks["one/vae"].decoder.parameters():
            weight.mul_(1.5)
    networks["one/vae"].save_pretrained(tmp_path / "one" / "vae")
    second = STUDY.record(config, runner)
    for table in ("encoders", "spectra", "pixels"):
        for encoder in ("one/vae", "two/vae", "one/pca", "pca"):
            is_equal = rows(first, table, encoder=encoder) == rows(second, table, encoder=encoder)
            assert is_equal == (encoder != "one/vae" or table == "spectra"), (table, encoder)


# The published network


@pytest.mark.parametrize(
    ("side", "base_channels", "expected"), [(64, None, 32), (32, None, 16), (32, 4, 4)]
)
def test_from_64_pixels_on_the_network_is_the_published_one(
    tmp_path: Path, side: int, base_channels: int | None, expected: int
) -> None:
    optimization = OptimizationConfig(train_batch_size=2, checkpointing_steps=0)
    config = small(
        source=noise(tmp_path / "images.npy", 286, 3, side, side),
        encoders=("mse-vae",),
        num_latents=128,
        base_channels=base_channels,
        vae=VAEConfig(num_iterations=1, optimization=optimization),
    )
    images = loaded(config, tmp_path)
    encoder = made(config, "mse-vae", images, tmp_path / "run")
    network = ConvVAE([3, side, side], 128, expected)
    assert encoder["num_parameters"] == network.num_parameters()
    if expected == 32:
        assert encoder["num_parameters"] == 3_937_635
