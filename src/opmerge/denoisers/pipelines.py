"""The pipeline around a teacher's network: what encodes texts and images, and decodes latents."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, ModelMixin

from opmerge.denoisers.families import family_of
from opmerge.denoisers.model_folder import (
    INDEX,
    best_variant,
    find_network,
    locate_model,
    network_name,
    read_index,
    read_student_index,
    variants_in,
)
from opmerge.denoisers.teacher_folder import check_guides
from opmerge.denoisers.trusted import check_classes, check_shards, check_sizes, parts_of
from opmerge.errors import InputError, not_installed
from opmerge.files import read_json_object, reading

_GUARDS = ("safety_checker", "feature_extractor")


def load_pipeline(
    folder: str | os.PathLike[str], network: ModelMixin | None = None, device: str = "cpu"
) -> Any:
    """The diffusers pipeline of a teacher, from a local folder, in float32.

    It is built by diffusers of safetensors alone; nothing is downloaded, and no code of the folder
    is run.

    Args:
        network: takes the place of the pipeline's own, which is then not read. Without one the
            pipeline encodes and decodes only: its network has a config and no weights (it is on
            torch's device ``meta``), and what checks images for safety is left out.
        device: of all parts but the network.

    Raises:
        InputError: if there is no pipeline in the folder, a part of it is missing, damaged or
            pickled, or a package that it needs is not installed.
    """
    root = locate_model(folder)
    index = _read_index(root)
    check_guides(root)
    own = network_name(root)
    parts: dict[str, Any] = {name: None for name, entry in index.items() if entry == [None, None]}
    parts[own] = network
    if network is None:
        parts[own] = network_without_weights(find_network(root))
        parts |= {name: None for name in _GUARDS if name in index}
        if "safety_checker" in index:
            parts["requires_safety_checker"] = False
    variant = _variant(root, index)
    with reading(root, "must be a whole pipeline of diffusers, with safetensors"):
        pipeline = DiffusionPipeline.from_pretrained(
            root,
            **parts,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
        )
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and name != own:
            part.requires_grad_(False).eval().to(device).float()
    return pipeline


@dataclass(frozen=True)
class PipelineParts:
    """What the folder of a pipeline holds.

    Args:
        class_name: of the pipeline, a class of diffusers.
        index: ``model_index.json``.
        network: the name of the part that denoises.
        variant: that all weights come in, such as fp16; None for the usual one.
    """

    class_name: str
    index: Mapping[str, Any]
    network: str
    variant: str | None


def pipeline_parts(folder: Path) -> PipelineParts:
    """The parts of a pipeline's folder, refused as ``load_pipeline`` refuses it."""
    index = _read_index(folder)
    own, variant = network_name(folder), _variant(folder, index)
    return PipelineParts(index["_class_name"], index, own, variant)


def other_parts(folder: Path) -> list[str]:
    """What a pipeline holds beside network and scheduler; nothing in a flat folder."""
    if not (folder / INDEX).is_file() or read_student_index(folder) is not None:
        return []
    taken = (network_name(folder), "scheduler")
    names = parts_of(read_index(folder))
    return [name for name in names if name not in taken and (folder / name).is_dir()]


def _read_index(root: Path) -> dict[str, Any]:
    """``model_index.json`` of a folder, if nothing that it names is code of the folder's own."""
    if read_student_index(root) is not None:
        requirement = "must be a teacher's folder, not a student's"
        raise InputError("teacher", requirement, str(root), "pass the teacher that it stands for")
    if not (root / INDEX).is_file():
        requirement = f"must hold {INDEX}, which says how texts and images are encoded"
        raise InputError(str(root), requirement, remedy="pass the folder of a whole pipeline")
    index = read_index(root)
    name = index.get("_class_name")
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, DiffusionPipeline)):
        requirement = "must be a pipeline of diffusers (code that lies in a folder is not run)"
        raise InputError(f"{root / INDEX}: _class_name", requirement, name)
    libraries = {module for module, _ in parts_of(index).values()}
    if "transformers" in libraries and find_spec("transformers") is None:
        raise not_installed("teacher", "transformers", extra="text")
    check_classes(index, root)
    for part in parts_of(index):
        check_shards(root / part)
    return index


def network_without_weights(place: Path) -> ModelMixin:
    """The network of a folder as its config says it, with no memory for weights."""
    config = read_json_object(place / "config.json")
    check_sizes(config, place / "config.json")
    network_class = family_of(config).network_class(config, place / "config.json")
    with reading(place, "must hold a readable config"), init_empty_weights():
        network: ModelMixin = network_class.from_config(config)
    return network


def _variant(root: Path, index: dict[str, Any]) -> str | None:
    """What the names of weights have more, such as fp16, where a part has none without it."""
    found = [variants_in(root / name) for name in parts_of(index)]
    named = [variants for variants in found if variants and None not in variants]
    try:
        return best_variant(set.intersection(*named)) if named else None
    except LookupError as error:
        told = ", ".join(sorted({str(name) for variants in named for name in variants}))
        raise InputError(str(root), "must hold weights in one variant", told) from error
