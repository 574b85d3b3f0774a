"""What the files of a model's folder may name: parts inside it, and classes that are known here.

A folder is anyone's. Its ``model_index.json`` names modules, which some versions of diffusers
import or take from the folder itself, and indices of weights name files. Both are looked at before
a library acts on them, and nothing that is named is imported for the sake of looking.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opmerge.errors import InputError
from opmerge.files import check_inside, read_json_object
from opmerge.settings.networks import MOST_LAYERS

_OWN = {
    ("opmerge.denoisers.networks", "MLPDenoiser"),
    ("opmerge.distillation.networks", "MLPDenoiser"),  # of version 0.1
    ("opmerge.distillation.scheduler", "JumpScheduler"),
    ("opmerge.distillation.experts", "TimestepExperts"),
}
_OF_TRANSFORMERS = (
    "PreTrainedModel",
    "PreTrainedTokenizerBase",
    "FeatureExtractionMixin",
    "ImageProcessingMixin",
)
_LAYERS = "layers"  # in the names of settings that say how many
_REMEDY = "code that lies in a folder is not run: import a module of your own before, in Python"


def check_index(index: Mapping[str, Any], place: Path) -> None:
    """Refuse a ``model_index.json`` whose parts are outside its folder or are no class and module.

    Raises:
        InputError: naming the part.
    """
    for name, entry in parts_of(index).items():
        check_inside(name, place)
        is_none = entry == [None, None]
        if not is_none and not (len(entry) == 2 and all(isinstance(each, str) for each in entry)):
            requirement = "must be a module and the class in it"
            raise InputError(f"{place}: {name}", requirement, entry)


def parts_of(index: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The entries of a ``model_index.json`` that are parts of the pipeline, not settings of it."""
    lists = {k: v for k, v in index.items() if isinstance(v, list) and not k.startswith("_")}
    none = [None, None]
    return {k: v for k, v in lists.items() if v == none or any(isinstance(e, str) for e in v)}


def check_classes(index: Mapping[str, Any], root: Path) -> None:
    """Refuse a pipeline's folder of which a part is of no known class, or lies beside code for it.

    Known are models and schedulers of diffusers and of this package, models, tokenizers and image
    processors of transformers, and what is a model class of a module that is imported already.

    Raises:
        InputError: naming the part.
    """
    for name, entry in parts_of(index).items():
        if entry != [None, None]:
            check_class(entry, root, name)
    if (root / "None.py").exists():  # which diffusers takes for the pipeline's own code
        raise InputError(str(root / "None.py"), "must not be there", remedy=_REMEDY)


def check_class(entry: list[Any], root: Path, name: str) -> None:
    """Refuse one part of ``check_classes``."""
    module, class_name = entry
    found = _find(module, class_name)
    beside = root / name / f"{module}.py"
    if not _is_known(found) or beside.is_file():
        requirement = "must be a class of diffusers, transformers or opmerge"
        value = f"{module}.{class_name}"
        raise InputError(f"{root / 'model_index.json'}: {name}", requirement, value, _REMEDY)


def _find(module: str, class_name: str) -> Any:
    """The class of that name; True for one of ours, None for one that libraries do not have."""
    if (module, class_name) in _OWN:
        return True
    import diffusers

    if module == "diffusers":
        library: Any = diffusers
    elif module == "transformers":
        import transformers as library
    elif hasattr(diffusers.pipelines, module):
        library = getattr(diffusers.pipelines, module)
    else:
        return getattr(sys.modules.get(module), class_name, object)
    return getattr(library, class_name, None)


def _is_known(found: Any) -> bool:
    if found is None or found is True:
        return True  # nothing that a library could act on, or our own
    if not isinstance(found, type):
        return False
    import diffusers

    known: list[type] = [diffusers.ModelMixin, diffusers.SchedulerMixin]
    if "transformers" in sys.modules:
        library = sys.modules["transformers"]
        known += filter(None, (getattr(library, name, None) for name in _OF_TRANSFORMERS))
    is_stand_in = ".dummy" in found.__module__  # of a class whose package is not installed
    return is_stand_in or issubclass(found, tuple(known))


def check_sizes(config: Mapping[str, Any], place: Path) -> None:
    """Refuse a network's config that asks for more layers than any has: it would never be built.

    Raises:
        InputError: naming the setting.
    """
    for name, value in config.items():
        numbers = value if isinstance(value, list) else [value]
        most = max((n for n in numbers if isinstance(n, int)), default=0) if _LAYERS in name else 0
        if max(most, len(numbers)) > MOST_LAYERS:
            requirement = f"must be at most {MOST_LAYERS:,}"
            raise InputError(f"{place}: {name}", requirement, max(most, len(numbers)))


def check_shards(place: Path) -> None:
    """Refuse a folder of weights whose indices name files outside it.

    Raises:
        InputError: naming the index.
    """
    for path in sorted(place.glob("*.index*.json")):
        files = read_json_object(path).get("weight_map")
        if not isinstance(files, dict):
            raise InputError(str(path), "must have a weight_map of tensors and files", files)
        for file in set(map(str, files.values())):
            check_inside(file, path)
