"""What all engines of several hosts share, over an agent on this machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from cluster.backends import hosted
from cluster.backends.base import Items, NodeEvent, Options, Source
from cluster.backends.ssh import Engine
from cluster.hosts.connect import Host
from cluster.hosts.fingerprint import is_one_machine
from cluster.hosts.nodes import Node, usable_cores
from cluster.sampling.task import Outcome, Task
from cluster.testing import Script, work_of
from tests.conftest import need


@contextmanager
def running(source: Source, kind: type[Engine] = Engine) -> Iterator[Items]:
    """The items of an engine on this machine, whose one slot is ready."""
    node = Node("localhost", slots=1)
    with (
        kind((node,), Options(tick=0.1)) as engine,
        closing(engine.run(work_of(), source)) as items,
    ):
        next(item for item in items if isinstance(item, NodeEvent) and item.slots)
        yield items


def test_a_dispatcher_that_is_held_up_takes_no_host_for_silent() -> None:
    """It heard nobody while it did not listen: a terminal took no more output, or a disk slept."""
    with running(Script(0, pauses=10**9)) as items:
        time.sleep(7.0)
        assert [next(items) for _ in range(20)] == [None] * 20


@pytest.mark.fault(84)
@pytest.mark.parametrize("more", [1, 0])
def test_a_machine_under_two_names_is_told_where_it_has_too_many_slots(more: int) -> None:
    """By name, as it comes; not where its cores are enough for both."""
    cores = usable_cores()
    need(cores > 1, "two cores")
    nodes = (Node("localhost", slots=cores - 1 + more), Node("127.0.0.1", slots=1))
    told: list[str] = []
    with (
        Engine(nodes, Options(tick=0.1)) as engine,
        closing(engine.run(work_of(), Script(0, pauses=10**9))) as items,
    ):
        deadline = time.monotonic() + 30
        slots: dict[str, int] = {}
        while sum(slots.values()) < cores + more and time.monotonic() < deadline:
            if isinstance(item := next(items), NodeEvent):
                slots[item.node] = item.slots
                told.append(f"{item.node}: {item}")
    found = [line for line in told if "same machine" in line]
    if not more:
        assert found == []
        return
    assert re.fullmatch(
        r"(localhost|127.0.0.1): .* it is the same machine as (localhost|127.0.0.1):"
        rf" {cores + 1} slots on {cores} cores, leave one of the names out",
        found[-1],
    )


def test_clones_are_two_machines() -> None:
    """They have the machine-id of their master, and starts of their own."""
    one = {"machine": "a", "boot": "1"}
    assert is_one_machine(one, one)
    for other in ({"machine": "a", "boot": "2"}, {"machine": "b", "boot": "1"}, {"machine": "a"}):
        assert not is_one_machine(one, other)
    assert not is_one_machine({"machine": "", "boot": "1"}, {"machine": "", "boot": "1"})


class Loses(Engine):
    """Has its tasks carried into nothing, and says no word of it."""

    def _give(self, task: Task, host: Host | None) -> None:
        pass


def test_a_revoked_task_that_nobody_answers_is_answered_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever an engine has lost it in: a drain would wait for it without end."""
    monkeypatch.setattr(hosted, "_UNANSWERED", 0.5)
    source = Script(1, blocks=4)
    with running(source, Loses) as items:
        assert [next(items) for _ in range(3)] == [None] * 3
        source.kill = {1}
        outcome = next(item for _, item in zip(range(50), items, strict=False) if item)
    assert isinstance(outcome, Outcome)
    assert outcome.task == 1
    assert outcome.fault is not None
    assert (outcome.fault.kind, outcome.node) == ("timeout", "localhost")
    assert "not answered" in outcome.fault.message
