"""A run that `submit` launched over the lab's hosts, and what it leaves there."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.hosts.process_tree import adopt, descendants
from scripts.lab_base import Lab as Named
from scripts.lab_base import keeper, within
from tests.lab.harness import Lab

# What an engine's own daemon on a host is recognised by.
DAEMONS = {
    "ssh": "cluster.hosts.agent",
    "tcp": "kit.server",
    "zeromq": "kit.server",
    "dispy": "dispy.node",
    "scoop": "scoop.worker",
    "mpi": "mpi.rank",
}
COMMAND = (sys.executable, "-m", "cluster")
PATIENCE = 150.0
# The time that every process of a run has to be gone after the run's end, on a cut host too.
ORPHANED = 30.0

# It draws in no time, and sleeps as long as its node says: so speeds are set by the test, not by
# how busy this machine is.
KERNEL = """
import os, time
from cluster import Hits

def f(rng, samples):
    time.sleep(float(os.environ.get("NAP", "0")))
    return Hits((rng.random(samples) < 0.25).sum(), samples)
"""
BLOCK = 64
# By the number of blocks and the kernel's text.
_digests: dict[tuple[int, str], str] = {}


class Site:
    """A folder with a spec of the lab's hosts, and the runs of it.

    Args:
        folder: an empty one.
        lab: its hosts.
        backend: of the spec.
        blocks: of every run.
        nap: seconds that a block takes, by host.
        slots: by host; hosts that are not named are left out.
    """

    def __init__(
        self,
        folder: Path,
        lab: Lab,
        backend: str,
        blocks: int = 200,
        nap: float = 0.03,
        slots: Mapping[str, int] | None = None,
        kernel: str = KERNEL,
        **keys: Any,
    ) -> None:
        adopt()
        self.folder, self.lab, self.blocks = folder, lab, blocks
        (folder / "kernel.py").write_text(kernel)
        counts = slots or {"h1": 2, "h2": 1, "h3": 1}
        nodes = [
            {"host": host, "slots": count, "python": Lab.python, "env": {"NAP": str(nap)}}
            for host, count in counts.items()
        ]
        self.spec: dict[str, Any] = {
            "name": "hosted",
            "kernel": "kernel.py:f",
            "samples": blocks * BLOCK,
            "block": BLOCK,
            "seed": 1,
            "backend": backend,
            "nodes": nodes,
            **keys,
        }
        self.write()

    def write(self) -> None:
        """Write the spec as it is now."""
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in self.spec.items()]
        (self.folder / "spec.yaml").write_text("".join(lines))

    def start(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> Submitted:
        """Run the command line, ``submit spec.yaml`` without words, as the lab's dispatcher."""
        words = words or ("submit", "spec.yaml")
        return Submitted(self, [*command, *words], environment or {})

    def run(self, *words: str) -> dict[str, Any]:
        """Run to the end; its result."""
        return self.start(*words).result()

    @property
    def digest(self) -> str:
        """What a run must come to: that of `serial`."""
        kind = self.blocks, (self.folder / "kernel.py").read_text()
        if kind not in _digests:
            words = ["--set", "backend=serial", "--set", "nodes=localhost:1", "--store", "serial"]
            done = self.start("submit", "spec.yaml", *words).result()
            _digests[kind] = done["digest"]
        return _digests[kind]

    def events(self) -> list[str]:
        """What the ledger says of hosts, as ``host: text``."""
        with sqlite3.connect(self.folder / "runs" / "ledger.sqlite") as db:
            rows = db.execute("SELECT node, text FROM event WHERE node IS NOT NULL ORDER BY at")
            return [f"{node}: {text}" for node, text in rows]


class Submitted:
    """A dispatcher at work."""

    def __init__(self, site: Site, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.site = site
        self.process = subprocess.Popen(
            [*words, "--json"],
            cwd=site.folder,
            start_new_session=True,
            env={**site.lab.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.set_blocking(self.process.stderr.fileno(), False)  # type: ignore[union-attr]
        self.told = ""
        self.begun = time.monotonic()

    def listen(self) -> str:
        """What it has said on stderr so far."""
        with suppress(TypeError, BlockingIOError):
            self.told += self.process.stderr.read() or ""  # type: ignore[union-attr]
        return self.told

    def await_words(self, pattern: str, seconds: float = 60.0) -> float:
        """Wait until it has said something; how many seconds that took."""
        begun = time.monotonic()
        while not re.search(pattern, self.listen()):
            waited = time.monotonic() - begun
            assert waited < seconds, f"{pattern!r} was not said in {seconds:g} s:\n{self.told}"
            assert self.process.poll() is None or waited < 1, f"ended without it:\n{self.told}"
            time.sleep(0.02)
        return time.monotonic() - begun

    def result(self, *codes: int, seconds: float = PATIENCE) -> dict[str, Any]:
        """Its one document, at its end, which must come with one of these exit codes (0)."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self.listen()
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"not ended in {seconds:g} s:\n{self.told}")
            time.sleep(0.02)
        document = self.end()
        code = self.process.returncode
        assert code in (codes or (0,)), f"exit code {code}\n{self.told}\n{document}"
        return document

    def end(self) -> dict[str, Any]:
        """What it has printed, once it has ended; nothing where it was killed."""
        self.process.wait(10)
        self.listen()
        stdout, stderr = self.process.stdout, self.process.stderr
        assert stdout is not None
        assert stderr is not None
        with stdout, stderr:
            document: dict[str, Any] = json.loads(stdout.read() or "{}")
        return document


def pids(lab: Lab, host: str, *words: str) -> list[int]:
    """The processes of a host, by this machine's numbers, whose command line has all the words."""
    found = []
    for pid in within(keeper(Named(lab.name), host)):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
            if line.strip() and all(word in line for word in words):
                found.append(pid)
    return sorted(found)


def orphans(lab: Lab, hosts: Sequence[str] = ("h1", "h2", "h3")) -> list[str]:
    """What a run left: processes on hosts and here, and files in /tmp and of engines."""
    left = []
    for host in hosts:
        left += [f"{host}: {_line(pid)}" for pid in pids(lab, host) if "sshd" not in _line(pid)]
        places = "ls -A /tmp ~/.cache/cluster/hosts 2>/dev/null | grep -v '^/' | grep -v full"
        left += [
            f"{host}: file {name}"
            for name in lab.ask("exec", host, "sh", "-c", places).stdout.split()
            if name != ".X11-unix"
        ]
    here = set(descendants(os.getpid())) - lab.before_us
    return left + [f"here: {_line(pid)}" for pid in here if _line(pid)]


def await_no_orphans(lab: Lab, hosts: Sequence[str] = ("h1", "h2", "h3")) -> None:
    """Nothing of a run is left on the hosts or here, at most 30 s after it ended."""
    end = time.monotonic() + ORPHANED
    while left := orphans(lab, hosts):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.2)


def _line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""
