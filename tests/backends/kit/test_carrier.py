"""The main of every driver: what reaches its carrier, and how the process ends."""

from __future__ import annotations

import os
import selectors
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.driver import DriverProcess
from cluster.backends.kit.carry import Carrier, carry

ROOT = Path(__file__).parents[3]


class Echo(Carrier):
    """Says what it was told; a setup may have it fail, with a thread that never ends."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.wake = os.eventfd(0)
        self._fails, self._news = setup["fails"], list[Mapping[str, Any]]()

    def join(self, host: Mapping[str, Any]) -> None:
        """See Carrier."""
        self._news.append({"up": host["name"], "slots": 1, "reason": "ready"})

    def leave(self, name: str, reason: str) -> None:
        """See Carrier."""
        self._news.append({"down": name, "reason": reason})

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """See Carrier."""
        self._news.append({"lost": task[0], "reason": f"sent to {name}"})

    def tend(self) -> list[Mapping[str, Any]]:
        """See Carrier."""
        if self._fails:
            threading.Thread(target=time.sleep, args=(60,)).start()
            raise RuntimeError("no use any more")
        news, self._news = self._news, []
        return news


class Revoking(Echo):
    """One that can drop tasks."""

    def revoke(self, ids: Sequence[int]) -> None:
        """See Carrier."""
        self._news += ({"lost": number, "reason": "revoked"} for number in ids)


def main() -> None:
    """As a driver that is started by the test."""
    carry(Revoking if sys.argv[-1] == "revoking" else Echo)


class Driver:
    """A driver of this file, as the dispatcher has it.

    Attributes:
        heard: what it has said.
        how: how it ended.
    """

    def __init__(self, selector: selectors.BaseSelector, kind: str, *, fails: bool) -> None:
        command = [sys.executable, "-c", f"from {__name__} import main; main()", kind]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._selector = selector
        self.process = DriverProcess(command, environment, selector, 30.0)
        self.process.say({"setup": {"fails": fails}})
        self.heard: list[Any] = []
        self.how = ""

    def listen(self, count: int) -> None:
        """Until it has said so many things, or is of no use."""
        end = time.monotonic() + 20
        while len(self.heard) < count and not self.process.fault and time.monotonic() < end:
            self.process.send()
            for key, mask in self._selector.select(0.1):
                key.data(mask)
            self.heard += (each for each in self.process.messages() if "driver" not in each)


@contextmanager
def driver(kind: str, *, fails: bool = False) -> Iterator[Driver]:
    """One that is ended after the test."""
    with selectors.DefaultSelector() as selector:
        made = Driver(selector, kind, fails=fails)
        try:
            yield made
        finally:
            made.how = made.process.close(grace=0.0)


@pytest.mark.parametrize(("kind", "revoked"), [("plain", []), ("revoking", [7, 8])])
def test_a_carrier_is_told_of_hosts_tasks_and_what_is_revoked(
    kind: str, revoked: list[int]
) -> None:
    """In order, with the reason for which a host is gone; to revoke, not every carrier is able."""
    with driver(kind) as made:
        made.process.say({"host": {"name": "h1"}})
        made.process.say({"task": [7, 0, 1], "node": "h1"})
        made.process.say({"revoke": [7, 8]})
        made.process.say({"gone": "h1", "reason": "its machine was unplugged"})
        made.listen(3 + len(revoked))
    assert made.heard == [
        {"up": "h1", "slots": 1, "reason": "ready"},
        {"lost": 7, "reason": "sent to h1"},
        *({"lost": number, "reason": "revoked"} for number in revoked),
        {"down": "h1", "reason": "its machine was unplugged"},
    ]


def test_a_carrier_that_fails_ends_its_process_at_once() -> None:
    """Whatever its engine's threads still do; the dispatcher sees why, and starts another one."""
    begun = time.monotonic()
    with driver("plain", fails=True) as made:
        made.listen(1)
        assert made.process.fault
    assert "no use any more" in made.how
    assert time.monotonic() - begun < 8
