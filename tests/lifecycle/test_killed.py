"""A sweep whose dispatcher is killed again and again ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import api
from cluster.common.errors import StoreError, UsageError
from tests.cli.shell import ask, ended, started
from tests.lifecycle.folder import Folder, digests

SHARES = {"params.share": "range(0.2, 0.6, 0.002)"}


def blocks(store: Path) -> int:
    """How many blocks are counted for the sweep, as another process sees it; 0 while it is none."""
    try:
        points = api.show("swept", store).members
    except (StoreError, UsageError):  # its folder or its tables are not there yet
        return 0
    return sum(point.result.blocks for point in points)


def killed(folder: Folder, fate: random.Random) -> bool:
    """Start the sweep, and kill it a moment after it has counted more; False: it ended before."""
    before = blocks(folder.path / "runs")
    process = started("submit", "s.yaml", "--quiet", cwd=folder.path)
    deadline = time.monotonic() + 60
    while process.poll() is None and blocks(folder.path / "runs") <= before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(fate.uniform(0.0, 0.6))
    alive = process.poll() is None
    ended(process, *([signal.SIGKILL] if alive else []))
    return alive


@pytest.mark.fault(37)
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    """Once, and small: what is counted stays, states are told, and the digests are those alone."""
    folder = Folder(tmp_path, samples=64 * 120, params={"nap": 0.01})
    assert killed(folder, random.Random(1))
    shown = folder.show()
    assert shown["state"] == "interrupted"
    assert shown["stopped_by"] is None
    assert shown["samples"] > 0
    again = folder.submit()
    assert (again["state"], again["sweep"]) == ("done", shown["sweep"])
    assert digests(again) == digests(folder.submit("--store", "unbroken"))


@pytest.mark.slow
@pytest.mark.fault(37, 52)
@pytest.mark.parametrize("seed", range(2))
def test_200_points_killed_ten_times_have_the_digests_of_an_unbroken_sweep(
    seed: int, tmp_path: Path
) -> None:
    """At random moments; some of the starts on another backend."""
    fate = random.Random(seed)
    folder = Folder(tmp_path, samples=64 * 40, params={"nap": 0.008}, sweep={"matrix": SHARES})
    kills = 0
    while kills < 10:
        folder.write(backend=fate.choice(["processes", "processes", "threads"]))
        assert killed(folder, fate), f"it ended after {kills} kills"
        kills += 1
    last: Any = folder.submit()
    assert (last["state"], last["points_done"]) == ("done", 200)
    folder.write(backend="processes")
    unbroken = folder.submit("--store", "unbroken")
    assert digests(last) == digests(unbroken)
    for point in last["points"]:
        assert sum(node["samples"] for node in point["nodes"]) == point["samples"] == 64 * 40
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_worker(pid, tmp_path)]


def _is_worker(pid: str, folder: Path) -> bool:
    """Whether a process works for a run of this folder."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text()
        return "cluster.hosts.worker" in line and os.readlink(f"/proc/{pid}/cwd") == str(folder)
    except OSError:
        return False


def test_the_points_of_an_ended_sweep_are_free(tmp_path: Path) -> None:
    """Each is a run like any other: it can be shown, extended and repeated by itself."""
    folder = Folder(tmp_path, backend="serial")
    run = folder.submit()["points"][0]["run"]
    more = ask("extend", run, "--samples", "1280", cwd=tmp_path)
    assert (more["run"], more["samples"]) == (run, 1280)
    assert ask("repro", run, "--block", "3", cwd=tmp_path)["fault"] is None
    assert ask("show", run, cwd=tmp_path)["digest"] == folder.show()["points"][0]["digest"]
