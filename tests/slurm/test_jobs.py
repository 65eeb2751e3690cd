"""Runs as jobs of a real Slurm: its controller, three nodes, its clocks and its signals."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from cluster.backends.base import TABLE
from tests.backends.engines import HOSTED, parameters
from tests.conftest import need
from tests.lab.harness import Lab
from tests.lab.site import pids
from tests.slurm.harness import HOSTS, Desk, await_no_agents

pytestmark = pytest.mark.slow

Make = Callable[..., Desk]
# Slurm looks at limits once in half a minute, and sends the warning up to a minute early.
LIMITED = ("nodes=3", "ntasks-per-node=2", "time=2")


def drawn_by_all(result: dict[str, Any], slots: int = 2) -> None:
    """The per-node table names all three hosts, each with its slots and tasks."""
    nodes = {node["node"]: node for node in result["nodes"]}
    assert set(nodes) == set(HOSTS)
    assert all(node["slots"] == slots and node["tasks"] for node in nodes.values())
    assert sum(node["samples"] for node in nodes.values()) == result["samples"]


@pytest.mark.parametrize("backend", parameters(HOSTED, default=(), slow={"ssh", "tcp", "mpi"}))
def test_a_job_draws_on_all_its_hosts(desk: Make, backend: str) -> None:
    """Whatever carries the tasks: `nodes: auto`, agents by srun, and the digest of `serial`."""
    entry = next(entry for entry in TABLE if entry.name == backend)
    need(entry.usable, f"{backend}: {entry.install}")
    made = desk(backend=backend)
    assert made.await_end(made.submit(made.batch()))["JobState"] == "COMPLETED"
    result = made.result()
    assert (result["state"], result["digest"]) == ("done", made.digest())
    drawn_by_all(result)
    await_no_agents(made.lab)


def test_what_the_verb_writes_is_taken_by_sbatch(desk: Make) -> None:
    """As a person does it, on a host where no job is."""
    made = desk()
    words = ("schedule", "spec.yaml", "--slurm", "--sbatch", "nodes=3", "--sbatch", "ntasks=6")
    done = json.loads(made.slurm(Lab.python, "-m", "cluster", *words, "--json"))
    (command,) = done["commands"]
    job = made.slurm(command[0], "--parsable", *command[1:]).strip()
    assert made.await_end(job)["JobState"] == "COMPLETED"
    result = made.result()
    assert (result["state"], result["digest"]) == ("done", made.digest())
    drawn_by_all(result)


def test_the_tasks_of_each_host_are_its_slots(desk: Make) -> None:
    """Five tasks: two, two, and one."""
    made = desk(blocks=100)
    made.await_end(made.submit(made.batch("ntasks=5")))
    slots = {node["node"]: node["slots"] for node in made.result()["nodes"]}
    assert slots == {"h1": 2, "h2": 2, "h3": 1}


def test_srun_starts_one_world(desk: Make) -> None:
    """A rank a task; the first one dispatches."""
    made = desk()
    assert made.await_end(made.submit(made.batch(mpi="pmix")))["JobState"] == "COMPLETED"
    result = made.result()
    assert (result["state"], result["digest"]) == ("done", made.digest())
    drawn_by_all(result)
    assert "in an MPI world of 6 ranks" in made.log()
    assert "couldn't open the help file" not in made.log()
    assert "Component: munge" not in made.log()


def test_processes_that_are_no_world_are_refused(desk: Make) -> None:
    """Without --mpi each would compute everything; nothing is drawn, and the job ends with 78."""
    made = desk()
    words = f"srun --mpi=none {Lab.python} -m cluster submit {made.there}/spec.yaml"
    job = made.send(f"#!/bin/sh\n{words}\n", "--nodes=3", "--chdir", str(made.there))
    assert made.await_end(job)["ExitCode"] == "78:0"
    assert not (made.here / "runs").exists()


def test_a_job_whose_limit_is_near_drains_and_goes_on(desk: Make) -> None:
    """Requeued until the target holds; each block was drawn once, the digest is that of one run."""
    made = desk(blocks=420, nap=1.0)
    facts = made.await_end(job := made.submit(made.batch(*LIMITED, warning=60)), 400)
    assert facts["JobState"] == "COMPLETED"
    assert int(facts["Restarts"]) >= 1
    result = made.result()
    assert (result["state"], result["digest"]) == ("done", made.digest())
    drawn_by_all(result)
    assert result["failures"] == []
    assert "requeued after start 1" in made.log()
    assert f"*** JOB {job} ON h1 CANCELLED" not in made.log().partition("requeued after")[0]


def test_a_limit_that_hits_loses_nothing(desk: Make) -> None:
    """No time to drain: Slurm kills what is there, and the next job goes on from the ledger."""
    made = desk(blocks=400, nap=1.0)
    batch = made.batch("nodes=3", "ntasks-per-node=2", "time=4")
    words = f"exec {Lab.python} -m cluster submit {made.there}/spec.yaml --resume"
    text = f"#!/bin/sh\n#SBATCH --output=first.log --time=1\ntrap : TERM\n{words}\n"
    job = made.send(text, "--nodes=3", "--ntasks-per-node=2", "--chdir", str(made.there))
    assert made.await_end(job, 200)["JobState"] == "TIMEOUT"
    await_no_agents(made.lab)
    made.nap = 0.0
    made.await_end(made.submit(batch))
    result = made.result()
    assert (result["state"], result["digest"]) == ("done", made.digest())
    drawn_by_all(result)


def test_a_job_requeues_itself_so_often_and_no_more(desk: Make) -> None:
    """The run is partial by a limit of its own; the third start would be one too many."""
    made = desk(blocks=100_000, nap=0.2, until={"max_time": "32s"})
    facts = made.await_end(made.submit(made.batch(restarts=1)), 200)
    assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("FAILED", "1", "3:0")
    assert "not done after 1 restarts" in made.log()
    result = made.result()
    assert (result["state"], result["stopped_by"]) == ("partial", "max_time")
    drawn_by_all(result)


def test_a_failed_run_ends_the_job_with_its_code(desk: Make) -> None:
    """It would fail again."""
    made = desk()
    (made.here / "kernel.py").write_text("def f(rng, samples):\n    raise ValueError(7)\n")
    facts = made.await_end(made.submit(made.batch()))
    assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("FAILED", "0", "1:0")
    assert made.result()["state"] == "failed"


def test_scancel_is_for_good(desk: Make) -> None:
    """The run drains, nothing is requeued, and no process is left."""
    made = desk(blocks=100_000)
    job = made.submit(made.batch())
    made.await_state(job, {"RUNNING"}, 30)
    wait_for_agents(made.lab)
    time.sleep(5)
    made.slurm("scancel", job)
    assert made.await_end(job)["JobState"] == "CANCELLED"
    await_no_agents(made.lab)
    result = made.result()
    assert (result["state"], result["stopped_by"]) == ("interrupted", "SIGTERM")
    assert result["samples"] > 0


def test_a_killed_dispatcher_leaves_nothing(desk: Make) -> None:
    """The steps end with their channel; the script ends with the code, and a next job goes on."""
    made = desk(blocks=300)
    made.nap = 0.5
    job = made.submit(made.batch())
    made.await_state(job, {"RUNNING"}, 30)
    wait_for_agents(made.lab)
    time.sleep(5)
    for pid in pids(made.lab, "h1", "cluster submit"):
        os.kill(pid, signal.SIGKILL)
    assert made.await_end(job)["ExitCode"] == "137:0"
    await_no_agents(made.lab)
    made.nap = 0.0
    made.await_end(made.submit(made.batch()))
    assert made.result()["digest"] == made.digest()


def test_a_node_that_dies_costs_what_it_drew(desk: Make) -> None:
    """Slurm requeues the job without it; the ledger has what was drawn on it before."""
    made = desk(blocks=400, nap=0.5)
    job = made.submit(made.batch("nodes=2", "ntasks-per-node=2"))
    made.await_state(job, {"RUNNING"}, 30)
    wait_for_agents(made.lab, 2)
    time.sleep(5)
    assert made.facts(job)["NodeList"] == "h[1-2]"
    try:
        made.lab.kill("h2")
        facts = made.await_end(job, 200)
    finally:
        made.lab.heal("h2")
        made.lab.do("slurm", "up")
    assert (facts["JobState"], facts["NodeList"]) == ("COMPLETED", "h[1,3]")
    result = made.result()
    assert (result["state"], result["digest"]) == ("done", made.digest())
    assert {node["node"] for node in result["nodes"]} == set(HOSTS)


def test_a_sweep_is_split_over_an_array(desk: Make) -> None:
    """One host to each task, a ledger of its own to each, and every point in one of them."""
    made = desk(blocks=60, nap=0.2, sweep={"matrix": {"seed": list(range(1, 8))}})
    job = made.submit(made.batch("nodes=1", "ntasks=2", parts=3))
    ended = [made.await_end(f"{job}_{task}") for task in (1, 2, 3)]
    assert [facts["JobState"] for facts in ended] == ["COMPLETED"] * 3, made.log()
    assert {facts["BatchHost"] for facts in ended} == set(HOSTS)
    parts = [drawn(made, task) for task in (1, 2, 3)]
    assert [sorted(part) for part in parts] == [[1, 4, 7], [2, 5], [3, 6]]
    digests = {seed: point["digest"] for part in parts for seed, point in part.items()}
    assert digests[1] == made.digest()
    assert len(set(digests.values())) == 7


def test_each_task_of_an_array_is_requeued_by_itself(desk: Make) -> None:
    """The last one has the array's own number, which would requeue all the others with it."""
    keys = {"sweep": {"matrix": {"seed": [1, 2, 3]}}, "until": {"max_time": "32s"}}
    made = desk(blocks=100_000, nap=0.2, **keys)
    job = made.submit(made.batch("nodes=1", "ntasks=2", parts=3, restarts=1))
    ended = [made.await_end(f"{job}_{task}", 200) for task in (1, 2, 3)]
    assert [(facts["Restarts"], facts["ExitCode"]) for facts in ended] == [("1", "3:0")] * 3
    for task in (1, 2, 3):
        ((seed, point),) = drawn(made, task).items()
        assert (seed, point["state"]) == (task, "partial")


def drawn(made: Desk, task: int) -> dict[int, dict[str, Any]]:
    """The points of a task's sweep that it has drawn of, by their seeds."""
    (sweep,) = made.results(f"runs/part-{task}")
    return {point["seed"]: point for point in sweep["points"] if point["samples"]}


def wait_for_agents(lab: Lab, hosts: int = 3) -> None:
    """Agents are up on so many hosts."""
    end = time.monotonic() + 30
    while sum(bool(pids(lab, host, "cluster.hosts.agent")) for host in HOSTS) < hosts:
        assert time.monotonic() < end, "the agents did not come up"
        time.sleep(0.2)
