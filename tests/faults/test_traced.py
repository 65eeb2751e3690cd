"""What a run on this machine asks of the system, and what it must never ask."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.shell import spec as written
from tests.faults.strace import traced

LOCAL = ("serial", "threads", "processes", "ssh")


@pytest.mark.fault(101)
@pytest.mark.parametrize("backend", LOCAL)
def test_a_run_on_this_machine_opens_no_port(backend: str, tmp_path: Path) -> None:
    """Reports are files and text, no server; all that listens has a name of this machine alone."""
    path = written(tmp_path, backend=backend)
    calls = traced(tmp_path, "socket,bind,listen", "submit", path, "--store", tmp_path / "runs")
    assert any("exited with 0" in line for line in calls)
    assert (tmp_path / "runs").is_dir()
    assert not [line for line in calls if re.match(r"socket\(AF_(INET6?|PACKET)", line)]
    for line in calls:
        if line.startswith("bind("):
            assert re.search(r"\{sa_family=AF_(UNIX|NETLINK)", line), line


@pytest.mark.fault(87)
@pytest.mark.parametrize("backend", LOCAL)
def test_no_name_in_a_folder_that_all_may_write_can_be_guessed(
    backend: str, tmp_path: Path
) -> None:
    """What is made there is new, by its call, and has a random name or none; and nothing stays."""
    passing = tmp_path / "passing"
    passing.mkdir()
    path = written(tmp_path, backend=backend, notify={"command": ["true"]})
    # Without a place for caches, kernels are unpacked there, too.
    variables = {"TMPDIR": str(passing), "CLUSTER_CACHE": "/proc/none"}
    calls = "open,openat,creat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,bind"
    lines = traced(tmp_path, calls, "submit", path, "--store", tmp_path / "runs", **variables)
    assert any("exited with 0" in line for line in lines)
    shared = re.compile(rf'"({re.escape(str(passing))}|/tmp|/var/tmp|/dev/shm)(?:/([^/"]+))?"')
    made = []
    for line in lines:
        found = shared.search(line)
        creates = "O_CREAT" in line or "O_TMPFILE" in line or not line.startswith("open")
        if found and creates and " = -1 " not in line:
            made.append(line)
            nameless = "O_TMPFILE" in line and found[2] is None
            random = re.search(r"[a-z0-9_]{8}$", found[2] or "")
            exclusive = line.startswith("mkdir") or "O_EXCL" in line
            assert nameless or (exclusive and random), line
    assert made
    assert list(passing.iterdir()) == []
