"""Worlds that `submit` launches, as far as this machine alone can show them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.backends.base import Options
from cluster.backends.mpi.engine import RISK
from cluster.backends.mpi.rank import transport
from cluster.backends.ssh import Engine as Ssh
from cluster.common.errors import NodesMissing
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import descendants
from cluster.testing import Script, work_of
from tests.backends.mpi.test_inside import alone, command_of, cpu_seconds, spec, start, told
from tests.faults.battery import wait_until_gone

# A mistake of ours in the rank beside the workers, in the first world that is launched: Python
# reads this file at every start.
FAILS = """
import os, sys
from pathlib import Path

mark = Path(MARK)
if any("mpi.rank" in word for word in sys.orig_argv) and not mark.exists():
    from cluster.backends.mpi import rank

    first = rank.Relay._pass_up

    def fail(self, wire):
        first(self, wire)
        if self._drawn > 20 and not mark.exists():
            mark.touch()
            raise RuntimeError("a mistake of ours")
        self._drawn += 1

    rank.Relay._drawn = 0
    rank.Relay._pass_up = fail
"""


def submit(folder: Path, path: Path, more: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A submit over two slots of this machine, by MPI."""
    words = [sys.executable, "-m", "cluster", "submit", str(path), "--json", "--task-blocks", "1"]
    words += ["--set", "backend=mpi", "--set", "nodes=localhost:2"]
    return start(folder, words, more or {})


def ranks_below(pid: int) -> list[int]:
    """The coordinating rank and the one of this machine, once they are there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = {each: command_of(each) for each in descendants(pid)}
        found = [
            each
            for each, line in lines.items()
            if "cluster.backends.mpi.rank" in line and "run --bind-to" not in line
        ]
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise AssertionError("the world did not come up")


@pytest.mark.slow
def test_an_exception_in_a_rank_costs_a_world_and_no_block(tmp_path: Path) -> None:
    """It is told, another world is launched, and the digest is that of serial."""
    path = spec(tmp_path, 100, 0.03)
    (hooks := tmp_path / "hooks").mkdir()
    text = FAILS.replace("MARK", repr(str(tmp_path / "failed")))
    (hooks / "sitecustomize.py").write_text(text)
    result, err = told(submit(tmp_path, path, {"PYTHONPATH": str(hooks)}))
    assert (tmp_path / "failed").exists()
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path)), err
    with sqlite3.connect(tmp_path / "runs" / "ledger.sqlite") as db:
        texts = [text for (text,) in db.execute("SELECT text FROM event")]
    assert any("a mistake of ours" in text for text in texts), texts


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_rank_that_hangs_costs_a_world_and_is_told(tmp_path: Path) -> None:
    """Its host's agent is there, so nothing but the rank itself can tell of it."""
    path = spec(tmp_path, 200, 0.05)
    process = submit(tmp_path, path)
    ranks = ranks_below(process.pid)
    time.sleep(2)
    os.kill(max(ranks), signal.SIGSTOP)
    result, err = told(process)
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path)), err
    assert "its rank on localhost was not heard of for 15 s" in err


# It says that it is Open MPI's, and starts a rank as MPICH's would.
ANOTHER = """#!/bin/sh
[ "$1" = --version ] && echo "mpirun (Open MPI) 5.0.11" && exit
while [ "$1" != "PYTHON" ]; do shift; done
PMI_SIZE=2 PMI_RANK=0 exec "$@"
"""


@pytest.mark.slow
@pytest.mark.fault(100)
def test_a_launcher_of_another_mpi_is_told_with_its_cure(tmp_path: Path) -> None:
    """By the rank that would be the first one; the run ends as where no engine comes up."""
    launcher = tmp_path / "mpirun"
    launcher.write_text(ANOTHER.replace("PYTHON", sys.executable))
    launcher.chmod(0o700)
    more = {"CLUSTER_MPIRUN": str(launcher)}
    process = submit(tmp_path, spec(tmp_path, 4, 0.0), more)
    document, err = told(process)
    assert process.returncode == document["error"]["code"] == 69, err
    assert "of two MPIs" in document["error"]["message"]
    assert document["error"]["message"].count("start it with the mpirun that belongs to") == 1


def test_a_world_goes_with_its_dispatcher_though_a_rank_hangs(tmp_path: Path) -> None:
    """Kill -9 of the dispatcher: nothing of the world is left, which could not end in order."""
    process = submit(tmp_path, spec(tmp_path, 600, 0.05))
    ranks = ranks_below(process.pid)
    time.sleep(2)
    below = descendants(process.pid)
    os.kill(max(ranks), signal.SIGSTOP)
    process.kill()
    process.communicate(timeout=30)
    wait_until_gone(below, 20.0)


def test_ranks_that_wait_burn_no_core(tmp_path: Path) -> None:
    """A few percent of a core each, over three seconds of long blocks."""
    process = submit(tmp_path, spec(tmp_path, 60, 0.5))
    ranks = ranks_below(process.pid)
    time.sleep(2)
    before = [cpu_seconds(rank) for rank in ranks]
    time.sleep(3)
    spent = [cpu_seconds(rank) - since for rank, since in zip(ranks, before, strict=True)]
    process.kill()
    process.communicate(timeout=30)
    assert max(spent) < 0.3, spent


@pytest.mark.fault(100)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root is asked by Open MPI")
def test_root_is_let_in_without_a_word(tmp_path: Path) -> None:
    """As with every other backend: kernels run as whoever submits."""
    result, err = told(submit(tmp_path, spec(tmp_path, 4, 0.0)))
    assert result["state"] == "done"
    assert "root" not in err.lower()


def test_ranks_on_one_machine_open_no_port() -> None:
    """They share memory, in a file of the world's own folder; else they keep to one interface."""
    assert transport("127.0.0.1", "/folder") == {
        "OMPI_MCA_btl": "self,sm",
        "OMPI_MCA_btl_sm_backing_directory": "/folder",
        "UCX_NET_DEVICES": "lo",
        "FI_TCP_IFACE": "lo",
    }
    assert transport("", "/folder") == {"OMPI_MCA_btl": "self,tcp"}


# A kind of machine for which the fence has no numbers: it cannot ask for binds, as in a container
# that forbids it.
LOOSE = """
import platform, sys

if any("mpi.fence" in word for word in sys.orig_argv):
    platform.machine = lambda: "another kind"
"""


@pytest.mark.parametrize("loose", [True, False])
def test_it_is_told_once_where_mpi_is_not_held_to_one_address(tmp_path: Path, loose: bool) -> None:
    """In the output and in the ledger; the run goes on."""
    more = {}
    if loose:
        (tmp_path / "sitecustomize.py").write_text(LOOSE)
        more = {"PYTHONPATH": str(tmp_path)}
    result, err = told(submit(tmp_path, spec(tmp_path, 20, 0.0), more))
    err = " ".join(err.split())  # it is wrapped
    assert result["state"] == "done"
    with sqlite3.connect(tmp_path / "runs" / "ledger.sqlite") as db:
        texts = " ".join(text for (text,) in db.execute("SELECT text FROM event"))
    words = RISK.format("localhost and this machine")
    assert (err.count(words), texts.count(words)) == (loose, loose), (err, texts)


def test_the_folder_of_a_killed_dispatcher_goes_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the dispatcher's machine, where no agent of the next run needs to be."""
    cache = {"CLUSTER_CACHE": str(tmp_path / "cache")}
    process = submit(tmp_path, spec(tmp_path, 1000, 0.1), cache)
    ranks_below(process.pid)
    below = set(descendants(process.pid))
    process.kill()
    process.communicate(timeout=60)
    wait_until_gone(below, 20.0)
    folders = tmp_path / "cache" / "hosts"
    left = set(folders.iterdir())
    assert left
    # An engine none of whose hosts comes.
    monkeypatch.setenv("CLUSTER_CACHE", cache["CLUSTER_CACHE"])
    node = Node("nowhere.invalid", slots=1)
    with Ssh((node,), Options(tick=0.1, launch=0.1)) as engine, pytest.raises(NodesMissing):
        list(engine.run(work_of(), Script(0)))
    assert not left & set(folders.iterdir())
