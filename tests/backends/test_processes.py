"""Worker processes and what kernels do to them: every end is answered for, and told."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cluster.backends.base import Backend, NodeEvent, Options, create
from cluster.common.errors import EngineError
from cluster.dispatch import Policy
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal
from cluster.sampling.task import Outcome
from cluster.testing import Driven, Script, drive, work_of
from tests.backends.engines import HOSTED, engine, parameters, processes, serial
from tests.dispatch.bench import tiles

# Whatever `act` does, block 5 of 12 does it; the others are honest.
KERNEL = """
import json, os, signal, stat, sys, time
from cluster import Hits

def pipes():
    for name in os.listdir("/proc/self/fd"):
        try:
            mode = os.fstat(int(name)).st_mode
        except OSError:
            continue
        if int(name) > 2 and stat.S_ISFIFO(mode):
            yield int(name)

def say(data):
    for descriptor in pipes():
        try:
            os.set_blocking(descriptor, True)
            while data:
                data = data[os.write(descriptor, data):]
        except OSError:
            pass

def act():
    {act}

def f(stream, samples):
    if stream.block == 5:
        act()
    return Hits((stream.generator().random(samples) < .25).sum(), samples)
"""
ACTS = {
    "not JSON": "say(b'hello\\n'); time.sleep(60)",
    "not an outcome": "say(b'[1]\\n'); time.sleep(60)",
    "a number": "say(b'1\\n'); time.sleep(60)",
    "not UTF-8": "say(b'\\xff\\xfe\\n'); time.sleep(60)",
    "a deep nest": "say(b'[' * 1000000 + b'\\n'); time.sleep(60)",
    "a strange message": 'say(b\'{"refused": {"a": 1}}\\n\'); time.sleep(60)',
    "readiness of another": "say(b'{\"ready\": 1}\\n'); time.sleep(60)",
    "wrong types": "say(json.dumps([7] * 14).encode() + b'\\n'); time.sleep(60)",
    "a wrong fault": "say(json.dumps([1, 0, 0, None, [1] * 5, 1, 0., 0., 0., 0., '', '', '', 0])"
    ".encode() + b'\\n'); time.sleep(60)",
    "garbage, and then its end": "say(b'[1]\\n' * 500000); os._exit(3)",
    "a line without an end": "say(b'x' * (17 << 20)); time.sleep(60)",
    "prints without an end": "\n    while True: os.write(2, b'x' * 65536)",
    "everything closed": "os.closerange(0, 256)",
    "its own stop": "os.kill(os.getpid(), signal.SIGSTOP)",
    "its own group killed": "os.killpg(0, signal.SIGKILL)",
    "an exit of its group's leader only": "os.fork() or time.sleep(60); os._exit(0)",
}
QUIET = Options(tick=0.05)


@pytest.mark.fault(16, 17, 90, 102)
@pytest.mark.parametrize("act", ACTS)
def test_a_worker_that_says_or_does_what_it_must_not_costs_its_block_only(act: str) -> None:
    """It is killed, and told at its block; every other block that was begun is counted, right."""
    work = work_of(KERNEL.format(act=ACTS[act]))
    driven = drive(
        lambda: engine("processes", options=QUIET),
        work,
        Goal(12),
        policy=Policy(lost=1, timeout=1.0, pinned=1),
    )
    assert driven.ending.state.value == "failed"
    assert [row["block"] for row in driven.failures] == [5]
    assert driven.failures[0]["kind"] in ("lost", "timeout")
    assert driven.ending.drained
    honest = drive(serial, work_of(), Goal(12), policy=Policy(pinned=1))
    right = {row.first: row.tally for row in honest.rows}
    assert driven.rows
    assert all(row.tally == right[row.first] and row.first != 5 for row in driven.rows)


def run_twelve(node: Node) -> Driven:
    """A run of 12 blocks on a node."""
    return drive(lambda: create("processes", (node,), QUIET), work_of(), Goal(12))


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    ("node", "words"),
    [
        (Node("localhost", slots=2, python="/no/such/python"), "No such file"),
        (Node("localhost", slots=2, cwd="/no/such/folder"), "No such file"),
        (Node("localhost", slots=2, python="/bin/false"), "exited with 1"),
    ],
)
def test_a_worker_that_cannot_start_is_told_with_its_reason(node: Node, words: str) -> None:
    """No hang, no endless new tries: exit 69, and what the system said."""
    with pytest.raises(EngineError, match=words) as caught:
        run_twelve(node)
    assert caught.value.code == 69


def test_a_kernel_that_does_not_import_there_is_told_with_its_reason() -> None:
    """The worker's own words, not a run that fails block by block."""
    with pytest.raises(EngineError, match="out of cheese"):
        drive(
            processes,
            work_of("raise RuntimeError('out of cheese')\ndef f(rng, samples): 0"),
            Goal(3),
        )


@pytest.mark.fault(1)
def test_a_worker_that_is_never_ready_is_told() -> None:
    """It starts and says nothing: killed after its time, and not tried for ever."""
    slow = work_of("import time\ntime.sleep(60)\ndef f(rng, samples): 0")
    with pytest.raises(EngineError, match="not ready within"):
        drive(lambda: engine("processes", options=Options(ready=0.3, tick=0.05)), slow, Goal(3))


@contextmanager
def running(text: str, tasks: int) -> Iterator[tuple[Backend, Script, list[Outcome], list[int]]]:
    """An engine in the middle of tasks: its outcomes and its workers' ids are filled in."""
    source, outcomes, workers = Script(tasks), list[Outcome](), list[int]()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text().split()
    with (
        engine("processes", options=QUIET) as backend,
        closing(backend.run(work_of(text), source)) as items,
    ):
        slots = []
        for item in items:
            slots += [item.slots] if isinstance(item, NodeEvent) else []
            if slots[-1:] == [2]:
                break
        workers += (int(pid) for pid in children.read_text().split() if pid not in before)
        yield backend, source, outcomes, workers
        outcomes += [item for item in items if isinstance(item, Outcome)]


SLOW = (
    "import time\nfrom cluster import Hits\n"
    "def f(rng, samples): time.sleep(0.01); return Hits(0, samples)"
)


@pytest.mark.fault(3, 4)
def test_killed_workers_are_replaced_and_every_task_is_answered() -> None:
    """Killed both with -9: what they had is answered once, and new ones draw the rest."""
    with running(SLOW, 60) as (_, source, outcomes, workers):
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    assert sorted(outcome.task for outcome in outcomes) == [task.id for task in source.given]
    kinds = {outcome.fault.kind for outcome in outcomes if outcome.fault}
    assert kinds <= {"lost", "returned"}
    assert not {outcome.pid for outcome in outcomes if outcome.tally} & set(workers)


@pytest.mark.fault(18)
def test_a_kill_is_told_as_what_it_may_have_been() -> None:
    """SIGKILL from nowhere is the kernel's way to say that memory ran out."""
    with running(SLOW, 60) as (_, _, outcomes, workers):
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    told = [outcome.fault.message for outcome in outcomes if outcome.fault]
    assert told
    assert all("SIGKILL" in words and "memory" in words for words in told)


@pytest.mark.parametrize(
    "name", parameters(["processes", *HOSTED], default={"processes", "ssh"}, slow={"mpi"})
)
def test_a_block_over_its_time_is_told_with_the_limit_and_its_key(name: str) -> None:
    """It was killed for that, and for nothing else."""
    text = KERNEL.format(act="print('at it', flush=True); time.sleep(60)")
    driven = drive(
        lambda: engine(name, 1, QUIET),
        work_of(text),
        Goal(8),
        policy=Policy(lost=1, timeout=0.5, pinned=1),
    )
    (told,) = driven.failures
    assert (told["kind"], told["type"]) == ("timeout", "BlockTimeout")
    assert told["message"] == (
        "not done after 0.5 s (retry.timeout); its process was killed; its last words: at it"
    )


@pytest.mark.fault(38, 39)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_workers_signals_are_left_to_the_dispatcher(number: signal.Signals) -> None:
    """What a keyboard, Slurm or systemd sends to all processes of a job ends none of them."""
    with running(SLOW, 20) as (_, _, outcomes, workers):
        for worker in workers:
            os.kill(worker, number)
    assert not [outcome.fault for outcome in outcomes if outcome.fault]
    assert {outcome.pid for outcome in outcomes} <= set(workers)


@pytest.mark.fault(102)
def test_answers_larger_than_a_pipe_arrive_whole() -> None:
    """A histogram of 20,000 bins: some hundred kilobytes an outcome."""
    wide = (
        "import numpy as np\nfrom cluster import Histogram\n"
        "def f(rng, samples):"
        " return Histogram.of(rng.random(samples), np.linspace(0, 1, 20_001))"
    )
    goal = Goal(12)
    assert drive(processes, work_of(wide), goal).digest == drive(serial, work_of(wide), goal).digest


def test_the_workers_are_this_interpreter() -> None:
    """Where the node names no other."""
    text = "import sys\ndef f(rng, samples): raise ValueError(sys.executable)"
    driven = drive(processes, work_of(text), Goal(1))
    assert driven.failures[0]["message"] == sys.executable


def test_rows_tile_the_run(tmp_path: Path) -> None:
    """All that two real workers draw is counted once."""
    driven = drive(processes, work_of(SLOW), Goal(40), store=tmp_path)
    assert tiles(driven.rows, 40)
