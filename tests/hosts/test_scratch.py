"""Private folders go with their owners, and with nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.hosts.scratch import private_folder, remove, sweep
from tests.conftest import need

OWNER = (
    "from cluster.hosts.scratch import private_folder\n"
    "print(private_folder(), flush=True)\n"
    "input()\n"
)
ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are made, here and by processes that are started."""
    monkeypatch.setenv("CLUSTER_CACHE", str(tmp_path))
    return tmp_path / "hosts"


def test_a_folder_is_private_and_removed_as_a_whole(cache: Path) -> None:
    """Nothing of it stays."""
    folder = private_folder()
    assert folder.parent == cache
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "file").write_text("of an engine")
    remove(folder)
    assert list(cache.iterdir()) == []


def test_the_folder_of_one_that_was_killed_is_swept_and_no_other(cache: Path) -> None:
    """However it ended; ours, and that of another process that lives, stay."""
    ours = private_folder()
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        theirs = Path(owner.stdout.readline().decode().strip())
        sweep()
        assert set(cache.iterdir()) == {ours, theirs}
        owner.kill()
    sweep()
    assert list(cache.iterdir()) == [ours]
    remove(ours)


def test_a_container_that_shares_the_home_sweeps_no_folder_of_others(cache: Path) -> None:
    """It sees none of our processes, and its process ids are not ours."""
    need(os.geteuid() == 0, "root: only root can make a namespace of processes")
    ours = private_folder()
    command = [*ELSEWHERE, sys.executable, "-c", "from cluster.hosts.scratch import sweep; sweep()"]
    subprocess.run(command, check=True, timeout=30)
    assert list(cache.iterdir()) == [ours]
    remove(ours)
