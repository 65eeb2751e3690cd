"""Hosts that lose all that draws: nothing waits for them without end, and they are told anew."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.backends.base import TABLE, NodeEvent, Options, Pause, create
from cluster.backends.hosted import Hosted
from cluster.dispatch import Policy
from cluster.hosts.connect import Host
from cluster.hosts.connect.ssh import Trouble
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal
from cluster.sampling.task import Outcome, Task, Work
from cluster.testing import Script, drive, work_of
from tests.backends.engines import HOSTED, parameters
from tests.conftest import need

ONE, TWO = "localhost", "127.0.0.1"
NAPS = """
import os, time
from cluster import Hits
def f(stream, samples):
    if stream.block < 1000:  # not the probe
        time.sleep(float(os.environ.get("NAP", "0.02")))
    return Hits(1, samples)
"""


def hosted(name: str, *nodes: Node) -> Hosted:
    """The engine of that name."""
    entry = next(entry for entry in TABLE if entry.name == name)
    need(entry.usable, f"{name}: {entry.install}")
    engine = create(name, nodes or (Node(ONE, slots=1),), Options(tick=0.05))
    assert isinstance(engine, Hosted)
    return engine


def kill_the_agent(engine: Hosted, name: str) -> None:
    """Kill -9 of the agent of a host, with which all that it started goes."""
    assert engine._fleet is not None
    os.kill(engine._fleet.hosts[name].hello["pid"], signal.SIGKILL)


@pytest.mark.fault(11)
@pytest.mark.parametrize("name", parameters(HOSTED, default={"ssh"}, slow={"tcp"}))
def test_what_waits_where_no_slot_will_be_ready_is_given_back(name: str, tmp_path: Path) -> None:
    """The only host's workers cannot start any more: the run ends as one without any host."""
    gone = tmp_path / "gone"
    text = f"""
import os
if os.path.exists({str(gone)!r}):
    raise OSError("what the kernel reads at its import is gone")
import time
from cluster import Hits
def f(stream, samples):
    if stream.block == 100:
        open({str(gone)!r}, "w").close()
        os._exit(3)
    time.sleep(0.01)
    return Hits(1, samples)
"""
    driven = drive(
        lambda: hosted(name),
        work_of(text),
        Goal(2000, max_time=120.0),
        policy=Policy(pinned=1),
        wait=3.0,
    )
    assert (driven.ending.state.value, driven.ending.stopped_by) == ("partial", "nodes")
    assert len(driven.rows) >= 99


@pytest.mark.fault(11)
def test_what_no_worker_has_goes_with_the_last_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the engine chooses, tasks wait for any host; when none is left they are given back."""
    launch = Host._launch

    def once(host: Host, now: float) -> None:
        if host.born:
            host._away(Trouble("it does not answer", "", False))
        else:
            launch(host, now)

    monkeypatch.setattr(Host, "_launch", once)
    source, answered, killed = Script(200), list[Outcome](), False
    deadline = time.monotonic() + 60
    with hosted("scoop") as engine, closing(engine.run(work_of(NAPS), source)) as items:
        for item in items:
            assert time.monotonic() < deadline, "what waits is waited for"
            answered += [item] if isinstance(item, Outcome) else []
            if not killed and {"", ONE} <= {name for _, name in engine._taken.values()}:
                kill_the_agent(engine, ONE)
                killed = True
    assert killed
    assert sorted({outcome.task for outcome in answered}) == list(range(1, 201))
    assert {o.fault.kind for o in answered if o.fault} <= {"stranded", "returned"}


class Point(Script):
    """Six tasks of a point of a sweep, of which so many may be given."""

    def __init__(self, work: Work, allowed: int) -> None:
        super().__init__(6)
        self.allowed, self._work = allowed, work

    def take(self, node: str | None = None) -> Task | Pause:
        """See :class:`cluster.backends.base.Source`."""
        if len(self.given) == self.allowed < 6:
            return Pause.NOW
        task = super().take(node)
        return task._replace(run="point 7") if isinstance(task, Task) else task

    def work_of(self, run: str) -> Work:
        """See :class:`cluster.backends.base.Source`."""
        return replace(self._work, run=run)


def test_a_host_that_comes_back_knows_the_runs_of_what_waits() -> None:
    """Where the engine chooses, it is given tasks that were begun with before it came."""
    work = work_of(NAPS)
    source, answered, up, away = Point(work, 0), list[Outcome](), set[str](), False
    nodes = Node(ONE, slots=1, env=(("NAP", "100"),)), Node(TWO, slots=1, env=(("NAP", "0.1"),))
    with hosted("scoop", *nodes) as engine, closing(engine.run(work, source)) as items:
        for item in items:
            if isinstance(item, Outcome):
                answered.append(item)
                if not away:
                    kill_the_agent(engine, TWO)
                    away = True
            elif isinstance(item, NodeEvent):
                up |= {item.node} if item.slots else set()
                source.allowed = 6 if away else 2 if len(up) == 2 else 0
            if len(answered) == 5:
                break  # the other host sleeps on
    assert {(outcome.node, outcome.fault) for outcome in answered} == {(TWO, None)}


@pytest.mark.fault(18)
def test_a_probe_whose_worker_is_killed_once_is_drawn_again(tmp_path: Path) -> None:
    """As where memory is short while all workers of a fresh agent start: it is no difference."""
    short = tmp_path / "short"
    text = f"""
import os, signal, time
from cluster import Hits
def f(stream, samples):
    if stream.block >> 60 and os.path.exists({str(short)!r}):
        os.unlink({str(short)!r})
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return Hits(1, samples)
"""
    source, answered, back = Point(work_of(text), 2), list[Outcome](), False
    away = False
    with hosted("ssh") as engine, closing(engine.run(work_of(text), source)) as items:
        for item in items:
            answered += [item] if isinstance(item, Outcome) else []
            if len(answered) == 2 and not away:
                short.touch()
                kill_the_agent(engine, ONE)
                away = True
            if away and isinstance(item, NodeEvent):
                source.allowed = 6
                back = back or item.slots == 1
    assert back
    assert not short.exists()
    assert [outcome.task for outcome in answered if not outcome.fault] == list(range(1, 7))
