"""Faces as latents: autoencoders, the covariance of their latents, and which plan is best there.

The experiment of arXiv 2505.16024 on CelebA, on any images and over several encoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from opmerge.checks import check_count, check_number, check_whole
from opmerge.data import BUILTIN_SOURCES, SourceOptions, open_source
from opmerge.denoisers.teacher_training import TeacherConfig
from opmerge.errors import InputError
from opmerge.latents import Images, VAEConfig, reconstruct
from opmerge.problem import MergeRule
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.celeba.labels import unique_labels
from opmerge_studies.celeba.latent_cost import cost_at_full_size
from opmerge_studies.celeba.latent_encoders import (
    BUILT_IN,
    TRAINED,
    check_encoders,
    digest,
    encoder_folder,
    kept,
    make_encoder,
    saved_encoder,
    slugged,
)
from opmerge_studies.celeba.latent_images import load_images, open_images
from opmerge_studies.celeba.latent_outputs import decoded_outputs, picture
from opmerge_studies.celeba.latent_plans import PLANNED, STRATEGIES, compare_plans, describe_latents
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.study import real_networks

__all__ = ["Config", "run"]

Latents = Literal["means", "samples"]

_RULES: tuple[MergeRule, ...] = ("operator-copy", "denoiser-copy")
_NUM_SHOWN = 12
_FEWEST_LATENTS = 2
_SPLITS = {
    "official": "official validation split",
    "strip": "a strip at the right of each photo, no pixel of which is trained on",
    "random": "a tenth at random",
}


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        source: the images: ``patches``, ``faces``, a folder of CelebA or of other images; or a
            list of such.
        source_options: how images are cut.
        encoders: ``ms-ssim-vae`` and ``mse-vae`` (a β-VAE), which are trained; ``pca``, which is
            there anyway; or folders of saved ones, diffusers' ``AutoencoderKL`` among them.
        num_latents: of those that are made here; fewer where images are few
            (``latent_encoders.num_latents``).
        latents: means of the encoder, or draws from it where it has variances.
        seeds: of the training and of the draws.
        base_channels: of the autoencoders that are trained; unless given 32, as published, for
            images of 64 pixels a side and more, and 16 for smaller ones.
        vae: how they are trained, for at most 200 epochs; its loss, latents, channels and seed
            are those of ``encoders``, ``num_latents``, ``base_channels`` and ``seeds``.
        mse_kl_weight: of the KL divergence where the loss is the squared error.
        steps: T.
        merge_times: s, ascending.
        num_resamples: of the images, for intervals.
        num_samples: decoded, for errors in pixels.
        neural: also train a teacher on the latents of the first source and encoder, and distill
            it by every plan.
        neural_steps: its T.
        teacher: what teacher is trained.
        distillation: how each plan is executed.

    Raises:
        InputError: naming the setting that is out of range.
    """

    source: str | tuple[str, ...] = ("patches", "faces")
    source_options: SourceOptions = field(
        default_factory=lambda: SourceOptions(patch_size=32, stride=11)
    )
    encoders: tuple[str, ...] = (*TRAINED, "pca")
    num_latents: int = 128
    latents: Latents = "means"
    seeds: tuple[int, ...] = (0, 1)
    base_channels: int | None = None
    vae: VAEConfig = field(
        default_factory=lambda: VAEConfig(
            num_iterations=1000,
            optimization=OptimizationConfig(train_batch_size=64, learning_rate=2e-3),
        )
    )
    mse_kl_weight: float = 0.00025
    steps: int = 64
    merge_times: tuple[float, ...] = (0.5, DEFAULT_MERGE_TIME)
    num_resamples: int = 200
    num_samples: int = 512
    neural: bool = False
    neural_steps: int = 16
    teacher: TeacherConfig = field(
        default_factory=lambda: replace(TeacherConfig(), num_iterations=6000)
    )
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        for key, values, different in (
            ("source", self.sources, self.source_labels),
            ("encoders", self.encoders, self.encoder_labels),
            ("seeds", self.seeds, set(self.seeds)),
        ):
            if not values or len(different) < len(values):
                raise InputError(key, "must be given, each of them once", values)
        for seed in self.seeds:
            check_whole("seeds", seed)
        if self.base_channels is not None:
            check_count("base_channels", self.base_channels)
        self._check_vae()
        if self.latents not in get_args(Latents):
            raise InputError("latents", "must be means or samples", repr(self.latents))
        if check_count("num_latents", self.num_latents) < _FEWEST_LATENTS:
            raise InputError("num_latents", f"must be >= {_FEWEST_LATENTS}", self.num_latents)
        for key in ("steps", "neural_steps", "num_resamples", "num_samples"):
            if check_count(key, getattr(self, key)) < 2:
                raise InputError(key, "must be >= 2", getattr(self, key))
        if check_number("mse_kl_weight", self.mse_kl_weight) < 0:
            raise InputError("mse_kl_weight", "must be >= 0", self.mse_kl_weight)
        if not self.merge_times or list(self.merge_times) != sorted(set(self.merge_times)):
            raise InputError("merge_times", "must ascend and not be empty", self.merge_times)
        for time in self.merge_times:
            GradientFlow(time)

    def _check_vae(self) -> None:
        """Refuse what this study settles by settings of its own."""
        given, default = self.vae, VAEConfig()
        for key, value, usual, instead in (
            ("loss", given.loss, default.loss, "encoders"),
            ("num_latents", given.num_latents, default.num_latents, "num_latents"),
            ("base_channels", given.base_channels, default.base_channels, "base_channels"),
            ("optimization.seed", given.optimization.seed, default.optimization.seed, "seeds"),
        ):
            if value != usual:
                raise InputError(f"vae.{key}", "is not used here", value, f"set {instead} instead")

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, of which there may be one."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def source_labels(self) -> dict[str, str]:
        """What tables and the page call each source."""
        return unique_labels("source", self.sources, BUILTIN_SOURCES)

    @property
    def encoder_labels(self) -> dict[str, str]:
        """What tables and the page call each encoder, PCA among them."""
        return {**unique_labels("encoders", self.encoders, BUILT_IN), "pca": "pca"}

    @classmethod
    def quick(cls) -> Config:
        """Patches of 16 × 16 pixels, 32 latents and one seed: a few minutes."""
        return cls(
            source="patches",
            source_options=SourceOptions(patch_size=16, stride=11),
            num_latents=32,
            seeds=(0,),
            vae=replace(cls().vae, num_iterations=800),
            num_resamples=100,
            num_samples=256,
            neural_steps=8,
            teacher=replace(cls().teacher, num_iterations=3000),
            distillation=replace(DistillationConfig(), num_iterations=200),
        )


@dataclass(frozen=True)
class _Cell:
    """An encoder of a source and seed, made, and where its files are."""

    images: Images
    kind: str
    label: str
    seed: int
    folder: Path
    made: dict[str, Any]

    @property
    def place(self) -> dict[str, Any]:
        return {"source": self.images.name, "encoder": self.label, "seed": self.seed}

    @property
    def latents(self) -> dict[str, str]:
        """The file and its digest."""
        return {"path": str(self.folder / "latents.npy"), "digest": self.made["digest"]}


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Encode, plan, decode; what the folder holds of an interrupted run is kept.

    All sources and saved encoders are opened before anything is read or trained.

    Returns:
        ``tables``: ``encoders``, ``spectra``, ``eigenvalues``, ``plans`` (W2 in latents),
        ``winners`` and ``pixels``; ``pictures``; ``cost``; ``neural``, or None.
    """
    opened = [open_images(config, name, runner.progress, runner.warn) for name in config.sources]
    check_encoders(config, opened)
    folders = [_source_folder(runner, each.name) for each in opened]
    images = [
        load_images(config, each, folder, runner.progress)
        for each, folder in zip(opened, folders, strict=True)
    ]
    cells = [
        cell
        for each, folder in zip(images, folders, strict=True)
        for cell in _encoders(config, each, folder, runner)
    ]
    shown = [cell for cell in cells if cell.seed == config.seeds[0]]
    theory = _theory(config, cells, runner)
    outputs = [_outputs(config, cell, runner) for cell in cells]
    return {
        "tables": {
            "encoders": [_quality_row(cell, cells) for cell in cells],
            **theory,
            "pixels": [
                {**cell.place, **row}
                for cell, output in zip(cells, outputs, strict=True)
                for row in output["rows"]
            ],
        },
        "splits": [_split(cell.images) for cell in shown if cell.kind == "pca"],
        "pictures": [
            {**cell.place, **each}
            for cell, output in zip(cells, outputs, strict=True)
            if cell in shown
            for each in output["pictures"]
        ],
        "spreads": [
            {**cell.place, "pixel_rms": output["pixel_rms"]}
            for cell, output in zip(cells, outputs, strict=True)
        ],
        "reconstructions": [_reconstruction(cell) for cell in shown],
        "cost": kept(
            runner.folder / "cost.json", "published size, with reading", cost_at_full_size
        ),
        "neural": _neural(config, cells[0], runner) if config.neural else None,
    }


def _source_folder(runner: Runner, name: str) -> Path:
    return runner.folder / "encoders" / slugged(Path(name).name or name, digest(name)[:6])


def _encoders(config: Config, images: Images, folder: Path, runner: Runner) -> Iterator[_Cell]:
    """The encoders of a source; PCA and saved ones are the same for every seed."""
    for kind, label in config.encoder_labels.items():
        for seed in config.seeds if kind in TRAINED else config.seeds[:1]:
            own = folder / encoder_folder(kind, seed)
            made = make_encoder(config, kind, seed, images, own, runner.progress)
            yield _Cell(images, kind, label, seed, own, made)


def _theory(config: Config, cells: list[_Cell], runner: Runner) -> dict[str, list[dict[str, Any]]]:
    """Spectra and plans of every encoder, by the linear theory."""
    again = {"num_resamples": config.num_resamples, "seed": 0}
    described = runner.sweep(
        describe_latents, [{**cell.latents, **again} for cell in cells], "covariances"
    )
    problems = [
        {"merge_rule": rule, "merge_time": time} for rule in _RULES for time in config.merge_times
    ]
    places = [(cell, problem) for cell in cells for problem in problems]
    compared = runner.sweep(
        compare_plans,
        [{**cell.latents, "num_steps": config.steps, **p, **again} for cell, p in places],
        "comparing plans",
    )
    spectra = {"spectra": "summary", "eigenvalues": "eigenvalues"}
    return {
        **{
            table: [
                {**cell.place, **row}
                for cell, found in zip(cells, described, strict=True)
                for row in found[key]
            ]
            for table, key in spectra.items()
        },
        **{
            key: [
                {**cell.place, **problem, **row}
                for (cell, problem), found in zip(places, compared, strict=True)
                for row in found[key]
            ]
            for key in ("plans", "winners")
        },
    }


def _quality_row(cell: _Cell, cells: list[_Cell]) -> dict[str, Any]:
    """Held-out quality, beside that of PCA with as many latents."""
    pca = next(c for c in cells if c.kind == "pca" and c.images is cell.images).made
    is_equal = pca["num_latents"] == cell.made["num_latents"]
    return {
        **cell.place,
        "num_latents": cell.made["num_latents"],
        "latents": cell.made["latents"],
        "num_parameters": cell.made["num_parameters"],
        "images": len(cell.images.rows),
        "shape": list(cell.images.shape),
        **{key: cell.made["quality"][key] for key in ("ms_ssim", "mse", "num_images")},
        "pca_ms_ssim": pca["quality"]["ms_ssim"] if is_equal else None,
        "pca_mse": pca["quality"]["mse"] if is_equal else None,
        "cpu_seconds": cell.made["cpu_seconds"],
    }


def _outputs(config: Config, cell: _Cell, runner: Runner) -> dict[str, Any]:
    """Decoded outputs of an encoder."""
    settings: dict[str, Any] = {
        "num_steps": config.steps,
        "merge_times": list(config.merge_times),
        "merge_rule": _RULES[0],
        "num_samples": config.num_samples,
        "num_shown": min(_NUM_SHOWN, config.num_samples),
        "seed": 0,
    }

    def compute() -> dict[str, Any]:
        encoder = saved_encoder(cell.kind, cell.images, cell.folder)
        latents = open_source(cell.latents["path"])
        title = f"decoding by {cell.label}, {cell.images.name}"
        with runner.progress(
            title, len(config.merge_times) * len((*STRATEGIES, PLANNED))
        ) as report:
            return decoded_outputs(encoder, latents, **settings, progress=report)

    made = {key: cell.made[key] for key in ("identity", "digest")}
    return kept(
        cell.folder / "outputs.json", digest({**settings, **made, "plans": STRATEGIES}), compute
    )


def _reconstruction(cell: _Cell) -> dict[str, Any]:
    """What comes back of the held-out images that are shown."""
    encoder = saved_encoder(cell.kind, cell.images, cell.folder)
    return {**cell.place, "png": picture(reconstruct(encoder, cell.images.some(_NUM_SHOWN)))}


def _split(images: Images) -> dict[str, Any]:
    """How images were split, and some of those held out."""
    return {
        "source": images.name,
        "images": len(images.rows),
        "held_out": len(images.held_out),
        "split": _SPLITS[images.split],
        "png": picture(images.some(_NUM_SHOWN)),
    }


def _neural(config: Config, cell: _Cell, runner: Runner) -> dict[str, Any]:
    """The study ``real-networks`` on the latents of one encoder."""
    settings = real_networks.Config(
        source=cell.latents["path"],
        teacher=config.teacher,
        steps=config.neural_steps,
        plans=("best", *STRATEGIES),
        seeds=config.seeds[:1],
        distillation=config.distillation,
        num_samples=config.num_samples,
        calibrate=False,
    )
    found = real_networks.run(settings, replace(runner, folder=runner.folder / "neural"))
    agreement = found["agreement"]["spectrum"]
    return {
        **cell.place,
        "steps": config.neural_steps,
        "iterations": config.distillation.num_iterations,
        "spearman": agreement["spearman"]["of_means"],
        "p_value": agreement["p_value"],
        "plans": [
            {
                "plan": entry["label"],
                "aliases": entry["aliases"],
                "predicted": entry["predicted"]["spectrum"]["error"],
                **{key: entry["measured"][key] for key in ("mean", "low", "high")},
                "merges": entry["merges"],
            }
            for entry in found["plans"]
        ],
    }
