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
    """The variable whose value a library's error quotes, or the library that cannot be imported.

    None of other errors, and of those of our own.
    """
    outer, places = error, list(_places(error))
    while cause := error.__cause__ or error.__context__:
        error = cause
        places += _places(error)
    if not places or Path(opmerge.__file__).parent in Path(places[-1]).parents:
        return None
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    for name, value in os.environ.items():
        word = re.escape(value)
        quoted = rf"\b{word}\b" if len(value) >= _TELLING else f"['\"]{word}['\"]"
        if name.startswith(_PREFIXES) and value and re.search(quoted, str(error), re.I):
            requirement = f"must be a value that its library reads ({reason})"
            return InputError(name, requirement, value, "unset it")
    if _IMPORTING not in places or isinstance(outer, ModuleNotFoundError):
        return None
    library = next((each for each in places[::-1] if "site-packages" in each), places[-1])
    name = library.partition("site-packages")[2].strip("/\\").replace("\\", "/").split("/")[0]
    remedy = "install it anew, and look at the variables that it reads"
    return InputError(name or library, f"cannot be imported here ({reason})", remedy=remedy)


def _places(error: BaseException) -> Iterator[str]:
    """The files of an error's traceback, outermost first."""
    for frame, _ in walk_tb(error.__traceback__):
        yield frame.f_code.co_filename
