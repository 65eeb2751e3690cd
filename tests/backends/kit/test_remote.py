"""The supervisor of an engine's process on a host: what it starts, ends and excuses, and when."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cluster.backends.kit.remote import SILENT, RemoteProcess
from cluster.hosts.connect import Host


class Recorded:
    """A host's agent that only notes what it is to do."""

    name = "h"

    def __init__(self) -> None:
        self.ready = True
        self.started: list[tuple[str, Any]] = []
        self.killed: list[int] = []

    def start_module(self, module: str, first: object = None) -> int:
        """Its number, from 1 on."""
        self.started.append((module, first))
        return len(self.started)

    def kill(self, command: int) -> None:
        """Noted."""
        self.killed.append(command)


@pytest.fixture
def host() -> Recorded:
    """A ready one."""
    return Recorded()


@pytest.fixture
def remote(host: Recorded) -> RemoteProcess:
    """A process there, which was just started, at the time 100."""
    made = RemoteProcess("its server", cast("Host", host), "module", {"secret": "s"}, 20.0)
    assert made.tend(100.0, used=False) == ""
    assert host.started == [("module", {"secret": "s"})]
    return made


def test_what_it_says_is_passed_on_and_a_beat_is_not(remote: RemoteProcess) -> None:
    """Of its own command alone."""
    assert remote.hear({"said": 1, "message": {"port": 5}}, 101.0) == {"port": 5}
    assert remote.hear({"said": 1, "message": {"beat": 1.0}}, 102.0) is None
    assert remote.hear({"said": 7, "message": {"port": 5}}, 103.0) is None
    assert (remote.heard, remote.said) == (102.0, {"port": 5})
    remote.kill("enough", 103.0)
    assert remote.said is None


def test_one_that_ended_is_started_again_at_once_then_after_pauses_that_grow(
    remote: RemoteProcess, host: Recorded
) -> None:
    """The reason is told once; a late word of the former one counts for nothing."""
    now, starts = 101.0, []
    for number in range(1, 6):
        remote.hear({"exited": number, "how": "killed"}, now)
        lost = now
        assert remote.tend(now, used=False) in ("its server ended: killed", "")
        while len(host.started) == number:
            now += 0.25
            assert remote.tend(now, used=False) == ""
        starts.append(now - lost)
        assert remote.hear({"said": number, "message": {"port": 5}}, now) is None
    assert starts == [0.0, 1.0, 2.0, 4.0, 8.0]


def test_one_that_lived_long_is_started_again_at_once(
    remote: RemoteProcess, host: Recorded
) -> None:
    """Whatever failed before it."""
    remote.hear({"exited": 1, "how": "killed"}, 100.0)
    remote.tend(101.0, used=False)
    remote.hear({"said": 2, "message": {"beat": 1}}, 150.0)
    remote.hear({"exited": 2, "how": "killed"}, 150.0)
    remote.tend(150.0, used=False)
    remote.tend(150.1, used=False)
    assert len(host.started) == 3


def test_one_that_is_silent_is_killed(remote: RemoteProcess, host: Recorded) -> None:
    """Once it has said something, beats are expected of it."""
    remote.hear({"said": 1, "message": {"beat": 1}}, 101.0)
    assert remote.tend(101.0 + SILENT, used=True) == ""
    assert remote.tend(101.1 + SILENT, used=True) == "its server was silent for 6 s"
    assert host.killed == [1]


def test_one_that_nobody_can_use_is_killed(remote: RemoteProcess, host: Recorded) -> None:
    """Whether it says nothing at all, or beats and cannot be reached."""
    for now in (105.0, 110.0, 115.0, 120.0):
        remote.hear({"said": 1, "message": {"beat": 1}}, now)
        assert remote.tend(now, used=False) == ""
    assert remote.tend(121.0, used=False) == "its server took no tasks for 20 s"
    assert host.killed == [1]


def test_nothing_is_held_against_it_while_its_host_is_silent(
    remote: RemoteProcess, host: Recorded
) -> None:
    """And none is started there."""
    remote.hear({"said": 1, "message": {"beat": 1}}, 101.0)
    host.ready = False
    assert remote.tend(200.0, used=False) == ""
    host.ready = True
    assert remote.tend(201.0, used=False) == ""
    assert host.killed == []
    host.ready = False
    remote.hear({"exited": 1, "how": "killed"}, 202.0)
    remote.tend(300.0, used=False)
    assert len(host.started) == 1
