"""The process that a person started: its signals, its streams, and how its errors are told."""

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

# SIGUSR1 is what Slurm and mpirun can send to warn a job; by itself it would end the process.
_DRAIN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextmanager
def signals(*numbers: signal.Signals) -> Iterator[Stop]:
    """Signals that drain, those named or all that mean it; the second one stops at once."""
    stop, taken = Stop(), set(numbers or _DRAIN)

    def handle(number: int, _frame: object) -> None:
        if stop.reason is not None:
            raise StopNow(number)
        stop.reason = signal.Signals(number).name

    # nohup ignores SIGHUP on the person's behalf; only where nobody did does it mean "stop".
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        taken.discard(signal.SIGHUP)
    with handled(dict.fromkeys(taken, handle)):
        yield stop


Handlers = Mapping[signal.Signals, Callable[[int, Any], object]]


def standard_handlers() -> Handlers:
    """What a signal does to a verb that nothing has to be saved for: it ends, and says so.

    KeyboardInterrupt would not do: where kernels run in this process it could be one of theirs.
    """

    def handle(number: int, _frame: object) -> None:
        raise StopNow(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    return {number: handle for number in numbers if signal.getsignal(number) != signal.SIG_IGN}


@contextmanager
def handled(handlers: Handlers) -> Iterator[None]:
    """Signal handlers for a while; Python allows them in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {number: catch(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def translated(error: BaseException) -> ClusterError:
    """Any error as one of ours."""
    match error:
        case ClusterError():
            return error
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "cluster"
            return UsageError(error.format_message(), fix=f"'{where} --help' shows how it is used")
        case OSError():
            return StoreError(f"input or output failed: {error}")
        case StopNow():
            return Interrupted(*error.args)
        case KeyboardInterrupt():
            return Interrupted()
    traceback.print_exception(error)
    what = f"a fault of cluster itself: {type(error).__name__}: {error}"
    return ClusterError(what, fix="please report it, with the lines above")


def fail(error: ClusterError, as_json: bool) -> int:
    """Tell an error: as the one document on stdout, else in words on stderr."""
    with suppress(OSError):
        if as_json and _printed(json.dumps(error.to_json(), indent=2)):
            return error.code
        for line in text.error(error):
            click.echo(line, err=True)
    with suppress(OSError):
        _let_go_of_stdout()
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


def _let_go_of_stdout() -> None:
    """Write out what stdout still holds, or forget it: Python would try again at its own end."""
    try:
        sys.stdout.flush()
    except OSError:
        reader_gone()


def reader_gone() -> int:
    """Whoever read our output has left (``| head``): end quietly, with the shell's own code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def check_folder() -> None:
    """See that the current folder is there, which all relative paths are relative to.

    Raises:
        UsageError: it was removed since the shell went there, or cannot be reached.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        fix = "change to one that is there"
        raise UsageError("the current folder is gone", fix=fix) from None
    except OSError as error:
        words = f"the current folder cannot be used: {error.strerror}"
        raise UsageError(words, fix="change to another one") from None


def complete_streams() -> None:
    """Give a process that was started without standard streams (``>&-``) empty ones.

    Else the next file that is opened takes their numbers, and what a kernel prints goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
