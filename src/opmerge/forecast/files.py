"""Files of a calibration: the teacher's table, and what ``calibration.json`` says of the law.

A table is stored as its deviations D², in float32: they keep their own precision there, which
differences of stored products would not.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.files import check_inside, load_npz, parse_json, read_json_object, write_atomic
from opmerge.forecast.law import FittedLaw
from opmerge.forecast.table import TeacherTable
from opmerge.schedules import NoiseSchedule
from opmerge.settings.guidance import GuidanceRecord, check_guidance_record
from opmerge.store import digest, file_digest

FORMAT = "opmerge.calibration"
VERSION = 2
TABLE_FILE = "table.npz"

DIGEST = "sha256"
"""The key of a calibration under which stands the digest of all others."""

_TABLE = {"format": "opmerge.table", "version": 1}
_AGAIN = "run `opmerge calibrate` again, which keeps finished probes"
_SCHEDULES_DIFFER = 1e-6  # in alpha or sigma: more than float32 rounds


@dataclass(frozen=True, eq=False)
class CalibrationFile:
    """What plans are forecast with: the law and the table of one network, and for which settings.

    Args:
        settings: of the runs that it is for (``DistillationConfig.what_decides``).
        teacher_sha256: of weights and sampler.
        network_evaluations: of one sample, that probes and table took.
        guidance: of the teacher.
    """

    law: FittedLaw
    table: TeacherTable
    settings: Mapping[str, Any]
    teacher_sha256: str
    network_evaluations: float
    guidance: GuidanceRecord = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """At which the probes were trained."""
        return float(self.settings["optimization"]["learning_rate"])

    def check(
        self,
        *,
        teacher_sha256: str | None = None,
        schedule: NoiseSchedule | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse to forecast for another teacher, schedule or settings, where they are given.

        Of settings those count that the law depends on: all but the seed and the iterations.

        Raises:
            InputError: which names what differs.
        """
        if teacher_sha256 not in (None, self.teacher_sha256):
            _refuse("teacher", self.teacher_sha256[:12], str(teacher_sha256)[:12])
        own = self.table.schedule
        if schedule is not None:
            if schedule.num_steps != own.num_steps:
                _refuse("steps", own.num_steps, schedule.num_steps)
            for name in ("alphas", "sigmas"):
                apart = np.abs(getattr(schedule, name) - getattr(own, name))
                if apart.max() > _SCHEDULES_DIFFER:
                    t = int(apart.argmax())
                    ends = (getattr(each, name)[t] for each in (own, schedule))
                    _refuse("schedule", *(f"{name[:-1]}_{t} = {end:.4g}" for end in ends))
        if settings is not None:
            mine, yours = _flat(self.settings), _flat(settings)
            for name in sorted(mine.keys() | yours.keys()):
                if mine.get(name) != yours.get(name):
                    _refuse(name, mine.get(name, "the default"), yours.get(name, "the default"))


def write_table(path: str | os.PathLike[str], table: TeacherTable) -> str:
    """Write ``table.npz`` and return its SHA-256.

    Raises:
        InputError: if it cannot be written.
    """
    own = np.arange(len(table.nodes))
    squares = np.einsum("jkkg->jkg", table.products)
    deviations = squares[:, :, None] + squares[:, None] - 2 * table.products
    deviations = np.maximum(deviations, 0.0) * (own <= own[:, None])[:, :, None, None]
    deviations *= (own <= own[:, None])[:, None, :, None]
    header = {
        **_TABLE,
        "steps": table.num_steps,
        "schedule": table.schedule.to_dict(),
        "output_spread": table.output_spread,
        "is_nonlinear": table.is_nonlinear,
    }
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        header=np.array(json.dumps(header)),
        nodes=table.nodes,
        deviations=deviations.astype(np.float32),
        gains=table.gains.astype(np.float32),
        sizes=table.sizes.astype(np.float32),
        free_steps=np.float32(table.free_steps),
    )
    content = stream.getvalue()
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def read_table(path: str | os.PathLike[str]) -> TeacherTable:
    """Read ``write_table``: products are those of estimates less the network's own.

    Raises:
        InputError: if the file is none, or damaged.
    """
    try:
        arrays = load_npz(path)
        header = parse_json(str(arrays["header"]))
        if {name: header[name] for name in _TABLE} != _TABLE:
            raise ValueError("another format")
        names = ("deviations", "gains", "sizes", "free_steps")
        deviations, gains, sizes, free = (arrays[name].astype(np.float64) for name in names)
        own = np.arange(len(deviations))
        relative = deviations[own, own]  # (M+1, M+1, G) from the network's own estimate
        products = (relative[:, :, None] + relative[:, None] - deviations) / 2
        return TeacherTable(
            NoiseSchedule.from_dict(header["schedule"], header["steps"]),
            arrays["nodes"].astype(np.int64),
            products,
            gains,
            sizes,
            float(header["output_spread"]),
            bool(header["is_nonlinear"]),
            free,
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        requirement = f"must be the table of a calibration ({type(error).__name__})"
        raise InputError(str(path), requirement, remedy=_AGAIN) from error


def check_content(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuse the content of a ``calibration.json`` of a version that is not known here, or another
    than what was written; of before it had a digest, that is not known.

    Raises:
        InputError: which says so.
    """
    version = content.get("version")
    if type(version) is not int or version not in (1, VERSION):
        remedy = "read it with the version of opmerge that wrote it"
        raise InputError(f"{path}: version", f"must be 1 or {VERSION}", version, remedy)
    if DIGEST in content and content[DIGEST] != content_digest(content):
        remedy = f"{_AGAIN}; or delete its {DIGEST} if you mean what it says now"
        raise InputError(str(path), "must be as it was written: it was changed", remedy=remedy)


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a ``calibration.json``, its own digest apart."""
    return digest({key: value for key, value in content.items() if key != DIGEST})


def read_calibration(path: str | os.PathLike[str]) -> CalibrationFile:
    """Read ``calibration.json`` and the table beside it.

    Raises:
        InputError: if it is none, or of version 1, which has no law; if its table is missing,
            another than that which it was written with, or not beside it.
    """
    content = read_json_object(Path(path))
    if content.get("format") != FORMAT:
        raise InputError(str(path), "must be a calibration.json of `opmerge calibrate`")
    check_content(content, path)
    if "law" not in content:
        raise InputError(
            str(path), "must hold a law of merges, which version 1 did not", remedy=_AGAIN
        )
    try:
        law = FittedLaw.from_dict(content["law"])
        table = Path(path).parent / check_inside(content["table"]["file"], path)
        if not table.is_file() or file_digest(table) != content["table"]["sha256"]:
            raise InputError(
                str(table), "must be the table that the calibration came with", remedy=_AGAIN
            )
        evaluations = sum(content["network_evaluations"].values())
        settings, teacher = content["settings"], content["teacher_sha256"]
        known = read_table(table)
        law.law.for_groups(len(known.sizes))  # refuses another number of rates
        check_number(f"{path}: network_evaluations", evaluations)
        guidance: GuidanceRecord = {}
        if "guidance" in content:
            place = f"{path}: guidance"
            guidance = check_guidance_record(content["guidance"], known.num_steps, place)
        return CalibrationFile(law, known, settings, teacher, evaluations, guidance)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(
            str(path), f"must be whole ({error!r} is missing)", remedy=_AGAIN
        ) from error


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a law depends on, those of the optimization among them."""
    inner = settings.get("optimization", {})
    every = {**{k: v for k, v in settings.items() if k != "optimization"}, **inner}
    free = ("seed", "num_iterations", "merge_seconds", "budget", "budget_split", "data_free")
    return {name: value for name, value in every.items() if name not in free}


def _refuse(name: str, own: object, asked: object) -> None:
    raise InputError(name, f"must be {own}, as the calibration's", asked, "calibrate for it")
