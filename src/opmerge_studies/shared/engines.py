"""What a sweep runs on: worker processes of this machine, or those of dask or ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from opmerge.errors import InputError

__all__ = ["ENGINES", "run_calls"]

Call = Callable[[Any], Any]


def run_calls(
    function: Call, arguments: Sequence[Any], backend: str, num_workers: int
) -> Iterator[Any]:
    """``function(argument)`` of each argument, in the order in which they are done.

    Args:
        function: of a module, for workers import it.
        arguments: pickled for the workers.
        backend: of ``ENGINES``; loky starts processes here; dask and ray do too, unless
            ``DASK_SCHEDULER_ADDRESS`` or ``RAY_ADDRESS`` names a cluster.
        num_workers: processes; -1 for one a core. With 1, loky computes in this process.

    Raises:
        InputError: if the backend is not installed, or a worker is killed.
    """
    run, module = ENGINES[backend]
    if find_spec(module) is None:
        install = f'pip install "opmerge[{backend}]"'
        raise InputError("backend", "must be installed", backend, install)
    count = cpu_count() if num_workers < 0 else min(num_workers, len(arguments))
    try:
        yield from run(function, arguments, count)
    except _WorkerKilledError as error:
        raise InputError(
            "num_workers",
            "must leave memory for every worker: one was killed",
            count,
            "run the same command again, with fewer; what is finished is kept",
        ) from error


class _WorkerKilledError(Exception):
    """A worker process is gone."""


def _loky(function: Call, arguments: Sequence[Any], count: int) -> Iterator[Any]:
    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(count, return_as="generator_unordered")
    try:
        yield from parallel(delayed(function)(argument) for argument in arguments)
    except TerminatedWorkerError as error:
        raise _WorkerKilledError from error


def _dask(function: Call, arguments: Sequence[Any], count: int) -> Iterator[Any]:
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


def _ray(function: Call, arguments: Sequence[Any], count: int) -> Iterator[Any]:
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
