"""The environment is not ours: what machines, shells and notebooks set is survived or refused."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import opmerge
from opmerge.cli import main
from opmerge.cli.libraries import library_fault
from opmerge.cli.output import show_table
from opmerge.errors import InputError

Program = Callable[..., subprocess.CompletedProcess[str]]
Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

PLAN = ("plan", "eigenvalues:0.2,0.5,2", "--steps", "6")
LEAST = opmerge.find_plan(
    opmerge.Problem(
        opmerge.eigenvalue_spectrum([0.2, 0.5, 2]),
        opmerge.cosine_schedule(6),
        merge_rule="denoiser-copy",
    )
).w2
REPORT = ("plan", "eigenvalues:0.2,0.5,2", "--steps", "6", "--output_dir")
EVALUATE = ("evaluate", "eigenvalues:0.2,0.5,2", "--steps", "6", "--plan", "boot")


def least(output: str) -> float:
    """The W2 distance that ``plan --json`` found."""
    return float(json.loads(output)["best"]["w2"])


# --- numba ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",  # those of one process have no say in one another
    [
        {"NUMBA_NUM_THREADS": "0", "OMP_NUM_THREADS": "99999", "NUMBA_OPT": "9"},
        {"NUMBA_NUM_THREADS": "-1", "OMP_NUM_THREADS": "0", "NUMBA_CPU_NAME": "nonsense"},
        {"NUMBA_NUM_THREADS": "99999", "NUMBA_THREADING_LAYER": "nonsense"},
        {"OMP_NUM_THREADS": "2,1", "NUMBA_THREADING_LAYER_PRIORITY": "omp"},
        {"NUMBA_NUM_THREADS": "many", "NUMBA_CACHE_LOCATOR_CLASSES": "Nowhere"},
        {"NUMBA_CACHE_DIR": os.devnull},
    ],
    ids=str,
)
def test_numba_runs_whatever_its_variables_say(
    variables: dict[str, str], program: Program, seen: Seen
) -> None:
    others = {"OMP_NUM_THREADS": None, "NUMBA_NUM_THREADS": None}
    # what is compiled is kept from one run to the next, but where there is no place for it
    planner = "auto" if "CACHE" in str(variables) else "interval"
    options = ("--json", "--planner", planner, "--max_seconds", 1000)  # compiling takes its time
    done = program(*PLAN, *options, env={**others, **variables})
    seen(f"{variables}", f"exit 0, W2 {LEAST:.6g}", f"exit {done.returncode}")
    assert done.returncode == 0, done.stderr
    assert least(done.stdout) == pytest.approx(LEAST, rel=1e-9)


def test_an_install_and_a_home_that_cannot_be_written_to(
    program: Program, seen: Seen, tmp_path: Path
) -> None:
    """Their places for caches are files, which hold for every user, root too."""
    package = Path(opmerge.__file__).parent
    shutil.copytree(package, tmp_path / "opmerge", ignore=shutil.ignore_patterns("__pycache__"))
    for module in tmp_path.rglob("__init__.py"):
        (module.parent / "__pycache__").touch()
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), os.devnull)
    path = os.pathsep.join([str(tmp_path), str(package.parent)])
    env = {**nowhere, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": None}
    done = program(*REPORT, tmp_path / "run", env=env)
    written = sorted(each.name for each in (tmp_path / "run").iterdir())
    expected = ["config.json", "plan.json", "record.json", "report.html"]
    seen("no place for numba's cache", expected, written)
    assert (done.returncode, written) == (0, expected), done.stderr


def test_a_damaged_cache_costs_a_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    from opmerge.compiling import numba

    module = tmp_path / "doubling.py"
    module.write_text(
        "from opmerge.compiling import kernel\n\n"
        "@kernel()\ndef doubled(number):\n    return 2 * number\n"
    )
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    def files() -> list[Path]:
        return sorted(each for each in (tmp_path / "cache").rglob("*.nb?"))

    def doubled() -> tuple[int, list[int]]:
        return runpy.run_path(str(module))["doubled"](21), [each.stat().st_size for each in files()]

    whole = doubled()
    assert len(files()) == 2, "an index, and what was compiled"
    for path in files():
        path.write_bytes(path.read_bytes()[:20])
    damaged = doubled()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()  # as of a disk that is full: read, and not written to
    unwritable = doubled()
    seen("numba's cache cut off, and gone", "42, whole again; 42", f"{damaged[0]}; {unwritable[0]}")
    assert damaged == whole
    assert unwritable == (42, [])


def test_a_configuration_of_numba_that_is_none_is_one_line(
    tmp_path: Path, program: Program, seen: Seen
) -> None:
    pytest.importorskip("yaml")
    (tmp_path / ".numba_config.yaml").write_text("[1\n")
    done = program(*PLAN, cwd=tmp_path)
    seen(".numba_config.yaml that is not YAML", "exit 2, one line", done.stderr.strip())
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ".numba_config.yaml" in done.stderr


# --- matplotlib -------------------------------------------------------------------------------


def figures(folder: Path) -> list[str]:
    """Of the page; beside them it says how long things took."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return re.findall("<svg.*?</svg>", page, re.DOTALL)


@pytest.fixture(scope="module")
def drawn_here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The figures of this environment, drawn in this process."""
    folder = tmp_path_factory.mktemp("page")
    assert main([*REPORT, str(folder)]) == 0
    return figures(folder)


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, b"text.usetex: True\n"),
        ({"MPLBACKEND": "nonsense"}, b"font.size: \xff\xfe\n"),
        (
            {"HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull, "XDG_CACHE_HOME": os.devnull},
            b"backend: nonsense\nfont.size: 30\naxes.grid: True\nfigure.dpi: 10\n",
        ),
        ({"MATPLOTLIBRC": "/nowhere/matplotlibrc", "MPLCONFIGDIR": os.devnull}, None),
        ({"HOME": None, "TMPDIR": "/nowhere", "SOURCE_DATE_EPOCH": "yesterday"}, None),
    ],
)
def test_figures_depend_on_our_own_style_alone(
    variables: dict[str, str | None],
    settings: bytes | None,
    program: Program,
    drawn_here: list[str],
    seen: Seen,
    tmp_path: Path,
) -> None:
    if settings is not None:
        (tmp_path / "matplotlibrc").write_bytes(settings)
    done = program(*REPORT, tmp_path / "run", env=variables, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count, equal = len(drawn_here), figures(tmp_path / "run") == drawn_here
    seen(f"{variables or settings!r}", f"{count} equal figures", f"{equal=}")
    assert count > 2
    assert equal


def test_a_user_s_style_of_this_process_stays_and_changes_no_figure(seen: Seen) -> None:
    import matplotlib as mpl

    from opmerge.page.plan import spectrum_figure
    from opmerge.plotting import figure_svg

    def drawn() -> str:
        figure = spectrum_figure(PROBLEM.eigenvalues, PROBLEM.spectrum.multiplicities)
        return figure_svg(figure, "spectrum", "eigenvalues")

    expected = drawn()
    with mpl.rc_context({"font.size": 30.0, "axes.grid": True, "lines.dashed_pattern": [1, 1]}):
        got = drawn()
        assert mpl.rcParams["font.size"] == 30.0
    seen("rcParams of a notebook", "the same figure", "the same" if got == expected else "another")
    assert got == expected


PROBLEM = opmerge.Problem(opmerge.eigenvalue_spectrum([0.2, 0.5, 2]), opmerge.cosine_schedule(6))


# --- output -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "NO_COLOR": "1"},
        {"PYTHONIOENCODING": "cp1252", "PYTHONUNBUFFERED": "1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "tr_TR", "LANG": "nonsense"},
    ],
)
def test_what_an_encoding_lacks_is_replaced(
    variables: dict[str, str | None], program: Program, run: Run, seen: Seen
) -> None:
    utf8 = {"PYTHONIOENCODING": None, "PYTHONUTF8": None}
    done = program(*EVALUATE, env={**utf8, **variables})
    words = [each for each in run(*EVALUATE)[1].split() if each.isascii()]
    got = done.stdout.split()
    missing = [word for word in words if word not in got]
    seen(f"{variables}", "exit 0, every ASCII word", f"exit {done.returncode}, missing {missing}")
    assert done.returncode == 0, done.stderr
    assert missing == []


@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_a_stream_that_is_missing_is_an_empty_one(closed: str, seen: Seen, tmp_path: Path) -> None:
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "opmerge.cli", *EVALUATE]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    seen(f"evaluate {closed}", "exit 0, written", f"exit {done.returncode}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "evaluation.json").read_text())["plan"]["w2"] > 0
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (">&- " not in f"{closed} " or closed.startswith("2>"))


@pytest.mark.skipif(os.name != "posix", reason="a shell's pipes")
@pytest.mark.parametrize("reader", ["|", "2>&1 |"])
def test_a_reader_that_closes_early_stops_no_work(reader: str, seen: Seen, tmp_path: Path) -> None:
    shell = f'{{ "$@"; echo $? > {tmp_path}/status; }} {reader} true'
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "opmerge.cli", *EVALUATE]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    status = int((tmp_path / "status").read_text())
    is_whole = (tmp_path / "evaluation.json").exists()
    seen(f"evaluate … {reader} true", "exit 0, written", f"exit {status}, {is_whole=}")
    assert (status, is_whole, done.stderr) == (0, True, "")


@pytest.mark.skipif(os.name != "posix", reason="pipes that never wait")
def test_a_pipe_that_never_waits_gets_everything(seen: Seen) -> None:
    """As of a program in an event loop, whose end of a pipe is that of its children too."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = (
        "from opmerge.cli.streams import prepare_streams; prepare_streams(); print('x' * 10**6)"
    )
    with subprocess.Popen([sys.executable, "-c", writer], stdout=writing) as process:
        os.close(writing)
        with open(reading, "rb") as stream:  # noqa: PTH123 - a file descriptor
            time.sleep(0.5)  # the pipe is full
            count = len(stream.read())
    seen("a full pipe, O_NONBLOCK", "1000001 bytes, exit 0", f"{count} bytes, {process.returncode}")
    assert (count, process.returncode) == (10**6 + 1, 0)


# --- the width of a terminal ------------------------------------------------------------------

HEAD = ("plan", "W2", "90 %", "ratio to best", "network evaluations")
ROWS = [
    ("best found", "8.033e-06", "0.42 … 1.4", "1", "75"),
    ("progressive", "0.66953", "6e-06 … 0.7", "9.218e+04", "123456789"),
]


@pytest.mark.parametrize("columns", ["0", "1", "40", "-5", "wide", "", "100000000", *range(50, 90)])
def test_no_number_is_cut_at_any_width(
    columns: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seen: Seen,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_table("Plans", HEAD, ROWS)
    lines = capsys.readouterr().out.splitlines()
    whole = [cell for row in ROWS for cell in row if any(cell in line for line in lines)]
    if str(columns) in {"0", "40", "wide"}:
        seen(f"COLUMNS={columns}", "10 cells of 10", f"{len(whole)} cells of 10")
    assert len(whole) == 10, "\n".join(lines)
    assert max(map(len, lines)) <= 300
    if str(columns).isdecimal() and 50 <= int(str(columns)) < 300:
        assert max(map(len, lines)) <= int(str(columns))


def test_a_narrow_terminal_sees_every_number_of_a_comparison(
    run: Run, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    def numbers(columns: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        status, out, _ = run("compare", "eigenvalues:0.2,0.5,2", "--steps", 16)
        assert status == 0
        return sorted(re.findall(r"(?<![\w.])\d[\d.]*(?:e[+-]\d+)?(?![\w.…])", out))

    expected, got = numbers(200), numbers(40)
    seen("COLUMNS=40 compare", f"{len(expected)} numbers", f"{len(got)} numbers")
    assert got == expected


@pytest.mark.parametrize("columns", ["0", "40", "80", "99999"])
def test_help_is_whole_at_any_width(
    columns: str, run: Run, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    def words(columns: str) -> str:
        monkeypatch.setenv("COLUMNS", columns)
        out = run("plan", "--help")[1]
        return "".join(sorted(out.translate(dict.fromkeys(map(ord, " \n│─╭╮╰╯")))))

    is_whole = words(columns) == words("200")
    seen(f"COLUMNS={columns} plan --help", "every letter", "every letter" if is_whole else "cut")
    assert is_whole


READS = "import os\nvalue = os.environ.get({name!r}, '')\n{fails}\n"
FAILS = "raise ValueError(f'invalid literal: {value!r}')"


def fault_of(source: str) -> InputError | None:
    """What is told of the error that a library of this source ends in."""
    with pytest.raises(ValueError, match="invalid") as error:
        exec(compile(source, "/usr/lib/site-packages/other/module.py", "exec"), {})
    return library_fault(error.value)


def test_a_variable_is_named_where_it_was_read_and_only_there(
    monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", "junk")
    monkeypatch.setenv("MKL_THREADS", "junk")
    fault = fault_of(READS.format(name="JOBLIB_TEMP_FOLDER", fails=FAILS))
    assert fault is not None
    assert str(fault).startswith("`JOBLIB_TEMP_FOLDER`")
    assert fault_of("value = 'junk'\n" + FAILS) is None  # quoted, and read by nobody
    assert (
        fault_of(READS.format(name="MKL_OTHER", fails=FAILS.replace("{value!r}", "junk"))) is None
    )
    begins = "import os\nbegin = 'JOBLIB_'\nvalue = os.environ[begin + 'temp_folder'.upper()]\n"
    fault = fault_of(begins + FAILS)
    seen("a library that quotes a variable", "named if it read it", str(fault)[:30])
    assert fault is not None


def test_a_study_that_a_variable_stops_names_it(program: Program, seen: Seen) -> None:
    done = program("study", "phase", "--quick", env={"JOBLIB_MULTIPROCESSING": "junk"})
    seen("JOBLIB_MULTIPROCESSING=junk", "exit 2, named", done.stderr.strip()[:60])
    assert done.returncode == 2
    assert "`JOBLIB_MULTIPROCESSING`" in done.stderr
