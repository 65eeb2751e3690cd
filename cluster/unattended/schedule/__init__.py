"""Scheduled starts, which cron, systemd or Slurm run: there is no daemon of our own.

Each scheduler is a module with three functions: ``text`` (what it would be given, and where),
``install`` and ``remove``. A new one is added to ``SCHEDULERS``, with a flag of the command
``schedule``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster import api
from cluster.common.errors import UsageError
from cluster.lifecycle.notify import filled
from cluster.spec import Spec, is_stream
from cluster.unattended.schedule import cron, slurm, systemd
from cluster.unattended.schedule.job import Scheduled, ScheduledJob, Start, job_of, name_of
from cluster.unattended.schedule.slurm import Order

__all__ = [
    "SCHEDULERS",
    "Order",
    "Scheduled",
    "ScheduledJob",
    "Start",
    "batch",
    "job_of",
    "put",
    "remove",
]

SCHEDULERS = {"cron": cron, "systemd": systemd, "slurm": slurm}


def put(
    spec: Path,
    start: Start,
    *,
    cron: str | None = None,
    systemd: bool = False,
    at: str | None = None,
    printed: bool = False,
) -> dict[str, Any]:
    """Have cron or systemd start a spec in the current folder.

    Args:
        spec: path of its file.
        start: options of each start.
        cron: for cron: five fields, or a nickname such as ``@daily``.
        systemd: use systemd.
        at: for systemd: a calendar event; None: when the spec's window opens.
        printed: only return what would be written.

    Returns:
        The JSON document of what the scheduler was given.

    Raises:
        UsageError: no scheduler or more than one, or an invalid time.
        SpecError: the spec is invalid.
        SecretError: the spec needs a secret from the environment, which a scheduled start does not
            have.
        EngineError: the scheduler is missing, or refuses.
        StoreError: the crontab is being edited, or a unit could not be written.
    """
    if (cron is not None) + systemd != 1:
        raise UsageError("by which scheduler?", fix="give --cron 'TIMES', --systemd or --slurm")
    if cron is not None and at is not None:
        raise UsageError("--at is for systemd and for Slurm", fix="--cron itself says when")
    loaded = _loaded(spec, start)
    kind, when = ("cron", cron) if cron is not None else ("systemd", at or _opening(loaded))
    job = job_of(spec, loaded.store, start)
    if loaded.notify and loaded.notify.webhook:
        filled(loaded.notify.webhook, {})  # cron and systemd do not pass our environment on
    return _given(kind, job, when, job.log, printed)


def batch(spec: Path, order: Order, start: Start, *, printed: bool = False) -> dict[str, Any]:
    """Write a batch script, which the user submits to Slurm.

    Args:
        spec: path of its file.
        order: options of the script.
        start: options of each start.
        printed: only return what would be written.

    Returns:
        The JSON document of the script.

    Raises:
        UsageError: an option of the script is invalid, or asks for parts where there is no sweep.
        SpecError: the spec is invalid.
        StoreError: the script could not be written.
    """
    loaded = _loaded(spec, start)
    if order.parts is not None and loaded.sweep is None:
        raise UsageError("--parts is for a sweep, and the spec has none", fix="leave it out")
    job = job_of(spec, loaded.store, start)
    return _given("slurm", job, order, slurm.log(job), printed)


def _check_file(spec: Path) -> None:
    """Refuse a spec from a pipe: every start has to read it again."""
    if is_stream(spec):
        raise UsageError(
            f"a scheduler needs the spec as a file: {spec} can be read only once",
            fix="save it as a file",
        )


def _loaded(spec: Path, start: Start) -> Spec:
    _check_file(spec)
    loaded = api.load(spec, start.overrides)
    if start.yes and loaded.sweep is None:
        raise UsageError("--yes is for a sweep, and the spec has none", fix="leave it out")
    return loaded


def _given(
    kind: str, job: ScheduledJob, when: str | Order, log: Path, printed: bool
) -> dict[str, Any]:
    """Give a job to a scheduler, unless it is only to be printed; returns the JSON document."""
    scheduler = SCHEDULERS[kind]
    made = scheduler.text(job, when)
    job.check()
    if not printed:
        scheduler.install(job, when)
    return {
        "name": job.name,
        "scheduler": kind,
        "written": not printed,
        "files": [{"path": path, "text": text} for path, text in made.files],
        "commands": [list(command) for command in made.commands],
        "log": str(log),
    }


def remove(spec: Path) -> dict[str, Any]:
    """Remove the scheduled starts of a spec from every scheduler.

    Args:
        spec: path of its file, which may have been deleted.

    Returns:
        The JSON document: the job's name, and the schedulers that had it.

    Raises:
        UsageError: the spec is a pipe, or the crontab's markers do not match.
        EngineError: a scheduler refuses.
        StoreError: the crontab is being edited.
    """
    _check_file(spec)
    name = name_of(spec)
    removed = [kind for kind, scheduler in SCHEDULERS.items() if scheduler.remove(name, spec)]
    return {"name": name, "removed": removed}


def _opening(spec: Spec) -> str:
    """The time at which the spec's window opens, as a calendar event of systemd."""
    if spec.schedule is None or spec.schedule.window is None:
        raise UsageError(
            "no time is given: the spec has no schedule.window",
            fix="give --at 'Mon..Fri 22:00', or the spec a schedule.window",
        )
    zone = f" {spec.schedule.timezone}" if spec.schedule.timezone else ""
    return f"*-*-* {spec.schedule.window[:5]}:00{zone}"
