"""The job that a scheduler runs: a command that needs no shell, terminal or environment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.common.errors import UsageError, retold

# The least environment that a job gets: cron's.
BARE = {"PATH": "/usr/bin:/bin"}
# Seconds for a spec to be validated; its kernel may be slow to import.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Start:
    """The options of each start.

    Attributes:
        overrides: values of ``--set``.
        store: replaces the spec's store, if given.
        yes: confirm a sweep of more than 100,000 points.
    """

    overrides: tuple[str, ...] = ()
    store: Path | None = None
    yes: bool = False


@dataclass(frozen=True)
class ScheduledJob:
    """A spec with all that its starts need.

    Attributes:
        name: the file name of the spec and a hash of its path, unique on this machine.
        spec: its absolute path.
        folder: absolute path of the working directory.
        store: absolute path of the store.
        overrides: values of ``--set``.
        yes: confirm a sweep of more than 100,000 points.
    """

    name: str
    spec: Path
    folder: Path
    store: Path
    overrides: tuple[str, ...] = ()
    yes: bool = False

    @property
    def log(self) -> Path:
        """The log of its starts; once a start has a run, its output goes to the run's log."""
        return self.store / "logs" / f"schedule-{self.name}.log"

    @property
    def command(self) -> list[str]:
        """The command of a start, as arguments; all paths are absolute."""
        places = ["--folder", str(self.folder), "--store", str(self.store), "--log", str(self.log)]
        return [*_program("schedule"), str(self.spec), "--start", *places, *self._sets()]

    def check(self) -> None:
        """Validate the spec in a scheduler's bare environment.

        Raises:
            ClusterError: the error with which a start would end.
        """
        validate = [*_program("validate"), str(self.spec), "--json", *self._sets()]
        validate += ["--yes"] if self.yes else []
        try:
            done = _run_bare(validate, self.folder)
        except subprocess.TimeoutExpired as error:
            raise UsageError(f"the spec was not validated within {error.timeout:g} s") from None
        if done.returncode == 0:
            return
        try:
            document = json.loads(done.stdout)
        except ValueError:
            last = done.stderr.strip().rpartition("\n")[2]
            raise UsageError(
                f"{sys.executable} cannot import cluster without PYTHONPATH: {last}",
                fix="install the project for that Python: a scheduled start has no PYTHONPATH",
            ) from None
        raise retold(done.returncode, document)

    def _sets(self) -> list[str]:
        return [word for text in self.overrides for word in ("--set", text)]


@dataclass(frozen=True)
class Scheduled:
    """What a scheduler is given.

    Attributes:
        files: the path, or what else names the place, and the text of each file.
        commands: the commands that make the scheduler read them, as arguments.
    """

    files: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, ...], ...]


def job_of(spec: Path, store: str | Path, start: Start) -> ScheduledJob:
    """The job that starts a spec in the current folder.

    Args:
        spec: path of its file.
        store: the spec's store; like that of ``start``, relative to the current folder.
        start: options of each start.
    """
    folder = Path.cwd()
    place = folder / (start.store or store)
    return ScheduledJob(name_of(spec), spec.absolute(), folder, place, start.overrides, start.yes)


def name_of(spec: Path) -> str:
    """The name of a spec's job, the same for every path to it; the file may have been deleted."""
    # Links are resolved in the folder's path only: a spec that is a link itself is another spec.
    path = os.path.join(os.path.realpath(spec.parent), spec.name).encode(errors="surrogateescape")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.stem).lstrip("._-")[:40] or "run"
    return f"{stem}-{hashlib.sha256(path).hexdigest()[:8]}"


def _run_bare(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=str(folder),
        env=BARE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="replace",
        timeout=_PATIENCE,
    )


def _program(verb: str) -> list[str]:
    # -P: a file random.py in the working directory must not shadow the standard library's.
    return [sys.executable, "-P", "-m", "cluster", verb]
