"""Scheduled starts: written for cron, systemd or Slurm, which run them. No daemon of our own.

A scheduler's module has ``text`` (what it would be given, and where), ``install`` and ``remove``;
another one finds its place in the table below, and a flag of its own in the verb.
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
    """Have a scheduler start a spec in the current folder; the document of what it was given.

    Args:
        spec: its file.
        start: what each start is given.
        cron: the times, for cron.
        systemd: for systemd, ``at`` a calendar event, or when the spec's window opens.
        at: see above.
        printed: nothing is touched.

    Raises:
        UsageError: none or two schedulers, or a time that is none.
        SpecError: the spec would not start.
        SecretError: it needs a secret that a scheduled start would not have.
        EngineError: the scheduler is not there, or refuses.
    """
    if (cron is not None) + systemd != 1:
        raise UsageError("by which scheduler?", fix="give --cron 'TIMES', --systemd or --slurm")
    if cron is not None and at is not None:
        raise UsageError("--at is for systemd and for Slurm", fix="--cron itself says when")
    loaded = _loaded(spec, start)
    kind, when = ("cron", cron) if cron is not None else ("systemd", at or _opening(loaded))
    job = job_of(spec, loaded.store, start)
    if loaded.notify and loaded.notify.webhook:
        filled(loaded.notify.webhook, {})  # where these run it there are no variables
    return _given(kind, job, when, job.log, printed)


def batch(spec: Path, order: Order, start: Start, *, printed: bool = False) -> dict[str, Any]:
    """Write a script that Slurm can be given, again and again; the document of it.

    Raises:
        UsageError: an order that cannot be meant; parts of what is no sweep.
        SpecError: the spec would not start.
    """
    loaded = _loaded(spec, start)
    if order.parts is not None and loaded.sweep is None:
        raise UsageError("--parts is for a sweep, and the spec has none", fix="leave it out")
    job = job_of(spec, loaded.store, start)
    return _given("slurm", job, order, slurm.log(job), printed)


def _check_file(spec: Path) -> None:
    """Refuse a spec that is piped in: each start of a scheduler reads it anew."""
    if is_stream(spec):
        raise UsageError(
            f"a scheduler needs a spec that stays: {spec} is read once", fix="save it as a file"
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
    """Have a scheduler take a job, unless it is only to be shown; the document of it."""
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
    """Take away what any scheduler was given of a spec, which need not be there any more."""
    _check_file(spec)
    name = name_of(spec)
    taken = [kind for kind, scheduler in SCHEDULERS.items() if scheduler.remove(name, spec)]
    return {"name": name, "removed": taken}


def _opening(spec: Spec) -> str:
    """When the window of a spec opens, as a calendar event of systemd."""
    if spec.schedule is None or spec.schedule.window is None:
        raise UsageError("when?", fix="give --at 'Mon..Fri 22:00', or the spec a schedule.window")
    zone = f" {spec.schedule.timezone}" if spec.schedule.timezone else ""
    return f"*-*-* {spec.schedule.window[:5]}:00{zone}"
