"""The user's own process: its signals, its standard streams, and how it reports errors."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import click

from cluster.common.errors import ClusterError, Interrupted, StopNow, StoreError, UsageError
from cluster.dispatch import Stop
from cluster.hosts.process_tree import catch
from cluster.report import text

# Slurm and mpirun can send SIGUSR1 as a warning; its default action would end the process.
_DRAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def signals(*numbers: signal.Signals) -> Iterator[Stop]:
    """Turn signals into a request to drain; a second signal raises StopNow.

    Args:
        numbers: the signals to handle; none: SIGINT, SIGTERM, SIGUSR1 and SIGHUP.

    Raises:
        StopNow: in the body, at the second signal.
    """
    stop, taken = Stop(), set(numbers or _DRAIN)

    def handle(number: int, _frame: object) -> None:
        if stop.reason is not None:
            raise StopNow(number)
        stop.reason = signal.Signals(number).name

    # Under nohup SIGHUP is ignored and must stay so: the run is to survive the terminal.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        taken.discard(signal.SIGHUP)
    with handled(dict.fromkeys(taken, handle)):
        yield stop


Handlers = Mapping[signal.Signals, Callable[[int, Any], object]]


def standard_handlers() -> Handlers:
    """Handlers for verbs with nothing to drain: raise StopNow, which is reported at the end.

    They avoid KeyboardInterrupt because a kernel that runs in this process could raise that itself.
    """

    def handle(number: int, _frame: object) -> None:
        raise StopNow(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    return {number: handle for number in numbers if signal.getsignal(number) != signal.SIG_IGN}


@contextmanager
def handled(handlers: Handlers) -> Iterator[None]:
    """Install signal handlers, and restore the old ones; a no-op outside the main thread."""
    # Python refuses to set handlers in any other thread.
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {number: catch(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def translated(error: BaseException) -> ClusterError:
    """Convert any exception to a ClusterError; the traceback of an internal error is printed."""
    match error:
        case ClusterError():
            return error
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "cluster"
            return UsageError(error.format_message(), fix=f"see '{where} --help'")
        case OSError():
            return StoreError(f"input or output failed: {error}")
        case StopNow():
            return Interrupted(*error.args)
        case KeyboardInterrupt():
            return Interrupted()
    traceback.print_exception(error)
    what = f"internal error in cluster: {type(error).__name__}: {error}"
    return ClusterError(what, fix="please report it, with the traceback above")


def fail(error: ClusterError, as_json: bool) -> int:
    """Report an error, as the JSON document on stdout or as text on stderr; its exit code."""
    with suppress(OSError):
        if as_json and _printed(json.dumps(error.to_json(), indent=2)):
            return error.code
        for line in text.error(error):
            click.echo(line, err=True)
    with suppress(OSError):
        _flush_or_discard_stdout()
    return error.code


def _printed(line: str) -> bool:
    """Print on stdout; False where it cannot be written."""
    try:
        click.echo(line)
        sys.stdout.flush()
    except OSError:
        reader_gone()
        return False
    return True


def _flush_or_discard_stdout() -> None:
    """Flush stdout, or discard what it buffers: Python would retry at exit, and fail loudly."""
    try:
        sys.stdout.flush()
    except OSError:
        reader_gone()


def reader_gone() -> int:
    """Handle a closed pipe (``| head``): discard further output; returns 128 + SIGPIPE."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def check_folder() -> None:
    """Check that the working directory, to which all relative paths refer, is usable.

    Raises:
        UsageError: it was removed after the shell entered it, or is not accessible.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        fix = "cd to a folder that exists"
        raise UsageError("the current folder is gone", fix=fix) from None
    except OSError as error:
        reason = f"the current folder cannot be used: {error.strerror}"
        raise UsageError(reason, fix="cd to another one") from None


def complete_streams() -> None:
    """Replace missing standard streams (a start with ``>&-``) by /dev/null.

    Otherwise the next file opened would take their descriptor, and a kernel would print into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
