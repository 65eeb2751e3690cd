"""A service and a timer of the user's own systemd."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cluster.common.errors import EngineError, StoreError, UsageError
from cluster.common.files import replace
from cluster.unattended.schedule.job import Scheduled, ScheduledJob

_PATIENCE = 30.0
# A drain finishes what was started; only then what is left is killed.
_STOPPING = 900

_SERVICE = """\
# Written by `cluster schedule`; `cluster schedule SPEC --remove` takes it away.
[Unit]
Description=cluster: {spec}

[Service]
Type=oneshot
WorkingDirectory={folder}
ExecStart={command}
# partial, until the next start goes on; and held by an earlier start, which goes on itself
SuccessExitStatus=3 75
# SIGTERM drains the run, so only its first process gets it
KillMode=mixed
TimeoutStopSec={stopping}
"""
_TIMER = """\
# Written by `cluster schedule`; `cluster schedule SPEC --remove` takes it away.
[Unit]
Description=cluster: {spec}

[Timer]
OnCalendar={when}
# a start that was missed, because the machine was off, is made up for once
Persistent=true

[Install]
WantedBy=timers.target
"""


def text(job: ScheduledJob, when: str) -> Scheduled:
    """The two units of a job; ``when`` is a calendar event, as OnCalendar= has it.

    Raises:
        UsageError: a path or the time cannot stand in a unit.
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
    """Ask systemd whether it knows a time, where it is there to be asked.

    Raises:
        UsageError: it does not; else the timer would be written, and never start anything.
    """
    words = ("systemd-analyze", "calendar", "--", when)
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    # By its words: it also fails where it cannot work at all, which says nothing of the time.
    said = done.stderr.strip()
    if done.returncode and "calendar" in said:
        fix = "give a calendar event such as 'Mon..Fri 22:00', see 'man systemd.time'"
        raise UsageError(f"--at: {said}", fix=fix)


def install(job: ScheduledJob, when: str) -> Scheduled:
    """Write both units, and have the user's systemd read them and start the timer.

    Raises:
        UsageError: see :func:`text`.
        StoreError: they could not be written.
        EngineError: systemd does not answer; the units are there all the same.
    """
    made = text(job, when)
    for path, unit in made.files:
        _write(Path(path), unit)
    for command in made.commands:
        said = _told(command)
        if said is not None:
            raise EngineError(
                f"the units are written, but '{' '.join(command)}' failed: {said}",
                fix="where the user's systemd runs, give that command again",
            )
    return made


def remove(name: str, _spec: Path) -> bool:
    """Stop a job's timer, and take both units away; whether there were any."""
    try:
        paths = [path for path in _paths(name) if path.exists()]
    except _NoHome:
        return False
    if not paths:
        return False
    # Before the files go: without them systemd does not know what to disable. Where it does not
    # run at all, there is nothing to stop.
    _told(("systemctl", "--user", "disable", "--now", _paths(name)[1].name))
    for path in paths:
        path.unlink(missing_ok=True)
    _told(_RELOAD)
    return True


class _NoHome(StoreError):
    """No place for units, and so none in it."""


_RELOAD = ("systemctl", "--user", "daemon-reload")


def _paths(name: str) -> tuple[Path, Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if not os.path.isabs(home):
        raise _NoHome(
            f"there is no folder for units: the home of user {os.getuid()} is not known",
            fix="set HOME or XDG_CONFIG_HOME",
        )
    folder = Path(home) / "systemd" / "user"
    return folder / f"cluster-{name}.service", folder / f"cluster-{name}.timer"


def _write(path: Path, unit: str) -> None:
    try:
        replace(path, unit)
    except OSError as error:
        raise StoreError(f"{error.strerror or error}", where=str(path)) from None


def _told(command: tuple[str, ...]) -> str | None:
    """Run a command of systemd's; what it said where it failed, None where it did not."""
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
    """One word of ExecStart=, in quotes where it needs them (systemd.service(5)).

    Raises:
        UsageError: no unit can hold it.
    """
    escaped = _escaped(word).replace("$", "$$")
    plain = all(letter.isalnum() or letter in "%@+=:,./_-$" for letter in escaped)
    if plain:
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(value: str) -> str:
    """A value in which no % is a specifier of systemd's."""
    if not value.isprintable():
        raise UsageError(f"no unit can hold {value!r}: it has a letter that cannot be printed")
    return value.replace("%", "%%")
