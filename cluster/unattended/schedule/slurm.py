"""A batch script in the job's folder, for sbatch, and lines for scrontab."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster.common.errors import StoreError, UsageError
from cluster.unattended.schedule.job import Scheduled, ScheduledJob
from cluster.unattended.slurm import (
    MAX_ARRAY,
    BatchScript,
    SlurmError,
    array_limit,
    script,
    scrontab,
    warning_of,
)

_MARK = b"# Written by `cluster schedule "
_PATIENCE = 20.0


@dataclass(frozen=True)
class Order:
    """The options of a batch script.

    Attributes:
        at: five fields for scrontab; None: no lines for scrontab.
        options: options of sbatch, such as ``time=2:00:00``; ``signal=B:USR1@N`` sets the warning.
        parts: number of array tasks, each of which computes a part of a sweep; None: no array.
    """

    at: str | None = None
    options: tuple[str, ...] = ()
    parts: int | None = None


def text(job: ScheduledJob, order: Order) -> Scheduled:
    """The script of a job, and the lines for scrontab if a time is given; nothing is written.

    Raises:
        UsageError: an option, a time or a number is invalid.
    """
    file = _file(job.folder, job.name)
    most = _array_limit() if order.parts else MAX_ARRAY
    warning, options = warning_of(order.options)
    try:
        batch = BatchScript(
            name=f"cluster-{job.name}",
            spec=job.spec,
            folder=job.folder,
            store=job.store,
            python=sys.executable,
            overrides=job.overrides,
            options=options,
            parts=order.parts,
            most=most,
            yes=job.yes,
            warning=BatchScript.warning if warning is None else warning,
        )
        files = [(str(file), script(batch, str(file)))]
        if order.at is not None:
            files.append(("for scrontab -e", scrontab(batch, order.at, file)))
    except SlurmError as error:
        raise UsageError(error.message, fix=error.fix) from None
    return Scheduled(tuple(files), (("sbatch", str(file)),))


def install(job: ScheduledJob, order: Order) -> Scheduled:
    """Write the script. The user submits it, because a job may cost something.

    Raises:
        UsageError: an option, a time or a number is invalid, or there is a file of that name that
            this command did not write.
        StoreError: the script could not be written.
    """
    made = text(job, order)
    file, written = Path(made.files[0][0]), made.files[0][1]
    if file.exists() and not _is_ours(file):
        raise UsageError(f"{file} was not written by cluster", fix="move it away")
    try:
        file.write_text(written, "utf-8")
        file.chmod(0o755)
    except OSError as error:
        raise StoreError(f"{error.strerror or error}", where=str(file)) from None
    return made


def remove(name: str, spec: Path) -> bool:
    """Remove a job's script from the current folder and the spec's; whether there was one."""
    folders = {Path.cwd().resolve(), Path(os.path.realpath(spec.parent))}
    files = [file for file in (_file(each, name) for each in folders) if _is_ours(file)]
    for file in files:
        file.unlink()
    return bool(files)


def log(job: ScheduledJob) -> Path:
    """The pattern of its logs: each Slurm job has one, which its restarts append to."""
    return job.folder / f"cluster-{job.name}-*.log"


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.sbatch"


def _is_ours(file: Path) -> bool:
    try:
        return any(line.startswith(_MARK) for line in file.read_bytes().splitlines()[:2])
    except OSError:
        return False


def _array_limit() -> int:
    """The site's MaxArraySize; Slurm's default if scontrol does not report one."""
    command = ("scontrol", "show", "config")
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return MAX_ARRAY
    return array_limit(done.stdout.decode(errors="replace"))
