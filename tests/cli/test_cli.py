"""The command line: contracts of ``--json`` and files, one line and status 2 for bad input."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opmerge import Plan, PlanFile, evaluate
from opmerge.cli import main
from opmerge.plans import build_strategy

Run = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str]) -> str:
    """The one line that a refusal is."""
    status, out, err = result
    assert (status, out) == (2, ""), result
    assert err.startswith("opmerge: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


# The contract of `plan`


def test_json_is_one_object_with_the_contracted_keys(run: Run) -> None:
    status, out, err = run("plan", "eigenvalues:0.2,0.5,2.5", "--steps", 8, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"problem", "best", "strategies", "teacher"}
    assert {"students", "w2", "lower_bound", "gap", "planner", "seconds"} <= set(found["best"])
    for strategy in found["strategies"]:
        assert set(strategy) >= {"name", "w2", "merges", "network_evaluations", "ratio_to_best"}
        assert strategy["ratio_to_best"] == strategy["w2"] / found["best"]["w2"]
    assert found["teacher"]["w2_to_data"] > 0
    assert found["problem"]["steps"] == 8
    assert found["best"]["lower_bound"] <= found["best"]["w2"]
    assert Plan.from_nested(found["best"]["students"]).num_steps == 8


def test_defaults_are_the_contracts(run: Run) -> None:
    problem = json.loads(run("plan", "eigenvalues:0.5", "--steps", 4, "--json")[1])["problem"]
    assert problem["training"] == {"model": "gradient-flow", "time": 6.4}
    assert problem["schedule"]["name"] == "cosine"
    assert problem["student_steps"] == 1
    assert (problem["merge_rule"], problem["objective"]) == ("denoiser-copy", "teacher")


def test_options_accept_hyphens_and_underscores(run: Run) -> None:
    source = ("plan", "eigenvalues:0.5,3", "--json", "--steps", 6)
    one = run(*source, "--student_steps", 2, "--merge_time", 3)
    other = run(*source, "--student-steps", 2, "--merge-time", 3)
    found = [json.loads(result[1]) for result in (one, other)]
    for content in found:
        del content["best"]["seconds"]
    assert found[0] == found[1]
    assert len(found[0]["best"]["students"]) == 2


def test_output_directory_holds_plan_record_page_and_settings(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    status, out, _ = run("plan", "digits", "--steps", 12, "--output_dir", folder)
    assert status == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "plan.json", "record.json", "report.html"}
    file = PlanFile.read(folder / "plan.json")
    assert file.plan.num_steps == 12
    assert file.predicted["lower_bound"] <= file.predicted["w2"]
    assert out.splitlines()[0] in (folder / "report.html").read_text().replace("&#39;", "'")
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["steps"] == 12
    assert config["options"]["seed"] == 0
    assert set(config["versions"]) == {"opmerge", "numpy", "python"}


def test_plan_file_names_its_spectrum_by_the_hash_of_its_eigenvalues(
    run: Run, tmp_path: Path
) -> None:
    run("plan", "eigenvalues:2.5,0.2,0.5", "--steps", 5, "--output_dir", tmp_path)
    spectrum = json.loads((tmp_path / "plan.json").read_text())["spectrum"]
    packed = np.array([2.5, 0.5, 0.2], dtype="<f8").tobytes()
    assert spectrum["sha256"] == hashlib.sha256(packed).hexdigest()
    assert (spectrum["number"], spectrum["min"], spectrum["max"]) == (3, 0.2, 2.5)


def test_the_same_command_gives_the_same_plan_and_page(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run("plan", "eigenvalues:0.1,0.7,3", "--steps", 9, "--output_dir", tmp_path / name)
    one, other = ((tmp_path / name / "plan.json").read_bytes() for name in ("a", "b"))
    assert one == other


def test_report_is_redrawn_from_the_record(run: Run, tmp_path: Path) -> None:
    run("plan", "eigenvalues:0.1,0.7,3", "--steps", 9, "--output_dir", tmp_path)
    page = tmp_path / "report.html"
    before = page.read_text()
    page.unlink()
    assert run("report", tmp_path)[0] == 0
    assert page.read_text() == before


# evaluate, compare, spectrum


def test_evaluate_agrees_with_plan_from_file_and_from_lists(run: Run, tmp_path: Path) -> None:
    source = "eigenvalues:0.3,0.9,4"
    options = ("--steps", 7, "--merge_time", 1.5, "--student_steps", 2)
    planned = json.loads(run("plan", source, *options, "--output_dir", tmp_path, "--json")[1])
    from_file = json.loads(run("evaluate", source, "--plan", tmp_path / "plan.json", "--json")[1])
    lists = json.dumps(planned["best"]["students"])
    from_lists = json.loads(run("evaluate", source, *options, "--plan", lists, "--json")[1])
    assert from_file["plan"]["w2"] == planned["best"]["w2"] == from_lists["plan"]["w2"]
    assert from_file["notes"] == []
    assert sum(merge["share"] for merge in from_file["trace"]) == pytest.approx(1)


def test_evaluate_says_when_the_plan_was_made_for_other_data(run: Run, tmp_path: Path) -> None:
    run("plan", "eigenvalues:0.3,4", "--steps", 6, "--output_dir", tmp_path)
    out = run("evaluate", "eigenvalues:0.3,5", "--plan", tmp_path / "plan.json")[1]
    assert "note: the plan was made for another spectrum" in out


def test_compare_lists_the_strategies_asked_for(run: Run) -> None:
    strategies = ("--strategy", "boot", "--strategy", "phased:4,2")
    status, out, _ = run("compare", "eigenvalues:0.3,4", "--steps", 8, *strategies, "--json")
    assert status == 0
    found = json.loads(out)["strategies"]
    assert [entry["name"] for entry in found] == ["boot", "phased:4,2"]
    assert all(entry["ratio_to_best"] >= 1 - 1e-12 for entry in found)


def test_spectrum_is_saved_and_read_back(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("spectrum", "digits", "--output_dir", tmp_path, "--json")
    assert status == 0
    found = json.loads(out)
    assert (found["dimensions"], found["above_one"]) == (64, 5)
    assert (tmp_path / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    again = json.loads(run("spectrum", tmp_path / "spectrum.npz", "--json")[1])
    assert again["sha256"] == found["sha256"]


def test_a_file_of_eigenvalues(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "values.npy", np.array([0.25, 4.0]))
    out = run("spectrum", tmp_path / "values.npy", "--as", "eigenvalues", "--json")[1]
    assert json.loads(out)["eigenvalues"] == [4.0, 0.25]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a command is missing"),
        (("bogus",), "No such command 'bogus'"),
        (("plan",), "Missing argument 'SOURCE'"),
        (("plan", "digits", "--bogus"), "No such option"),
        (("plan", "nosuch"), "`data` must be digits, patches, faces"),
        (("plan", "digit"), "did you mean digits?"),
        (("plan", "eigenvalues:"), "`eigenvalues` "),
        (("plan", "eigenvalues:nan"), "got nan at position 1"),
        (("plan", "eigenvalues:1,inf"), "got inf at position 2"),
        (("plan", "eigenvalues:1,-2"), "got -2.0 at position 2"),
        (("plan", "eigenvalues:0"), "`eigenvalues` "),
        (("plan", "eigenvalues:a,b"), "`eigenvalues` "),
        (("plan", "digits", "--as", "numbers"), "`as` must be samples or eigenvalues"),
        (("plan", "digits", "--steps", "0"), "`steps` must be >= 1, got 0; pass --steps 64"),
        (("plan", "digits", "--steps", "-3"), "`steps` must be >= 1, got -3"),
        (("plan", "digits", "--steps", "ten"), "Invalid value for '--steps'"),
        (
            ("plan", "digits", "--steps", "9", "--student_steps", "10"),
            "1 to 9, the teacher's steps, got 10",
        ),
        (("plan", "digits", "--student_steps", "0"), "`student_steps` must be from 1 to 64"),
        (("plan", "digits", "--merge_time", "0"), "`merge_time` must be finite and > 0, got 0.0"),
        (("plan", "digits", "--merge_time", "nan"), "`merge_time` must be finite and > 0"),
        (("plan", "digits", "--schedule", "sine"), "`schedule` must be one of cosine"),
        (("plan", "digits", "--merge_rule", "copy"), "`merge_rule` must be one of operator-copy"),
        (("plan", "digits", "--objective", "fid"), "`objective` must be one of teacher, data"),
        (("plan", "digits", "--planner", "best"), "`planner` must be one of auto"),
        (("plan", "digits", "--planner", "scalar"), "`planner` scalar covers a single"),
        (("plan", "digits", "--planner", "brute-force"), "needs num_steps <= 9, got 64"),
        (
            ("plan", "digits", "--planner", "certified", "--objective", "data"),
            "certified covers the objective teacher only, got data; use --planner auto",
        ),
        (("plan", "digits", "--epsilon", "0.1"), "`epsilon` is an option of --planner pareto"),
        (("plan", "digits", "--training", "/nonexistent.json"), "cannot be read"),
        (("plan", "digits", "--strategy", "best"), "`strategy` must be one of vanilla"),
        (("plan", "digits", "--strategy", "temporal:x"), "must have whole numbers"),
        (("evaluate", "digits"), "Missing option '--plan'"),
        (("evaluate", "digits", "--plan", "[[3,2],1"), "must be complete nested lists"),
        (("evaluate", "digits", "--plan", "[3,1]"), "must continue with step 2"),
        (("evaluate", "digits", "--plan", "[[3,2],1]", "--steps", "4"), "must have 4 steps"),
        (("evaluate", "digits", "--plan", "/nonexistent.json"), "cannot be read"),
        (("evaluate", "digits", "--plan", "nonexistent.json"), "cannot be read"),
        (("evaluate", "digits", "--plan", "bot"), "`plan` must be a plan file, a strategy (van"),
        (("evaluate", "digits", "--plan", "bot"), "or nested lists such as [[3,2],1], got bot"),
        (("evaluate", "digits", "--plan", "/"), "cannot be read"),
        (("report", "/nonexistent"), "`run` must be the folder of a plan or of studies, got /"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    if not arguments:
        assert main([]) in (0, 2)  # help
        return
    assert message in refused(run(*arguments))


@pytest.mark.parametrize(
    "command",
    [("plan",), ("compare",), ("evaluate", "--plan", "boot"), ("spectrum",)],
    ids=lambda words: words[0],
)
def test_a_refused_command_leaves_no_folder(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Nor those on the way to it; one that was there stays."""
    kept = tmp_path / "kept"
    kept.mkdir()
    for folder in (kept / "new" / "run", kept, tmp_path / "run"):
        refused(run(*command, "nosuch", "--output_dir", folder))
        assert list(tmp_path.rglob("*")) == [kept]
    assert run(*command, "eigenvalues:0.5", "--output_dir", kept / "new" / "run")[0] == 0
    assert list((kept / "new" / "run").iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" + bytes(40), b"{", b"1,2\n3,x\n"],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".pt", ".safetensors", ".png", ""])
def test_broken_files_are_refused(run: Run, tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    refused(run("plan", path))
    refused(run("plan", path, "--as", "eigenvalues"))
    refused(run("plan", "eigenvalues:1", "--schedule", path))
    refused(run("evaluate", "eigenvalues:1", "--plan", path))
    refused(run("plan", "eigenvalues:1", "--training", path))


def test_a_plan_for_another_number_of_steps_is_refused(run: Run, tmp_path: Path) -> None:
    run("plan", "eigenvalues:0.3,4", "--steps", 6, "--output_dir", tmp_path)
    line = refused(
        run("evaluate", "eigenvalues:0.3,4", "--plan", tmp_path / "plan.json", "--steps", 7)
    )
    assert "`plan` must have 7 steps, as the problem, got 6" in line


def test_an_output_directory_that_is_a_file_is_refused_before_any_work(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    assert "`output_dir` must be a folder" in refused(
        run("plan", "eigenvalues:1", "--output_dir", path)
    )
    assert path.read_text() == "kept"


def test_a_full_disk_leaves_no_half_written_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("plan", "eigenvalues:0.5,3", "--steps", 5, "--output_dir", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    line = refused(run("plan", "eigenvalues:0.5,3", "--steps", 6, "--output_dir", tmp_path))
    assert "cannot be written (No space left on device)" in line
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line() -> None:
    command = [sys.executable, "-m", "opmerge.cli", "plan", "eigenvalues:1", "--steps", "4"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("opmerge: ")
    assert done.stderr.count("\n") == 1


def test_control_c_exits_130_without_a_traceback(tmp_path: Path) -> None:
    planned = ["plan", "faces", "--planner", "pareto", "--steps"]
    main([*planned, "4"])  # numba swallows a Ctrl-C while it compiles: what is compiled is kept
    code = (  # a shell's background jobs are born deaf to Ctrl-C, and tests may run in one
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from opmerge.cli import main, progress; progress._SECONDS_BETWEEN_LINES = 0.0; "
        "raise SystemExit(main())"
    )
    arguments = [*planned, "1000", "--max_seconds", "1e6", "--output_dir", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # of a loop inside the planner, which would run for days
        assert any(line.startswith("planning 1000 steps") for line in process.stderr)
        try:
            for _ in range(1000):  # an impatient person, who must not break off the way out
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _, err = process.communicate(timeout=1)
                    break
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "opmerge: interrupted"  # what was told of progress before
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m opmerge.cli plan eigenvalues:1,2 --steps 30 --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


words = st.text(string.printable, max_size=12)


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["plan", "compare", "evaluate", "spectrum", "--steps", "--json", "--plan", "--as",
                 "3", "eigenvalues:0.5,2", "--schedule", "--merge_time", "-1", "[[2,1]]", "--grey"]
            ),
            words.filter(lambda word: not word.startswith("-h")),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_command_line_ends_in_status_0_or_2(arguments: list[str]) -> None:
    if "--output_dir" not in arguments:
        assert main([*arguments]) in (0, 2)


@settings(max_examples=150)
@given(st.one_of(words, words.map("eigenvalues:{}".format), st.text(max_size=30)))
def test_any_source_is_read_or_refused(source: str) -> None:
    assert main(["spectrum", "--", source]) in (0, 2)


# Start-up


@pytest.mark.parametrize(
    ("work", "more"),
    [
        ("import opmerge", ("numpy", "pydantic", "click", "rich")),
        ("from opmerge.cli import main; main(['--help'])", ("numpy", "pydantic")),
        ("from opmerge.cli import main; main(['plan', '--help'])", ("numpy",)),
    ],
)
def test_start_up_loads_nothing_heavy(work: str, more: tuple[str, ...]) -> None:
    heavy = ("torch", "matplotlib", "numba", "scipy", "sklearn", "pandas", "jinja2", "PIL", *more)
    code = f"import sys; {work}; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_exist() -> None:
    import opmerge

    for name in opmerge.__all__:
        assert getattr(opmerge, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = opmerge.nothing


def test_a_strategy_is_evaluated_by_its_name(run: Run) -> None:
    options = ("evaluate", "eigenvalues:0.3,0.9,4", "--student_steps", 2, "--json", "--plan")
    named = json.loads(run(*options, "uniform:3", "--steps", 7)[1])
    lists = json.dumps(named["plan"]["students"])
    assert named == json.loads(run(*options, lists)[1])
    assert named["plan"]["students"] == build_strategy("uniform:3", 7, 2).to_nested()
    whole = run("evaluate", "eigenvalues:0.3", "--plan", "vanilla", "--json")[1]
    assert json.loads(whole)["problem"]["steps"] == 64


def test_evaluate_is_the_librarys(run: Run) -> None:
    from opmerge import Problem, cosine_schedule, eigenvalue_spectrum

    problem = Problem(eigenvalue_spectrum([0.3, 0.9, 4]), cosine_schedule(6))
    expected = evaluate(problem, build_strategy("boot", 6)).w2
    lists = "[[[[[6,5],4],3],2],1]"
    out = run("evaluate", "eigenvalues:0.3,0.9,4", "--plan", lists, "--json")[1]
    assert json.loads(out)["plan"]["w2"] == expected
