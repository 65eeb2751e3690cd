"""An engine's process on a host asks the agent there for tasks to be drawn."""

from __future__ import annotations

import json
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster.hosts.agent_client import Desk, ask
from cluster.hosts.connect import Change, Fleet, Host
from cluster.hosts.nodes import Node
from cluster.sampling.task import Outcome
from cluster.testing import work_of

# Odd blocks take a while, even ones no time; each is told by a file.
KERNEL = """
import time
from pathlib import Path
from cluster import Hits

def f(stream, samples):
    block = stream.counter[2]
    Path({folder!r}, str(block)).touch()
    time.sleep(4 * (block % 2))
    return Hits(block % samples, samples)
"""


class Home:
    """The agent of this machine, with two slots; ``told`` is what it says of tasks."""

    def __init__(self, folder: Path, selector: selectors.BaseSelector) -> None:
        work = work_of(KERNEL.format(folder=str(folder)))
        self.selector = selector
        self.fleet = Fleet([Node("localhost", slots=2)], work, selector)
        self.told: list[Outcome] = []
        self.until(lambda: self.host.ready and self.host.usable == 2)
        for mark in folder.iterdir():
            mark.unlink()  # the probe's

    @property
    def host(self) -> Host:
        return self.fleet.hosts["localhost"]

    def until(self, true: Callable[[], object], seconds: float = 20.0) -> None:
        """Let the agent be heard until something holds."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end
            for happening in self.fleet.tend():
                if happening.change is Change.TOLD:
                    self.told.append(Outcome.from_json(happening.message))
            self.fleet.send()
            for key, mask in self.selector.select(0.05):
                key.data(mask)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An agent at work."""
    with selectors.DefaultSelector() as selector:
        home = Home(tmp_path, selector)
        try:
            yield home
        finally:
            home.fleet.close()


def task(block: int) -> list[Any]:
    """A task of one block, whose id is one more."""
    return [block + 1, block, block + 1, 1, 0.0, ""]


def drawn(folder: Path) -> set[int]:
    """The blocks that a kernel began."""
    return {int(mark.name) for mark in folder.iterdir()}


def test_many_tasks_are_answered_over_one_connection(home: Home, tmp_path: Path) -> None:
    """As many outcomes as tasks, time and again."""
    with closing(Desk(home.host.hello["service"])) as desk:
        for first in (0, 100):
            blocks = range(first, first + 20, 2)
            texts, left = desk.ask([task(block) for block in blocks])
            outcomes = [Outcome.from_json(json.loads(text)) for text in texts]
            assert {outcome.first for outcome in outcomes} == set(blocks)
            assert not left
    assert len(drawn(tmp_path)) == 20
    assert not home.told


def test_what_takes_too_long_is_told_to_the_dispatcher(home: Home) -> None:
    """Whoever asked has the rest, and its connection serves on."""
    with closing(Desk(home.host.hello["service"])) as desk:
        texts, left = desk.ask([task(0), task(1)], patience=2)
        assert [json.loads(text)[0] for text in texts] == [1]
        assert left == [2]
        texts, left = desk.ask([task(2)], patience=2)
        assert ([json.loads(text)[0] for text in texts], left) == ([3], [])
        home.until(lambda: home.told)
    assert [(outcome.task, outcome.fault) for outcome in home.told] == [(2, None)]


def test_a_task_that_was_revoked_before_it_came_is_not_drawn(home: Home, tmp_path: Path) -> None:
    """An engine's queue may be slower than the word of its end."""
    home.host.say({"revoke": [5]})
    home.fleet.send()
    home.until(lambda: True)
    outcome = Outcome.from_json(ask(home.host.hello["service"], task(4)))
    assert outcome.fault is not None
    assert outcome.fault.kind == "returned"
    assert not drawn(tmp_path)


def test_an_agent_that_ends_is_an_error_for_whoever_asks(home: Home) -> None:
    """No wait without end."""
    with closing(Desk(home.host.hello["service"])) as desk:
        assert desk.ask([task(0)])[0]
        home.fleet.close()
        with pytest.raises(OSError, match=r"agent of this host has gone|Broken pipe"):
            desk.ask([task(2)])
