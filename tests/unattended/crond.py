"""A cron of its own for a test: its spool, its pid file and its daemon are seen by nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cli.shell import PATIENCE, ROOT, environment
from tests.conftest import need

_HIDE = """
set -e
mount -t tmpfs none /run
mount -t tmpfs none /etc/cron.d
mount -t tmpfs none /var/spool/cron
mount --bind /dev/null /etc/crontab
mkdir /var/spool/cron/crontabs
chgrp crontab /var/spool/cron/crontabs
chmod 1730 /var/spool/cron/crontabs
echo ready
exec sleep infinity
"""


def need_cron() -> None:
    """Skip, or fail in CI, where no cron of our own can be had."""
    need(os.geteuid() == 0, "root: only root can give a test a cron of its own")
    need(shutil.which("cron", path="/usr/sbin:/sbin"), "cron: scripts/lab install")


class Crond:
    """A mount namespace in which crontab(1) and cron(8) have folders of their own."""

    def __init__(self) -> None:
        self._inside = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HIDE],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._inside.stdout
        self._daemon: subprocess.Popen[str] | None = None
        assert self._inside.stdout.readline() == "ready\n"

    def __enter__(self) -> Crond:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in (self._daemon, self._inside):
            if process is not None:
                process.kill()
                process.communicate()

    def words(self, command: Sequence[object], folder: Path) -> list[str]:
        """A command as it runs in there."""
        enter = ["nsenter", "--target", str(self._inside.pid), "--mount", f"--wdns={folder}"]
        return [*enter, "--", *map(str, command)]

    def run(
        self, *command: object, cwd: Path, given: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in there, to its end."""
        return subprocess.run(
            self.words(command, cwd),
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=env or environment(PYTHONPATH=str(ROOT)),
        )

    def cluster(self, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of ours in there."""
        return self.run(sys.executable, "-m", "cluster", *arguments, cwd=cwd)

    def crontab(self) -> str:
        """What root's crontab holds."""
        return self.run("crontab", "-l", cwd=Path("/")).stdout

    def begin(self) -> None:
        """Start the daemon."""
        bare = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        words = self.words(["cron", "-f"], Path("/"))
        self._daemon = subprocess.Popen(words, env=bare, text=True)
