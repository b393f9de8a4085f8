"""A local engine's worker: a process that makes one run after another, and dies with its driver."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewer.core.loop import State
    from fewer.race.engine import Event

PR_SET_PDEATHSIG = 1


def main(descriptor: int, driver: int, threads: int) -> None:
    """Serve one driver.

    Parameters
    ----------
    descriptor : int
        Of the open connection to the driver.
    driver : int
        Its process id.
    threads : int
        How many torch may use.
    """
    die_with_parent(driver)
    faulthandler.enable()  # a crash in native code says where, on standard error, which the driver keeps
    connection = Connection(descriptor)
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    unwanted: set[str] = set()
    threading.Thread(target=_listen, args=(connection, jobs, unwanted), daemon=True).start()

    import torch

    from fewer.race.engine import Measured, Showed, Started, Stopped, work

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    counter = Counter(connection)
    while (job := jobs.get()) is not None:
        watch = functools.partial(counter.watch, job.run) if job.counted else None
        with contextlib.closing(work(job, watch)) as events:
            for event in events:
                if job.run in unwanted and isinstance(event, Measured):
                    counter.send(event)
                    event = Stopped(job.run)
                counter.send(event, last=not isinstance(event, Started | Measured | Showed))
                if isinstance(event, Stopped):
                    break


class Counter:
    """Sends events, and between them, from a thread of its own, how many samples the watched run has spent.

    Parameters
    ----------
    connection : Connection
        To the driver.
    every : float, default 0.25
        Seconds between two looks.
    """

    def __init__(self, connection: Connection, every: float = 0.25) -> None:
        self._connection, self._every = connection, every
        self._lock = threading.Lock()
        self._watched: tuple[str, Any] | None = None
        self._told = -1
        self._thread: threading.Thread | None = None

    def send(self, event: Event, last: bool = False) -> None:
        """Send an event; behind the last one of a run nothing more is told of it."""
        with self._lock:
            if last:
                self._watched = None
            self._connection.send(event)

    def watch(self, run: str, state: State) -> None:
        """Tell of a run from now on."""
        with self._lock:
            self._watched, self._told = (run, state), -1
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        from fewer.race.engine import Counted

        while True:
            time.sleep(self._every)
            with self._lock:
                if self._watched is not None and (spent := self._watched[1].spent) != self._told:
                    self._told = spent
                    with contextlib.suppress(OSError):  # the driver has gone, which the thread that listens notices
                        self._connection.send(Counted(self._watched[0], spent))


def die_with_parent(parent: int) -> None:
    """Have this process killed as soon as its parent is gone, in the midst of native code too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)


def _listen(connection: Connection, jobs: queue.SimpleQueue, unwanted: set[str]) -> None:
    """Queue the jobs that the driver sends, note the runs to end early, and end at once where the driver has."""
    while True:
        try:
            message = connection.recv()
            if isinstance(message, str):
                unwanted.add(message)
                continue
            if message is not None:
                unwanted.discard(message.run)  # said of an earlier try
            jobs.put(message)
        except (EOFError, OSError):
            os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
