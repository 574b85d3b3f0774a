"""Any environment: the same numbers, or one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest
from fuzzing import answered, finished, fuzz, numbers
from hypothesis import strategies as st
from oracles import DirectTheory, Setting

from opmerge import cosine_schedule
from opmerge.plans import build_strategy

Run = Callable[..., tuple[int, str, str]]

SETTING = Setting(cosine_schedule(5), (1.2, 0.3), merge_rule="denoiser-copy")
DIRECT = DirectTheory(SETTING, 60)
BOOT = float(DIRECT.distances(DIRECT.plan(build_strategy("boot", 5).to_nested())[0]))
PROBLEM = ("eigenvalues:0.3,1.2", "--steps", "5")

ALWAYS = ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "RANK", "LOCAL_RANK", "WORLD_SIZE",
          "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE", "HOME", "TMPDIR", "TMP", "XDG_CACHE_HOME",
          "XDG_CONFIG_HOME", "HF_HOME", "TRANSFORMERS_VERBOSITY", "SOURCE_DATE_EPOCH",
          "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "LOKY_MAX_CPU_COUNT", "JOBLIB_TEMP_FOLDER",
          "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_MIXED_PRECISION", "CI")  # fmt: skip
"""Variables that a command may ask at any time."""

AT_START = (*ALWAYS, "MPLBACKEND", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "NUMBA_THREADING_LAYER",
            "NUMBA_DISABLE_JIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LANG", "LC_ALL", "TZ",
            "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONSAFEPATH", "VIRTUAL_ENV")  # fmt: skip
"""Variables that libraries, or Python, read when they start."""

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
usual = st.sampled_from(["", "0", "1", "true", "/", "/nowhere", ".", "C", "agg", "dumb", "2,2"])
values = st.one_of(usual, numbers, words)
encodings = st.sampled_from([None, None, "ascii", "cp1252", "utf-8:strict", "utf-16", "shift_jis"])


def is_boot(result: tuple[int, str, str], key: str) -> None:
    if answered(result):
        found = json.loads(result[1])[key]
        assert found["w2"] == pytest.approx(BOOT, rel=1e-9)


@fuzz(1_600, changes=st.dictionaries(st.sampled_from(ALWAYS), values, max_size=4))
def test_variables(changes: Mapping[str, str], run: Run) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in changes.items():
            patched.setenv(name, value)
        evaluated = run("evaluate", *PROBLEM, "--plan", "boot", "--json")
        told = run("compare", *PROBLEM)
    is_boot(evaluated, "plan")
    if answered(told):  # no number is cut, however narrow the terminal
        assert f"{BOOT:.4g}" in told[1]
        assert "…" not in told[1]


@fuzz(
    400,
    in_time=False,
    changes=st.dictionaries(st.sampled_from(AT_START), values, max_size=4),
    encoding=encodings,
)
def test_variables_of_a_process(
    changes: Mapping[str, str], encoding: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    changes = {**changes, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    words = [sys.executable, "-m", "opmerge.cli", "evaluate", *PROBLEM, "--plan", "boot", "--json"]
    with (folder / "out").open("w+b") as out, (folder / "err").open("w+b") as err:
        process = subprocess.Popen(
            words, env={**os.environ, **changes}, cwd=folder, stdout=out, stderr=err
        )
        status = finished(process)
        told = []
        for stream in (out, err):
            stream.seek(0)
            told.append(stream.read().decode(encoding.split(":")[0] if encoding else "utf-8"))
    is_boot((status, told[0], told[1]), "plan")
