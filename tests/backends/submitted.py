"""Runs of the shipped spec as a person starts them, and the processes that belong to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.hosts.process_tree import descendants

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "configs" / "pi.yaml"
# As /proc has 127.0.0.1, in an IPv4 socket and in one that can do both.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}


def start(backend: str, store: Path, *more: str) -> subprocess.Popen[str]:
    """A run of the shipped spec with two slots."""
    command = [
        sys.executable,
        "-m",
        "cluster",
        "submit",
        str(SPEC),
        "--json",
        "--store",
        str(store),
        "--set",
        f"backend={backend}",
        *more,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )


def result(run: subprocess.Popen[str]) -> dict[str, Any]:
    """What it printed, within two minutes."""
    out, _ = run.communicate(timeout=120)
    assert run.returncode == 0
    document: dict[str, Any] = json.loads(out)
    return document


def digest(document: Any) -> str:
    """The digest, wherever the document has it."""
    if isinstance(document, dict):
        if isinstance(document.get("digest"), str):
            return str(document["digest"])
        return next((found for value in document.values() if (found := digest(value))), "")
    return ""


def found(run: subprocess.Popen[str], word: str) -> set[int]:
    """The processes of a run whose command line has a word."""
    pids = set()
    for pid in descendants(run.pid):
        with suppress(OSError):
            if word.encode() in Path("/proc", str(pid), "cmdline").read_bytes():
                pids.add(pid)
    return pids


def waited(run: subprocess.Popen[str], word: str) -> set[int]:
    """The same, once there are any."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and run.poll() is None:
        if pids := found(run, word):
            return pids
        time.sleep(0.05)
    raise AssertionError(f"no process of the run has {word} in its command line")


def listening(pid: int) -> Iterator[tuple[str, int]]:
    """Where a process listens on TCP."""
    mine = set()
    for entry in Path("/proc", str(pid), "fd").iterdir():
        with suppress(OSError):
            mine.add(os.readlink(entry))
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                address, port = fields[1].split(":")
                yield address, int(port, 16)
