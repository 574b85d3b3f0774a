"""The options that commands share, as dataclasses: a command takes one as a single argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from opmerge.files import expand_home

if TYPE_CHECKING:
    from opmerge.data import SourceOptions

__all__ = [
    "DataOptions",
    "ImageOptions",
    "ProblemOptions",
    "SearchOptions",
    "option",
    "takes_options",
]


def option(name: str, text: str, panel: str, **settings: Any) -> Any:
    """A long option with underscores; hyphens are accepted too."""
    return typer.Option(f"--{name}", help=text, rich_help_panel=panel, **settings)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """``SourceOptions``: which images are read, and how they are cut and resized."""

    patch_size: Annotated[
        int, option("patch_size", "Side of the patches of `patches`.", "Data")
    ] = 16
    stride: Annotated[int, option("stride", "Distance between those patches.", "Data")] = 4
    image_size: Annotated[
        int, option("image_size", "Side to which a folder's images are resized.", "Data")
    ] = 64
    grey: Annotated[bool, option("grey", "Read a folder's images as grey.", "Data")] = False
    split: Annotated[
        str | None,
        option(
            "split",
            "Of CelebA: train, validation, test or all.",
            "Data",
            show_default="train for CelebA",
        ),
    ] = None

    def source_options(self) -> SourceOptions:
        """As the package takes them."""
        from opmerge.data import SourceOptions

        return SourceOptions(self.patch_size, self.stride, self.image_size, self.grey, self.split)


@dataclass(frozen=True, kw_only=True)
class DataOptions(ImageOptions):
    """Where the eigenvalues come from."""

    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, patches, faces, eigenvalues:0.2,0.5,2, a file of samples (.npy .npz "
            ".csv .pt .safetensors), a saved spectrum (.npz), or a folder of images or of CelebA.",
        ),
    ]
    kind: Annotated[
        str, option("as", "What a file holds: samples or eigenvalues.", "Data", metavar="KIND")
    ] = "samples"
    diagonal: Annotated[
        bool, option("diagonal", "Variances of the features instead of eigenvalues.", "Data")
    ] = False
    top_k: Annotated[
        int | None,
        option(
            "top_k", "Only the k largest eigenvalues (over 8192 features: by a sketch).", "Data"
        ),
    ] = None
    seed: Annotated[int, option("seed", "Seed of the sketch.", "Data")] = 0


@dataclass(frozen=True)
class ProblemOptions:
    """The merge problem; None where nothing was given."""

    steps: Annotated[
        int | None, option("steps", "T, the teacher's steps.", "Problem", show_default="64")
    ] = None
    merge_time: Annotated[
        float | None,
        option("merge_time", "Optimisation time s of a merge.", "Problem", show_default="6.4"),
    ] = None
    schedule: Annotated[
        str | None,
        option(
            "schedule",
            "cosine, nichol-dhariwal, linear, scaled-linear, equal-angle:2.0, a diffusers "
            "scheduler_config.json or model folder, or a file of arrays.",
            "Problem",
            show_default="cosine",
        ),
    ] = None
    training: Annotated[
        Path | None,
        option("training", "A training model (JSON), instead of --merge_time.", "Problem"),
    ] = None
    merge_rule: Annotated[
        str | None,
        option(
            "merge_rule",
            "operator-copy or denoiser-copy.",
            "Problem",
            show_default="operator-copy",
        ),
    ] = None
    objective: Annotated[
        str | None, option("objective", "teacher or data.", "Problem", show_default="teacher")
    ] = None
    student_steps: Annotated[
        int | None,
        option("student_steps", "K, the student's steps.", "Problem", show_default="1"),
    ] = None


@dataclass(frozen=True)
class SearchOptions:
    """How the plan is found, and what is set beside it."""

    planner: Annotated[
        str,
        option("planner", "auto, interval, scalar, certified, pareto or brute-force.", "Search"),
    ] = "auto"
    epsilon: Annotated[
        float, option("epsilon", "ε of the planner pareto, relative to each range.", "Search")
    ] = 0.0
    strategy: Annotated[
        list[str] | None,
        option(
            "strategy",
            "A strategy to set beside the plan; may be repeated: vanilla, progressive, "
            "consistency, boot, uniform:4, temporal:8, phased:32,4, hybrid:8.",
            "Search",
        ),
    ] = None


def takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with dataclass parameters one command-line parameter a field instead."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters.extend(_field_parameters(groups[name]))
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, value in given.items():
            if isinstance(value, Path):
                given[name] = expand_home(value)  # a shell leaves --output_dir=~/run as it is
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _field_parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
