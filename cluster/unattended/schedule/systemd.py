"""A service and a timer for the user's systemd instance."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cluster.common.errors import EngineError, StoreError, UsageError
from cluster.common.files import replace
from cluster.unattended.schedule.job import Scheduled, ScheduledJob

_PATIENCE = 30.0
# Seconds for a drain, which finishes the blocks being drawn; after that, systemd kills the run.
_STOPPING = 900

_SERVICE = """\
# Written by `cluster schedule`; `cluster schedule SPEC --remove` removes it.
[Unit]
Description=cluster: {spec}

[Service]
Type=oneshot
WorkingDirectory={folder}
ExecStart={command}
# 3: partial, the next start continues. 75: an earlier start is still computing the run.
SuccessExitStatus=3 75
# SIGTERM drains the run, so only the main process gets it
KillMode=mixed
TimeoutStopSec={stopping}
"""
_TIMER = """\
# Written by `cluster schedule`; `cluster schedule SPEC --remove` removes it.
[Unit]
Description=cluster: {spec}

[Timer]
OnCalendar={when}
# if starts were missed because the machine was off, start once when it is back
Persistent=true

[Install]
WantedBy=timers.target
"""


def text(job: ScheduledJob, when: str) -> Scheduled:
    """The two units of a job; nothing is written.

    Args:
        job: what is started.
        when: a calendar event, as in ``OnCalendar=``.

    Raises:
        UsageError: the time is invalid, or a path cannot be written into a unit.
    """
    if not when.isprintable() or not when.strip():
        raise UsageError(f"--at must be a calendar event such as 'Mon..Fri 22:00', got {when!r}")
    _check_calendar(when)
    spec, folder = _escaped(str(job.spec)), _escaped(str(job.folder))
    command = " ".join(map(_word, job.command))
    service, timer = _paths(job.name)
    filled = _SERVICE.format(spec=spec, folder=folder, command=command, stopping=_STOPPING)
    files = (
        (str(service), filled),
        (str(timer), _TIMER.format(spec=spec, when=when)),
    )
    return Scheduled(files, (_RELOAD, ("systemctl", "--user", "enable", "--now", timer.name)))


def _check_calendar(when: str) -> None:
    """Validate a calendar event by ``systemd-analyze``, if it is installed.

    Raises:
        UsageError: it is invalid. A timer with it would never start anything.
    """
    command = ("systemd-analyze", "calendar", "--", when)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    # The exit code is not enough: it also fails where systemd-analyze itself does not work.
    printed = done.stderr.strip()
    if done.returncode and "calendar" in printed:
        fix = "give a calendar event such as 'Mon..Fri 22:00', see 'man systemd.time'"
        raise UsageError(f"--at: {printed}", fix=fix)


def install(job: ScheduledJob, when: str) -> Scheduled:
    """Write both units, have the user's systemd load them, and start the timer.

    Args:
        job: what is started.
        when: a calendar event, as in ``OnCalendar=``.

    Raises:
        UsageError: the time is invalid, or a path cannot be written into a unit.
        StoreError: the units could not be written.
        EngineError: systemd failed to load them; they are kept.
    """
    made = text(job, when)
    for path, unit in made.files:
        _write(Path(path), unit)
    for command in made.commands:
        error = _run(command)
        if error is not None:
            raise EngineError(
                f"the units are written, but '{' '.join(command)}' failed: {error}",
                fix="run that command again where the user's systemd is running",
            )
    return made


def remove(name: str, _spec: Path) -> bool:
    """Stop a job's timer and remove both units; returns whether there were any."""
    try:
        paths = [path for path in _paths(name) if path.exists()]
    except _NoHome:
        return False
    if not paths:
        return False
    # Disabled before the files are removed, because systemd needs them for that. A failure is
    # ignored: where systemd does not run, there is no timer to stop.
    _run(("systemctl", "--user", "disable", "--now", _paths(name)[1].name))
    for path in paths:
        path.unlink(missing_ok=True)
    _run(_RELOAD)
    return True


class _NoHome(StoreError):
    """The user has no directory for units, so there are none of ours either."""


_RELOAD = ("systemctl", "--user", "daemon-reload")


def _paths(name: str) -> tuple[Path, Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if not os.path.isabs(home):
        raise _NoHome(
            f"there is no directory for units: the home of user {os.getuid()} is unknown",
            fix="set HOME or XDG_CONFIG_HOME",
        )
    folder = Path(home) / "systemd" / "user"
    return folder / f"cluster-{name}.service", folder / f"cluster-{name}.timer"


def _write(path: Path, unit: str) -> None:
    try:
        replace(path, unit)
    except OSError as error:
        raise StoreError(f"{error.strerror or error}", where=str(path)) from None


def _run(command: tuple[str, ...]) -> str | None:
    """Run a systemd command; returns its error message, or None if it succeeded."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def _word(word: str) -> str:
    """One argument of ExecStart=, quoted if necessary (see systemd.service(5)).

    Raises:
        UsageError: it has a character that a unit cannot have.
    """
    escaped = _escaped(word).replace("$", "$$")
    plain = all(letter.isalnum() or letter in "%@+=:,./_-$" for letter in escaped)
    if plain:
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(value: str) -> str:
    """A value whose % signs systemd does not read as specifiers."""
    if not value.isprintable():
        raise UsageError(
            f"a systemd unit cannot contain {value!r}: it has a character that cannot be printed"
        )
    return value.replace("%", "%%")
