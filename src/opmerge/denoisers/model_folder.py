"""Where the parts of a model lie: the folder, its network and the weights in it.

Models are folders of this machine: what ``save_pretrained`` of a diffusers pipeline wrote, a
repository in which all files lie flat, a network beside its scheduler, or the cache of the Hugging
Face hub; or they are named as the hub names them, and downloaded by diffusers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from opmerge.denoisers.trusted import check_class, check_index, parts_of
from opmerge.errors import InputError
from opmerge.files import expand_home, in_place, read_json_object
from opmerge.schedules.hub import HUB_NAME, first_cause, is_hub_name, quiet

INDEX = "model_index.json"
JUMPS = "jumps"
"""The folder of a student's jumps in its teacher's pipeline; diffusers does not read it."""
WEIGHTS, SUFFIX = "diffusion_pytorch_model", ".safetensors"
_NETWORK_FOLDERS = ("unet", "transformer")
_SCHEDULER = "scheduler_config.json"
_NONE = [None, None]  # a part that a pipeline can have, and this one has not
_CACHED = "models--"
# The files that make weights whole: one of all, or the index of shards (of older versions, too).
_WHOLE = re.compile(
    r"(?P<stem>\w+)\.(?:(?P<one>\w+)\.)?safetensors"
    r"(?:(?:\.(?P<old>\w+))?\.index(?:\.(?P<new>\w+))?\.json)?"
)
# Of several variants the one whose numbers are nearest to float32's: 24, 11 and 8 bits of them.
VARIANTS = ("fp32", "fp16", "bf16")


def locate_model(model: str | os.PathLike[str], argument: str = "teacher") -> Path:
    """The folder of a model on this machine.

    A hub's cache (``models--OWNER--NAME``) stands for the snapshot that it was last asked for, and
    a network's own folder, such as ``unet/``, for the one around it where a ``scheduler/`` lies
    beside it. A name ``OWNER/NAME`` that is no folder is downloaded by diffusers (safetensors and
    configs alone) unless it is in the hub's cache already.

    Raises:
        InputError: if there is no such folder, and nothing of the name can be downloaded.
    """
    path = in_place(expand_home(model))
    _check_no_run(path, argument)
    if not path.is_dir():
        name = os.fspath(model)
        if is_hub_name(name):
            return _download(name, argument)
        remedy = "pass the folder of a saved diffusers pipeline, or OWNER/NAME of the hub's"
        raise InputError(argument, "must be an existing folder", name, remedy)
    path = snapshot_of(path)
    is_whole = (path / INDEX).is_file() or (path / _SCHEDULER).is_file()
    is_bare = (path / "config.json").is_file() and not is_whole
    around = path.resolve().parent
    return around if is_bare and (around / "scheduler" / _SCHEDULER).is_file() else path


def _check_no_run(path: Path, argument: str) -> None:
    """Refuse the folder of a training, or a model in it that is not there yet."""
    run = path if path.is_dir() else path.parent
    names = ("student", "teacher", "students/plan/student")
    found = [run / name for name in names if (run / name / INDEX).is_file()]
    is_training = (run / "metrics.jsonl").is_file()
    if (path / INDEX).is_file() or not (is_training or (found and path.is_dir())):
        return
    value, remedy = "that of a run", f"pass {found[0]}" if found else ""
    if not found:
        value += " that is unfinished"
        remedy = "go on with it: `resume_from_checkpoint=latest`, or start it again"
    raise InputError(argument, "must be the folder of a model", value, remedy)


def snapshot_of(cached: Path) -> Path:
    """The snapshot of a hub's cache folder, of ``main`` or the only one; other folders themselves.

    Raises:
        InputError: if there is none, or several and none of ``main``.
    """
    if not (cached.name.startswith(_CACHED) and (cached / "snapshots").is_dir()):
        return cached
    found = sorted(each for each in (cached / "snapshots").iterdir() if each.is_dir())
    main = cached / "refs" / "main"
    if main.is_file():
        asked = main.read_text(errors="replace").strip()
        found = [each for each in found if each.name == asked] or found
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise InputError(str(cached), "must hold one snapshot", names, "pass the folder of one")
    return found[0]


def _download(name: str, argument: str) -> Path:
    """The folder to which diffusers downloads a model of the hub, or has it already."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    try:
        with quiet():
            given = {"use_safetensors": True, "trust_remote_code": False}
            folder = Path(DiffusionPipeline.download(name, **given))
            with suppress(Exception):  # whatever keeps it away: the model does without its card
                hf_hub_download(name, "README.md")
            return folder
    except Exception as error:  # the network's, the hub's or a missing file: told in one line
        requirement = f"must be a folder, or a model that can be downloaded ({first_cause(error)})"
        remedy = "download it where there is a network, and pass its folder"
        raise InputError(argument, requirement, name, remedy) from error


def hub_name(folder: Path) -> str | None:
    """OWNER/NAME of a model in the hub's cache; None of a folder elsewhere, which does not tell."""
    cached = (part for part in folder.resolve().parts if part.startswith(_CACHED))
    name = next(cached, "").removeprefix(_CACHED).replace("--", "/", 1)
    return name if HUB_NAME.fullmatch(name) else None


def read_index(root: Path) -> dict[str, Any]:
    """``model_index.json`` of a folder, empty where there is none.

    Raises:
        InputError: if it is damaged, or a part that it names is not inside the folder.
    """
    if not (root / INDEX).is_file():
        return {}
    index = read_json_object(root / INDEX)
    check_index(index, root / INDEX)
    return index


def read_student_index(folder: Path) -> dict[str, Any] | None:
    """``model_index.json`` of a folder, or None if it is not that of a saved student."""
    try:
        index = read_json_object(folder / INDEX)
    except InputError:
        return None
    is_student = index.get("_class_name") == "FewStepPipeline"
    return index if is_student else None


def jumps_folder(folder: Path) -> Path | None:
    """Where the jumps of a student in its teacher's pipeline lie; None where it is no such folder.

    A pipeline that diffusers has saved again has them in its scheduler alone, which counts the
    networks instead of naming parts of the pipeline.
    """
    if (folder / JUMPS / _SCHEDULER).is_file():
        return folder / JUMPS
    with suppress(InputError, LookupError, TypeError, AttributeError):  # no scheduler of jumps
        jumps = read_json_object(folder / "scheduler" / _SCHEDULER)["jumps"]
        if jumps and all(str(jump.get("network", "0")).isdigit() for jump in jumps):
            return folder / "scheduler"
    return None


def is_in_pipeline(folder: Path) -> bool:
    """Whether a folder holds a student in its teacher's pipeline."""
    return read_student_index(folder) is None and jumps_folder(folder) is not None


def is_student(folder: Path) -> bool:
    """Whether a folder is that of a saved student, of either kind."""
    return read_student_index(folder) is not None or is_in_pipeline(folder)


def find_network(root: Path) -> Path:
    """The folder that holds config.json and the weights of the network.

    As for diffusers, a part that has no folder of its name lies in the pipeline's own.

    Raises:
        InputError: if the folder is none of a model, or of one with several networks, or the
            network is of no known class.
    """
    index = read_index(root)
    if not index:
        if (root / "config.json").is_file() and (root / _SCHEDULER).is_file():
            return root
        beside = (root / "scheduler" / _SCHEDULER).is_file()
        bare = [root / name for name in _NETWORK_FOLDERS if (root / name / "config.json").is_file()]
        if beside and len(bare) == 1:
            return bare[0]
        raise _no_model(root)
    name = network_name(root)
    if name in parts_of(index):
        check_class(index[name], root, name)
    is_beside = (root / "config.json").is_file() and not (root / name).is_dir()
    return root if is_beside else root / name


def network_name(root: Path) -> str:
    """What ``model_index.json`` of a folder calls the network: see ``find_network``."""
    index = read_index(root)
    for name in _NETWORK_FOLDERS:
        if index.get(name, _NONE) != _NONE:
            return name
    networks = [
        name
        for name, (module, class_name) in parts_of(index).items()
        if str(module).split(".")[0] in ("diffusers", "opmerge")
        and not str(class_name).endswith("Scheduler")
    ]
    if len(networks) != 1:
        requirement = f"must name a network as {' or '.join(_NETWORK_FOLDERS)}, or one network only"
        raise InputError(str(root / INDEX), requirement, ", ".join(networks) or "none")
    return networks[0]


def _no_model(root: Path) -> InputError:
    value, remedy = None, "pass the folder that `save_pretrained` of a diffusers pipeline wrote"
    if (root / "teacher" / INDEX).is_file():
        remedy = f"pass {root / 'teacher'}"  # of a run that trained one
    elif any(any((root / name).glob(f"{WEIGHTS}*")) for name in ("", *_NETWORK_FOLDERS)):
        value = "a network without its scheduler"
        remedy = "save them together: DDIMPipeline(unet, scheduler).save_pretrained(folder)"
    needed = f"must hold {INDEX}, or config.json and {_SCHEDULER}"
    return InputError(str(root), needed, value, remedy)


def variants_in(place: Path, stem: str | None = None) -> set[str | None]:
    """What the names of a part's whole weights have more, such as fp16; None of the usual name."""
    names = (_WHOLE.fullmatch(path.name) for path in place.glob(f"*{SUFFIX}*"))
    found = [name for name in names if name is not None and name["stem"] == (stem or name["stem"])]
    return {name["one"] or name["old"] or name["new"] for name in found}


def best_variant(variants: Collection[str | None]) -> str | None:
    """The usual one, or else that with the most digits, or the only one.

    Raises:
        LookupError: if there are none, or several of which none is known here.
    """
    known = [each for each in (None, *VARIANTS) if each in variants]
    if not known and len(variants) != 1:
        raise LookupError(", ".join(sorted(map(str, variants))))
    return known[0] if known else next(iter(variants))


def find_variant(place: Path) -> str | None:
    """None for weights of the usual name, whole or in shards, or else what theirs has more.

    Of several variants it is the one with the most digits.

    Raises:
        InputError: if there are no safetensors, or variants of which none is known here.
    """
    try:
        return best_variant(variants_in(place, WEIGHTS))
    except LookupError as error:
        pickled = any(place.glob("*.bin"))
        raise InputError(
            str(place / f"{WEIGHTS}{SUFFIX}"),
            "must exist" + (" (weights in .bin files are not read: they are pickled)" * pickled),
            str(error) or None,
            "save the model again with save_pretrained(..., safe_serialization=True)",
        ) from error
