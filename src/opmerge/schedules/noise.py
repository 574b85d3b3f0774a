"""Noise schedules: the signal and noise coefficients of the states ``z_0 … z_T``.

Every constructor refuses, by ``InputError``, a number of steps T that is not whole and >= 1.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from opmerge.arrays import Array
from opmerge.checks import check_notes, check_number, check_steps, check_vector, check_whole
from opmerge.errors import InputError

MAX_TRAIN_TIMESTEPS = 1_000_000
_VARIANCE_TOLERANCE = 1e-6
_STORED: dict[str, tuple[type, str]] = {
    "name": (str, "a string"),
    "parameters": (Mapping, "an object"),
    "alphas": (list, "a list of numbers"),
    "sigmas": (list, "a list of numbers"),
    "timesteps": (list, "a list"),
    "notes": (list, "a list"),
}


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Coefficients of ``z_t = alpha_t x_0 + sigma_t eps``, ``t = 0 … T`` (THEORY 1).

    The signal-to-noise ratio ``alpha_t / sigma_t`` falls strictly with ``t``. Variance
    preservation is not required; where ``alpha_t² + sigma_t²`` is not 1, a note says so.

    Args:
        alphas: signal coefficients, shape (T+1,), index 0 on the data side; made read-only.
        sigmas: noise coefficients, shape (T+1,); made read-only.
        name: where the coefficients come from.
        parameters: what rebuilds them, together with the name; JSON values only.
        timesteps: the network's timesteps of ``z_1 … z_T`` (index ``k`` belongs to step
            ``k + 1``), where the schedule comes from diffusers: whole numbers, or floats where
            its time is continuous; they rise or fall throughout.
        notes: what the linear theory leaves out, one line each.

    Raises:
        InputError: if the coefficients are not two finite, non-negative vectors of one length
            >= 2 with a strictly falling ratio, or if another field does not fit them.
    """

    alphas: Array
    sigmas: Array
    name: str = "arrays"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timesteps: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        alphas, sigmas = check_vector("alphas", self.alphas), check_vector("sigmas", self.sigmas)
        _check_coefficients(alphas, sigmas)
        notes = check_notes(self.notes)
        deviation = np.max(np.abs(alphas**2 + sigmas**2 - 1))
        note = f"not variance preserving: alpha² + sigma² differs from 1 by up to {deviation:g}"
        if deviation > _VARIANCE_TOLERANCE and note not in notes:
            notes += (note,)
        if not isinstance(self.name, str) or not self.name:
            raise InputError("name", "must be a string that is not empty", repr(self.name))
        for key, value in (
            ("alphas", alphas),
            ("sigmas", sigmas),
            ("parameters", _json_copy(self.parameters)),
            ("timesteps", _check_timesteps(self.timesteps, len(alphas) - 1)),
            ("notes", notes),
        ):
            object.__setattr__(self, key, value)

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return len(self.alphas) - 1

    def to_dict(self) -> dict[str, Any]:
        """The schedule as JSON values, for plan files.

        A schedule that its name and parameters rebuild exactly is stored as those alone; any
        other with its arrays and, where there are any, its parameters, timesteps and notes.
        """
        stored: dict[str, Any] = {"name": self.name, "parameters": _json_copy(self.parameters)}
        if self._is_rebuilt_by_name():
            return stored
        stored |= {
            "alphas": self.alphas.tolist(),
            "sigmas": self.sigmas.tolist(),
            "timesteps": list(self.timesteps or ()),
            "notes": list(self.notes),
        }
        return {key: value for key, value in stored.items() if value}

    def _is_rebuilt_by_name(self) -> bool:
        if self.name not in CONSTRUCTORS or self.timesteps is not None:
            return False
        rebuilt = construct(self.name, self.parameters, self.num_steps)
        return rebuilt.notes == self.notes and np.array_equal(
            [rebuilt.alphas, rebuilt.sigmas], [self.alphas, self.sigmas]
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], num_steps: int) -> NoiseSchedule:
        """The schedule that ``to_dict`` stored, whose arrays must have T + 1 entries.

        ``{"name", "parameters"}`` is a named schedule (missing parameters take their defaults);
        any other is ``{"name", "alphas", "sigmas"}`` and optionally ``parameters``, ``timesteps``
        and ``notes``. ``InputError`` says what is missing, unknown or malformed.
        """
        num_steps = check_steps("num_steps", num_steps, "pass `num_steps=64`")
        _check_stored(data, num_steps)
        name, parameters = data["name"], data.get("parameters", {})
        if "alphas" not in data:
            return construct(name, parameters, num_steps)
        timesteps = tuple(data["timesteps"]) if "timesteps" in data else None
        notes = tuple(data.get("notes", ()))
        return cls(data["alphas"], data["sigmas"], name, parameters, timesteps, notes)


def arrays_schedule(alphas: ArrayLike, sigmas: ArrayLike) -> NoiseSchedule:
    """A schedule given by its coefficients, shape (T+1,), index 0 on the data side.

    Raises:
        InputError: for what a ``NoiseSchedule`` does not take.
    """
    return NoiseSchedule(check_vector("alphas", alphas), check_vector("sigmas", sigmas))


def cosine_schedule(num_steps: int) -> NoiseSchedule:
    """Plain cosine: ``alpha_t = cos(pi t / 2T)``, ``sigma_t = sin(pi t / 2T)`` (THEORY 1)."""
    sines = np.sin(0.5 * np.pi * _fractions(num_steps))
    return _clean_to_noise(sines[::-1].copy(), sines, "cosine", {})


def nichol_dhariwal_schedule(num_steps: int, offset: float = 0.008) -> NoiseSchedule:
    """Offset cosine, ``alpha_t² = f(t) / f(0)``, ``f(t) = cos²((t/T + s) / (1 + s) · pi/2)``.

    Source: Nichol & Dhariwal 2021, Eq. 17, with the offset s >= 0; cut into T steps directly, so
    that their cap on the last beta is not needed and ``alpha_T = 0``. ``InputError`` for s < 0.
    """
    time = _fractions(num_steps)
    offset = check_number("offset", offset)
    if offset < 0:
        raise InputError("offset", "must be >= 0", offset)
    # cos((t + s) q) = sin((1 - t) q) with q = pi / (2 + 2s), and the difference of the two
    # squared cosines in sigma² is a product of sines: nothing cancels at either end.
    quarter = np.pi / (2 + 2 * offset)
    alphas = np.sin((1 - time) * quarter) / np.sin(quarter)
    squares = np.sin(time * quarter) / np.sin(quarter) * np.sin((2 - time) * quarter)
    sigmas = np.sqrt(np.maximum(squares / np.sin(quarter), 0))
    return _clean_to_noise(alphas, sigmas, "nichol-dhariwal", {"offset": offset})


def linear_schedule(
    num_steps: int,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    num_train_timesteps: int = 1000,
) -> NoiseSchedule:
    """Evenly spaced training betas (Ho et al. 2020), cut into T steps with trailing spacing.

    With ``N`` training timesteps and ``c`` the cumulative product of ``1 - beta``, step ``t``
    is training timestep ``round(N t / T) - 1`` (Lin et al. 2024, Table 2; as DDIMScheduler's
    "trailing"), ``alpha_t² = c`` there, and ``z_0`` is clean data. ``alpha_T`` is not 0.

    Raises:
        InputError: if T exceeds N or a beta is not in (0, 1).
    """
    return _beta_schedule("linear", num_steps, beta_start, beta_end, num_train_timesteps)


def scaled_linear_schedule(
    num_steps: int,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    num_train_timesteps: int = 1000,
) -> NoiseSchedule:
    """Training betas with evenly spaced square roots (Rombach et al. 2022), else as linear ones."""
    return _beta_schedule("scaled-linear", num_steps, beta_start, beta_end, num_train_timesteps)


def equal_angle_schedule(num_steps: int, eigenvalue: float) -> NoiseSchedule:
    """The schedule that is best for one eigenvalue: its steps turn by equal angles.

    ``v_t = (alpha_t sqrt(lambda), sigma_t)`` makes the angle ``pi t / 2T`` with the signal
    axis, for the variance lambda > 0, and ``alpha_t² + sigma_t² = 1``. Equal angles maximise the
    product of cosines by which the teacher shrinks (THEORY 2). ``InputError`` for other numbers.
    """
    sines = np.sin(0.5 * np.pi * _fractions(num_steps))
    eigenvalue = check_number("eigenvalue", eigenvalue)
    if eigenvalue <= 0:
        raise InputError("eigenvalue", "must be > 0", eigenvalue)
    signal, noise = sines[::-1], math.sqrt(eigenvalue) * sines
    length = np.hypot(signal, noise)
    parameters = {"eigenvalue": eigenvalue}
    return _clean_to_noise(signal / length, noise / length, "equal-angle", parameters)


CONSTRUCTORS: dict[str, Callable[..., NoiseSchedule]] = {
    "cosine": cosine_schedule,
    "nichol-dhariwal": nichol_dhariwal_schedule,
    "linear": linear_schedule,
    "scaled-linear": scaled_linear_schedule,
    "equal-angle": equal_angle_schedule,
}


def construct(name: str, parameters: Mapping[str, Any], num_steps: int) -> NoiseSchedule:
    if name not in CONSTRUCTORS:
        requirement = f"must be one of {', '.join(CONSTRUCTORS)}, or come with alphas and sigmas"
        raise InputError("schedule.name", requirement, repr(name))
    expected = dict(inspect.signature(CONSTRUCTORS[name]).parameters)
    del expected["num_steps"]
    for key in parameters:
        if key not in expected:
            rule = f"hold {', '.join(expected)} only" if expected else "be empty"
            raise InputError("schedule.parameters", f"of {name} must {rule}", repr(key))
    for key, parameter in expected.items():
        if parameter.default is parameter.empty and key not in parameters:
            raise InputError("schedule.parameters", f"of {name} must hold {key}")
    return CONSTRUCTORS[name](num_steps, **parameters)


def _beta_schedule(
    name: str, num_steps: int, beta_start: float, beta_end: float, num_train_timesteps: int
) -> NoiseSchedule:
    num_steps = check_steps("num_steps", num_steps, "pass `num_steps=64`")
    num_train = check_whole("num_train_timesteps", num_train_timesteps)
    if not 1 <= num_train <= MAX_TRAIN_TIMESTEPS:
        requirement = f"must be between 1 and {MAX_TRAIN_TIMESTEPS}"
        raise InputError("num_train_timesteps", requirement, num_train)
    if num_steps > num_train:
        raise InputError("num_steps", f"must be <= num_train_timesteps = {num_train}", num_steps)
    for key, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
        if not 0 < check_number(key, beta) < 1:
            raise InputError(key, "must be in (0, 1)", beta)
    if name == "linear":
        betas = np.linspace(beta_start, beta_end, num_train)
    else:
        betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train) ** 2
    # Counting down in floating point, as diffusers does, decides the ties; it also makes the list
    # one too long where the last difference ends just above 0.
    down = np.arange(num_train, 0, -(num_train / num_steps))[:num_steps]
    timesteps = np.round(down[::-1]).astype(np.int64) - 1
    signal = np.concatenate([[1.0], np.cumprod(1.0 - betas)[timesteps]])
    parameters = {
        "beta_start": float(beta_start),
        "beta_end": float(beta_end),
        "num_train_timesteps": num_train,
    }
    return NoiseSchedule(np.sqrt(signal), np.sqrt(1.0 - signal), name, parameters)


def _fractions(num_steps: int) -> Array:
    """``t / T`` for ``t = 0 … T``."""
    num_steps = check_steps("num_steps", num_steps, "pass `num_steps=64`")
    return np.arange(num_steps + 1) / num_steps


def _clean_to_noise(
    alphas: Array,
    sigmas: Array,
    name: str,
    parameters: Mapping[str, Any],
) -> NoiseSchedule:
    alphas[[0, -1]] = 1.0, 0.0
    sigmas[[0, -1]] = 0.0, 1.0
    return NoiseSchedule(alphas, sigmas, name, parameters)


def _check_coefficients(alphas: Array, sigmas: Array) -> None:
    if len(alphas) != len(sigmas):
        raise InputError("sigmas", f"must have {len(alphas)} entries, as alphas has", len(sigmas))
    if len(alphas) < 2:
        raise InputError("alphas", "must have at least 2 entries (T + 1)", len(alphas))
    for key, values in (("alphas", alphas), ("sigmas", sigmas)):
        for requirement, is_right in (
            ("must be finite and >= 0", np.isfinite(values) & (values >= 0)),
            (
                "must be 0 or between 1e-30 and 1e30",
                (values == 0) | ((values > 1e-30) & (values < 1e30)),
            ),
        ):
            for index in np.flatnonzero(~is_right)[:1]:
                raise InputError(f"{key}[{index}]", requirement, float(values[index]))
    falls = alphas[:-1] * sigmas[1:] - alphas[1:] * sigmas[:-1] > 0
    for t in np.flatnonzero(~falls)[:1] + 1:
        pairs = [f"{alphas[s]:.6g}/{sigmas[s]:.6g}" for s in (t - 1, t)]
        raise InputError(
            "alphas",
            f"must have alpha_t/sigma_t strictly falling with t, and t = {t} does not",
            " then ".join(pairs),
            "order the entries from data (index 0) to noise and give each state once",
        )


def _check_timesteps(timesteps: Sequence[float] | None, num_steps: int) -> tuple[float, ...] | None:
    if timesteps is None:
        return None
    is_whole = all(isinstance(value, (int, np.integer)) for value in timesteps)
    check = check_whole if is_whole else check_number
    values = tuple(check("timesteps", value) for value in timesteps)
    if len(values) != num_steps:
        raise InputError("timesteps", f"must have {num_steps} entries, one a step", len(values))
    if list(values) not in (sorted(values), sorted(values, reverse=True)):
        raise InputError("timesteps", "must rise or fall from the data side", values)
    return values


def _json_copy(parameters: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(parameters), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError("parameters", f"must hold JSON values only ({error})") from error


def _check_stored(data: object, num_steps: int) -> None:
    """Refuse what ``NoiseSchedule.from_dict`` cannot read, naming the place."""
    if not isinstance(data, Mapping):
        raise InputError("schedule", "must be an object", repr(data))
    for key in data:
        if key not in _STORED:
            raise InputError("schedule", f"must have no keys but {', '.join(_STORED)}", repr(key))
    arrays = ("alphas", "sigmas") if "alphas" in data or "sigmas" in data else ()
    for key, (kind, description) in _STORED.items():
        if key in data or key in ("name", *arrays):
            if not isinstance(data.get(key), kind):
                raise InputError(f"schedule.{key}", f"must be {description}", repr(data.get(key)))
            if key in ("timesteps", "notes") and not arrays:
                raise InputError(f"schedule.{key}", "must come with alphas and sigmas")
    for key in arrays:
        place, length = f"schedule.{key}", num_steps + 1
        if len(data[key]) != length:
            raise InputError(place, f"must have num_steps + 1 = {length} entries", len(data[key]))
        for index, value in enumerate(data[key]):
            check_number(f"{place}[{index}]", value)
