"""Faces as latents: autoencoders, the covariance of their latents, and which plan is best there.

The experiment of arXiv 2505.16024 on CelebA, on any images and over several encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opmerge.problem import MergeRule
from opmerge_studies import real_networks
from opmerge_studies.celeba.plans import PLANNED, STRATEGIES, compare_plans, describe_latents
from opmerge_studies.celeba.settings import CelebaSettings
from opmerge_studies.shared import Runner, Study
from opmerge_studies.shared.runner import grid

if TYPE_CHECKING:
    from opmerge_studies.celeba.encodings import Encoding

__all__ = ["STUDY", "CelebaSettings", "run"]

_RULES: tuple[MergeRule, ...] = ("operator-copy", "denoiser-copy")
_NUM_SHOWN = 12
_SPLITS = {
    "official": "official validation split",
    "strip": "a strip at the right of each photo, no pixel of which is trained on",
    "random": "a tenth at random",
}


def run(settings: CelebaSettings, runner: Runner) -> dict[str, Any]:
    """Encode, plan, decode; what the folder holds of an interrupted run is kept.

    All sources and saved encoders are opened before anything is read or trained.

    Returns:
        ``tables``: ``encoders``, ``spectra``, ``eigenvalues``, ``plans`` (W2 in latents),
        ``winners`` and ``pixels``; ``pictures``; ``cost``; ``neural``, or None.
    """
    from opmerge.latents import reconstruct
    from opmerge_studies.celeba.cost import cost_at_full_size
    from opmerge_studies.celeba.encodings import make_encodings
    from opmerge_studies.real_networks.execution import picture

    encodings = make_encodings(settings, runner)
    theory = _theory(settings, encodings, runner)
    outputs = [(each, _outputs(settings, each, runner)) for each in encodings]
    shown = [each for each in encodings if each.seed == settings.seeds[0]]
    splits = [each.images for each in shown if each.kind == "pca"]
    return {
        "tables": {
            "encoders": [_quality_row(each, encodings) for each in encodings],
            **theory,
            "pixels": [{**each.place, **row} for each, output in outputs for row in output["rows"]],
        },
        "splits": [
            {
                "source": images.name,
                "images": len(images.rows),
                "held_out": len(images.held_out),
                "split": _SPLITS[images.split],
                "png": picture(images.some(_NUM_SHOWN)),
            }
            for images in splits
        ],
        "pictures": [
            {**each.place, **row}
            for each, output in outputs
            for row in output["pictures"]
            if each in shown
        ],
        "spreads": [{**each.place, "pixel_rms": output["pixel_rms"]} for each, output in outputs],
        "reconstructions": [
            {**each.place, "png": picture(reconstruct(each.load(), each.images.some(_NUM_SHOWN)))}
            for each in shown
        ],
        "cost": runner.store.kept("cost", "published size, with reading", cost_at_full_size),
        "neural": _neural(settings, encodings[0], runner) if settings.neural else None,
    }


def _theory(
    settings: CelebaSettings, encodings: Sequence[Encoding], runner: Runner
) -> dict[str, list[dict[str, Any]]]:
    """Spectra and plans of every encoding, by the linear theory."""
    again = {"num_resamples": settings.num_resamples, "seed": 0}
    cells = [{"path": str(each.path), "digest": each.made["digest"], **again} for each in encodings]
    described = runner.sweep(describe_latents, cells, "covariances")
    problems = grid(merge_rule=_RULES, merge_time=settings.merge_times)
    compared = runner.sweep(
        compare_plans,
        [{**cell, "num_steps": settings.steps, **each} for cell in cells for each in problems],
        "comparing plans",
    )
    spectra = list(zip([each.place for each in encodings], described, strict=True))
    places = [{**each.place, **problem} for each in encodings for problem in problems]
    plans = list(zip(places, compared, strict=True))
    return {
        name: [{**place, **row} for place, tables in parts for row in tables[name]]
        for parts in (spectra, plans)
        for name in parts[0][1]
    }


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


def _outputs(settings: CelebaSettings, encoding: Encoding, runner: Runner) -> dict[str, Any]:
    """Decoded outputs of an encoder."""
    from opmerge.data import open_source
    from opmerge_studies.celeba.outputs import decoded_outputs

    arguments: dict[str, Any] = {
        "num_steps": settings.steps,
        "merge_times": list(settings.merge_times),
        "merge_rule": _RULES[0],
        "num_samples": settings.num_samples,
        "num_shown": min(_NUM_SHOWN, settings.num_samples),
        "seed": 0,
    }

    def compute() -> dict[str, Any]:
        title = f"decoding by {encoding.label}, {encoding.images.name}"
        count = len(settings.merge_times) * len((*STRATEGIES, PLANNED))
        with runner.progress(title, count) as report:
            latents = open_source(str(encoding.path))
            return decoded_outputs(encoding.load(), latents, **arguments, progress=report)

    identity = {**arguments, "encoder": encoding.identity(), "plans": STRATEGIES}
    kept: dict[str, Any] = encoding.store.kept("outputs", identity, compute)
    return kept


def _neural(settings: CelebaSettings, encoding: Encoding, runner: Runner) -> dict[str, Any]:
    """The study ``real-networks`` on the latents of one encoder."""
    record = real_networks.run(
        real_networks.RealNetworksSettings(
            source=str(encoding.path),
            teacher=settings.teacher,
            steps=settings.neural_steps,
            plans=("best", *STRATEGIES),
            seeds=settings.seeds[:1],
            distillation=settings.distillation,
            num_samples=settings.num_samples,
            calibrate=False,
        ),
        replace(runner, folder=runner.folder / "neural"),
    )
    agreement = record["agreement"]["spectrum"]
    return {
        **encoding.place,
        "steps": settings.neural_steps,
        "iterations": settings.distillation.num_iterations,
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
            for entry in record["plans"]
        ],
    }


STUDY = Study(
    __name__,
    "Which plan is best in the latent space of images of faces?",
    CelebaSettings,
    run,
    trains_networks=True,
)
