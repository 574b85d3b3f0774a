"""The model card of a student: README.md, which people and model hubs read.

It is written with the folder, and told later what was measured and how samples look. The metadata
are those of ``huggingface_hub``; nothing is asked of a hub.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers.utils.hub_utils import populate_model_card
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image
from torch import Tensor

from opmerge.denoisers.denoiser import LABELS
from opmerge.denoisers.model_folder import hub_name
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.costs import network_evaluations
from opmerge.distillation.executor import Distillation
from opmerge.distillation.sampling import image_png, is_image
from opmerge.errors import InputError
from opmerge.files import read_text, write_atomic
from opmerge.plans import Plan, draw_text
from opmerge.plans.drawing import plan_figure
from opmerge.plotting import figure_png
from opmerge.settings.guidance import in_words

CARD = "README.md"
_PICTURE, _PLAN = "samples.png", "plan.png"
_PASSED_ON = ("license", "license_name", "license_link", "language")
_MOST = 2**20  # bytes of a teacher's card that are read
_LEAST_WIDTH = 512  # pixels of a picture, about
_OTHER = "other"  # a hub's word for a task that it has no name for


@dataclass(frozen=True)
class Making:
    """How a student came about.

    Args:
        iterations: of each merge of the plan, in the order of execution.
        facts: what was spent and on what, in words.
    """

    plan: Plan
    iterations: tuple[int, ...]
    facts: Mapping[str, str]

    @classmethod
    def of(
        cls, run: Distillation, source: str, budget: str = "", is_trained: bool = True
    ) -> Making:
        """That of a run which is over.

        Args:
            source: of the data, of which the last part of a path is told.
            budget: what planning and training were to cost together, if they were.
            is_trained: false where linear parts were solved, and nothing else.
        """
        settings = run.config.optimization
        batch = settings.global_batch_size(run.accelerator.num_processes)
        stages = zip(run.stages, run.iterations, strict=True)
        of_merge = {merge: count for stage, count in stages for merge in stage.merges}
        facts = {
            "data": source.rstrip("/").rsplit("/", 1)[-1],
            "budget of the whole run": budget,
            "merge rule": run.config.merge_rule,
            "networks": f"{len(run.stages)}",
        }
        if is_trained:
            facts |= {
                "iterations": f"{sum(run.iterations):,} of {batch} samples",
                "network evaluations": f"{network_evaluations(run):,.0f} of a sample",
                "learning rate": f"{settings.learning_rate:g}",
            }
        counts = tuple(is_trained * of_merge[merge] for merge in run.plan.merges)
        return cls(run.plan, counts, {key: value for key, value in facts.items() if value})

    def picture(self) -> bytes:
        """The plan as a PNG, merges in the shade of their share of the iterations."""
        total = sum(self.iterations) or 1
        merges = [
            {"boundaries": merge.boundaries, "share": count / total}
            for merge, count in zip(self.plan.merges, self.iterations, strict=True)
        ]
        plan, words = self.plan, "share of the iterations (%)"
        has_free_step = plan.free_step is not None
        figure = plan_figure(merges, plan.boundaries, "", has_free_step, words)
        return figure_png(figure)


@dataclass(frozen=True)
class Usage:
    """How the folder of a student is loaded and called.

    Args:
        code: lines of Python, with ``FOLDER`` for the student's folder.
        note: a sentence behind them.
        is_adapter: whether the folder holds adapters, on the teacher's network.
        language: of the code.
    """

    code: str
    note: str = ""
    is_adapter: bool = False
    language: str = "python"


def own_call(student: Student) -> str:
    """Arguments of a call of our pipeline (``FewStepPipeline``)."""
    asked = ["batch_size=4"]
    if student.num_classes is not None:
        asked.append("class_labels=[0, 0, 0, 0]")
    if not is_image(student.sample_shape):
        asked.append('output_type="np"')
    return ", ".join(asked)


def write_card(
    folder: Path,
    student: Student,
    teacher: Teacher | None,
    usage: Usage,
    making: Making | None = None,
) -> None:
    """Write the card of a student into its folder, and the picture of its plan.

    Raises:
        InputError: if they cannot be written.
    """
    base = None if teacher is None else teacher.folder
    data = _metadata(student, base, usage)
    text = _template().render(
        student=student,
        usage=usage,
        making=making,
        outline=making and draw_text(making.plan),
        teacher=f"`{_name(base)}`" if base else "a network in memory",
        guided=in_words(student.guidance) if student.guidance else None,
        times=[f"{float(student.ddim.timesteps[jump.start]):g}" for jump in student.jumps],
        data=data,
    )
    if base is not None:
        for path in base.glob("LICENSE*"):  # a link in its place may lead anywhere
            if path.is_file() and not path.is_symlink():
                shutil.copyfile(path, folder / path.name)
    if making is not None:
        write_atomic(folder / _PLAN, making.picture())
    write_atomic(folder / CARD, str(_card(data, text)))


def add_measured(
    folder: Path, rows: Mapping[str, str], metrics: Mapping[str, float], samples: str
) -> Path | None:
    """Tell a student's card what was measured; None where the folder has no card.

    Args:
        rows: a line each, in words.
        metrics: the numbers, for the metadata.
        samples: which samples were compared.

    Raises:
        InputError: if the card cannot be written.
    """
    if (card := _card_in(folder)) is None:
        return None
    data: Any = card.data
    task = data.pipeline_tag or _OTHER
    data.eval_results = [
        EvalResult(task, "samples", samples, metric_type=name, metric_value=value)
        for name, value in metrics.items()
    ]
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    table = "\n".join([f"| {samples} | |", "| --- | --- |", *lines])
    _set_section(card, "Measured", table)
    return write_atomic(folder / CARD, str(card))


def add_samples(folder: Path, picture: bytes, caption: str) -> Path | None:
    """Show samples in a student's card; None where the folder has no card.

    Args:
        picture: a PNG; a small one is enlarged, each pixel to a square.

    Raises:
        InputError: if picture or card cannot be written.
    """
    if (card := _card_in(folder)) is None:
        return None
    write_atomic(folder / _PICTURE, _enlarged(picture))
    data: Any = card.data
    data.widget = [{"text": caption, "output": {"url": _PICTURE}}]
    _set_section(card, "Samples", f"![{caption}]({_PICTURE})\n\n*{caption}.*")
    return write_atomic(folder / CARD, str(card))


def add_pair(folder: Path, teacher: Tensor, student: Tensor, *steps: int) -> Path | None:
    """Show (N, …) images of the teacher in a row above those of the student: see ``add_samples``.

    Args:
        steps: of the teacher and of the student.
    """
    picture = image_png(torch.cat([teacher, student]), len(student))
    above, below = steps
    caption = f"Above the teacher in {above} steps, below the student in {below}, from equal noise"
    return add_samples(folder, picture, caption)


def _metadata(student: Student, base: Path | None, usage: Usage) -> ModelCardData:
    """What hubs read of a student; licence and languages are those of its teacher's card."""
    hub = None if base is None else hub_name(base)
    task = None
    if student.needs.keys() - {LABELS}:
        task = "text-to-image"
    elif len(student.sample_shape) > 1:
        task = "unconditional-image-generation"  # hubs have no other word where classes are told
    data = ModelCardData(
        base_model=hub,
        base_model_relation=hub and ("adapter" if usage.is_adapter else "finetune"),
        model_name=f"{_name(base)}-{len(student.jumps)}-step",
        pipeline_tag=task,
        **_passed_on(base, hub),
    )
    tags = ["opmerge", "distillation", "few-step", *["lora"] * usage.is_adapter]
    return populate_model_card(_card(data, ""), tags).data


def _passed_on(base: Path | None, hub: str | None) -> dict[str, Any]:
    """Licence and languages as the card in a teacher's folder has them, if it has one."""
    if base is None or (card := _card_in(base)) is None:
        return {}
    told = {key: getattr(card.data, key, None) for key in _PASSED_ON}
    link = told["license_link"]
    if hub and isinstance(link, str) and "://" not in link:
        told["license_link"] = f"https://huggingface.co/{hub}/blob/main/{link}"
    return told


def _name(base: Path | None) -> str:
    """What a teacher is called: its name on the hub, or else its folder's."""
    return "student" if base is None else (hub_name(base) or base.name).rpartition("/")[2]


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2")


def _card(data: ModelCardData, text: str) -> ModelCard:
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _card_in(folder: Path) -> ModelCard | None:
    """The card in a folder; None without one, and of a README without metadata."""
    try:
        text = read_text(folder / CARD, _MOST)
        is_card = REGEX_YAML_BLOCK.search(text) is not None
        return ModelCard(text, ignore_metadata_errors=True) if is_card else None
    except (InputError, ValueError, TypeError, yaml.YAMLError):
        return None


def _enlarged(picture: bytes) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        factor = max(1, _LEAST_WIDTH // image.width)
        size = factor * image.width, factor * image.height
        image.resize(size, Image.Resampling.NEAREST).save(stream, format="PNG")
    return stream.getvalue()


def _set_section(card: ModelCard, heading: str, body: str) -> None:
    """Put a section in the place of the one that has its heading, or before the last."""
    section = f"## {heading}\n\n{body}\n\n"
    known = re.compile(rf"^## {heading}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    last = re.compile(r"(?=^## Limits\n)|\Z", re.MULTILINE)
    place = known if known.search(card.text) else last
    card.text = place.sub(lambda found: section, card.text, count=1)
