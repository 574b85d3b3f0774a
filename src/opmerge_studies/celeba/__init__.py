"""Faces as latents: autoencoders, the covariance of their latents, and which plan is best there.

The experiment of arXiv 2505.16024 on CelebA, on any images and over several encoders.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from opmerge.data import BUILTIN_SOURCES
from opmerge.errors import InputError
from opmerge.files import expand_home
from opmerge.settings.base import Settings, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import OptimizationConfig
from opmerge.settings.networks import TeacherConfig, VAEConfig
from opmerge.settings.types import (
    AtLeastTwo,
    Count,
    Distinct,
    MergeRule,
    NonNegative,
    Positive,
    Rising,
)
from opmerge.training import DEFAULT_MERGE_TIME
from opmerge_studies.celeba.plans import compare_plans, describe_latents
from opmerge_studies.shared import Runner, Study, grid

if TYPE_CHECKING:
    from opmerge_studies.celeba.encodings import Encoding

_RULES: tuple[MergeRule, ...] = ("operator-copy", "denoiser-copy")
_SPLITS = {
    "official": "official validation split",
    "strip": "a strip at the right of each photo, no pixel of which is trained on",
    "random": "a share at random",
    "last": "the last ones by number",
}


TRAINED: dict[str, Literal["ms-ssim", "mse"]] = {"ms-ssim-vae": "ms-ssim", "mse-vae": "mse"}
"""Autoencoders that the study trains, and their reconstruction losses."""

BUILT_IN = (*TRAINED, "pca")
"""Encoders that need no folder."""

_VAE = VAEConfig(
    num_iterations=1000,
    optimization=OptimizationConfig(train_batch_size=64, learning_rate=2e-3, lr_warmup_steps=0),
)
_SETTLED = {  # settings of autoencoders, by the settings of the study that settle them
    "loss": "encoders",
    "optimization.seed": "seeds",
    "num_latents": "num_latents",
    "base_channels": "base_channels",
}


class CelebaSettings(Settings):
    """Settings of the study."""

    source: str | tuple[str, ...] = option(
        ("patches", "faces"),
        "patches, faces, a folder of CelebA or of other images; or a list of such",
    )
    source_options: SourceOptions = option(
        SourceOptions(patch_size=32, stride=11), "how images are cut"
    )
    encoders: tuple[str, ...] = option(
        BUILT_IN,
        "ms-ssim-vae and mse-vae (a β-VAE), which are trained; pca, which is there "
        "anyway; or folders of saved ones, diffusers' AutoencoderKL among them",
    )
    num_latents: AtLeastTwo = option(128, "of what is made here; fewer of few images")
    latents: Literal["means", "samples"] = option(
        "means", "of the encoder, or draws from it where it has variances"
    )
    seeds: Distinct[int] = option((0, 1), "of the training and of the draws")
    base_channels: Count | None = option(
        None,
        "of the autoencoders that are trained; by default 32, as published, for images "
        "of 64 pixels a side and more, and 16 for smaller ones",
    )
    vae: VAEConfig = option(_VAE, "how they are trained, for at most 200 epochs")
    mse_kl_weight: NonNegative = option(0.00025, "of the KL divergence under loss mse")
    steps: AtLeastTwo = option(64, "T")
    merge_times: Rising[Positive] = option((0.5, DEFAULT_MERGE_TIME), "s")
    num_resamples: AtLeastTwo = option(200, "of the images, for intervals")
    num_samples: AtLeastTwo = option(512, "decoded, for errors in pixels")
    pictures: bool = option(
        True, "whether images, of the data and decoded, are in the record and on its page"
    )
    neural: bool = option(
        False,
        "also distil a teacher of the first encoder's latents, by every plan to equal total cost",
    )
    neural_steps: AtLeastTwo = option(32, "its T")
    teacher: TeacherConfig = option(
        TeacherConfig(network="mlp", num_iterations=6000), "what teacher is trained"
    )
    budgets: Rising[Positive] = option(
        (5e5, 2e6), "network evaluations of the training of all of a plan's merges together"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for labels in (self.source_labels, self.encoder_labels):
            assert labels, "they refuse what is given twice"
        for key, instead in _SETTLED.items():
            given, usual = map(attrgetter(key), (self.vae, VAEConfig()))
            if given != usual:
                raise InputError(f"vae.{key}", "is not used here", given, f"set {instead} instead")
        return self

    @property
    def source_labels(self) -> dict[str, str]:
        """What tables and the page call each source, of which there may be one."""
        sources = (self.source,) if isinstance(self.source, str) else self.source
        return unique_labels("source", sources, BUILTIN_SOURCES)

    @property
    def encoder_labels(self) -> dict[str, str]:
        """What tables and the page call each encoder, PCA among them."""
        return {**unique_labels("encoders", self.encoders, BUILT_IN), "pca": "pca"}

    @classmethod
    def quick(cls) -> Self:
        """Images of 32 × 32 pixels, patches of 16 × 16, 32 latents and one seed: a few minutes."""
        return cls(
            source="patches",
            source_options=SourceOptions(patch_size=16, stride=11, image_size=32),
            num_latents=32,
            seeds=(0,),
            vae=_VAE.replaced(num_iterations=800),
            num_resamples=100,
            num_samples=256,
            neural_steps=16,
            teacher=TeacherConfig(network="mlp", num_iterations=3000),
            budgets=(2e5,),
        )


def unique_labels(argument: str, names: Sequence[str], built_in: Collection[str]) -> dict[str, str]:
    """A label for each name, no two of them equal.

    A built-in's is its name. A path's is its shortest tail that neither another path nor a
    built-in has: ``a/vae`` and ``b/vae``, or ``vae`` where there is one.

    Raises:
        InputError: naming the argument, if there are none, or two of them are the same.
    """
    paths = {name: absolute(name).parts for name in names if name not in built_in}
    if not names or len(set(names)) < len(names) or len(set(paths.values())) < len(paths):
        raise InputError(argument, "must be given, each of them once", names)
    taken = [*((name,) for name in built_in), *paths.values()]

    def shortest_tail(parts: tuple[str, ...]) -> str:
        others = [other for other in taken if other != parts]
        tails = (parts[start:] for start in reversed(range(len(parts))))
        tail = next(tail for tail in tails if all(other[-len(tail) :] != tail for other in others))
        return Path(*tail).as_posix()

    return {name: shortest_tail(paths[name]) if name in paths else name for name in names}


def absolute(path: str) -> Path:
    """The path from the root, without ``..``, its links not followed."""
    return Path(os.path.abspath(expand_home(path)))  # noqa: PTH100 - pathlib keeps ".."


def run(settings: CelebaSettings, runner: Runner) -> dict[str, Any]:
    """Encode, plan, decode; what the folder holds of an interrupted run is kept.

    All sources and saved encoders are opened before anything is read or trained.

    Returns:
        ``tables``: ``encoders``, ``spectra``, ``eigenvalues``, ``plans`` (W2 in latents),
        ``winners``, ``pixels`` and ``networks``; ``pictures``; ``cost``; ``networks``, what they
        are, or None.
    """
    from opmerge_studies.celeba.encodings import cost_at_full_size, make_encodings

    encodings = make_encodings(settings, runner)
    theory = _theory(settings, encodings, runner)
    trained: dict[str, Any] = {"table": [], "networks": None, "pictures": []}
    if settings.neural:
        from opmerge_studies.celeba.networks import distil_on_latents

        trained = distil_on_latents(settings, encodings[0])
    tables = {
        "encoders": [_quality_row(each, encodings) for each in encodings],
        **theory,
        "pixels": [{**each.place, **row} for each in encodings for row in each.outputs["rows"]],
        "networks": trained["table"],
    }
    return {
        "tables": tables,
        **_shown(settings, encodings),
        "spreads": [{**each.place, "pixel_rms": each.outputs["pixel_rms"]} for each in encodings],
        "cost": runner.store.kept("cost", "published size, with reading", cost_at_full_size),
        "networks": trained["networks"],
        "network_pictures": trained["pictures"] if settings.pictures else [],
    }


def _shown(settings: CelebaSettings, encodings: Sequence[Encoding]) -> dict[str, Any]:
    """The images of the first seed: held out, given back, and decoded."""
    from opmerge.latents import reconstruct
    from opmerge_studies.shared.decoding import NUM_SHOWN
    from opmerge_studies.shared.networks import picture

    shown = [each for each in encodings if each.seed == settings.seeds[0]]
    images = dict.fromkeys(each.images for each in shown)
    splits = [
        {
            "source": each.name,
            "images": len(each.rows),
            "held_out": len(each.held_out),
            "split": _SPLITS[each.split],
        }
        for each in images
    ]
    if not settings.pictures:
        return {"splits": splits, "pictures": [], "reconstructions": []}
    for row, each in zip(splits, images, strict=True):
        row["png"] = picture(each.some(NUM_SHOWN))
    return {
        "splits": splits,
        "pictures": [{**each.place, **row} for each in shown for row in each.outputs["pictures"]],
        "reconstructions": [
            {**each.place, "png": picture(reconstruct(each.load(), each.images.some(NUM_SHOWN)))}
            for each in shown
        ],
    }


def _theory(
    settings: CelebaSettings, encodings: Sequence[Encoding], runner: Runner
) -> dict[str, list[dict[str, Any]]]:
    """Spectra and plans of every encoding, by the linear theory."""
    again = {"num_resamples": settings.num_resamples, "seed": 0}
    cells = [{"path": str(each.path), "digest": each.made["digest"], **again} for each in encodings]
    described = runner.sweep(describe_latents, cells, "covariances")
    problems = grid(merge_rule=_RULES, merge_time=settings.merge_times)
    asked = [{**cell, "num_steps": settings.steps, **each} for cell in cells for each in problems]
    compared = runner.sweep(compare_plans, asked, "comparing plans")
    spectra = zip([each.place for each in encodings], described, strict=True)
    places = [{**each.place, **problem} for each in encodings for problem in problems]
    tables: dict[str, list[dict[str, Any]]] = {}
    for place, found in (*spectra, *zip(places, compared, strict=True)):
        for name, rows in found.items():
            tables.setdefault(name, []).extend({**place, **row} for row in rows)
    return tables


def _quality_row(encoding: Encoding, encodings: Sequence[Encoding]) -> dict[str, Any]:
    """Held-out quality, beside that of PCA with as many latents."""
    made, images = encoding.made, encoding.images
    pca = next(e.made for e in encodings if e.kind == "pca" and e.images is images)
    beside = pca["quality"] if pca["num_latents"] == made["num_latents"] else {}
    return {
        **encoding.place,
        **{key: made[key] for key in ("num_latents", "latents", "num_parameters")},
        "images": len(images.rows),
        "shape": list(images.shape),
        **{key: made["quality"][key] for key in ("ms_ssim", "mse", "num_images")},
        **{f"pca_{key}": beside.get(key) for key in ("ms_ssim", "mse")},
        "cpu_seconds": made["cpu_seconds"],
    }


_QUESTION = "Which plan is best in the latent space of images of faces?"
STUDY = Study(__name__, _QUESTION, CelebaSettings, run, trains_networks=True)
