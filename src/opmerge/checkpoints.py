"""What a run keeps to go on from: checkpoints, complete and one's own or refused, and its log.

A checkpoint, ``checkpoint-N/`` as in diffusers, is what ``Accelerator.save_state`` writes (weights,
optimizer, learning rate, random states), the tensors that the run adds (networks in place, moving
average), and ``checkpoint.json``: where the run is, what it is a run of, and the SHA-256 of every
file. The folder gets its name when all of it is on disk, so whatever has the name was whole once.
Nothing is unpickled but by torch with ``weights_only``.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from opmerge.errors import InputError
from opmerge.files import (
    GO_ON,
    open_file,
    parse_json,
    read_text,
    remove_folder,
    replace_folder,
    why_not_written,
    write_atomic,
)
from opmerge.store import digest, file_digest

FORMAT = "opmerge.checkpoint"
VERSION = 1
_MANIFEST = "checkpoint.json"
_TENSORS = "tensors.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole, after so many iterations; its state is JSON values."""

    folder: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the run added."""
        path = self.folder / _TENSORS
        return load_file(path) if path.exists() else {}

    def restore(self, accelerator: Accelerator) -> None:
        """Give network, optimizer, schedule and torch's random states back."""
        accelerator.wait_for_everyone()
        accelerator.load_state(str(self.folder))
        accelerator.step = 0  # it counts parts of batches, and a continuation may cut them anew


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run.

    Args:
        identity: digest of everything that the result depends on.
        limit: how many are kept, the newest.
        warn: told in one line about every checkpoint that is refused.
    """

    folder: Path
    identity: str
    limit: int
    warn: Callable[[str], None]

    def save(
        self, accelerator: Accelerator, step: int, state: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        """Write ``checkpoint-{step}`` and remove the oldest beyond the limit.

        Raises:
            InputError: if it cannot be written; earlier checkpoints are left as they are.
        """
        target = self.folder / f"checkpoint-{step}"
        unfinished = self.folder / f".checkpoint-{step}.unfinished"
        try:
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(unfinished))
            accelerator.wait_for_everyone()
            if not accelerator.is_main_process:
                return
            if tensors:
                whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
                save_file(whole, unfinished / _TENSORS)
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "identity": self.identity,
                "step": step,
                "state": state,
                "files": {path.name: file_digest(path) for path in sorted(unfinished.iterdir())},
            }
            manifest["digest"] = digest(manifest)
            write_atomic(unfinished / _MANIFEST, json.dumps(manifest, indent=2) + "\n")
            replace_folder(target, unfinished)
        except (OSError, RuntimeError, SafetensorError, InputError) as error:
            reason = why_not_written(error, self.folder)
            shutil.rmtree(unfinished, ignore_errors=True)
            raise InputError(str(target), f"cannot be written ({reason})", remedy=GO_ON) from error
        for old in self._newest_first(step)[self.limit :]:
            remove_folder(old)

    def find(self, wanted: str) -> Checkpoint | None:
        """The checkpoint to go on from, or the newest whole one before it; None if there are none.

        ``wanted`` is ``latest``, or the name or path of a checkpoint of this run.

        Raises:
            InputError: if the one that is named does not exist, or all that exist are refused.
        """
        candidates, refused = self._newest_first(), []
        if wanted != "latest":
            names = [path.name for path in candidates]
            if Path(wanted).name not in names:
                requirement = f"must be latest or a checkpoint in {self.folder}"
                remedy = f"there are: {', '.join(names) or 'none'}"
                raise InputError("resume_from_checkpoint", requirement, wanted, remedy)
            candidates = candidates[names.index(Path(wanted).name) :]
        for path in candidates:
            found = self._read(path)
            if isinstance(found, Checkpoint):
                return found
            refused.append(f"{path.name} {found}")
            self.warn(f"{path} is refused: it {found}")
        if refused:
            requirement = "must find a whole checkpoint of this run"
            remedy = "start anew in another `folder`"
            raise InputError("resume_from_checkpoint", requirement, "; ".join(refused), remedy)
        return None

    def _read(self, folder: Path) -> Checkpoint | str:
        """The checkpoint, or why it is refused."""
        try:
            with open_file(folder / _MANIFEST) as stream:
                manifest = parse_json(stream.read().decode())
            if reason := self._why_not(manifest):
                return reason
            for name, known in manifest["files"].items():
                if file_digest(folder / name) != known:
                    return f"is torn ({name} is damaged)"
            return Checkpoint(folder, int(manifest["step"]), dict(manifest["state"]))
        except FileNotFoundError as error:
            return f"is torn ({Path(error.filename).name} is missing)"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        except (ValueError, LookupError, TypeError, RecursionError):
            return f"is torn ({_MANIFEST} is damaged)"

    def _why_not(self, manifest: dict[str, Any]) -> str:
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            return "is of another format or version"
        if manifest.pop("digest") != digest(manifest):
            return f"is torn ({_MANIFEST} is damaged)"
        if manifest["identity"] != self.identity:
            return "is of another run (plan, teacher, data or settings differ)"
        return ""

    def _newest_first(self, most: float = math.inf) -> list[Path]:
        """Checkpoints of at most so many iterations: those beyond are another run's, or torn."""
        found = {
            int(path.name.removeprefix("checkpoint-")): path
            for path in self.folder.glob("checkpoint-*")
            if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()
        }
        return [found[step] for step in sorted(found, reverse=True) if step <= most]


class MetricsLog:
    """``metrics.jsonl`` of a run directory: a line an iteration that is logged.

    What a killed run logged beyond its checkpoint, after ``step`` iterations, is dropped first.

    Raises:
        InputError: here and from ``write``, if it cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        with self._writing():
            lines = read_text(path).splitlines(True) if path.exists() else []
            write_atomic(path, "".join(line for line in lines if _step_of(line) <= step))

    def write(self, **values: Any) -> None:
        """Append one line; ``step`` must be among the values."""
        with self._writing(), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise InputError(str(self._path), reason, remedy=GO_ON) from error


def _step_of(line: str) -> float:
    """Step of a line, infinite for one that was cut off."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
