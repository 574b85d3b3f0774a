"""What to tell of an error that a library ends in because of where it runs, and not of its use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb

import opmerge
from opmerge.errors import InputError

_PREFIXES = (  # of the variables that libraries read
    *("ACCELERATE_", "CUDA", "DASK_", "DIFFUSERS_", "FSDP_", "HF_", "HUGGINGFACE_", "JOBLIB_"),
    *("LOKY_", "MASTER_", "MATPLOTLIB", "MKL_", "MPL", "NCCL_", "NUMBA_", "OMP_", "OPENBLAS_"),
    *("PYDANTIC_", "PYTORCH_", "RAY_", "SKLEARN_", "TOKENIZERS_", "TORCH", "TQDM_"),
    *("TRANSFORMERS_", "USE_", "XLA_"),
)
_TELLING = 3  # letters of a value that are no coincidence
_IMPORTING = "<frozen importlib._bootstrap>"


def library_fault(error: BaseException) -> InputError | None:
    """``variable_fault``, or else the library that cannot be imported.

    None of other errors, and of those of our own.
    """
    places = [place for each in _chain(error) for place in _places(each)]
    if not places or Path(opmerge.__file__).parent in Path(places[-1]).parents:
        return None
    if (fault := variable_fault(error)) is not None:
        return fault
    if _IMPORTING not in places or isinstance(error, ModuleNotFoundError):
        return None
    library = next((each for each in places[::-1] if "site-packages" in each), places[-1])
    name = library.partition("site-packages")[2].strip("/\\").replace("\\", "/").split("/")[0]
    remedy = "install it anew, and look at the variables that it reads"
    need = f"cannot be imported here ({_reason(error)})"
    return InputError(name or library, need, remedy=remedy)


def variable_fault(error: BaseException) -> InputError | None:
    """The variable that a library read and whose value its error quotes, if there is one.

    It read it if the code that failed, or what called it, has the variable's name, or a word that
    its name begins with, such as that of the library.
    """
    told = str(list(_chain(error))[-1])
    texts = {text.lower().rstrip("_") for each in _chain(error) for text in _texts(each)}
    for name, value in os.environ.items():
        word = re.escape(value)
        quoted = rf"\b{word}\b" if len(value) >= _TELLING else f"['\"]{word}['\"]"
        if not (name.startswith(_PREFIXES) and value and re.search(quoted, told, re.I)):
            continue
        words = name.lower().split("_")
        if texts & {"_".join(words[:count]) for count in range(1, len(words) + 1)}:
            requirement = f"must be a value that its library reads ({_reason(error)})"
            return InputError(name, requirement, value, "unset it")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came of, the first cause last."""
    yield error
    while cause := error.__cause__ or error.__context__:
        error = cause
        yield error


def _reason(error: BaseException) -> str:
    first = list(_chain(error))[-1]
    return (str(first).strip() or type(first).__name__).splitlines()[0]


def _places(error: BaseException) -> Iterator[str]:
    """The files of an error's traceback, outermost first."""
    for frame, _ in walk_tb(error.__traceback__):
        yield frame.f_code.co_filename


def _texts(error: BaseException) -> Iterator[str]:
    """The texts in the code of an error's traceback, and in its variables."""
    for frame, _ in walk_tb(error.__traceback__):
        if Path(opmerge.__file__).parent not in Path(frame.f_code.co_filename).parents:
            values = (*frame.f_code.co_consts, *frame.f_locals.values(), *frame.f_globals.values())
            yield from (value for value in values if type(value) is str)
