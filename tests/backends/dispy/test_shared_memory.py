"""A host without room in its shared memory, where dispy has its queues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.hosts.worker_pool import python_command
from tests.conftest import need

FULL = 'mount -t tmpfs -o size=4k cluster-test /dev/shm && echo > /dev/shm/full && exec "$@"'


@pytest.mark.fault(44)
def test_a_dispynode_without_shared_memory_says_what_is_full(tmp_path: Path) -> None:
    """In one line with the cure, as the last words that a person is told of that host."""
    need(os.geteuid() == 0, "root, to mount a small /dev/shm")
    node = python_command(sys.executable, "cluster.backends.dispy.node")
    first = {"address": "127.0.0.1", "port": 0, "jobs": 2, "secret": "x" * 32}
    process = subprocess.run(
        ["unshare", "--mount", "sh", "-c", FULL, "sh", *node],
        input=json.dumps(first) + "\n",
        env={**os.environ, "CLUSTER_FOLDER": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    need(
        "mount" not in process.stderr, "the right to mount a file system (a container may lack it)"
    )
    last = process.stderr.splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("dispynode could not begin: ")
    assert "/dev/shm, where its queues are, is full there: free some of it" in last
    assert "Traceback" not in process.stderr
