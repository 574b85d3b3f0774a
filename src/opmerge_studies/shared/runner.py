"""What a study runs in: its folder, its progress, and sweeps whose finished cells are kept."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from numpy.typing import ArrayLike

import opmerge
from opmerge.clock import Report
from opmerge.errors import InputError
from opmerge.store import MISSING, Store, digest

_SAFE_PATH = "PYTHONSAFEPATH"  # of Python's environment


ProgressBar = Callable[[str, float | None], AbstractContextManager[Report]]
"""Opens the progress of a piece of work, from its title and its units of work, if known."""

Cell = Mapping[str, Any]
"""Arguments of a function by name, JSON values."""


def grid(**axes: Any) -> list[Cell]:
    """A cell for each combination of values, the last axis fastest.

    An axis is one value (a string is one) that all cells have, or several.

    >>> grid(rule="copy", steps=(4, 8))
    [{'rule': 'copy', 'steps': 4}, {'rule': 'copy', 'steps': 8}]
    """
    several = [
        axis if isinstance(axis, Iterable) and not isinstance(axis, str) else [axis]
        for axis in axes.values()
    ]
    return [dict(zip(axes, values, strict=True)) for values in product(*several)]


def rows_of(columns: Mapping[str, ArrayLike], **alike: Any) -> list[dict[str, Any]]:
    """A row of JSON values for each entry of equally long columns, after what is alike in all.

    >>> rows_of({"t": np.arange(2), "w2": [0.5, 0.25]}, plan="boot")
    [{'plan': 'boot', 't': 0, 'w2': 0.5}, {'plan': 'boot', 't': 1, 'w2': 0.25}]
    """
    lists = zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True)
    return [{**alike, **dict(zip(columns, row, strict=True))} for row in lists]


def no_progress(_title: str, _total: float | None) -> AbstractContextManager[Report]:
    """The progress of work that nobody watches."""
    return nullcontext(lambda done, doing="": None)


@dataclass(frozen=True)
class Runner:
    """The folder and the machinery that a study is computed in.

    Args:
        warn: told, in a line, what was found damaged.
        num_workers: processes of a sweep; -1 for one a core. With 1, loky starts none.
        backend: of ``ENGINES``: what they run on, which is this machine unless
            ``DASK_SCHEDULER_ADDRESS`` or ``RAY_ADDRESS`` names a cluster.

    Raises:
        InputError: if there is no such backend, or the number of workers is out of range.
    """

    folder: Path
    progress: ProgressBar = no_progress
    warn: Callable[[str], None] = warnings.warn
    num_workers: int = -1
    backend: str = "loky"

    def __post_init__(self) -> None:
        if self.backend not in ENGINES:
            raise InputError("backend", f"must be one of {', '.join(ENGINES)}", self.backend)
        if self.num_workers < 1 and self.num_workers != -1:
            raise InputError("num_workers", "must be >= 1, or -1 for one a core", self.num_workers)

    @property
    def store(self) -> Store:
        """The finished parts in the run directory."""
        return Store(self.folder, self.warn)

    def sweep(self, function: Callable[..., Any], cells: Sequence[Cell], title: str) -> list[Any]:
        """``[function(**cell) for cell in cells]``, of which finished ones are kept on disk.

        The function is a module's, for workers import it, and returns JSON values. A cell is known
        by the function's name, its arguments, the size and time of files that these name, and the
        packages' source; one that is damaged is computed again, with a line that says so.

        Raises:
            InputError: if the backend is not installed, a worker is killed (what is finished is
                kept), or a result cannot be written.
        """
        identities = [_identity(function, cell) for cell in cells]
        parts = [(f"cells/{digest(identity)[:24]}", identity) for identity in identities]
        return self.share_out(function, cells, parts, title)

    def share_out(
        self,
        function: Callable[..., Any],
        cells: Sequence[Mapping[str, Any]],
        parts: Sequence[tuple[str, Any]],
        title: str,
        work: Sequence[float] | None = None,
    ) -> list[Any]:
        """``sweep`` of cells that are kept under names and identities of their own.

        Args:
            cells: arguments by name; what backends can send to workers.
            parts: name and identity of each, as of ``Store.kept``. What a cell keeps to go on from
                is a folder of that name, which is removed when the cell is finished.
            work: of each, in units of progress; 1 by default.
        """
        results = [self.store.read(*part) for part in parts]
        calls = [(i, dict(cells[i])) for i, result in enumerate(results) if result is MISSING]
        sizes = [1.0] * len(cells) if work is None else work
        if calls:
            done = 0.0
            with (
                self.progress(title, sum(sizes[i] for i, _ in calls)) as report,
                closing(self._compute(partial(_numbered, function), calls)) as computed,
            ):
                for i, result in computed:
                    name, identity = parts[i]
                    results[i] = self.store.write(name, identity, result)
                    rmtree(self.folder / name, ignore_errors=True)
                    done += sizes[i]
                    report(done)
        return results

    def rows(self, function: Callable[..., Any], cells: Sequence[Cell], title: str) -> list[Any]:
        """The rows of all cells, of a function that returns a list of them: see ``sweep``."""
        return [row for rows in self.sweep(function, cells, title) for row in rows]

    def tables(
        self, function: Callable[..., Any], cells: Sequence[Cell], title: str
    ) -> dict[str, list[Any]]:
        """The rows of all cells, of a function that returns some tables by name: see ``sweep``."""
        parts = self.sweep(function, cells, title)
        return {name: [row for part in parts for row in part[name]] for name in parts[0]}

    def _compute(
        self, function: Callable[[Any], Any], arguments: Sequence[Any]
    ) -> Generator[Any, None, None]:
        """``function(argument)`` of each argument, in the order in which they are done."""
        run, module = ENGINES[self.backend]
        if find_spec(module) is None:
            install = f'pip install "opmerge[{self.backend}]"'
            raise InputError("backend", "must be installed", self.backend, install)
        count = cpu_count() if self.num_workers < 0 else min(self.num_workers, len(arguments))
        try:
            with _without_current_folder():
                yield from run(function, arguments, count)
        except _WorkerKilledError as error:
            requirement = "must leave memory for every worker: one was killed"
            remedy = "run the same command again, with fewer; what is finished is kept"
            raise InputError("num_workers", requirement, count, remedy) from error


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Python that is started inside does not import from the current folder, which is anyone's."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _numbered(function: Callable[..., Any], call: tuple[int, dict[str, Any]]) -> tuple[int, Any]:
    """The number of a cell and its result, as results come in any order."""
    number, cell = call
    return number, function(**cell)


def _identity(function: Callable[..., Any], cell: Cell) -> dict[str, Any]:
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        "cell": dict(cell),
        "files": [_stamp(value) for value in cell.values() if isinstance(value, str)],
        "code": _code_digest(),
    }


def _stamp(text: str) -> list[int]:
    """Size and time of a file that a cell names, whose content may change under its name."""
    with suppress(OSError, ValueError):
        status = Path(text).stat()
        return [status.st_size, status.st_mtime_ns]
    return []


@cache
def _code_digest() -> str:
    """Digest of library and studies: other code is another result, whatever its version."""
    digests = hashlib.sha256()
    for package in (Path(opmerge.__file__).parent, Path(__file__).parents[1]):
        for path in sorted(package.rglob("*.py")):
            name = path.relative_to(package.parent).as_posix()
            digests.update(name.encode() + path.read_bytes())
    return digests.hexdigest()


class _WorkerKilledError(Exception):
    """A worker process is gone."""


def _loky(function: Callable[[Any], Any], arguments: Sequence[Any], count: int) -> Iterator[Any]:
    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(count, return_as="generator_unordered")
    calls = (delayed(function)(argument) for argument in arguments)
    with _replacing_workers():
        with _interrupts_noted() as noted:  # loky that is stopped as it starts leaves its workers
            results = parallel(calls)
        try:
            if noted:
                with _untold_in_threads():  # loky's manager, by results that come in meanwhile
                    results.throw(KeyboardInterrupt)
            for result in results:  # noqa: UP028 - closed below, and not by what closes this
                yield result
        except TerminatedWorkerError as error:
            raise _WorkerKilledError from error
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that what was still computed is broken off
                results.close()


@contextmanager
def _replacing_workers() -> Iterator[None]:
    """Loky's manager goes on where warnings are errors, when a worker has left and another starts.

    Workers that serve several sweeps leave when their memory has grown, as by importing torch. A
    manager that is ended by its own warning of that leaves all that waits for results waiting.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
        yield


@contextmanager
def _untold_in_threads() -> Iterator[None]:
    """What threads fail with inside is not printed."""
    before, threading.excepthook = threading.excepthook, lambda failed: None
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """What would interrupt the code inside, noted instead."""
    noted: list[int] = []
    numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    interrupt = signal.default_int_handler
    interrupting = [n for n in numbers if n is not None and signal.getsignal(n) is interrupt]
    if threading.current_thread() is not threading.main_thread():  # the one that hears them
        interrupting = []
    for number in interrupting:
        signal.signal(number, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        for number in interrupting:
            signal.signal(number, interrupt)


def _dask(function: Callable[[Any], Any], arguments: Sequence[Any], count: int) -> Iterator[Any]:
    # By dask's own client: joblib's backend waits for ever for what a killed worker had (1.6.0).
    from distributed import Client, KilledWorker, as_completed

    cluster = os.environ.get("DASK_SCHEDULER_ADDRESS")
    local: dict[str, Any] = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": None}
    with Client(cluster) if cluster else Client(**local) as client:
        futures = client.map(function, arguments, pure=False, batch_size=None)
        try:
            for future in as_completed(futures):
                yield future.result()
        except KilledWorker as error:
            raise _WorkerKilledError from error


def _ray(function: Callable[[Any], Any], arguments: Sequence[Any], count: int) -> Iterator[Any]:
    import ray
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": count}
    ray.init(include_dashboard=False, log_to_driver=False, **local)

    @ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
    def task(argument: Any) -> Any:
        return function(argument)

    try:
        waiting = [task.remote(argument) for argument in arguments]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    except (OutOfMemoryError, WorkerCrashedError) as error:
        raise _WorkerKilledError from error
    finally:
        ray.shutdown()


ENGINES = {"loky": (_loky, "joblib"), "dask": (_dask, "distributed"), "ray": (_ray, "ray")}
"""What computes, and the module that it needs, by name."""
