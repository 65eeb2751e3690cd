"""The moment in which a kernel's file is imported: what it must not do then, and for how long."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.common.errors import KernelError

GUARD = 'put what is for running the file itself under if __name__ == "__main__":'
# Says so to the processes that a file starts while it is imported: they would import it again.
_VARIABLE = "CLUSTER_IMPORTING"
_PATIENCE = 10.0
_here = threading.local()


class AtImport(KernelError):
    """A verb of ours that a kernel's file calls while it is imported."""


class ImportTimeout(BaseException):
    """An import that is over its limit; no ``except Exception`` of the file's can hold it."""


def refuse_verbs() -> None:
    """Refuse what a kernel's file asks of us while it is imported: it would begin for ever.

    Raises:
        AtImport: one is being imported by this thread, or by the process that started this one.
    """
    owner, _, entry = os.environ.get(_VARIABLE, "").partition(":")
    if getattr(_here, "importing", False) or owner not in ("", str(os.getpid())):
        raise AtImport(f"{entry} starts a run when it is imported", fix=GUARD)


@contextmanager
def importing(entry: str) -> Iterator[None]:
    """While a file is imported: it has no arguments, and starts no verb of ours."""
    words, sys.argv = sys.argv, [entry]
    _here.importing = True
    os.environ[_VARIABLE] = f"{os.getpid()}:{entry}"
    try:
        yield
    finally:
        sys.argv = words
        _here.importing = False
        os.environ.pop(_VARIABLE, None)


@contextmanager
def within(limit: float, entry: str) -> Iterator[None]:
    """An import that cannot read our input, is told of where it is slow, and ended at a limit.

    Args:
        limit: seconds; kept in the main thread, and where nobody else has an alarm.
        entry: the file, for people.

    Raises:
        ImportTimeout: the limit was reached.
    """
    begun, told = time.monotonic(), False

    def look(_number: int, _frame: object) -> None:
        nonlocal told
        if time.monotonic() - begun >= limit:
            raise ImportTimeout(f"over {limit:g} s, the limit of retry.timeout")
        if not told:
            told = True
            slow = f"{entry} is still being imported after {_PATIENCE:g} s (Ctrl-C ends it)"
            sys.stderr.write(f"{slow}; {GUARD}\n")
            sys.stderr.flush()

    main = threading.current_thread() is threading.main_thread()
    timed = main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    if timed:
        signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, min(_PATIENCE, limit), min(_PATIENCE, limit))
    try:
        with _no_input():
            yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def _no_input() -> Iterator[None]:
    """Standard input is at its end, as it is for every worker."""
    kept = None
    with suppress(OSError):
        kept = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    if null:
        os.dup2(null, 0)
        os.close(null)
    try:
        yield
    finally:
        if kept is not None:
            os.dup2(kept, 0)
            os.close(kept)
