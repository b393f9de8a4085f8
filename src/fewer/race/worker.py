"""A local engine's worker: a process that makes one run after another, and dies with its driver."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

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

    from fewer.race.engine import Measured, Stopped, work

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    while (job := jobs.get()) is not None:
        with contextlib.closing(work(job)) as events:
            for event in events:
                connection.send(event)
                if job.run in unwanted and isinstance(event, Measured):
                    connection.send(Stopped(job.run))
                    break


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
