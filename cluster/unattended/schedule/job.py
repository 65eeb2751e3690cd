"""What a scheduler is to run: one command that needs no shell, no terminal and no environment."""

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

# All that cron gives to a job, at the least.
BARE = {"PATH": "/usr/bin:/bin"}
_PATIENCE = 120.0


@dataclass(frozen=True)
class Start:
    """What each start of a spec is given beside it.

    Attributes:
        overrides: texts of ``--set``.
        store: instead of the spec's.
        yes: more than 100,000 points of a sweep are meant.
    """

    overrides: tuple[str, ...] = ()
    store: Path | None = None
    yes: bool = False


@dataclass(frozen=True)
class ScheduledJob:
    """A spec, to be started again and again.

    Attributes:
        name: of the spec's file, and eight digits for its path; one to each spec of a machine.
        spec: its absolute path.
        folder: in which it works.
        store: absolute.
        overrides: texts of ``--set``.
        yes: more than 100,000 points of a sweep are meant.
    """

    name: str
    spec: Path
    folder: Path
    store: Path
    overrides: tuple[str, ...] = ()
    yes: bool = False

    @property
    def log(self) -> Path:
        """What its starts say before they have a run, whose log goes on with it."""
        return self.store / "logs" / f"schedule-{self.name}.log"

    @property
    def command(self) -> list[str]:
        """What is run, word by word, all paths absolute."""
        places = ["--folder", str(self.folder), "--store", str(self.store), "--log", str(self.log)]
        return [*_program("schedule"), str(self.spec), "--start", *places, *self._sets()]

    def check(self) -> None:
        """See that the spec is right, and that it is so with a scheduler's bare environment.

        Raises:
            ClusterError: what a start would end with.
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
            said = done.stderr.strip().rpartition("\n")[2]
            raise UsageError(
                f"{sys.executable} does not find cluster by itself: {said}",
                fix="a scheduled start has no PYTHONPATH: install the project into that Python",
            ) from None
        raise retold(done.returncode, document)

    def _sets(self) -> list[str]:
        return [word for text in self.overrides for word in ("--set", text)]


@dataclass(frozen=True)
class Scheduled:
    """What a scheduler is given: files and their texts, and the commands that make it read them."""

    files: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, ...], ...]


def job_of(spec: Path, store: str | Path, start: Start) -> ScheduledJob:
    """The job of a spec in the current folder, to which its store is relative."""
    folder = Path.cwd()
    place = folder / (start.store or store)
    return ScheduledJob(name_of(spec), spec.absolute(), folder, place, start.overrides, start.yes)


def name_of(spec: Path) -> str:
    """The name of a spec's job, by whatever path; the spec need not be there any more."""
    # A spec that is a link keeps a name of its own; the way to its folder does not matter.
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
    # -P: a file random.py in the folder must not stand in for the real one.
    return [sys.executable, "-P", "-m", "cluster", verb]
