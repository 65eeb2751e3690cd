"""Guards around the import of a kernel's file: no input, no runs started, a time limit."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster.common.errors import KernelError

GUARD = 'put code that runs the file as a script under if __name__ == "__main__":'
# Set while a file is imported, for the processes that it starts: they would import it again.
_VARIABLE = "CLUSTER_IMPORTING"
# Seconds after which a slow import is reported.
_SLOW = 10.0
_here = threading.local()


class AtImport(KernelError):
    """A kernel's file starts a run while it is being imported."""


class ImportTimeout(BaseException):
    """An import exceeded its limit; not an Exception, which the file might catch."""


def refuse_verbs() -> None:
    """Refuse to start a run while a kernel is being imported: the run would import it again.

    Raises:
        AtImport: this thread, or the process that started this one, is importing a kernel.
    """
    owner, _, entry = os.environ.get(_VARIABLE, "").partition(":")
    if getattr(_here, "importing", False) or owner not in ("", str(os.getpid())):
        raise AtImport(f"{entry} starts a run when it is imported", fix=GUARD)


@contextmanager
def importing(entry: str) -> Iterator[None]:
    """Import a file in this context: ``sys.argv`` is empty, and no run can be started."""
    arguments, sys.argv = sys.argv, [entry]
    _here.importing = True
    os.environ[_VARIABLE] = f"{os.getpid()}:{entry}"
    try:
        yield
    finally:
        sys.argv = arguments
        _here.importing = False
        os.environ.pop(_VARIABLE, None)


@contextmanager
def within(limit: float, entry: str) -> Iterator[None]:
    """Import a file in this context: stdin is empty, a slow import is reported, then ended.

    Args:
        limit: seconds; enforced only in the main thread, and if SIGALRM has no other handler.
        entry: the file's name, for messages.

    Raises:
        ImportTimeout: the limit was reached.
    """
    started, reported = time.monotonic(), False

    def on_alarm(_number: int, _frame: object) -> None:
        nonlocal reported
        if time.monotonic() - started >= limit:
            raise ImportTimeout(f"over {limit:g} s, the limit of retry.timeout")
        if not reported:
            reported = True
            slow = f"{entry} is still being imported after {_SLOW:g} s (Ctrl-C ends it)"
            sys.stderr.write(f"{slow}; {GUARD}\n")
            sys.stderr.flush()

    main = threading.current_thread() is threading.main_thread()
    timed = main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    if timed:
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, min(_SLOW, limit), min(_SLOW, limit))
    try:
        with _no_input():
            yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def _no_input() -> Iterator[None]:
    """Standard input is /dev/null here, as it is in every worker."""
    kept = None
    with suppress(OSError):  # the process may have no standard input
        kept = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    if null:  # 0 if standard input was closed: then it is in place already
        os.dup2(null, 0)
        os.close(null)
    try:
        yield
    finally:
        if kept is not None:
            os.dup2(kept, 0)
            os.close(kept)
