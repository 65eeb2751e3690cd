"""Worlds that `submit` launches over three hosts, and what may happen to their processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.family import descendants
from tests.backends.mpi.test_inside import alone, spec
from tests.lab.conftest import standing_lab
from tests.lab.harness import Lab

__all__ = ["standing_lab"]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def lab(standing_lab: Lab) -> Iterator[Lab]:
    """h1, h2 and h3 in good order."""
    yield standing_lab
    standing_lab.reset()


def submit(lab: Lab, folder: Path, path: Path) -> subprocess.Popen[str]:
    """A submit over the three hosts, with one, two and one slots."""
    hosts = [
        {"host": name, "slots": slots, "python": lab.python}
        for name, slots in zip(lab.hosts, (1, 2, 1), strict=True)
    ]
    words = [sys.executable, "-m", "cluster", "submit", str(path), "--json", "--task-blocks", "1"]
    words += ["--set", "backend=mpi", "--set", f"nodes={json.dumps(hosts)}"]
    return subprocess.Popen(
        words, cwd=folder, env={**lab.environment, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its document."""
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def wait_for_work(lab: Lab) -> None:
    """Until every host has a rank and its workers, and has drawn for a moment."""
    deadline = time.monotonic() + 60
    pattern = "backends.mpi.rank"
    while any(lab.ask("exec", host, "pgrep", "-f", pattern).returncode for host in lab.hosts):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.5)


FAULTS = ("nothing", "rank", "daemon", "launcher", "host")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_three_hosts_give_the_digest_of_serial(lab: Lab, tmp_path: Path, fault: str) -> None:
    """Whatever of the world is killed meanwhile; and nothing of it is left on the hosts."""
    path = spec(tmp_path, 400, 0.05)
    process = submit(lab, tmp_path, path)
    wait_for_work(lab)
    if fault == "rank":
        lab.ask("exec", "h2", "pkill", "-9", "-f", "backends.mpi.rank")
    elif fault == "daemon":
        lab.do("exec", "h2", "pkill", "-9", "prted")
    elif fault == "host":
        lab.do("cut", "h2")
        lab.do("kill", "h2")
    elif fault == "launcher":
        below = descendants(process.pid)
        runs = [p for p in below if Path(f"/proc/{p}/comm").read_text().strip() == "prterun"]
        assert len(runs) == 1
        subprocess.run(["kill", "-9", str(runs[0])], check=True)
    result = ended(process)
    assert result["state"] == "done"
    assert result["digest"] == alone(tmp_path, path)
    assert {node["node"] for node in result["nodes"]} == {"h1", "h2", "h3"}
    for host in ("h1", "h3"):
        assert lab.ask("exec", host, "pgrep", "-f", "cluster.agent").returncode == 1
        assert lab.ask("exec", host, "pgrep", "prted").returncode == 1
