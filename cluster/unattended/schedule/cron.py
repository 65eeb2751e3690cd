"""Lines in the user's crontab, by crontab(1)."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.common.errors import EngineError, StoreError, UsageError
from cluster.unattended import crontab
from cluster.unattended.schedule.job import Scheduled, ScheduledJob

_PATIENCE = 20.0
_TRIES = 5


def text(job: ScheduledJob, when: str) -> Scheduled:
    """The crontab lines of a job; nothing is written.

    Args:
        job: what is started.
        when: five fields, or a nickname such as ``@daily``.

    Raises:
        UsageError: the time is invalid, or cron cannot run the command as given.
    """
    block = crontab.put("", job.name, [_line(job, when)])
    return Scheduled(((f"crontab of {_user()}", block),), (("crontab", "-"),))


def install(job: ScheduledJob, when: str) -> Scheduled:
    """Write a job's lines into the crontab, and replace those that it had.

    Args:
        job: what is started.
        when: five fields, or a nickname such as ``@daily``.

    Raises:
        UsageError: the time is invalid, or the crontab's markers do not match.
        EngineError: there is no crontab(1), or it refuses this user.
        StoreError: the crontab is being edited.
    """
    line = _line(job, when)
    _change(lambda before: crontab.put(before, job.name, [line]))
    return text(job, when)


def remove(name: str, _spec: Path, patience: float = _PATIENCE) -> bool:
    """Take a job's lines away; whether there were any.

    Args:
        name: of the job.
        patience: seconds within which crontab(1) must answer, each time.

    Raises:
        EngineError: it did not answer, or refused.
        StoreError: somebody else is editing the crontab.
        UsageError: the crontab has lines that cannot be read.
    """
    try:
        return _change(lambda before: crontab.remove(before, name), patience)
    except _NoCrontab:
        return False


class _NoCrontab(EngineError):
    """This user has no crontab, so it has no lines of ours either."""


def _line(job: ScheduledJob, when: str) -> str:
    try:
        return crontab.line(when, job.command)
    except crontab.CrontabError as error:
        raise UsageError(f"--cron: {error}") from None


def _change(edit: Callable[[str], str], patience: float = _PATIENCE) -> bool:
    """Edit the crontab; returns whether that changed anything.

    crontab(1) has no lock. So the crontab is read again before it is written, and once more
    afterwards; if another program has changed it in between, the edit starts over from its text.
    """
    with _one_of_ours():
        for _ in range(_TRIES):
            before = _read(patience)
            try:
                after = edit(before)
            except crontab.CrontabError as error:
                raise UsageError(f"the crontab of {_user()}: {error}") from None
            if after == before:
                return False
            if _read(patience) != before:
                continue
            _write(after, patience)
            if _read(patience) == after:
                return True
    raise _busy()


@contextmanager
def _one_of_ours() -> Iterator[None]:
    """Serialize our own commands by a lock on the home directory, which leaves no file behind."""
    entry = _entry()
    try:
        home = os.open(entry.pw_dir if entry else "/", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        home = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _locked(home):
            if time.monotonic() > deadline:
                raise _busy()
            time.sleep(0.05)
        yield
    finally:
        os.close(home)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy() -> StoreError:
    return StoreError(
        f"the crontab of {_user()} is being edited", fix="try again when that is done"
    )


def _read(patience: float) -> str:
    done = _crontab(patience, "-l")
    if done.returncode == 0:
        # Other lines may be in any encoding; surrogateescape writes their bytes back unchanged.
        return done.stdout.decode(errors="surrogateescape")
    if b"no crontab for" in done.stderr:
        return ""
    raise _refused(done)


def _write(lines: str, patience: float) -> None:
    done = _crontab(patience, "-", lines) if lines else _crontab(patience, "-r")
    if done.returncode != 0 and b"no crontab for" not in done.stderr:
        raise _refused(done)


def _crontab(patience: float, argument: str, lines: str = "") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["crontab", argument],
            check=False,
            input=lines.encode(errors="surrogateescape"),
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=patience,
        )
    except FileNotFoundError:
        fix = "install cron (Debian and Ubuntu: apt install cron), or use --systemd"
        raise _NoCrontab("there is no crontab command on this machine", fix=fix) from None
    except subprocess.TimeoutExpired:
        words = f"crontab {argument} gave no answer within {patience:g} s"
        raise EngineError(words, fix="see what it waits for, then try again") from None


def _refused(done: subprocess.CompletedProcess[bytes]) -> EngineError:
    said = done.stderr.decode(errors="replace").strip()
    kind = EngineError if _entry() else _NoCrontab  # a user without a passwd entry has no crontab
    return kind(f"crontab: {said or f'exit code {done.returncode}'}")


def _user() -> str:
    """This user's name, from the passwd database: a bare environment has no USER."""
    entry = _entry()
    return entry.pw_name if entry else f"user {os.getuid()}"


def _entry() -> pwd.struct_passwd | None:
    """This user's passwd entry; None where there is none, as in some containers."""
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None
