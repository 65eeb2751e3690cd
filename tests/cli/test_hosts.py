"""`cluster nodes`: the hosts of a spec, and other hosts for a run, on names of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import TABLE
from cluster.backends.mpi.launcher import scrubbed
from tests.cli.shell import (
    COMMAND,
    ROOT,
    ask,
    cluster,
    ended,
    newest,
    only_document,
    spec,
    started,
    wait_for,
)
from tests.conftest import need

# Two names of this machine are two hosts of a run, each with an agent of its own.
ONE, TWO = "localhost", "127.0.0.1"


def begun(path: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A run whose kernel draws; the process, and the run's id."""
    process = started("submit", path.name, "--json", cwd=folder)
    wait_for((folder / "begun").exists)
    run = newest(folder)
    assert run
    return process, run


def change(run: str, folder: Path, *words: str) -> dict[str, Any]:
    """What `nodes RUN` says, one document whatever the answer is."""
    done = cluster("nodes", run, *words, "--json", cwd=folder)
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (2 if "error" in document else 0)
    return document


def test_the_hosts_of_a_spec_are_listed_one_by_one(tmp_path: Path) -> None:
    """Ranges are expanded, defaults are filled in, and values of variables are not shown."""
    (tmp_path / "more.txt").write_text("b1 slots=3\n")
    path = spec(
        tmp_path,
        backend="ssh",
        nodes={
            "hosts": "a[09-11]:2",
            "file": "more.txt",
            "required": 3,
            "defaults": {"slots": 8, "user": "ada", "env": {"TOKEN": "secret"}},
        },
    )
    told = ask("nodes", path, cwd=tmp_path)
    assert [(row["node"], row["slots"]) for row in told["nodes"]] == [
        ("a09", 2),
        ("a10", 2),
        ("a11", 2),
        ("b1", 3),
    ]
    assert {row["user"] for row in told["nodes"]} == {"ada"}
    assert told["required"] == 3
    assert "secret" not in json.dumps(told)
    page = cluster("nodes", path, cwd=tmp_path).stdout.splitlines()
    assert page[0].split() == ["node", "slots", "user", "env"]
    assert page[4].split() == ["b1", "3", "ada", "TOKEN"]
    assert page[-1] == "4 hosts for ssh; 3 must be ready at the start"


def test_a_run_takes_other_hosts_and_refuses_what_cannot_be(tmp_path: Path) -> None:
    """What is refused says why, and changes nothing; then one host takes the other's place."""
    path = spec(tmp_path, "slow", samples=150_000, backend="ssh", nodes=f"{ONE}:1")
    process, run = begun(path, tmp_path)
    for words, said in (
        (("--drain", "locahost"), "locahost is no host of this run"),
        (("--add", f"{ONE}:1"), f"{ONE} is a host of this run already"),
        (("--drain", ONE), "no host would be left"),
    ):
        assert change(run, tmp_path, *words)["error"]["message"] == said
    assert change(run, tmp_path, "--add", f"{TWO}:1", "--drain", ONE) == {
        "run": run,
        "added": [TWO],
        "drained": [ONE],
    }
    code, out, err = ended(process)
    result = only_document(out, "submit")
    assert (code, result["state"]) == (0, "done")
    rows = {row["node"]: row for row in result["nodes"]}
    assert rows[ONE]["samples"] > 0
    assert rows[TWO]["samples"] > 0
    assert rows[ONE]["samples"] + rows[TWO]["samples"] == 150_000
    assert f"hosts: {TWO} added; {ONE} to be drained (requested)" in err
    told = [event["text"] for event in result["events"] if event["node"] == ONE]
    assert told[-2:] == [
        "0 slots: draining: it gets no more tasks",
        "0 slots: drained: all that it was given is answered",
    ]


@pytest.mark.parametrize("backend", ["ssh", "dispy"])
def test_a_run_without_a_secret_attaches_to_no_node_that_stands(
    backend: str, tmp_path: Path
) -> None:
    """Nor does it harm the run that somebody wishes for it, whatever its defaults are."""
    entry = next(row for row in TABLE if row.name == backend)
    need(entry.usable, f"{backend}: {entry.install}")
    nodes = {"hosts": f"{ONE}:1", "defaults": {"python": sys.executable}}
    path = spec(tmp_path, "slow", samples=40_000, backend=backend, nodes=nodes)
    process, run = begun(path, tmp_path)
    error = change(run, tmp_path, "--add", f"{{host: {TWO}, attach: 9700}}")["error"]
    assert error["message"] == f"{TWO}: this run cannot attach to a node that stands"
    assert ended(process)[0] == 0


@pytest.mark.parametrize("backend", ["serial", "threads", "processes"])
def test_a_backend_of_one_machine_keeps_its_hosts(backend: str, tmp_path: Path) -> None:
    """It says so, with what to do instead, and goes on."""
    path = spec(tmp_path, "slow", samples=40_000, backend=backend, nodes=f"{ONE}:1")
    process, run = begun(path, tmp_path)
    error = change(run, tmp_path, "--add", TWO)["error"]
    assert "works on the hosts that it began with" in error["message"]
    assert "--set nodes=" in error["fix"]
    assert ended(process)[0] == 0


def test_a_world_of_the_users_own_keeps_its_hosts(tmp_path: Path) -> None:
    """Mpirun gave it these."""
    mpirun = Path(sys.executable).parent / "mpirun"
    need(mpirun.exists(), "mpirun: pip install 'cluster-montecarlo[mpi]'")
    path = spec(tmp_path, "slow", samples=100_000)
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    words = [str(mpirun), *root, "--bind-to", "none", "--oversubscribe", "-n", "2"]
    process = subprocess.Popen(
        [*words, *COMMAND, "submit", path.name],
        cwd=tmp_path,
        text=True,
        env={**scrubbed(os.environ), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for((tmp_path / "begun").exists)
    error = change(newest(tmp_path) or "", tmp_path, "--add", TWO)["error"]
    assert "in an MPI world that mpirun or srun started" in error["message"]
    assert ended(process)[0] == 0


def test_a_resume_reads_the_host_file_as_it_is_now(tmp_path: Path) -> None:
    """Hosts that came or went while nothing was computed; wishes of before are over."""
    (tmp_path / "hosts.txt").write_text(f"{ONE} slots=1\n")
    path = spec(tmp_path, "slow", samples=60_000, backend="ssh", nodes="hosts.txt")
    process, run = begun(path, tmp_path)
    change(run, tmp_path, "--add", "::1")
    process.kill()
    ended(process)
    (tmp_path / "hosts.txt").write_text(f"{TWO} slots=1\n")
    done = cluster("resume", run, "--json", cwd=tmp_path)
    result = only_document(done.stdout, "resume")
    assert result["state"] == "done"
    assert f"hosts: {TWO} added; {ONE} to be drained" in done.stderr
    assert "::1" not in done.stderr
    assert {row["node"] for row in result["nodes"] if row["samples"]} >= {ONE, TWO}


def test_a_nodes_row_is_right_for_a_kernel_of_known_length(tmp_path: Path) -> None:
    """Busy is what the blocks took, of what the slots had; nearly nothing is CPU or lost."""
    path = spec(tmp_path, "slow", samples=60_000, backend="processes", nodes=f"{ONE}:2")
    begin = time.monotonic()
    result = ask("submit", path, cwd=tmp_path)
    outside = time.monotonic() - begin
    (row,) = result["nodes"]
    assert (row["samples"], row["share"], row["failures"], row["goodput"]) == (60_000, 1, 0, 1)
    assert 60 * 0.1 <= row["busy_s"] < 60 * 0.1 * 1.5
    assert row["cpu_s"] < row["busy_s"] / 2
    assert row["samples_per_s"] == pytest.approx(60_000 / row["busy_s"])
    assert row["busy_s"] / (2 * outside) < row["utilisation"] <= 1
    assert row["utilisation"] == pytest.approx(row["busy_s"] / (2 * result["wall_s"]))
    # A task waits at most behind what its slot was given ahead, which is at most a tenth of a
    # second, or one task.
    assert 0 <= row["lost_s"] < row["busy_s"] + 0.2 * row["tasks"]
