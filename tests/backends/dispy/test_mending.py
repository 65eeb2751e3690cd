"""A node that dispy gave up after one failed connection is replaced."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from cluster.backends.base import TABLE, Options
from cluster.dispatch import Policy
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal
from cluster.testing import Driven, drive, work_of
from tests.conftest import need

ENTRY = next(entry for entry in TABLE if entry.name == "dispy")
# The driver, in which one message of a kind finds no way to the node.
DRIVER = """
from cluster.backends.dispy import shim
install = shim.install
def installed(*arguments):
    dispy = install(*arguments)
    send, sent = dispy._Node.send, []
    def once(self, message, *more, **keys):
        if message.startswith({kind!r}):
            sent.append(message)
            if len(sent) == {number}:
                raise OSError("one connection was refused")
        answer = yield send(self, message, *more, **keys)
        return answer
    dispy._Node.send = once
    return dispy
shim.install = installed
from cluster.backends.dispy.driver import main
main()
"""
NAPS = """
import time
from cluster import Hits
def f(stream, samples):
    time.sleep(0.2)
    return Hits(1, samples)
"""


def driven(kind: bytes, number: int, blocks: int, options: Options | None = None) -> Driven:
    """A run on one slot in which the message of that kind and number was not sent."""
    need(ENTRY.usable, f"dispy: {ENTRY.install}")
    from cluster.backends.dispy.engine import Engine

    class Broken(Engine):
        def _command(self) -> Sequence[str]:
            return [sys.executable, "-c", DRIVER.format(kind=kind, number=number)]

    return drive(
        lambda: Broken((Node("localhost", slots=1),), options or Options()),
        work_of(NAPS),
        Goal(blocks, max_time=100.0),
        policy=Policy(pinned=1),
    )


@pytest.mark.slow
def test_a_job_that_was_not_sent_costs_a_few_seconds() -> None:
    """Dispy gives the node up, which then turns it away: a fresh one takes its place."""
    run = driven(b"JOB:", 8, 60)
    assert (run.ending.state.value, len(run.rows)) == ("done", 60)
    assert run.ending.wall < 60


@pytest.mark.slow
def test_a_node_that_is_never_set_up_is_replaced() -> None:
    """It holds us and answers nobody: after the time in which one must be ready it is ended."""
    run = driven(b"SETUP:", 1, 10, Options(ready=5.0))
    assert (run.ending.state.value, len(run.rows)) == ("done", 10)
