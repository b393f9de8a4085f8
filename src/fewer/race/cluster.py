"""A race on many machines, through Ray.

The machines need this library and, where a task or a checkpoint is a file, a folder that they all
see under one path.  Without a shared folder a run that is lost begins anew, and gives the same
points again.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from fewer.core.errors import FewerError, need
from fewer.race.engine import Event, Failed, Finished, Job, Stopped, work


class RayEngine:
    """Workers of a Ray cluster, one thread each.

    Parameters
    ----------
    address : str, optional
        Of a running cluster that this machine belongs to, ``"auto"`` or ``"host:6379"``.  By default,
        or as ``"local"``, a cluster is started on this machine, which ends with the engine.
    workers : int, optional
        How many at once: two in a cluster of our own, as many as it has cores for in another.

    Raises
    ------
    FewerError
        If Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
        if workers is not None and workers < 1:
            raise FewerError(f"an engine needs a worker at least; {workers} were given")
        self._ray: Any = need("ray", extra="scale", what="--engine ray")
        own = address in (None, "local")
        self.workers = workers or (2 if own else None)
        self._ours = not self._ray.is_initialized()
        if self._ours:
            size = {"num_cpus": self.workers, "object_store_memory": OBJECTS} if own else {}
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
            try:
                _reach(address or "local")
                self._ray.init(address or "local", **quiet, **size)
            except (OSError, RuntimeError, ValueError) as error:
                line = " ".join(str(error).split())
                raise FewerError(f"no Ray cluster at {address or 'local'} ({line}); {ADDRESSES}") from error
        # no retries by Ray: it could not tell us that a run began again
        self._making: dict[str, Any] = {}
        self._unwanted: set[str] = set()
        self._work = self._ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(_work)

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, and end it if it is ours."""
        if self._ours:
            self._ray.shutdown()

    def run(self, jobs: Sequence[Job]) -> Generator[Event]:
        """Run all jobs, the first ones first (see :class:`fewer.race.engine.Engine`).

        A run whose worker died is taken up once more, from its checkpoint.
        """
        queue = deque((job, False) for job in jobs)
        busy: dict[Any, tuple[Job, bool]] = {}
        try:
            while queue or busy:
                while queue and len(busy) < (self.workers or len(jobs)):
                    job, again = queue.popleft()
                    stream = self._making[job.run] = self._work.remote(job, sys.path)
                    busy[stream] = job, again
                ready, _ = self._ray.wait(list(busy), num_returns=1)
                for stream in ready:
                    job, again = busy[stream]
                    try:
                        event = self._ray.get(next(stream))
                    except (self._ray.exceptions.RayError, StopIteration) as error:
                        del busy[stream]
                        if job.run in self._unwanted:
                            event = Stopped(job.run)
                        elif not again:
                            queue.appendleft((job, True))
                            continue
                        else:
                            line = " ".join(str(error).split())
                            event = Failed(
                                job.run,
                                f"its Ray worker died twice ({type(error).__name__}); start the race again to go on",
                                line,
                            )
                    if isinstance(event, Finished | Failed | Stopped):
                        busy.pop(stream, None)
                        self._making.pop(job.run, None)
                        self._unwanted.discard(job.run)
                    yield event
        finally:
            for stream, (job, _) in busy.items():
                self._ray.cancel(stream, force=True)
                self._making.pop(job.run, None)
                self._unwanted.discard(job.run)

    def stop(self, run: str) -> None:
        """End a run at once (see :class:`fewer.race.engine.Engine`); its last point is in its checkpoint."""
        if run in self._making and run not in self._unwanted:
            self._unwanted.add(run)
            self._ray.cancel(self._making[run], force=True)


OBJECTS = 100 * 1024**2
"""Bytes of shared memory for a cluster of our own; events are small, and Ray would take a third of the machine."""

ADDRESSES = "give auto or host:6379, on a machine where 'ray start' was called with the same RAY_AUTH_MODE"


def _reach(address: str) -> None:
    """Find out in seconds what would take Ray minutes."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError("it is not of the form host:port")  # nor can points be streamed through ray://
    socket.create_connection((host, int(port)), timeout=5).close()


def _work(job: Job, path: list[str]) -> Iterator[Event]:
    import torch

    sys.path += [place for place in path if place not in sys.path]  # a module that the driver finds beside its script
    torch.set_num_threads(1)
    yield from work(job)
