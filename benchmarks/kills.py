"""``python -m benchmarks.kills``: runs that are killed at random moments end as if they were not.

Every command runs once undisturbed, then again and again in new folders, where ``kill -9`` ends it
at a random moment; started again with the same words it must end with the same bits on a CPU, and
leave nothing unfinished behind. Prints a table and writes ``benchmarks/kills.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("kills.json")
KILLS = 10  # of each command
LOADED = (  # so that moments fall on what commands do, not on imports
    "diffusers",
    "scipy.optimize",
    "torch.utils.tensorboard",
    "opmerge.cli.planning",
    "opmerge.cli.training",
    "opmerge.distillation",
    "opmerge.latents.preparing",
    "opmerge.measure.calibration",
    "opmerge.page",
    "opmerge.planners.budget",
    "opmerge_studies.phase",
)
SMALL = ("--hidden_size", 16, "--num_layers", 1, "--train_batch_size", 32)

# what tells of the run itself and not of its result: times, and where it was
_VOLATILE = re.compile(r'"(?:\w*seconds\w*|time|hardware|output_dir|git_commit)":[^,}\]]*')
_LEFT_BEHIND = ("**/.*", "**/*.unfinished", "**/*.old")

Words = Sequence[object]


def commands(base: Path) -> dict[str, Callable[[Path], Words]]:
    """Each command, by the folder that it writes; none takes more than some seconds."""
    teacher = ("--teacher", base / "teacher" / "teacher")
    labelled = ("--teacher", base / "labelled" / "teacher", "--labels", "digits")
    often = ("--checkpointing_steps", 7, "--resume_from_checkpoint", "latest")
    distill = ("--plan", "boot", "--steps", 6, "--num_iterations", 25, "--train_batch_size", 16)
    calibrate = ("--steps", 8, "--num_iterations", 12, "--train_batch_size", 16)
    study = ("--num_workers", 1, "--set", "steps=[16,24]", "--set", "denoiser_steps=[16]")
    plan = ("--steps", 12, "--budget", "1e6", "--max_seconds", 3600)
    return {
        "distill": lambda out: ("distill", "digits", *teacher, *distill, *often, *_to(out)),
        "calibrate": lambda out: ("calibrate", "digits", *teacher, *calibrate, *_to(out)),
        "prepare": lambda out: ("prepare", "digits", *labelled, "--shard_size", 64, *_to(out)),
        "study": lambda out: ("study", "phase", "--quick", *study, *_to(out)),
        "plan --budget": lambda out: ("plan", "digits", *plan, *_to(out)),
    }


def _to(folder: Path) -> Words:
    return "--output_dir", folder


def main() -> None:
    """Kill, resume, compare; status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    moments = random.Random(asked.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name, more in (("teacher", ()), ("labelled", ("--labels", "digits"))):
            words = ("train-teacher", "digits", *more, *SMALL, "--num_iterations", 5)
            assert _finish(context, (*words, *_to(base / name))) == 0
        for name, command in commands(base).items():
            rows.append(_row(context, name, command, base, asked.kills, moments))
            print(" | ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
    RESULTS.write_text(json.dumps({"seed": asked.seed, "commands": rows}, indent=2) + "\n")
    wrong = [r["command"] for r in rows if r["same bits"] < r["kills"] or r["left behind"]]
    raise SystemExit(f"not as undisturbed: {', '.join(wrong)}" if wrong else 0)


def _row(
    context: Any,
    name: str,
    command: Callable[[Path], Words],
    base: Path,
    kills: int,
    moments: random.Random,
) -> dict[str, Any]:
    began = time.perf_counter()
    whole = base / name / "whole"
    assert _finish(context, command(whole)) == 0
    seconds, expected = time.perf_counter() - began, _content(whole)
    same, left_behind, killed = 0, set(), 0
    for number in range(kills):
        folder = base / name / str(number)
        status = 0
        while status != -signal.SIGKILL:  # a run that ended before its moment starts anew
            folder = folder.with_name(f"{folder.name}-")
            status = _finish(context, command(folder), moments.uniform(0.0, seconds))
        killed += 1
        same += _finish(context, command(folder)) == 0 and _content(folder) == expected
        left_behind |= set(_left_behind(folder))
    return {
        "command": name,
        "seconds": round(seconds, 1),
        "kills": killed,
        "same bits": same,
        "left behind": sorted(left_behind),
    }


def _finish(context: Any, words: Words, seconds: float | None = None) -> int:
    """The exit status of the command line, killed after so many seconds if it still runs."""
    process = context.Process(target=_run, args=([str(word) for word in words],))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode)


def _run(words: list[str]) -> None:
    from opmerge.cli import main as command_line

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    raise SystemExit(command_line(words))


def _content(folder: Path) -> dict[str, str]:
    """What a run left: every file by its digest, without what tells of the run itself."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(_lasting(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_passing(path, folder)
    }


def _is_passing(path: Path, folder: Path) -> bool:
    """Whether a file is of the run and not of its result: checkpoints, event logs, drawings."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(("checkpoint-", "logs", ".")) for part in parts) or path.suffix in (
        ".html",
        ".png",
    )


def _lasting(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        with suppress(UnicodeDecodeError):
            return _VOLATILE.sub("", content.decode()).encode()
    return content


def _left_behind(folder: Path) -> Iterator[str]:
    for pattern in _LEFT_BEHIND:
        for path in folder.glob(pattern):
            yield re.sub(r"[0-9a-f]{8}$", "*", path.name)


if __name__ == "__main__":
    main()
