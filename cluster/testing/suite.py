"""All checks of an engine as cases, for pytest or for the command line without it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import IO

from cluster.backends.base import Backend, Options, kind
from cluster.common.engines import described
from cluster.common.errors import ClusterError, EngineError, UsageError
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import descendants
from cluster.testing.checks import CHECKS, HOSTILE, Make, Subject, check_hostile
from cluster.testing.kills import KILLS, check_killed

_USAGE = """\
usage: python -m cluster.testing ENGINE [WORD ...]

Runs the conformance suite on an engine, and prints one line a check: ok, FAIL, or - where it does
not apply. ENGINE is MODULE:CLASS, or the name of a backend. With words, only the checks whose name
contains one of them. If the engine itself fails in the first check (it does not start, or raises
EngineError), the others are skipped.
Exit code 0 if none failed, 1 if one did; 2 if there is no such engine, 69 if it cannot be used.
"""
# Seconds; no check of a correct engine takes this long, even on a slow machine.
_LONGEST = 180
# Lines and characters to show of the output of a failed check, and bytes of it to read.
_LINES, _WIDTH, _PRINTED = 20, 120, 20_000


@dataclass(frozen=True)
class Case:
    """One check of an engine, as a callable that raises AssertionError if the engine fails it.

    Attributes:
        name: what is checked.
        make: makes the engine.
        check: the check itself; it returns False if it does not apply to the engine.
        outside: the check needs an engine that runs kernels in processes of their own.
    """

    name: str
    make: Make
    check: Callable[[Subject], bool | None]
    outside: bool = False

    @property
    def __name__(self) -> str:
        """The name, from which pytest makes test ids."""
        return self.name

    def __call__(self) -> bool:
        """Run the check; False if it does not apply to the engine."""
        subject = Subject(self.make)
        if self.outside and subject.in_process:
            return False
        return self.check(subject) is not False


def engine_suite(make: Make | type[Backend]) -> list[Case]:
    """Every check, hostile kernel and kill, for ``pytest.mark.parametrize``.

    Args:
        make: a subclass of :class:`Backend`, to be instantiated with two slots of this machine; or
            a function that returns a new engine with at least two slots at each call.
    """
    made = on_this_machine(make) if isinstance(make, type) else make
    return [
        *(Case(_plain(check), made, check) for check in CHECKS),
        *(
            Case(f"survives_{name}", made, partial(check_hostile, name=name), hostile.kills)
            for name, hostile in HOSTILE.items()
        ),
        *(Case(f"{role}_killed", made, partial(check_killed, role=role), True) for role in KILLS),
    ]


def on_this_machine(engine: type[Backend]) -> Make:
    """A factory of engines with two slots of this machine, and a tick short enough for tests."""
    return partial(engine, (Node("localhost", slots=2),), Options(tick=0.1))


def main(arguments: Sequence[str]) -> int:
    """Run the suite on the engine named by the first argument; returns the exit code."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        sys.stdout.write(_USAGE)
        return 0 if arguments else 2
    target, *words = arguments
    try:
        cases = engine_suite(_engine(target))
    except ClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code
    wanted = [case for case in cases if not words or any(word in case.name for word in words)]
    verdicts = _verdicts(wanted)
    counts = {word: verdicts.count(word) for word in ("ok", "FAIL", "-")}
    skipped = len(wanted) - len(verdicts)
    rest = f"; {skipped} skipped, because the engine itself failed" if skipped else ""
    _say(f"{counts['ok']} ok, {counts['FAIL']} failed, {counts['-']} do not apply{rest}")
    return int(counts["FAIL"] > 0 or not wanted)


def _verdicts(cases: Sequence[Case]) -> list[str]:
    """Run the cases, but only the first if the engine itself fails in that.

    Every other case would fail in the same way, and might wait half a minute for the start again.
    """
    verdicts: list[str] = []
    for case in cases:
        verdict, error = _verdict(case)
        verdicts.append(verdict)
        if isinstance(error, ClusterError) and case is cases[0]:
            break
    return verdicts


def _engine(target: str) -> type[Backend]:
    """The engine's class, from ``MODULE:CLASS`` or the name of a backend.

    Raises:
        UsageError: there is no such class or backend.
        EngineError: its ``ENTRY`` is missing or wrong, or other processes cannot import it.
    """
    module, colon, name = target.partition(":")
    if not colon:
        return kind(target)
    installed = _is_installed(module)  # before the import: a module that is loaded is found anyway
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        reason = f"{target} cannot be imported: {type(error).__name__}: {error}"
        raise UsageError(
            reason, fix="use MODULE:CLASS, and run it in the folder of the module"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UsageError(
            f"{target} is not a class that inherits from cluster.backends.base.Backend"
        )
    if described(module).hosted and not installed:
        raise EngineError(
            f"{module} is found in the current folder only, where the processes of a hosted engine"
            " do not look for it",
            fix="install its package first, here and on every host: pip install -e .",
        )
    return found


def _is_installed(module: str) -> bool:
    """Whether other processes find a module, which have no current folder in front of the path."""
    if sys.flags.safe_path or sys.path[0] not in ("", os.getcwd()):
        return True
    current = sys.path.pop(0)
    try:
        return find_spec(module.partition(".")[0]) is not None
    finally:
        sys.path.insert(0, current)


def _verdict(case: Case) -> tuple[str, BaseException | None]:
    """Run a case and print its line; if it failed, print the end of its output as well.

    Returns:
        The verdict, ``ok``, ``FAIL`` or ``-``; and the exception that failed it, or None.
    """
    begun, before, reason = time.monotonic(), descendants(os.getpid()), ""
    raised: BaseException | None = None
    with tempfile.TemporaryFile() as printed:
        try:
            with _output_to(printed), _at_most(_LONGEST):
                verdict = "ok" if case() else "-"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an engine under test may raise anything
            verdict, reason, raised = "FAIL", _reason(error), error
            _end(descendants(os.getpid()) - before)
        _say(f"{verdict:4} {case.name:44} {time.monotonic() - begun:6.1f} s  {reason}".rstrip())
        for line in _tail(printed) if reason else ():
            _say(f"     | {line}")
    return verdict, raised


@contextmanager
def _output_to(file: IO[bytes]) -> Iterator[None]:
    """Redirect descriptors 1 and 2 to a file: hostile kernels print megabytes."""
    kept = os.dup(1), os.dup(2)
    # What Python has buffered belongs to the old target.
    sys.stdout.flush()
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for number, saved in enumerate(kept, 1):
            os.dup2(saved, number)
            os.close(saved)


def _tail(file: IO[bytes]) -> list[str]:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _PRINTED))
    lines = file.read().decode(errors="replace").splitlines()[-_LINES:]
    return [line[:_WIDTH] for line in lines]


def _reason(error: BaseException) -> str:
    """The error, and the line of the suite that raised it, which shows what was expected."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{words} ({os.path.basename(last.filename)}:{last.lineno}: {last.line})"


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError if the body takes longer."""

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not finished after {seconds} s")

    kept = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, kept)


def _end(pids: set[int]) -> None:
    """Kill the processes that a failed engine left, so that they do not disturb the next check."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _plain(check: Callable[[Subject], None]) -> str:
    return check.__name__.removeprefix("check_")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
