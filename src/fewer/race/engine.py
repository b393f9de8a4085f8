"""Who runs a race's runs: an engine takes jobs and tells what happens to them, event by event.

An engine knows nothing of stores and drawing.  :class:`LocalEngine` has worker processes on this
machine, :class:`fewer.race.cluster.RayEngine` has them on many; both do :func:`work`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import joblib

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.samples import Samples

if TYPE_CHECKING:
    from fewer.core.loop import State, Task


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be made.

    Parameters
    ----------
    run : str
        The hash the run is kept under; events carry it.
    entry, task : str
        Specs.
    data : str
        The task's fingerprint.  A worker that finds another one refuses: the file has changed, or
        another machine has another.
    budget, seed : int
        As in :meth:`fewer.core.loop.Loop.run`.
    checkpoint : Path, optional
        Where the state is saved between points; without it a run that is lost begins anew.
    compose : str
        The module whose ``loop(spec)`` and ``task(spec)`` build what is run.
    video : Path, optional
        A folder for films, as in :meth:`fewer.core.loop.Loop.run`.
    counted : bool, default False
        Whether to tell between points how many samples were spent, where the engine can.
    """

    run: str
    entry: str
    task: str
    data: str
    budget: int
    seed: int
    checkpoint: Path | None = None
    compose: str = "fewer.compose"
    video: Path | None = None
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """A run belongs to the race; the first event of each, told by the driver before anything starts.

    ``watched`` are the measures that people look at while it goes on (see :class:`fewer.core.loop.Loop`).
    """

    run: str
    watched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has taken up a run."""

    run: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A run has a point.  A resumed run tells the points of its earlier life again."""

    run: str
    point: Point


@dataclass(frozen=True, slots=True)
class Counted:
    """How many samples a run has spent so far; told between its points, at most four times a second, where that has changed."""

    run: str
    spent: int


@dataclass(frozen=True, slots=True)
class Showed:
    """A run shows what it makes, before it learns, before it goes on, and at each of its points just before that is told."""

    run: str
    samples: Samples


@dataclass(frozen=True, slots=True)
class Finished:
    """A run has come to its end."""

    run: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A run has raised, or its worker has died: why, in one line, and the traceback or the worker's last words."""

    run: str
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A run has ended early because the driver asked for it."""

    run: str


Event = Planned | Started | Measured | Counted | Showed | Finished | Failed | Stopped


class Engine(Protocol):
    """Whoever can run jobs."""

    def run(self, jobs: Sequence[Job]) -> Generator[Event]:
        """Run all jobs, the first ones first; each one's events end with ``Finished``, ``Failed`` or ``Stopped``.

        Closing the iterator stops what still runs.
        """
        ...

    def stop(self, run: str) -> None:
        """Ask for a run to end early: after its next point, or sooner; one that is not being made stays as it is."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def work(job: Job, watch: Callable[[State], None] | None = None) -> Generator[Event]:
    """Make one run, here, and tell what happens.  All engines do this, and nothing else; ``watch`` gets the run's state."""
    yield Started(job.run)
    try:
        loop = importlib.import_module(job.compose).loop(job.entry)
        task = _task(job.compose, job.task, job.data)
        made: list[Samples] = []
        for point in loop.run(task, job.budget, job.seed, job.checkpoint, job.video, made.append, watch):
            while made:
                yield Showed(job.run, made.pop(0).readable())
            extras = {str(name): float(value) for name, value in point.extras.items()}
            yield Measured(job.run, Point(int(point.spent), float(point.score), extras))
    except GeneratorExit:
        raise
    except BaseException as error:  # whatever a method does, sys.exit included, ends its own run and no other
        line = " ".join(str(error).split())
        named = line if isinstance(error, FewerError) else f"{type(error).__name__}: {line}".rstrip(": ")
        yield Failed(job.run, named, traceback.format_exc())
    else:
        for samples in made:  # of a run that was over before it was marked so
            yield Showed(job.run, samples.readable())
        yield Finished(job.run)


@functools.lru_cache(maxsize=1)  # the runs of a race share their task; building it may mean reading a large file
def _task(compose: str, spec: str, data: str) -> Task:
    task = importlib.import_module(compose).task(spec)
    if task.fingerprint() != data:
        raise FewerError(
            f"the data of {spec} is not what the race was started with; start it again, and give every machine the same"
        )
    return task


LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")
"""Whose threads are set by an environment variable, read when they are imported."""


class LocalEngine:
    """Worker processes on this machine.

    They are started when there is work and stay for the next call of :meth:`run`, until
    :meth:`close`.  A worker lives no longer than its driver, however that dies.

    Parameters
    ----------
    workers : int, optional
        How many at once; as many as the cores allow by default, and no more than there are jobs.
    threads : int, default 1
        For each worker.  With one, the workers never fight over a core and results do not depend
        on how many there are; a few large runs may be faster with more.

    Raises
    ------
    FewerError
        If one of them is below one.

    Examples
    --------
    >>> with LocalEngine(workers=1) as engine:
    ...     [type(event).__name__ for event in engine.run([Job("a1", "no-such-method", "digits", "", 10, 0)])]
    ['Started', 'Failed']
    """

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        if threads < 1 or (workers is not None and workers < 1):
            raise FewerError(f"an engine needs a worker and a thread at least; {workers} and {threads} were given")
        self.workers = workers or max(1, joblib.cpu_count() // threads)
        self.threads = threads
        self._idle: list[_Worker] = []
        self._making: dict[str, _Worker] = {}

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers end, all at once."""
        for worker in self._idle:
            worker.take(None)
        while self._idle:
            self._idle.pop().stop(patience=5)

    def run(self, jobs: Sequence[Job]) -> Generator[Event]:
        """Run all jobs, the first ones first (see :class:`Engine`)."""
        queue = deque(jobs)
        busy: dict[Connection, _Worker] = {}
        try:
            while queue or busy:
                while queue and len(busy) < self.workers:
                    worker, job = self._worker(), queue.popleft()
                    busy[worker.connection] = self._making[job.run] = worker
                    worker.take(job)
                # a connection stays open while a process that the worker forked lives on, so look at the worker too
                dead = (connection for connection, worker in busy.items() if worker.process.poll() is not None)
                for connection in wait(list(busy), timeout=1) or list(dead):
                    assert isinstance(connection, Connection)
                    event = busy[connection].hear()
                    if isinstance(event, Finished | Failed | Stopped):
                        self._making.pop(event.run, None)
                    if isinstance(event, Finished | Stopped):
                        self._idle.append(busy.pop(connection))
                    elif isinstance(event, Failed):
                        busy.pop(connection).stop()  # what raised may have left more behind, such as a broken GPU
                    yield event
        finally:
            for worker in busy.values():
                worker.stop()
                assert worker.job is not None
                self._making.pop(worker.job.run, None)

    def stop(self, run: str) -> None:
        """End a run after the point that it is at (see :class:`Engine`)."""
        if run in self._making:
            self._making[run].tell(run)

    def _worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.stop()
        try:
            return _Worker(self.threads)
        except OSError as error:
            raise FewerError(f"cannot start a worker: {error.strerror}; ask for fewer than {self.workers}") from error


class _Worker:
    """A process that makes one run after another (see :mod:`fewer.race.worker`).

    It is a new interpreter rather than a ``multiprocessing`` one, which would import the driver's
    main module again: races are started from notebooks and from scripts without a main guard.
    """

    def __init__(self, threads: int) -> None:
        self.job: Job | None = None
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker)
        self.connection, theirs = Pipe()
        arguments = [str(theirs.fileno()), str(os.getpid()), str(threads)]
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fewer.race.worker", *arguments],
            env=os.environ | {f"{name}_NUM_THREADS": str(threads) for name in LIBRARIES} | {"PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,  # Ctrl-C is the driver's affair
        )
        theirs.close()  # so that we hear it when the worker's own end closes

    def take(self, job: Job | None) -> None:
        """Take up a job, or end."""
        self.job = job
        self.tell(job)

    def tell(self, message: Job | str | None) -> None:
        """Send a job, the name of a run to end early, or None to end itself."""
        with contextlib.suppress(OSError):  # it has died already, which hear() will notice
            self.connection.send(message)

    def hear(self) -> Event:
        """Wait for what happens next, which may be the worker's death."""
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll() or self.process.poll() is None:
                return self.connection.recv()
        assert self.job is not None
        return Failed(self.job.run, self._death(), self._last_words())

    def stop(self, patience: float = 0) -> None:
        """Be rid of it, and of what it has started itself, after so many seconds to end in peace."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        self.said.close()

    def _death(self) -> str:
        status = self.process.wait()  # not for long: its thread that listens keeps the connection open to the end
        how = f"ended with exit status {status}"
        if status < 0:
            how = f"died with signal {-status} ({signal.Signals(-status).name})"
        hint = "; out of memory, perhaps" if status == -signal.SIGKILL else ""
        return f"its worker {how}{hint}; start the race again to go on from the last point"

    def _last_words(self) -> str:
        self.said.seek(max(0, self.said.seek(0, os.SEEK_END) - 10_000))
        return self.said.read().decode(errors="replace")
