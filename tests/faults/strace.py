"""The command line under strace: what it asks of the system."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.shell import environment
from tests.conftest import need


def traced(folder: Path, calls: str, *words: str | Path, **variables: str) -> list[str]:
    """The lines of strace for these system calls, without process ids, in their order."""
    need(shutil.which("strace"), "strace (apt install strace)")
    trace = folder / "trace"
    strace = ("strace", "-f", "-y", "-s", "4096", "-o", str(trace), "-e", f"trace={calls}")
    need(
        subprocess.run([*strace, "true"], capture_output=True).returncode == 0,
        "the right to trace a process (a container may lack it)",
    )
    env = environment(HOME=str(folder), XDG_CONFIG_HOME=str(folder / "config"), **variables)
    command = [*strace, sys.executable, "-P", "-m", "cluster", *map(str, words)]
    subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=120)
    return [line.partition(" ")[2].strip() for line in trace.read_text().splitlines()]
